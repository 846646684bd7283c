"""Reading and writing files: whole or not at all, and never by running code found in them."""

import contextlib
import errno
import io
import os
import pickle
import pickletools
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from PIL import Image, ImageOps

from .errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SMALLEST = 16  # pixels: a shorter side shows nothing


def check_writable(path):
    """Raise `UserError` unless a file can be made at `path`: long work asks this first."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
        raise UserError(f"cannot write {path}; choose another place")


def write_file(path, data):
    """Write bytes by way of a temporary name beside `path`, so that readers see the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno:
            error.filename = error.filename or str(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


def save_pt(obj, path):
    """`torch.save` of tensors, numbers, strings, lists and dicts, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    write_file(path, buffer.getvalue())


def save_image(image, path):
    """Save a PIL image as PNG, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_file(path, buffer.getvalue())


def save_token(token, embedding, path):
    """Save one learned token, as diffusers' `load_textual_inversion` reads it: {token: (1, d)}, .safetensors."""
    write_file(path, safetensors.torch.save({token: embedding.float().cpu().reshape(1, -1).contiguous()}))


def load_tensors(path, what, stand_ins=()):
    """What a .safetensors file or a file of `torch.save` holds, on the CPU; nothing in it is run.

    Args:
        path: the file.
        what: words for the error, such as "the token file".
        stand_ins: (class, full name) pairs that the file may name and that mean nothing.

    Raises:
        UserError: the file is missing, damaged, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; check the path")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if _fills_memory(path):
            raise UserError(f"{what} {path} would fill the memory as it unpacks; get it again")
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{what} {path} is damaged, or holds more than tensors, numbers, strings, lists and dicts: it is not "
            "loaded, because that could run code"
        ) from error
    except Exception as error:  # a file that was tampered with raises any kind
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{what} {path} is damaged; get it again") from error


# Functions that torch lets a file call, and that can fill the memory.
_FILLING = re.compile(r".* (bytearray|encode|set|Counter|\w*Tensor|_rebuild_device\w*)")


def _fills_memory(path):
    """Whether a file of torch.save is compressed, which torch itself never does, or names a function of `_FILLING`."""
    with open(path, "rb") as stream:
        if stream.read(2) == b"PK":
            with zipfile.ZipFile(stream) as archive:
                records = archive.infolist()
                stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
                if not stored or sum(record.file_size for record in records) > path.stat().st_size:
                    return True
                pickles = [io.BytesIO(archive.read(r)) for r in records if r.filename.lower().endswith("data.pkl")]
        else:  # the format before torch 1.6: five pickles in a row, then the numbers
            pickles = [stream] * 5
            stream.seek(0)
        operations = (operation for one in pickles for operation in pickletools.genops(one))
        return any(kind.name == "GLOBAL" and _FILLING.fullmatch(name) for kind, name, _ in operations)


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------


def image_files(folder):
    """The image files of a folder, sorted by name. Raises `UserError` where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist; check the path")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise UserError(
            f"the folder {folder} has no images ({', '.join(IMAGE_SUFFIXES)}); put the class's images there"
        )
    return files


def read_image(path):
    """An image file as RGB, upright, whatever it was: greyscale (8 or 16 bit), CMYK, with a palette or transparent."""
    try:
        # Whatever it is called, no other reader is tried: that of EPS would start Ghostscript on it.
        with Image.open(path, formats=_FORMATS) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = image.point(lambda value: value / 256).convert("L")
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"the image {path} is broken; remove it or get it again") from error
    if min(image.size) < SMALLEST:
        width, height = image.size
        raise UserError(f"the image {path} has {width} x {height} pixels, too few to show anything; remove it")
    return image
