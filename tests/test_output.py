"""What happens to standard output harms no file: a reader that leaves, a full disk, a terminal of few characters."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from failure_directions.commands import betons, compare, index, intervene, report
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.directions.results import CaptionRow, read_directions, read_result, read_table
from failure_directions.training.evaluation import Predictions, save_predictions
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "tests" / "fixtures" / "format_1" / "scenes.pt"
NAMES = ["círculo", "b", "c", "d", "e", "f", "g", "h"]


# ---- real processes -------------------------------------------------------------------------------------------------


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


def nowhere():
    return os.open(os.devnull, os.O_WRONLY)


UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
FULL = "cannot be written: No space left on device\n"
OUTPUTS = {
    # name: (what opens it, environment, exit code, what is said)
    "a pipe whose reader has left": (closed_pipe, {}, 141, ""),
    "a pipe whose reader has left, unbuffered": (closed_pipe, UNBUFFERED, 141, ""),
    "a full disk": (full_disk, {}, 2, FULL),
    "a full disk, unbuffered": (full_disk, UNBUFFERED, 2, FULL),
    "a terminal of ASCII": (nowhere, {"PYTHONIOENCODING": "ascii"}, 0, ""),
}


def run(output, *words):
    """A process with one of `OUTPUTS`; returns its exit code and what it says on standard error."""
    opened, environment, *_ = OUTPUTS[output]
    stdout = opened()
    found = subprocess.run(
        [sys.executable, *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
        check=False,
    )
    os.close(stdout)
    return found.returncode, found.stderr


PRINTS = """
from failure_directions.runtime.errors import entry_point
@entry_point
def main():
    print("é" * {count})
main()
"""


@pytest.mark.parametrize("count", [1, 100_000])  # kept until the end; more than is kept
@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_takes_nothing_ends_a_command_without_a_traceback(output, count):
    _, _, code, says = OUTPUTS[output]
    found, error = run(output, "-c", PRINTS.format(count=count))
    assert found == code
    assert error.endswith(says)
    assert error.count("\n") == says.count("\n")


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_list_of_commands_ends_without_a_traceback_too(output):
    _, _, code, says = OUTPUTS[output]
    found, error = run(output, "-m", "failure_directions.commands.main", "--help")
    assert (found, error.endswith(says), error.count("\n")) == (code, True, says.count("\n"))


@pytest.mark.parametrize("output", ["a pipe whose reader has left", "a full disk", "a terminal of ASCII"])
def test_a_result_is_whole_whatever_becomes_of_the_output(output, scenes_folder, trained_run, tmp_path):
    words = ["-m", "failure_directions.commands.main", "distil", "-c", scenes_folder / "config.yaml"]
    words += ["-s", "normalized_svm_scenes_config", "--captions", tmp_path / "captions.yaml", "--root", scenes_folder]
    words += ["--model-path", trained_run / "checkpoints" / "checkpoint_last.pt", "--spurious", "--jobs", "1"]
    words += ["--cache", scenes_folder / "cache"]
    words += ["--override", f"class_names=[{', '.join(NAMES)}]", "--out-file", tmp_path / "out" / "svm.pt"]
    (tmp_path / "captions.yaml").write_text("adjectives: [red, blue]\nprepositions: []\ndefault: {}\n")
    _, _, code, says = OUTPUTS[output]
    found, error = run(output, *words)
    assert found == code, error
    assert says in error
    assert "Traceback" not in error
    svm = tmp_path / "out" / "svm.pt"
    assert read_result(svm).class_names == NAMES
    assert len(read_directions(svm).cv_scores) == 8
    assert {row.class_name for row in read_table(svm, CaptionRow)} <= set(NAMES)
    endings = ["captions.csv", "directions.csv", "model.pt", "precision.csv", "slices.csv", "spurious.csv"]
    endings += ["subpopulations.csv", "test.csv", "train.csv", "val.csv"]
    names = {path.name for path in svm.parent.iterdir() if path.is_file()}
    assert names == {"svm.pt", *(f"svm_{ending}" for ending in endings)}


# ---- every command --------------------------------------------------------------------------------------------------


class Refusing(io.TextIOBase):
    """An output on a full disk, unbuffered: nothing can be printed at any time."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_labels(folder):
    np.save(folder / "labels.npy", np.arange(40) % 4)


def write_runs(folder):
    test = SVMProcessor(RESULT).metrics("test")
    predictions = Predictions(*(test[key] for key in ("indices", "classes", "preds", "confs")))
    for name, seeds in (("base", (0, 1)), ("other", (0,))):  # so that a seed is left out
        for seed in seeds:
            save_predictions(folder / name / f"version_{seed}" / "predictions.pt", {"test": predictions}, seed, ["x"])


def write_images(folder):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "images" / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / "images" / split / name / f"{i}.png")


INTERVENE = ["--svm", str(RESULT), "--out", "{out}/file.pt"]
COMMANDS = {
    "weights": (intervene, None, ["weights", *INTERVENE], ["file.pt"]),
    "add": (intervene, None, ["add", *INTERVENE, "--per-class", "2"], ["file.pt"]),
    "filter": (intervene, None, ["filter", *INTERVENE, "--classes", "circle"], ["file.pt"]),
    "index": (index, write_labels, ["--labels", "{made}/labels.npy", "--out", "{out}/file.pt"], ["file.pt"]),
    "report": (report, None, ["--svm", str(RESULT), "--report", "{out}/file.html"], ["file.html"]),
    "compare": (
        compare,
        write_runs,
        ["{made}/base", "{made}/other", "--svm", str(RESULT), "--out", "{out}/file"],
        ["file.csv", "file.md", "file.png"],
    ),
    "betons": (
        betons,
        write_images,
        ["folder", "--data", "{made}/images", "--out", "{out}", "--name", "file", "--workers", "1"],
        ["file.yaml"]
        + [f"file_{split}.{end}" for split in ("test", "train") for end in ("beton", "beton.sha256", "csv")],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_files_have_their_names_before_anything_is_printed(name, tmp_path, monkeypatch):
    command, prepare, words, files = COMMANDS[name]
    made, out = tmp_path / "made", tmp_path / "out"
    made.mkdir()
    if prepare:
        prepare(made)
    monkeypatch.setattr(sys, "stdout", Refusing())
    with pytest.raises(SystemExit) as stop:
        command.main([word.format(made=made, out=out) for word in words])
    assert stop.value.code == 2
    assert sorted(path.name for path in out.iterdir()) == files
