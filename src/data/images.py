"""Image files: one reader, one writer, and one rule for every kind of pixels."""

import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from ..runtime.errors import LOST_STORAGE, UserError
from ..runtime.files import write_file
from . import LIMIT_OF_LIMITS, MOST_PIXELS

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `read_image` refuses these images

# Whatever a file is called, no other reader of Pillow's is tried: that of EPS would start Ghostscript on it.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_EIGHT_BITS = frozenset(("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"))
_TRANSPARENT = frozenset(("LA", "PA", "RGBA", "RGBa"))
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
LEAVE_OUT = "mend it or leave it out (failure-directions betons: --skip-broken)"


class Unreadable(Exception):
    """Why an image is not read: the rest of a sentence that begins with its name."""


class TooLarge(Unreadable):
    """More pixels than are read."""


def read_image(path, advice=LEAVE_OUT, most_pixels=MOST_PIXELS, too_large="scale it down, or leave it out"):
    """An image file as uint8 (H, W, 3), RGB, upright, by the rules of `upright_rgb`.

    Args:
        path: of the file.
        advice: what to do about an image that cannot be read, for the error.
        most_pixels: width times height that is read, at most.
        too_large: what to do about an image of more.

    Raises:
        UserError: the file is not there, is broken, of pixels without a rule or of too many; it is named.
        OSError: the disk or its mount fails.
    """
    if not os.path.isfile(path):
        state = "is no ordinary file" if os.path.exists(path) else "does not exist"
        raise UserError(f"image {path} {state}; {advice}")
    try:
        return decode_image(path, most_pixels)
    except TooLarge as error:
        raise UserError(f"image {path} {error}: {too_large}") from None
    except Unreadable as error:
        raise UserError(f"image {path} {error}; {advice}") from None


def decode_image(file, most_pixels=MOST_PIXELS):
    """An image as `read_image` gives it: uint8 (H, W, 3).

    Args:
        file: path, or a stream of bytes.
        most_pixels: width times height that is read, at most.

    Raises:
        Unreadable: it is broken, of pixels without a rule or of too many.
        OSError: the disk or its mount fails.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return np.asarray(upright_rgb(image, most_pixels))
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        raise TooLarge(f"is too large (more than {LIMIT_OF_LIMITS / 1e6:.0f} million pixels)") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        if isinstance(error, OSError) and error.errno in LOST_STORAGE:
            raise
        raise Unreadable(f"is broken ({error})") from None


def upright_rgb(image, most_pixels=MOST_PIXELS):
    """A PIL image as one of mode RGB, turned as its camera says.

    8 bits a channel, palettes, CMYK, YCbCr and black-and-white are converted. What is transparent lies on white. Greys
    of 16 bits are scaled, 65,535 to 255. Greys of 32 bits, floats and Lab are refused: nothing says what is white.

    Args:
        image: a PIL image, which is read in here if it was not before.
        most_pixels: width times height that is taken, at most.

    Raises:
        Unreadable: it is of pixels without a rule, or of too many; what Pillow raises of a broken image passes.
    """
    if image.width * image.height > most_pixels:
        raise TooLarge(
            f"is too large ({image.width:,} x {image.height:,} pixels, more than {most_pixels / 1e6:.0f} million)"
        )
    # A PGM of up to 16 bits, which Pillow scales to 16, comes in 32.
    deep = image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PPM", "PNG"))
    if not (deep or image.mode in _EIGHT_BITS | _TRANSPARENT):
        kinds = {"F": " (floats)", "I": " (32-bit integers)", "LAB": " (Lab)"}
        raise Unreadable(
            f"is of mode {image.mode}{kinds.get(image.mode, '')}, of which nothing says what is black and what is "
            "white: save it as RGB or grey of 8 or 16 bits"
        )
    image = ImageOps.exif_transpose(image)
    if deep:
        # Pillow would cut 16-bit greys off at 255 where they must be scaled.
        grey = np.asarray(image)
        if grey.size and not 0 <= grey.min() <= grey.max() <= 65_535:
            raise Unreadable(f"is broken (mode {image.mode} with values beyond 16 bits)")
        return Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # As on a page: what lies under what is transparent is any colour.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def save_image(image, path):
    """Write a PIL image as PNG, atomically."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_file(path, buffer.getvalue())
