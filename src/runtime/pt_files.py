"""Files of tensors, numbers, strings, lists and dicts, read without running code found in them."""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from .errors import UserError
from .files import existing_file, write_file

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


FLOATS = (torch.float16, torch.float32, torch.float64)


def save_pt(obj, path):
    """`torch.save` of tensors, numbers, strings, lists and dicts, atomically."""
    # By way of memory: writing straight to a full disk, torch fails with an error that does not say so.
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    write_file(path, buffer.getbuffer())


class _Refused(Exception):
    """Why a file is not loaded: the rest of a sentence that begins with its name."""


def load_pt(path, what, hint="make it again", stand_ins=()):
    """`torch.load(path, weights_only=True)` on the CPU, of a file that is looked through before.

    Args:
        path: of the file.
        what: what it is, for the error, such as "checkpoint".
        hint: what to do, for the error.
        stand_ins: pairs (class, full name): classes of other libraries that the file may name, each with one that
            stands for it. Made by us, without methods, so that nothing is run.

    Returns:
        tensors, numbers, strings, lists and dicts.

    Raises:
        UserError: the file is missing, truncated, unreadable, would run code, or would fill the memory with more than
            it holds.
    """
    path = existing_file(path, what)
    try:
        size = path.stat().st_size
        _check_pickles(path, size, {" ".join(name.rsplit(".", 1)) for _, name in stand_ins})
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):
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
        raise _unreadable(path, what, error, f"is truncated or not a torch file; {hint}") from error
    return content


def check_tensor_file(path, what, hint="get it again"):
    """Look through a torch file that another library is to load.

    Raises:
        UserError: it is missing or damaged, or loading it could run code or fill the memory.
    """
    path = existing_file(path, what)
    try:
        _check_pickles(path, path.stat().st_size)
    except _Refused as error:
        raise UserError(f"{what} {path} {error}; {hint}") from None
    except Exception as error:  # a file that was tampered with raises any kind
        raise _unreadable(path, what, error, f"is truncated or not a torch file; {hint}") from error


def check_weights_folder(folder, what, safe=("model.safetensors", "model.safetensors.index.json")):
    """Look through the pickled weights in a folder of a model, unless it has others.

    Args:
        folder: path.
        what: what it is, for the error.
        safe: names of files with weights that are no pickles.

    Returns:
        bool: whether it has one of these.

    Raises:
        UserError: pickled weights that are not to be loaded.
    """
    if any((Path(folder) / name).is_file() for name in safe):
        return True
    for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _PICKLED):
        check_tensor_file(path, what, "give safetensors")
    return False


def load_tensors(path, what, hint="get it again", stand_ins=()):
    """What a file of tensors holds, on the CPU: that of a .safetensors file, or else as `load_pt`.

    Raises:
        UserError: it is missing or damaged, or as `load_pt` says.
    """
    if Path(path).suffix != ".safetensors":
        return load_pt(path, what, hint, stand_ins)
    path = existing_file(path, what)
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # a damaged header raises any kind
        raise _unreadable(path, what, error, f"is damaged; {hint}") from error


def _unreadable(path, what, error, otherwise):
    """A `UserError` of what the system refused, or of what is wrong with the file."""
    if isinstance(error, OSError) and error.errno:
        otherwise = f"cannot be read ({error.strerror}); check its disk, its mount and its permissions"
    return UserError(f"{what} {path} {otherwise}")


_MORE_THAN_DATA = (
    "is damaged, or holds more than tensors, numbers, strings, lists and dicts: it is not loaded, because loading it "
    "could run code"
)


# What a file may name. torch lets it name more, among that functions that fill the memory, such as bytearray(10**10).
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_NAMES = re.compile(
    r"collections OrderedDict|torch (Size|device|u?int\d+|b?float\d+|bool)|torch(\.cuda)? \w+Storage"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter Parameter"
)


def _check_pickles(path, size, also=()):
    """Look through the pickles of a torch file, without running them.

    For names beyond `_NAMES` and those of `also`, and for more numbers than the file has room for.
    """
    with open(path, "rb") as stream:
        if stream.read(2) == b"PK":
            with zipfile.ZipFile(stream) as archive:
                if not _has_one_directory(stream, size):
                    raise _Refused("has a directory where torch.save does not write it")
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
        stored = {}
        for one in pickles:
            start = one.tell()
            for operation, argument, _ in pickletools.genops(one):
                named = operation.name.endswith("GLOBAL")
                if named and argument not in also and not _NAMES.fullmatch(argument or ""):
                    raise _Refused(_MORE_THAN_DATA)
            end = one.tell()
            one.seek(start)
            _Scan(one, stored).load()
            one.seek(end)
        # A number takes a byte or more; a file of a few bytes may ask for room for any.
        if sum(stored.values()) > size:
            raise _Refused("asks for more numbers than it holds")


class _Inert:
    """Stands for whatever a pickle names, and does nothing."""

    def __init__(self, *_, **__): ...

    def __setitem__(self, *_): ...

    def __setstate__(self, _): ...


class _Scan(pickle._Unpickler):  # Python's own: the memo of the one in C has room for as high a number as is asked for
    """Goes through a pickle with everything that it names inert, and adds up the numbers of its storages."""

    def __init__(self, stream, stored):
        super().__init__(stream)
        self.stored = stored

    def find_class(self, *_):
        return _Inert

    def persistent_load(self, identity):
        kind, _, key, _, numbers, *_ = identity
        if kind != "storage" or not isinstance(numbers, int) or numbers < 0:
            raise _Refused(_MORE_THAN_DATA)
        self.stored[key] = max(numbers, self.stored.get(key, 0))


def _has_one_directory(stream, size):
    """Whether a zip file ends as torch.save ends it: the directory, right behind it the record that says where it is.

    Readers differ in which of two directories they take, so that what was looked through is not what is loaded.
    """
    stream.seek(max(0, size - 98))
    end = stream.read()
    if len(end) < 22 or end[-22:-18] != b"PK\5\6" or end[-2:] != b"\0\0":
        return False
    length, start = (int.from_bytes(end[a:b], "little") for a, b in ((-10, -6), (-6, -2)))
    behind = size - 22
    if len(end) == 98 and end[-42:-38] == b"PK\6\7":  # of 4 GB and more
        record = int.from_bytes(end[-34:-26], "little")
        if record != size - 98 or end[:4] != b"PK\6\6":
            return False
        length, start = (int.from_bytes(end[a:b], "little") for a, b in ((40, 48), (48, 56)))
        behind = record
    stream.seek(0)
    return start + length == behind


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
