"""One reader of image files."""

import os

import numpy as np
from PIL import Image, ImageOps

from ..runtime.errors import LOST_STORAGE, UserError

# Whatever a file is called, no other reader of Pillow's is tried: that of EPS would start Ghostscript on it.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


def read_image(path):
    """An image file as uint8 (H, W, 3), RGB.

    Raises `UserError` naming the file where it is not there, broken, or of more pixels than Pillow holds to be safe (89
    million), and `OSError` where the disk or its mount fails.
    """
    if not os.path.isfile(path):
        state = "is no ordinary file" if os.path.exists(path) else "does not exist"
        raise UserError(f"image {path} {state}; correct the list, or give --skip-broken")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, which would fill the memory")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                # Pillow would cut 16-bit greys off at 255 where they must be scaled.
                grey = np.asarray(image, dtype=np.float64) / 257
                if not 0 <= grey.min() <= grey.max() <= 255:
                    raise ValueError(f"mode {image.mode} with values beyond 16 bits")
                return np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, axis=2)
            if image.has_transparency_data:
                # As on a page: what lies under what is transparent is any colour.
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises many kinds for broken files
        if isinstance(error, OSError) and error.errno in LOST_STORAGE:
            raise
        raise UserError(
            f"image {path} is broken ({error}): mend or remove it (failure-directions betons: --skip-broken)"
        ) from None
