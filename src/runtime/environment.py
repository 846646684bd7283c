"""What a run was made with: versions, commit, hardware, date. Stored with every result; the machine's name is not."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .distributed import world_size
from .files import atomic_path
from .yaml_files import dump_yaml

PACKAGES = ("torch", "torchvision", "ffcv", "numpy", "scikit-learn", "open_clip_torch")


def environment():
    """dict of strings, ints, lists and dicts; what is not known is left out.

    Keys: date (UTC), python, packages (name -> version), git (commit, modified: 1 where tracked files differ from it),
    system, cpu, cores (that this process may use), gpus (list), processes.
    """
    import torch

    known = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": _versions(),
        "git": _git(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": _cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": world_size(),
    }
    return {key: value for key, value in known.items() if value}


def write_environment(path, arguments):
    """Add the start of a run to the YAML list at `path`: `environment()` and the command's arguments, a dict."""
    path = Path(path)
    starts = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    start = dump_yaml([{**environment(), "arguments": arguments}])
    with atomic_path(path) as temporary:
        temporary.write_text(starts + start, encoding="utf-8")


def _versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git():
    """Commit of the checkout that this folder is a tracked part of; None where it is in none, or there is no git."""
    if _git_says("ls-files", "--error-unmatch", ".") is None:
        return None
    commit = _git_says("rev-parse", "HEAD")
    changes = _git_says("status", "--porcelain", "--untracked-files=no")
    return commit and {"commit": commit, "modified": int(changes != "")}


def _git_says(*words):
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
