"""Environments that see every package of the one that runs the tests but this project, installed or not."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "dataset_interfaces", "dataset_configs", "svm_configs", "index_files", "scripts")
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def make_environment(folder):
    """A virtual environment without this project; returns its python and its site-packages.

    The packages come by way of a path, and a path's own .pth files are not read: an editable install of the project is
    not found.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    packages = Path(sysconfig.get_paths()["purelib"])
    (site / "a_path.pth").write_text(f"{packages}\n")
    # From Python 3.12 on, ffcv has its distutils from here.
    shutil.copy(packages / "distutils-precedence.pth", site)
    return folder / "bin" / "python", site


def install(python, *words):
    """`pip install` from what is on this machine."""
    subprocess.run(
        [*PIP, "--python", python, "install", "--no-deps", "--no-index", "--no-build-isolation", *words], check=True
    )


def run(python, *words, cwd):
    """Run a program of an environment, or its python, without a path to the checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = python if words[0] == "python" else python.parent / words[0]
    return subprocess.run([program, *words[1:]], cwd=cwd, env=variables, capture_output=True, text=True)


def copy_checkout(folder):
    """What a command needs of the checkout, in a new folder: builds write beside their sources."""
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
        elif path.name in FOLDERS:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
