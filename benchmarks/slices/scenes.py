"""The setting that needs no photographs: scenes are drawn, and embedded by the CLIP of theirs that travels with us."""

import numpy as np
from failure_directions.data.scenes import make_split, several_setting
from failure_directions.embeddings.passes import embed

from .planted import LookedAt, TrainingSet

SPLIT_OF_PART = {"find": "val", "confirm": "test", "pool": "unlabeled"}


def draw_scenes(setting, seed):
    """The images of a setting of kind "scenes".

    Args:
        setting: a `planted.Setting`; `rare` says how many failures the class may have, `train_images` is of a class.
        seed: draws the class, its colours and every image.

    Returns:
        images uint8 (N, 32, 32, 3), and `TrainingSet` and `LookedAt` whose rows are theirs. Every planted slice is
        numbered, those of the lookalike after those of the class.
    """
    rng = np.random.default_rng([seed, 0])
    of_class = {name: getattr(setting, part) // setting.superclasses for name, part in _SIZES.items()}
    scenes = several_setting(
        seed,
        n_plants=int(rng.choice(setting.rare)),
        train=setting.train_images,
        minority_share=setting.slice_share,
        **of_class,
    )
    train = make_split(scenes, "train")
    images = [_images(train)]
    training = TrainingSet(np.arange(len(train)), train.label, np.full(len(train), -1), list(scenes.classes))
    columns = []
    for part, name in SPLIT_OF_PART.items():
        split = make_split(scenes, name)
        images.append(_images(split))
        slices = np.full(len(split), -1)
        for number, plant in enumerate(scenes.plants):
            position = scenes.plants_of(plant.shape).index(plant)
            slices[(split.shape == plant.shape) & (split.subgroup == position + 1)] = number
        columns.append((split.label, slices, np.full(len(split), part), _lean(setting, split.label, part)))
    labels, slices, part, lean = map(np.concatenate, zip(*columns, strict=True))
    rows = len(train) + np.arange(len(labels))
    looked_at = LookedAt(rows, labels, slices, np.full(len(rows), -1), part, lean, list(map(str, scenes.plants)))
    return np.concatenate(images), training, looked_at


_SIZES = {"val": "find", "test": "find", "unlabeled": "pool"}


def _images(split):
    return np.stack([split.image(i) for i in range(len(split))])


def _lean(setting, labels, part):
    """The first images of each class, which come in random order."""
    lean = np.zeros(len(labels), bool)
    if part != "pool":
        for label in range(setting.superclasses):
            lean[np.flatnonzero(labels == label)[: setting.lean // setting.superclasses]] = True
    return lean


def embed_scenes(images):
    """float32 (N, d) of uint8 (N, 32, 32, 3)."""
    return np.asarray(embed(list(images), "clip:scenes", cache=None), np.float32)
