"""What is stored of the machine and the versions, and that the same seed gives the same model there."""

import os
import platform
import subprocess
import types
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from failure_directions.commands import distil as train_svms
from failure_directions.commands import sparse as sparse_main
from failure_directions.commands import train as ffcv_main
from failure_directions.runtime import environment as module
from failure_directions.runtime.environment import environment, write_environment
from failure_directions.runtime.pt_files import load_pt, save_pt

LATENT = Path(__file__).resolve().parents[1] / "svm_configs" / "normalized_svm_latent_config.yaml"


def of_the_interpreter():
    """The versions that the installed packages' own metadata, read by the interpreter, have."""
    return {
        name: version(name) for name in ("torch", "torchvision", "ffcv", "numpy", "scikit-learn", "open_clip_torch")
    }


def leaves(value):
    """Every number and text in nested dicts and lists."""
    if isinstance(value, dict | list):
        return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
    return [value]


def test_the_environment_names_the_versions_and_the_hardware_but_not_the_machine(tmp_path):
    known = environment()
    assert known["python"] == platform.python_version()
    assert known["packages"] == of_the_interpreter()
    assert known["packages"]["numpy"] == np.__version__
    assert known["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert known["system"].split() == [os.uname().sysname, os.uname().machine]
    assert known["cores"] == len(os.sched_getaffinity(0))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(known["date"])) < timedelta(minutes=5)
    assert len(known.get("gpus", [])) == torch.cuda.device_count()
    assert known["processes"] == 1
    assert {type(leaf) for leaf in leaves(known)} <= {str, int}
    assert platform.node() not in leaves(known)
    save_pt(known, tmp_path / "x.pt")
    assert load_pt(tmp_path / "x.pt", "environment") == known


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout of which the module seems to be a part."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "environment.py").touch()
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "src" / "environment.py"))
    return tmp_path


def test_the_commit_is_that_of_the_checkout_and_says_whether_files_were_changed(checkout):
    assert "git" not in environment()  # nothing is committed yet
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert environment()["git"] == {"commit": commit, "modified": 0}
    (checkout / "notes.txt").touch()  # untracked
    assert environment()["git"] == {"commit": commit, "modified": 0}
    (checkout / "src" / "environment.py").write_text("x = 1\n")
    assert environment()["git"] == {"commit": commit, "modified": 1}


def test_a_package_installed_within_another_checkout_has_no_commit(checkout):
    (checkout / ".gitignore").write_text("src\n")
    git(checkout, "add", ".gitignore")
    git(checkout, "commit", "--quiet", "-m", "first")
    assert "git" not in environment()


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git" not in environment()


def test_every_start_of_a_run_is_listed(tmp_path):
    write_environment(tmp_path / "environment.yaml", {"exp_name": "a", "override": []})
    write_environment(tmp_path / "environment.yaml", {"exp_name": "a", "override": ["training.epochs=3"]})
    starts = yaml.safe_load((tmp_path / "environment.yaml").read_text())
    assert [start["arguments"]["override"] for start in starts] == [[], ["training.epochs=3"]]
    assert [start["packages"] for start in starts] == [of_the_interpreter()] * 2


@pytest.fixture(scope="module")
def twice(scenes_folder, tmp_path_factory):
    """Two runs of one seed, on batches that are shuffled and augmented."""
    runs = tmp_path_factory.mktemp("twice")
    words = [
        "-c",
        scenes_folder / "config.yaml",
        "--root",
        scenes_folder,
        "--runs",
        runs,
        "--exp-name",
        "x",
        "--override",
        "training.epochs=3",
        "--seed",
        "5",
        "--disable-logging",
    ]
    for _ in range(2):
        ffcv_main.main([str(word) for word in words])
    return [runs / "x" / f"version_{k}" for k in range(2)]


def test_the_same_seed_gives_the_same_weights_and_predictions_to_the_last_bit(twice):
    one, two = (load_pt(folder / "checkpoints" / "checkpoint_last.pt", "checkpoint") for folder in twice)
    assert all(torch.equal(weight, two["state_dict"][name]) for name, weight in one["state_dict"].items())
    one, two = (load_pt(folder / "predictions.pt", "predictions")["test"] for folder in twice)
    assert all(torch.equal(array, two[name]) for name, array in one.items())


def test_runs_and_results_say_what_they_were_made_with(twice, scenes_folder, tmp_path):
    (start,) = yaml.safe_load((twice[0] / "environment.yaml").read_text())
    assert start["packages"] == of_the_interpreter()
    assert start["arguments"]["seed"] == 5
    words = [
        "-c",
        scenes_folder / "config.yaml",
        "-s",
        LATENT,
        "--root",
        scenes_folder,
        "--model-path",
        twice[0] / "checkpoints" / "checkpoint_last.pt",
        "--jobs",
        "1",
        "--out-file",
        tmp_path / "svm.pt",
    ]
    train_svms.main([str(word) for word in words])
    assert load_pt(tmp_path / "svm.pt", "result")["environment"]["packages"] == of_the_interpreter()
    task = types.SimpleNamespace(name="m", class_names=["a"], inputs={}, dense=None)
    assert sparse_main.run_content(types.SimpleNamespace(k=5), task)["environment"]["packages"] == of_the_interpreter()
