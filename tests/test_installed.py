"""`pip install .` gives `failure_directions` and `dataset_interfaces`, with their data files, and the commands."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"failure_directions": ROOT / "src", "dataset_interfaces": ROOT / "dataset_interfaces"}

LIBRARY_EXAMPLE = """
import sys
import numpy as np
from failure_directions import CLIPProcessor, ClipAnalyzer, SVMFitter, SVMProcessor

rng = np.random.default_rng(0)
direction = rng.normal(size=(2, 16))
ys = np.repeat([0, 1], 200)
latents = rng.normal(size=(400, 16)) + 5
right = ((latents - 5) * direction[ys]).sum(1) > 0
preds = np.where(right, ys, 1 - ys)

fitter = SVMFitter(split_and_search=True, balanced=True, cv=2, do_normalize=True, method="SVM", svm_args={}, jobs=1)
fitter.set_preprocess(latents)
assert (fitter.fit(preds=preds, ys=ys, latents=latents) > 0.8).all()
mask, values, metrics = fitter.predict(ys=ys, latents=latents, preds=preds, compute_metrics=True)
assert metrics["balanced_accuracy"] > 0.8
fitter.export("fitter.pt")
assert np.array_equal(SVMFitter.load("fitter.pt").predict(ys=ys, latents=latents)[1], values)

clip = CLIPProcessor([0.0] * 3, [255.0] * 3, arch="scenes", device="cpu")
assert clip.evaluate_clip_captions(["a photo of a red circle", "a photo of a blue star"]).shape[0] == 2

from dataset_interfaces import create_token_dictionary, generate, run_textual_inversion
import dataset_interfaces.inference_utils as infer_utils
assert infer_utils.create_token_dictionary is create_token_dictionary
assert not any(name == "src" or name.startswith("src.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel of this project alone that sees the packages of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    source, wheels, environment = folder / "source", folder / "wheels", folder / "environment"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):  # builds write beside them
        shutil.copy(ROOT / name, source)
    for package in PACKAGES.values():
        shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "project.pth").write_text(sysconfig.get_paths()["purelib"])
    return environment, site


def run(environment, *words, cwd):
    """A program of the environment, from another directory and without a path to the checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [environment / "bin" / words[0], *words[1:]], cwd=cwd, env=variables, capture_output=True, text=True
    )


def test_the_wheel_holds_every_file_of_the_packages(installed):
    _, site = installed
    for name, folder in PACKAGES.items():
        files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        files = {path for path in files if "__pycache__" not in path.parts}
        there = {path.relative_to(site / name) for path in (site / name).rglob("*") if path.is_file()}
        assert files - there == set()


def test_the_library_works_from_another_directory(installed, tmp_path):
    done = run(installed[0], "python", "-c", LIBRARY_EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["ffcv_main", "train_svms", "sparse_main", "generate_images"])
def test_a_command_is_installed_under_its_name(installed, tmp_path, command):
    done = run(installed[0], command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"usage: {command}" in done.stdout


def test_dataset_interfaces_runs_as_a_module(installed, tmp_path):
    done = run(installed[0], "python", "-m", "dataset_interfaces", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "benchmark" in done.stdout
