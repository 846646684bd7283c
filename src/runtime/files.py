"""Reading and writing files: whole or not at all, and never by running code found in them."""

import contextlib
import contextvars
import csv
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from .errors import UserError


def existing_file(path, what, hint="check the path"):
    """The path of a file that is to be read; `what` and `hint` word the `UserError` where there is none."""
    path = Path(path)
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "is a pipe or a device" if path.exists() else "does not exist"
        raise UserError(f"{what} {path} {state}; {hint}")
    return path


def check_writable(path):
    """Raise `UserError` unless a file can be made at `path`; creates nothing that stays.

    Long commands call this first, so that an unwritable output is known before hours of work and not after.
    """
    folder = Path(path).absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {path}: {folder} is not a folder you may write to; choose another place")
    try:
        mode = os.stat(path).st_mode  # once: another process may remove the file at any time
    except OSError:
        return
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise UserError(f"cannot write {path}: it is {what}; name a file")


def check_apart(outputs, inputs):
    """Raise `UserError` where a file that is to be written is one that is read, or two that are to be written are one.

    Args:
        outputs, inputs: paths, of which there may be no file; None and "" do not count.
    """
    read = {os.path.realpath(path) for path in inputs if path and os.path.exists(path)}
    written = set()
    for path in filter(None, outputs):
        place = os.path.realpath(path)
        if place in read:
            raise UserError(f"{path} would be written, but is read by this command: name another file")
        if place in written:
            raise UserError(f"{path} would be written twice: name two files")
        written.add(place)


@dataclass
class _Together:
    """What `written_together` does in the end: files to remove, and (temporary path, path, new folders) to rename."""

    old: list
    new: list


_together = contextvars.ContextVar("together", default=None)


@contextlib.contextmanager
def written_together(old=()):
    """Files that are written in this block get their names in its end, in the order of writing, or none of them does.

    Args:
        old: paths of files of an earlier result, whatever is there of them. They are removed right before, so that
            nothing of it is taken for part of the new one, and stay where the block fails.
    """
    outer = _together.get()
    if outer:
        outer.old += old
        yield
        return
    files = _Together([*old], [])
    token = _together.set(files)
    try:
        yield
        with _alone_in([*{Path(path).parent for _, path, _ in files.new}]):
            for path in files.old:
                Path(path).unlink(missing_ok=True)
            while files.new:
                os.replace(*files.new[0][:2])
                del files.new[0]
    except BaseException:
        for temporary, *_ in files.new:
            _remove(temporary)
        for *_, new_folders in reversed(files.new):
            _remove(None, new_folders)
        raise
    finally:
        _together.reset(token)


@contextlib.contextmanager
def _alone_in(folders):
    """Wait for others that rename files in these folders: of two results of one name, the later stays whole."""
    with contextlib.ExitStack() as held:
        for folder in sorted(folders):  # in one order, so that no two wait for each other
            handle = os.open(folder, os.O_RDONLY)
            held.callback(os.close, handle)  # which gives the lock back
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def unchanged(path):
    """Around the reading of a file and of those beside it, which are replaced together.

    Raises:
        UserError: the file was replaced meanwhile, so that what was read may be of two results.
    """
    before = _identity(path)
    try:
        yield
    except UserError as error:
        if _identity(path) == before:
            raise
        raise _replaced(path) from error
    if _identity(path) != before:
        raise _replaced(path)


def _identity(path):
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
    return None


def _replaced(path):
    return UserError(f"{path} was replaced by another command as it was read: run this command again")


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds and removed when it fails.

    Readers see the old file or the whole new one, whatever happens in between. Missing folders are made. A symbolic
    link stays, and what it points to is written.
    """
    path = Path(path)
    check_writable(path)
    path = Path(os.path.realpath(path))
    new_folders = [folder for folder in path.parents if not folder.exists()]  # the deepest first
    temporary = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error
        os.close(handle)
        yield Path(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        if _together.get():
            _together.get().new.append((temporary, path, new_folders))
        else:
            os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno:
            error.filename = error.filename or str(path)
        _remove(temporary, new_folders)
        raise


def write_file(path, data):
    """Write bytes, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def new_folder(path):
    """Yield a new folder beside `path`, which takes its place when the block succeeds.

    Whatever was there is lost then: look first whether it may be.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        old = Path(temporary) / "old"
        try:
            if path.exists():
                path.rename(old)
            folder.rename(path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise


def check_space(path, needed):
    """Raise `UserError` unless `needed` bytes are free where `path` will be."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{path} needs {needed / 1e6:,.3g} MB and the disk has {free / 1e6:,.3g} MB left; free some space "
            "or choose another place"
        )


def _remove(file, folders=()):
    """Remove a file, if it is there, and folders that are empty."""
    if file:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_digest(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def create_npy(path, shape, dtype=np.float32):
    """A new .npy file as a writable memory map, its place on disk taken: a full disk is an error here, not a crash."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
    return array


def open_npy(path, what, hint="make it again"):
    """The array of a .npy file as a read-only memory map.

    Raises:
        UserError: it is missing, damaged or no ordinary file.
    """
    if not Path(path).is_file():  # a pipe would be waited for
        raise UserError(f"{what} {path} is missing or no ordinary file; {hint}")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header raises any kind
        refused = isinstance(error, OSError) and error.errno
        raise UserError(
            f"{what} {path} {f'cannot be read ({error.strerror})' if refused else 'is damaged'}; {hint}"
        ) from error


def write_csv(path, header, rows, for_people=False):
    """Write `rows` (an iterable of sequences) under `header` as CSV, atomically.

    Args:
        for_people: the file is read by no command of ours, but opened in a spreadsheet: text that one would take for a
            formula has an apostrophe before it.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        if for_people:
            header, rows = [no_formula(cell) for cell in header], ([no_formula(cell) for cell in row] for row in rows)
        writer.writerow(header)
        writer.writerows(rows)


def write_rows(path, kind, rows):
    """Write instances of the dataclass `kind` as CSV, atomically: a column a field."""
    write_csv(path, [field.name for field in fields(kind)], map(astuple, rows))


def read_rows(path, kind):
    """The list of instances of the dataclass `kind` that `write_rows` wrote; columns that are no field are passed over.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    read = {field.name: _number_or_nothing if field.type == int | str else field.type for field in fields(kind)}
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            if not read.keys() <= set(table.fieldnames or ()):
                raise ValueError("a column is missing")
            return [kind(**{name: of(row[name]) for name, of in read.items()}) for row in table]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of {kind.__name__}: {error}") from error


def _number_or_nothing(cell):
    return int(cell) if cell else ""


def no_formula(cell):
    """A cell that no spreadsheet runs: text that begins with = + - @, a tab or a line's end follows an apostrophe.

    Numbers stay as they are, whether or not they are written as text.
    """
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell.lstrip("'")) else cell


def without_apostrophe(cell):
    """What a cell was before `no_formula`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text):
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
