"""How long a command takes to say what it does, or what is wrong: processor time, memory, modules.

    python benchmarks/bench_starts.py [--runs 5]

prints a table, one row a call, each the median of 5 processes: seconds of processor time (user and system, of all
threads), peak memory, and the number of modules that were imported. Processor time is the same on a busy machine.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = """
import atexit, sys
atexit.register(lambda: print("modules", len(sys.modules), file=sys.stderr, flush=True))
from failure_directions.commands.main import main
main(sys.argv[1:])
"""
IMPORT = """
import sys
import failure_directions
print("modules", len(sys.modules), file=sys.stderr)
"""
SUBCOMMANDS = (
    *("find", "demo", "betons", "index", "train", "distil", "report", "intervene", "compare", "loop", "generate"),
    *("sparse", "read-sparse", "interfaces", "convert"),
)
# Mistakes that are to be told soon: a bad config, and files that are missing.
MISTAKES = {
    "train, a key misspelt": ["train", "-c", "bad.yaml", "--exp-name", "x", "--indices-file", "cifar"],
    "train, no beton": ["train", "-c", "cifar", "--exp-name", "x", "--indices-file", "cifar"],
    "distil, no SVM config": ["distil", "-c", "cifar", "-s", "no.yaml", "--model-path", "m.pt", "--out-file", "o.pt"],
    "distil, no checkpoint": [
        *("distil", "-c", "cifar", "-s", "normalized_svm_latent_config", "--indices-file", "cifar"),
        *("--model-path", "m.pt", "--out-file", "o.pt"),
    ],
    "report, no result": ["report", "--svm", "no.pt", "--report", "r.html"],
    "find, no table": ["find", "--predictions", "no.csv", "--embeddings", "no.npy"],
    "sparse, no config": [
        *("sparse", "--dataset", "beton", "-c", "no.yaml", "--model-path", "m.pt", "--out-path", "o"),
    ],
    "generate, no result": ["generate", "--svm", "no.pt", "--captions", "hard", "--out", "o"],
    "compare, no run": ["compare", "no", "--svm", "no.pt", "--out", "o"],
    "intervene, no result": ["intervene", "filter", "--svm", "no.pt", "--out", "o.pt"],
    "loop, no config": ["loop", "-c", "no.yaml", "-s", "no.yaml", "--out", "o"],
    "betons, no folder": ["betons", "folder", "--data", "no", "--out", "o"],
    "index, no beton": ["index", "--beton", "no.beton", "--out", "o.pt"],
    "interfaces, no images": ["interfaces", "learn", "--images", "no", "--encoder-root", "e"],
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes a row (default: 5)")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the calls, by what the table says")
    args = parser.parse_args(argv)
    calls = {"import failure_directions": [IMPORT]}
    calls |= {f"{name} --help": [COMMAND, name, "--help"] for name in SUBCOMMANDS}
    calls |= {what: [COMMAND, *words] for what, words in MISTAKES.items()}
    print("| call | s | MB | modules |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bad.yaml").write_text("train_betn: a.beton\n")
        for what, words in calls.items():
            if not re.search(args.only, what):
                continue
            rows = [measure(words, folder) for _ in range(args.runs)]
            seconds, memory, modules = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"| {what} | {seconds:.2f} | {memory:.0f} | {modules:.0f} |", flush=True)


def measure(words, folder):
    """(seconds, MB, modules) of one process."""
    process = subprocess.Popen(
        [sys.executable, "-c", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2) or "modules" not in said:
        raise SystemExit(f"{words[1:]} ended with {process.returncode}:\n{said}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, int(said.rsplit("modules", 1)[1])


if __name__ == "__main__":
    main()
