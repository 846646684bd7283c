"""Images of a class that come in from outside."""

from pathlib import Path

from PIL import Image

from ..data.class_folders import list_images
from ..data.images import read_image
from ..runtime.errors import UserError

SMALLEST = 16  # pixels: a shorter side shows nothing


def image_files(folder):
    """The image files of a folder and of those in it, sorted by path; the rest is told.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist; check the path")
    files, notes = list_images(folder)
    if not files:
        raise UserError(f"the folder {folder} has no images ({'; '.join(notes) or 'it is empty'}); put some there")
    for note in notes:
        print(f"note: {note}")
    return files


def read_photo(path):
    """An image file as a PIL image, RGB.

    Raises:
        UserError: it is broken, or too small to show anything.
    """
    image = Image.fromarray(read_image(path, "remove it or get it again"))
    if min(image.size) < SMALLEST:
        width, height = image.size
        raise UserError(f"the image {path} has {width} x {height} pixels, too few to show anything; remove it")
    return image
