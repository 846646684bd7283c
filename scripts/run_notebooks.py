"""Run notebooks with their defaults and keep what they show.

    make demo                                          # scenes.ipynb looks at its result
    python scripts/run_notebooks.py                    # those that need nothing else
    python scripts/run_notebooks.py analysis_nbs/cifar.ipynb ...

Each notebook runs in its own folder, on the kernel of this Python; output, pictures and tables are written into it.
Progress bars and warnings (standard error) are not kept, nor are times. Prints the seconds that each took.
"""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
# In this order: the second reads what the first writes.
WITHOUT_DATA = (
    *("setup_nbs/make_betons.ipynb", "setup_nbs/make_index_files.ipynb", "analysis_nbs/scenes.ipynb"),
    *("analysis_nbs/dataset_interfaces.ipynb", "analysis_nbs/interventions.ipynb", "analysis_nbs/decoded.ipynb"),
)


def run(path):
    """Execute a notebook and write it with its outputs; an error of a cell is raised, and nothing written."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": path.parent}})
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                # A figure's text is where it lies in memory.
                if "image/png" in output.get("data", {}):
                    output["data"].pop("text/plain", None)
    notebook.metadata.pop("language_info", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="paths from the repository's folder (default: all without data)")
    args = parser.parse_args(argv)
    for name in args.notebooks or WITHOUT_DATA:
        began = time.perf_counter()
        run(ROOT / name)
        size = (ROOT / name).stat().st_size
        print(f"{name}: {time.perf_counter() - began:.0f} s, {size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
