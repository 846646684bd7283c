"""Every notebook that can run offline runs, on small data."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def execute(name, **parameters):
    """Run a notebook with its parameters cell replaced; return the text that it printed."""
    path = ROOT / name
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = {line.split(" = ")[0] for line in cell.source.splitlines()}
    assert set(parameters) <= assigned
    cell.source += "\n" + "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.check
def test_the_set_up_notebooks_make_betons_and_index_files(tmp_path):
    execute("setup_nbs/make_betons.ipynb", OUT=str(tmp_path), SCENES_PER_CLASS=20)
    out = str(tmp_path / "split.pt")
    printed = execute("setup_nbs/make_index_files.ipynb", BETON=str(tmp_path / "scenes_train.beton"), OUT=out)
    assert "val_indices: 32, per class [4, 4, 4, 4, 4, 4, 4, 4]" in printed


@pytest.mark.check
def test_the_interventions_notebook_goes_round_the_loop(tmp_path):
    images = {"train": 60, "val": 40, "test": 40, "unlabeled": 40}
    overrides = ["training.epochs=4", "training.lr_scheduler.lr_peak_epoch=1", "batch_size=64"]
    printed = execute(
        "analysis_nbs/interventions.ipynb", OUT=str(tmp_path), IMAGES=images, PER_CLASS=5, OVERRIDES=overrides
    )
    assert "svm: " in printed
    assert "last layer alone" in printed
    assert "Before and after" in (tmp_path / "report.html").read_text()


@pytest.mark.check
def test_the_scenes_notebook_walks_through_a_result(scenes_folder, trained_run, tmp_path):
    from failure_directions.commands import distil as train_svms

    result = tmp_path / "scenes_svm.pt"
    svm_config = ROOT / "svm_configs" / "normalized_svm_latent_config.yaml"
    train_svms.main(
        [
            "-c",
            str(scenes_folder / "config.yaml"),
            "-s",
            str(svm_config),
            "--root",
            str(scenes_folder),
            "--spurious",
            "--model-path",
            str(trained_run / "checkpoints" / "checkpoint_last.pt"),
            "--out-file",
            str(result),
        ]
    )
    report = tmp_path / "report.html"
    printed = execute("analysis_nbs/scenes.ipynb", RESULT=str(result), ROOT=str(scenes_folder), REPORT=str(report))
    assert "tenth  1: accuracy" in printed
    assert "by decision value" in printed
    assert "data:image/webp" in report.read_text()


@pytest.mark.check
def test_the_cifar_notebook_runs_on_one_s_own_result_with_its_name_alone(tmp_path):
    """Of plain arrays: no pool, no betons, no captions, other classes."""
    import failure_directions as fd

    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(600, 6)), np.repeat(["owl", "eel"], 300)
    preds = np.where(embeddings[:, 0] > 1, np.repeat(["eel", "owl"], 300), labels)
    paths = []
    for i in range(600):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (8, 8), (i % 256, 0, 0)).save(paths[-1])
    fd.find_failures(labels, preds, embeddings, images=paths, jobs=1).save(tmp_path / "mine.pt")
    printed = execute("analysis_nbs/cifar.ipynb", RESULT=str(tmp_path / "mine.pt"))
    assert "no captions" in printed
    assert str(tmp_path / "mine.html") in printed
    assert f"{tmp_path}/" in printed.partition("hardest of test")[2]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*_nbs/*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_as_they_ran_or_without_outputs(path):
    """As they ran: every cell once, from the first to the last, without errors, and with no path of a machine."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    counts = [cell.execution_count for cell in cells]
    assert counts == (list(range(1, len(cells) + 1)) if outputs else [None] * len(cells))
    assert {output.get("name") for output in outputs if output.output_type == "stream"} <= {"stdout"}
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size < 2e6
    assert not re.search(r"[\s\"'(:]/(home|root|tmp|work|mnt|Users)/", path.read_text(encoding="utf-8"))
