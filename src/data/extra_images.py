"""Extra training images that are not in any beton: a folder, such as one of generated images, or a manifest."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..runtime.errors import UserError
from .beton_writer import ImageOptions, write_beton
from .betons import open_beton
from .image_sources import check_some_are_there, class_folders, manifest_sources
from .splits import Split

LONGEST_SIDE = 512  # pixels; decoders that crop and scale need no more


def extra_images_split(images, config, beton_path):
    """A folder `CLASS/*.png` or a manifest as a `Split` of a beton that is written to `beton_path`.

    Where the config's decoder does not resize, the images are scaled to `imgsz`; else they are stored as they are, as
    JPEG. The beton is written anew unless it is there, as it is when a training is resumed.

    Raises:
        UserError: a folder or manifest without images, of an unknown class, or with broken images.
    """
    if Path(beton_path).exists():
        return _opened(beton_path)
    source = _source(Path(images), config)
    for note in source.notes:
        print(f"note: {note}")
    return split_of_files(source, config, beton_path)


def split_of_files(source, config, beton_path):
    """The same of a source of images, such as `ImageFiles`."""
    if config.train_img_decoder == "simple" or config.val_img_decoder == "simple":
        write_beton(beton_path, _Scaled(source, config.imgsz))
    else:
        write_beton(beton_path, source, ImageOptions("jpg", jpeg_quality=95, max_resolution=LONGEST_SIDE))
    return _opened(beton_path)


def _opened(beton_path):
    beton = open_beton(beton_path)
    return Split("extra", beton, np.arange(len(beton)))


def _source(images, config):
    if not images.exists():
        raise UserError(f"--extra-images {images} does not exist; give a folder CLASS/FILE or a manifest")
    if images.is_dir():
        if config.bce:
            raise UserError(f"--extra-images {images}: a folder gives one class an image; with bce give a manifest")
        return class_folders(images, config.names)
    sources = manifest_sources(images, class_names=config.names, bce=config.bce)
    check_some_are_there(sources)
    if "train" not in sources:
        raise UserError(f"manifest {images} has no images of split train to train on; correct its column split")
    others = ", ".join(f"{len(source)} of {split}" for split, source in sources.items() if split != "train")
    if others:
        print(f"of {images} only the images of split train are trained on; left out: {others}")
    return sources["train"]


@dataclass(frozen=True)
class _Scaled:
    """A source whose images are scaled to `size` x `size`; `spurious`, which the train beton may lack, is left out."""

    source: object
    size: int

    def __len__(self):
        return len(self.source)

    def name(self, i):
        return self.source.name(i)

    def __getitem__(self, i):
        image, label, _ = self.source[i]
        if image.shape[:2] != (self.size, self.size):
            image = np.asarray(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BICUBIC))
        return image, label, None
