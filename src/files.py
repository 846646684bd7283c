"""Reading and writing files: whole or not at all, and never by running code found in them."""

import contextlib
import contextvars
import csv
import hashlib
import io
import os
import pickle
import pickletools
import re
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import UserError

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.float32, torch.float64)


def check_writable(path):
    """Raise `UserError` unless a file can be made at `path`; creates nothing that stays.

    Long commands call this first, so that an unwritable output is known before hours of work and not after.
    """
    folder = Path(path).absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"cannot write {path}: {folder} is not a folder you may write to; choose another place")
    if Path(path).exists() and not Path(path).is_file():
        what = "a folder" if Path(path).is_dir() else "no ordinary file"
        raise UserError(f"cannot write {path}: it is {what}; name a file")


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
def atomic_path(path):
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds and removed when it fails.

    Readers see the old file or the whole new one, whatever happens in between. Missing folders are made.
    """
    path = Path(path)
    check_writable(path)
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


def save_pt(obj, path):
    """`torch.save` of tensors, numbers, strings, lists and dicts, atomically."""
    # By way of memory: writing straight to a full disk, torch fails with an error that does not say so.
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class _Refused(Exception):
    """Why a file is not loaded: the rest of a sentence that begins with its name."""


def load_pt(path, what, hint="make it again"):
    """`torch.load(path, weights_only=True)` on the CPU; `what` and `hint` word the error ("checkpoint", what to do).

    Raises `UserError` where the file is missing, truncated, unreadable, would run code or would fill the memory with
    more than it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} {'is a folder' if path.is_dir() else 'does not exist'}; check the path")
    try:
        size = path.stat().st_size
        _check_pickles(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content, size)
    except _Refused as error:
        raise UserError(f"{what} {path} {error}; {hint}") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{what} {path} {_MORE_THAN_DATA}; {hint}") from error
    except MemoryError as error:
        raise UserError(f"{what} {path} asks for more memory than there is; {hint}") from error
    except Exception as error:  # a file that was tampered with raises any kind
        if isinstance(error, OSError) and error.errno:
            reason = f"cannot be read ({error.strerror}); check its disk, its mount and its permissions"
            raise UserError(f"{what} {path} {reason}") from error
        raise UserError(f"{what} {path} is truncated or not a torch file; {hint}") from error
    return content


_MORE_THAN_DATA = (
    "is damaged, or holds more than tensors, numbers, strings, lists and dicts: it is not loaded, because loading it "
    "could run code"
)

# What a file may name. torch lets it name more, among that functions that fill the memory, such as bytearray(10**10).
_NAMES = re.compile(
    r"collections OrderedDict|torch (Size|device|u?int\d+|b?float\d+|bool)|torch(\.cuda)? \w+Storage"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
)


def _check_pickles(path, size):
    """Look through the pickles of a torch file, without running them, for names beyond `_NAMES`."""
    with open(path, "rb") as stream:
        if stream.read(2) == b"PK":
            with zipfile.ZipFile(stream) as archive:
                records = archive.infolist()
                # torch.save stores records as they are: a compressed one may unpack to any size.
                if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                    raise _Refused("is compressed, and so not as torch.save writes it")
                if sum(record.file_size for record in records) > size:
                    raise _Refused("would unpack to more than it holds")
                pickles = [io.BytesIO(archive.read(r)) for r in records if r.filename.lower().endswith("data.pkl")]
        else:
            # The format before torch 1.6: five pickles in a row, then the numbers.
            pickles = [stream] * 5
            stream.seek(0)
        for one in pickles:
            for operation, argument, _ in pickletools.genops(one):
                if operation.name.endswith("GLOBAL") and not _NAMES.fullmatch(argument or ""):
                    raise _Refused(_MORE_THAN_DATA)


def _check_tensors(content, size):
    """Refuse tensors that are larger than the file, or than the numbers that it stores for them."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:  # a list may hold itself, or hold another many times
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, torch.Tensor):
            stored = value.untyped_storage().nbytes()
            if stored > size or value.numel() * value.element_size() > stored:
                raise _Refused("has a tensor that is larger than the numbers stored for it")


def is_plain_tensor(value, dims, dtypes=(*INTEGERS, *FLOATS, torch.bool)):
    """Whether what `load_pt` gave is a tensor with that many dimensions, of these types, that NumPy can hold."""
    return (
        isinstance(value, torch.Tensor)
        and value.dim() == dims
        and value.dtype in dtypes
        and not (value.requires_grad or value.is_neg())
    )


def is_plain(content):
    """Whether `content` is made of text, numbers, None, lists and dicts with text for keys, nothing in it twice.

    For options in files: whatever goes through such content ends.
    """
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            if id(value) in seen:
                return False
            seen.add(id(value))
            waiting += [*value, *value.values()] if isinstance(value, dict) else value
            if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
                return False
        elif isinstance(value, str):
            if re.search("[\ud800-\udfff]", value):  # half a character, which no file or terminal takes
                return False
        elif not (value is None or isinstance(value, int | float)):
            return False
    return True


def create_npy(path, shape, dtype=np.float32):
    """A new .npy file as a writable memory map, its place on disk taken: a full disk is an error here, not a crash."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
    return array


def open_npy(path, what, hint="make it again"):
    """The array of a .npy file as a read-only memory map. Raises `UserError` where it is missing or damaged."""
    if not Path(path).is_file():  # a pipe would be waited for
        raise UserError(f"{what} {path} is missing or no ordinary file; {hint}")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header raises any kind
        refused = isinstance(error, OSError) and error.errno
        raise UserError(
            f"{what} {path} {f'cannot be read ({error.strerror})' if refused else 'is damaged'}; {hint}"
        ) from error


def write_csv(path, header, rows):
    """Write `rows` (an iterable of sequences) under `header` as CSV, atomically."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
