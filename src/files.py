"""Reading and writing files: whole or not at all, and never by running code found in them."""

import contextlib
import csv
import io
import os
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from .errors import UserError


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
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno:
            error.filename = error.filename or str(path)
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        for folder in new_folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_pt(obj, path):
    """`torch.save` of tensors, numbers, strings, lists and dicts, atomically."""
    # By way of memory: writing straight to a full disk, torch fails with an error that does not say so.
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_pt(path, what, hint="make it again"):
    """`torch.load(path, weights_only=True)` on the CPU; `what` and `hint` word the error ("checkpoint", what to do).

    Raises `UserError` where the file is missing, truncated, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} {'is a folder' if path.is_dir() else 'does not exist'}; check the path")
    with open(path, "rb") as stream:
        start = stream.read(2)
    if start not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise UserError(f"{what} {path} is truncated or not a torch file; {hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} {path} holds more than tensors, numbers, strings, lists and dicts and is not loaded, "
            f"because loading it could run code; {hint}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{what} {path} is truncated or not a torch file; {hint}") from error


def is_plain_tensor(value, dims):
    """Whether `value` is an ordinary tensor in memory (not sparse, quantized or meta) with that many dimensions."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
        and value.dim() == dims
    )


def create_npy(path, shape, dtype=np.float32):
    """A new .npy file as a writable memory map, its place on disk taken: a full disk is an error here, not a crash."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
    return array


def write_csv(path, header, rows):
    """Write `rows` (an iterable of sequences) under `header` as CSV, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
