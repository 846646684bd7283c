"""`pip install .` gives `failure_directions` and `dataset_interfaces`, with their data files, and the commands."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from environments import PIP, ROOT, copy_checkout, install, make_environment, run, top_level_modules
from PIL import Image

PACKAGES = {
    "failure_directions": ROOT / "src",
    "failure_directions/dataset_configs": ROOT / "dataset_configs",
    "failure_directions/svm_configs": ROOT / "svm_configs",
    "failure_directions/index_files": ROOT / "index_files",
    "dataset_interfaces": ROOT / "dataset_interfaces",
}

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

SHIPPED_EXAMPLE = """
from failure_directions import get_caption_set
from failure_directions.config_parsing import load_dataset_config, load_svm_config
from failure_directions.data.index_files import load_index_file
from failure_directions.interfaces.diffusion_models import load_model

assert load_dataset_config("cifar").names[3] == "cat"
assert load_svm_config("normalized_svm_base_config").embedding == "clip"
assert len(load_index_file("cifar_pairs")["train_indices"]) > 1000
assert "a photo of a cat" in get_caption_set("CIFARSIMPLE").for_class("cat").captions("all")
assert load_model("scenes").resolution == 32
"""

# What the core is for: from arrays to directions to a report, in Python and in a shell. Runs in a new folder.
CORE_EXAMPLE = """
import csv
import numpy as np
import failure_directions as fd
from PIL import Image
from failure_directions.commands.main import main

rng = np.random.default_rng(0)
n = 1200
labels = rng.integers(0, 3, n)
embeddings = (rng.normal(size=(n, 16)) + 3 * np.eye(3, 16)[labels]).astype(np.float32)
hard = (labels == 0) & (embeddings[:, 5] > 0.7)
wrong = (hard & (rng.random(n) < 0.8)) | (rng.random(n) < 0.05)
preds = np.where(wrong, (labels + 1) % 3, labels)
images = rng.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)

found = fd.find_failures(labels, preds, embeddings, images=images, class_names=["a", "b", "c"])
first = found.slices[0]
assert (first.class_name, first.verdict) == ("a", "confirmed") and hard[first.members].mean() > 0.5
assert abs(first.direction[5]) == abs(first.direction).max()
found.report("report.html")
found.save("found.pt")
again = fd.load("found.pt")
assert [one.id for one in again.slices] == [one.id for one in found.slices]
again.report("again.html")
flagged = found.score(embeddings, labels)

np.save("e.npy", embeddings)
for i, image in enumerate(images):
    Image.fromarray(image).save(f"{i}.png")
with open("table.csv", "w", newline="") as stream:
    rows = zip([f"{i}.png" for i in range(n)], labels, preds)
    csv.writer(stream).writerows([("path", "label", "pred"), *rows])
main(["find", "--predictions", "table.csv", "--embeddings", "e.npy", "--out", "again.pt"])
main(["report", "--svm", "again.pt", "--figures", "figures", "--report", "shell.html"])
"""
# Before it: packages that the core does not bring are not there.
ONLY_THE_CORE = """
import sys

class OnlyTheCore:
    @staticmethod
    def find_spec(name, path=None, target=None):
        known = name.partition(".")[0] in {allowed} | sys.stdlib_module_names or name.startswith("_sysconfigdata")
        if not known:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, OnlyTheCore)
"""
PROJECT = {"failure_directions", "dataset_interfaces"}


def sources(folder):
    """Files below a folder, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder) for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # What a checkout in use has beside its sources.
    source = copy_checkout(folder)
    for package in ("src", "src/data", "dataset_configs"):
        (source / package / "__pycache__").mkdir()
        (source / package / "__pycache__" / "left.cpython-311.pyc").touch()
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder / "wheels", source]
    subprocess.run(build, check=True)
    (path,) = (folder / "wheels").iterdir()
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The python of an environment with the wheel alone."""
    python, _ = make_environment(tmp_path_factory.mktemp("installed"))
    install(python, wheel)
    return python


def test_the_wheel_holds_every_file_of_the_packages_once_and_no_other(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    packed = {Path(name) for name in names if ".dist-info/" not in name}
    assert packed == {Path(name) / file for name, folder in PACKAGES.items() for file in sources(folder)}


def test_the_library_works_from_another_directory(python, tmp_path):
    done = run(python, "python", "-c", LIBRARY_EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def only_the_core():
    """Python code after which nothing but the standard library, the project and its core's packages is found."""
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    modules = top_level_modules(core)
    assert {"torch", "sklearn", "PIL", "yaml"} <= modules
    assert not modules & {"ffcv", "numba", "timm", "torchvision", "open_clip", "transformers", "diffusers"}
    return ONLY_THE_CORE.format(allowed=modules | PROJECT)


def test_the_core_goes_from_arrays_to_directions_to_a_report(python, only_the_core, tmp_path):
    done = run(python, "python", "-c", only_the_core + CORE_EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "shell.html").read_text()


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["find", "--images", "images", "--model", "timm:resnet18", "--out", "o.pt"], "timm", "models"),
        (["sparse", "--dataset", "imagenet", "--dataset-path", ".", "--out-path", "o"], "", "models"),
        (["interfaces", "score", "--images", "images/a", "--object", "a dog"], "", "clip"),
    ],
)
def test_a_command_that_lacks_a_package_names_its_extra(python, only_the_core, tmp_path, words, package, extra):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (i, 0, ord(name))).save(tmp_path / "images" / name / f"{i}.png")
    code = f"{only_the_core}\nfrom failure_directions.commands.main import main\nmain({words!r})"
    done = run(python, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    said = f'this needs {package}[a-z_]*, which is not installed: pip install "failure-directions\\[{extra}\\]"'
    assert re.fullmatch(f"error: {said}", done.stderr.splitlines()[-1])


@pytest.mark.check
def test_an_empty_environment_with_the_core_alone_does_the_same(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    done = run(python, "python", "-c", CORE_EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "x.beton").touch()
    done = run(python, "failure-directions", "index", "--beton", "x.beton", "--out", "x.pt", cwd=tmp_path)
    said = 'error: this needs ffcv, which is not installed: pip install "failure-directions[train]"\n'
    assert (done.returncode, done.stderr) == (2, said)


def test_configs_index_files_captions_and_the_scenes_models_are_found_by_name(python, tmp_path):
    done = run(python, "python", "-c", SHIPPED_EXAMPLE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_command_finds_a_shipped_config_and_index_file_by_name(python, tmp_path):
    words = ["failure-directions", "train", "-c", "cifar", "--indices-file", "cifar", "--root", ".", "--exp-name", "x"]
    done = run(python, *words, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "cifar10_train.beton" in line


@pytest.mark.parametrize(
    ("command", "subcommand"),
    [
        ("failure-directions", None),
        ("ffcv_main", "train"),
        ("train_svms", "distil"),
        ("sparse_main", "sparse"),
        ("generate_images", "generate"),
    ],
)
def test_a_command_is_installed_under_its_name(python, tmp_path, command, subcommand):
    done = run(python, command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command} ")
    if subcommand:  # its own options, not another command's
        same = run(python, "failure-directions", subcommand, "--help", cwd=tmp_path).stdout
        options = [set(re.findall(r"--[\w-]+", text)) for text in (done.stdout, same)]
        assert options[0] == options[1] != {"--help"}


def test_dataset_interfaces_runs_as_a_module(python, tmp_path):
    done = run(python, "python", "-m", "dataset_interfaces", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "benchmark" in done.stdout


def test_an_editable_install_runs_the_checkout_and_finds_its_configs(tmp_path):
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    checkout.mkdir()
    elsewhere.mkdir()
    python, _ = make_environment(tmp_path / "environment")
    install(python, "-e", copy_checkout(checkout))
    code = (
        "import failure_directions, dataset_interfaces\n"
        "from failure_directions.config_parsing import load_dataset_config\n"
        "print(load_dataset_config('cifar').names[3], failure_directions.__file__, dataset_interfaces.__file__)\n"
    )
    done = run(python, "python", "-c", code, cwd=elsewhere)
    assert done.stdout.split() == [
        "cat",
        str(checkout / "src" / "__init__.py"),
        str(checkout / "dataset_interfaces" / "__init__.py"),
    ], done.stderr
    assert run(python, "failure-directions", "--help", cwd=elsewhere).returncode == 0
