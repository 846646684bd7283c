"""The photographs of the benchmark, and the looks that the cues put on them."""

from pathlib import Path

import numpy as np
from failure_directions.runtime.errors import UserError

SIZE = 32  # pixels


def read_photographs(folder):
    """Photographs as uint8 (N, 32, 32, 3), int64 (N,) of what they show, and the list of names.

    `folder` is laid out in one of three ways: SPLIT/CLASS/FILE; SPLIT/NUMBER.jpg with the classes in labels.npz
    (`names`, and an array a split); or as torchvision's CIFAR10. Raises `UserError` for anything else.
    """
    from failure_directions.data.image_sources import cifar_sources, folder_sources
    from failure_directions.data.images import read_image
    from PIL import Image

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the folder of photographs {folder} does not exist; check --data")
    if (folder / "labels.npz").is_file():
        with np.load(folder / "labels.npz", allow_pickle=False) as stored:
            names = stored["names"].tolist()
            splits = {split: stored[split].astype(np.int64) for split in ("train", "test") if split in stored}
        paths = [folder / split / f"{i:05d}.jpg" for split, labels in splits.items() for i in range(len(labels))]
        images, classes = [read_image(path) for path in paths], np.concatenate(list(splits.values()))
    else:
        batches = (folder / "cifar-10-batches-py").is_dir()
        sources = cifar_sources("cifar10", folder) if batches else folder_sources(folder)
        names = next(iter(sources.values())).class_names
        read = [(image, label) for source in sources.values() for image, label, _ in source]
        images, classes = [image for image, _ in read], np.array([label for _, label in read])
    if any(image.shape != (SIZE, SIZE, 3) for image in images):
        images = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BOX)) for image in images]
    return np.stack(images), classes, names


def with_look(images, look):
    """Photographs (N, H, W, 3) uint8 with a look: "tint", "border", "blur" or "dark"."""
    pixels = images.astype(np.float32)
    if look == "tint":
        pixels *= np.array([1.1, 0.95, 0.7], np.float32)
    elif look == "dark":
        pixels *= 0.55
    elif look == "blur":
        # The binomial kernel (1, 2, 1) / 4 both ways, twice.
        for axis in (1, 2, 1, 2):
            padded = np.pad(pixels, [(1, 1) if a == axis else (0, 0) for a in range(4)], mode="edge")
            before, after = (np.take(padded, np.arange(start, start + pixels.shape[axis]), axis) for start in (0, 2))
            pixels = (before + 2 * pixels + after) / 4
    elif look == "border":
        edge = np.ones(images.shape[1:3], bool)
        edge[2:-2, 2:-2] = False
        pixels[:, edge] = 200
    else:
        raise UserError(f"unknown look {look!r}; choose from tint, border, blur, dark")
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)
