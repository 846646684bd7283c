"""A command that is asked for its options, or given a mistake, answers before it has imported what the work takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    *("torch", "torchvision", "timm", "open_clip", "ffcv", "numba", "sklearn", "scipy", "matplotlib", "PIL"),
    *("transformers", "diffusers", "huggingface_hub", "captum", "wordcloud", "safetensors", "joblib", "cv2"),
}
# Prints which of the words' calls ended how, and the heavy modules that are there in the end.
CALLS = f"""
import contextlib, importlib, io, json, sys
ends = []
for module, words in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            importlib.import_module(module).main(words)
            ends.append([None, ""])
        except SystemExit as end:
            ends.append([end.code, said.getvalue()])
print(json.dumps([ends, sorted({HEAVY!r} & set(sys.modules))]))
"""


def call(calls, cwd):
    """Make the calls (module, words), each a command, in one process: how each ended, and heavy modules."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS], input=json.dumps(calls), capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_of_every_subcommand_imports_nothing_heavy(tmp_path):
    from failure_directions.commands.main import SUBCOMMANDS

    commands = [f"failure_directions.commands.{name.replace('-', '_')}" for name in SUBCOMMANDS]
    uses = {
        "betons": (
            "cifar10",
            "celeba_age",
            "supercifar100",
            "imagenetc",
            "colored_mnist",
            "folder",
            "manifest",
            "scenes",
        ),
        "intervene": ("weights", "add", "filter"),
        "read_sparse": ("biases", "counterfactual", "misclassified"),
        "interfaces": ("learn", "generate", "score", "benchmark"),
    }
    calls = [(command, ["--help"]) for command in commands]
    calls += [(f"failure_directions.commands.{name}", [use, "--help"]) for name in uses for use in uses[name]]
    ends, heavy = call(calls, tmp_path)
    assert ends == [[0, ""]] * len(calls)
    assert heavy == []


@pytest.mark.parametrize(
    "script",
    [
        *("ffcv_main.py", "train_svms.py", "sparse_main.py", "generate_images.py", "visualization_utils.py"),
        *("scripts/make_betons.py", "scripts/make_index_files.py", "dataset_interfaces/__main__.py"),
    ],
)
def test_help_of_every_script_imports_nothing_heavy(script):
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_packages_imports_nothing_heavy():
    program = (
        "import failure_directions, dataset_interfaces, sys\n"
        f"print(sorted(({HEAVY!r} | {{'numpy', 'pydantic'}}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LATENT, INDEX = "normalized_svm_latent_config", ["--indices-file", "cifar"]
MISTAKES = [
    ("train", ["-c", "no.yaml", "--exp-name", "x"], "no.yaml does not exist"),
    ("train", ["-c", "bad.yaml", "--exp-name", "x"], "has an unknown key train_betn"),
    ("train", ["-c", "cifar", "--exp-name", "x", *INDEX], "beton cifar10_train.beton does not exist"),
    ("train", ["-c", "cifar", "--exp-name", "x", "--indices-file", "no.pt"], "index file no.pt does not exist"),
    ("distil", ["-c", "cifar", "-s", "no.yaml", "--model-path", "m.pt", "--out-file", "o"], "no.yaml does not exist"),
    (
        "distil",
        ["-c", "here.yaml", "-s", LATENT, "--model-path", "m.pt", "--out-file", "o"],
        "checkpoint m.pt does not exist",
    ),
    ("sparse", ["--dataset", "sst", "--dataset-path", "no", "--out-path", "o"], "the folder of data no does not exist"),
    ("report", ["--svm", "no.pt", "--report", "r.html"], "SVM result no.pt does not exist"),
    ("intervene", ["filter", "--svm", "no.pt", "--out", "o.pt"], "SVM result no.pt does not exist"),
    ("generate", ["--svm", "no.pt", "--captions", "hard", "--out", "o"], "SVM result no.pt does not exist"),
    ("compare", ["no", "--svm", "here.beton", "--out", "o"], "no holds no finished run"),
    ("read_sparse", ["biases", "--sparse", "no", "--out", "o"], "sparse result no/run.pt does not exist"),
    ("loop", ["-c", "no.yaml", "-s", LATENT, "--out", "o"], "no.yaml does not exist"),
    ("index", ["--beton", "no.beton", "--out", "o.pt"], "beton no.beton does not exist"),
    ("interfaces", ["learn", "--images", "no", "--encoder-root", "e"], "the image folder no does not exist"),
    (
        "interfaces",
        ["generate", "--encoder-root", "e", "--class", "0", "--prompt", "<TOKEN>", "--out", "o"],
        "e is not an encoder root",
    ),
    ("convert", ["no.pt", "o.pt"], "file no.pt does not exist"),
    ("betons", ["scenes", "--plant", "no", "--out", "o"], "cannot read the plant"),
]


def test_mistakes_in_configs_and_paths_are_told_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "bad.yaml").write_text("train_betn: a.beton\n")
    (tmp_path / "here.beton").touch()
    (tmp_path / "here.yaml").write_text(
        "{train_beton: here.beton, val_beton: here.beton, test_beton: here.beton, imgsz: 32, arch: resnet10thin,"
        " arch_type: cifar_resnet, num_classes: 8}"
    )
    ends, heavy = call([(f"failure_directions.commands.{name}", words) for name, words, _ in MISTAKES], tmp_path)
    for (code, said), (name, words, sentence) in zip(ends, MISTAKES, strict=True):
        assert (code, sentence in said) == (2, True), (name, words, said)
    assert heavy == []
