"""The folder of a run, `runs/EXP/version_K`: claimed by one process, so that two of the same name don't meet."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from pathlib import Path

from ..runtime.english import some
from ..runtime.errors import UserError
from ..runtime.files import check_writable, existing_file

LAST = Path("checkpoints") / "checkpoint_last.pt"


@contextlib.contextmanager
def run_folder(runs, exp_name, resume=False):
    """Yield this process's own `runs/exp_name/version_K`: the next free K or, to resume, the latest.

    It is this process's as long as the block runs. Where the block fails before a first checkpoint is there, a new
    folder is removed again.

    Raises:
        UserError: there is nothing to resume, or another process is at it.
    """
    if not exp_name.strip(" .") or Path(exp_name).is_absolute() or ".." in Path(exp_name).parts:
        raise UserError(f"--exp-name {exp_name} leaves {runs}; give a plain name, and --runs for another folder")
    versions = Path(runs) / exp_name
    latest = latest_version(versions)
    if resume:
        if latest is None:
            raise UserError(f"there is no run in {versions} to resume; train without --resume")
        folder = versions / f"version_{latest}"
        check_writable(folder / "metrics.pt")
        with _locked(folder):
            if not (folder / LAST).exists():
                raise UserError(
                    f"{folder} was begun but has no checkpoint to resume from: delete it to resume the version before, "
                    "or train without --resume"
                )
            yield folder
        return
    check_writable(versions / "version_0" / "metrics.pt")
    new = [folder for folder in (versions, *versions.parents) if not os.path.lexists(folder)]  # the deepest first
    folder = None
    try:
        folder = _make_next(versions, 0 if latest is None else latest + 1)
        with _locked(folder):
            yield folder
    except BaseException:
        if folder and not (folder / LAST).exists():
            shutil.rmtree(folder, ignore_errors=True)
        for parent in new:
            with contextlib.suppress(OSError):  # a run is in it
                parent.rmdir()
        raise


def _make_next(versions, number):
    """Make `version_K` with the smallest K from `number` on that no other process has."""
    while True:
        folder = versions / f"version_{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another place or name") from error


@contextlib.contextmanager
def _locked(folder):
    """Hold the lock on a run's folder; the system gives it back when the process ends, however it ends."""
    with open(folder / ".lock", "a") as lock:
        try:
            # A record lock: not inherited by workers, which may outlive this process, and known to NFS.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{folder} is being written by another process: wait until it ends") from None
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system without locks
                raise
        yield


def version_number(folder):
    """K of a folder `version_K`; -1 where it is called otherwise.

    Versions are ordered by it and not by their time, which would follow a clock that is turned back.
    """
    found = re.fullmatch(r"version_(\d+)", Path(folder).name)
    return int(found[1]) if found else -1


def finished_versions(folder):
    """The predictions of every version that is whole, at any depth, later versions later. `UserError` without any."""
    files = sorted(Path(folder).rglob("predictions.pt"), key=lambda file: (version_number(file.parent), file))
    if not files:
        raise UserError(
            f"{folder} holds no finished run (predictions.pt); train it with failure-directions train, or check "
            "the path"
        )
    return files


def checkpoint_in(path):
    """The checkpoint that `--model-path` names: of a run's folder that of its newest finished version, which is told.

    Args:
        path: `runs/EXP` or `runs/EXP/version_K`; whatever else comes back as it is.

    Raises:
        UserError: a folder of runs none of which is finished, or a folder of several.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "config.json").is_file():  # a folder of Hugging Face's has one
        return path
    is_version = (folder / "checkpoints").is_dir()
    versions = [folder] if is_version else sorted(folder.glob("version_*"), key=version_number)
    if not versions:
        runs = sorted(run.name for run in folder.iterdir() if any(run.glob("version_*")))
        hint = f"name one of the runs in it: {some(runs)}" if runs else "give runs/EXP_NAME, or a checkpoint"
        raise UserError(f"{folder} is not the folder of a run; {hint}")
    finished = [version for version in versions if (version / "predictions.pt").is_file()]
    if not finished:
        begun = [version / LAST for version in versions if (version / LAST).is_file()]
        hint = f"; its training was interrupted: go on with --resume, or name {begun[-1]}" if begun else ""
        raise UserError(f"{folder} holds no finished run{hint or '; train it first'}")
    chosen = existing_file(finished[-1] / LAST, "checkpoint")
    if not is_version:
        print(f"model: {chosen}, of the newest finished run in {folder}")
    return str(chosen)


def latest_version(run_folder):
    """The highest K of `run_folder/version_K`, or None."""
    latest = max(map(version_number, Path(run_folder).glob("version_*")), default=-1)
    return None if latest < 0 else latest
