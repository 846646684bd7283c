"""Environments that see every package of the one that runs the tests but this project, installed or not."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from packaging.requirements import Requirement

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


def top_level_modules(requirements):
    """Names of the modules that packages bring, and the packages that these require, and so on."""
    found, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    modules = importlib.metadata.packages_distributions().items()
    return {module for module, packages in modules if found & set(map(normal, packages))}


def normal(name):
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
