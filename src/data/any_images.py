"""Images in whatever form a person has them, read one at a time."""

import hashlib
import io
import os

import numpy as np
from PIL import Image

from ..runtime.errors import UserError
from .images import Unreadable, decode_image, read_image, upright_rgb


class AnyImages:
    """A sequence of images: paths, PIL images, arrays uint8 (N, H, W, 3), or a column of a `datasets.Dataset`.

    Nothing is read before it is asked for.

    Raises:
        UserError: arrays of another shape or type.
    """

    def __init__(self, values):
        if isinstance(values, AnyImages):
            values = values.values
        if hasattr(values, "detach"):  # a tensor
            values = values.detach().cpu().numpy()
        if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
            if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
                raise UserError(
                    f"an array of images has the shape {values.shape} and type {values.dtype}, but must be uint8 "
                    "(N, height, width, 3)"
                )
        elif isinstance(values, np.ndarray):
            values = values.tolist()
        if isinstance(values, str | os.PathLike):
            raise UserError(f"images is one path, {values}: give a list of images, or read the folder with read_table")
        self.values = values

    def __len__(self):
        return len(self.values)

    def read(self, i):
        """Image i as a PIL image, RGB.

        Raises:
            UserError: it is missing, broken, or no image.
        """
        value = self.values[i]
        if isinstance(value, str | os.PathLike):
            return Image.fromarray(read_image(value))
        if isinstance(value, dict):  # an image of a data set that is not decoded
            return Image.fromarray(_of_dict(value, i))
        if isinstance(value, Image.Image):
            return _rgb(value, i)
        array = np.asarray(value)
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise UserError(
                f"image {i} is an array of shape {array.shape} and type {array.dtype}; give uint8 (H, W, 3)"
            )
        return _rgb(Image.fromarray(array), i)

    def name(self, i):
        """What messages call image i."""
        value = self.values[i] if isinstance(self.values, list) else None
        return str(value) if isinstance(value, str | os.PathLike) else f"image {i}"

    def fingerprint(self):
        """A hash that changes where an image does.

        Of files the path, size and time of change, as `make` does it: reading a million files again would take as long
        as the pass that is to be spared. Of all else the content.
        """
        digest = hashlib.sha256(str(len(self)).encode())
        if isinstance(self.values, np.ndarray):
            digest.update(str(self.values.shape).encode())
            for start in range(0, len(self.values), 1024):
                digest.update(np.ascontiguousarray(self.values[start : start + 1024]))
            return digest.hexdigest()
        if own := getattr(self.values, "fingerprint", None):
            digest.update(own.encode())
            return digest.hexdigest()
        for i in range(len(self)):
            value = self.values[i]
            if isinstance(value, str | os.PathLike):
                try:
                    status = os.stat(value)
                    told = f"{os.path.abspath(value)} {status.st_size} {status.st_mtime_ns}"
                except OSError:
                    told = f"{os.path.abspath(value)} missing"
                digest.update(told.encode(errors="surrogateescape"))
            else:
                image = self.read(i)
                digest.update(str(image.size).encode() + image.tobytes())
        return digest.hexdigest()


def _of_dict(value, i):
    if value.get("bytes") is not None:
        try:
            return decode_image(io.BytesIO(value["bytes"]))
        except Unreadable as error:
            raise UserError(f"image {i} {error}") from None
    if not value.get("path"):
        raise UserError(f"image {i} has neither bytes nor a path")
    return read_image(value["path"])


def _rgb(image, i):
    """A PIL image by the rules of `read_image`."""
    try:
        return upright_rgb(image)
    except Unreadable as error:
        raise UserError(f"image {i} {error}") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        raise UserError(f"image {i} is broken ({error})") from None
