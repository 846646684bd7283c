"""Scenes: a data set that is drawn, not downloaded, with failures planted where we know them.

Every image shows one shape in one colour on one textured background and knows its caption ("a photo of a red circle on
a striped background"). A `SceneSetting` says how many images each split has and which failures are planted;
`make_split` turns it into the table of the truth, a `SceneSplit`, which draws its images on demand. Ours.
"""

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from ..runtime.errors import UserError
from . import SPLITS
from .scene_drawing import BACKGROUNDS, COLOURS, SHAPES, caption, draw

# ---------------------------------------------------------------------------------------------------------------------
# What is planted
# ---------------------------------------------------------------------------------------------------------------------

KINDS = ("correlation", "rare", "noise")
ATTRIBUTES = {"colour": COLOURS, "background": BACKGROUNDS}
VALIDATIONS = ("natural", "balanced", "skewed")
TRUTH_COLUMNS = (
    "index",
    "label",
    "class",
    "true_class",
    "shape",
    "colour",
    "background",
    "subgroup",
    "mislabelled",
    "caption",
)
UNIFORM = "uniform"

_PLANT_FORM = (
    "KIND:CLASS:ATTRIBUTE=VALUE:STRENGTH, with :LABEL after it for noise, as in correlation:circle:colour=red:0.95"
)


def _check_known(what, name, known):
    if name not in known:
        raise UserError(f'{what} "{name}" is not known; choose one of {", ".join(known)}')


def _check_whole(what, number, least):
    if not isinstance(number, Integral) or number < least:
        raise UserError(f"{what} cannot be {number}; choose a whole number, {least} or more")


@dataclass(frozen=True)
class Plant:
    """One planted failure: a subgroup of one class on which a model trained on the train split is expected to fail.

    The subgroup depends on the kind:

    - `correlation`: a share `strength` of the class in train has `attribute == value`; the subgroup is the rest, spread
      evenly over the other values.
    - `rare`: the subgroup has `attribute == value` and is a share `1 - strength` of the class in train.
    - `noise`: the subgroup has `attribute == value`; in train a share `strength` of it is labelled `noise_label`, the
      name of another class, or "uniform" for an even spread over all the others. One fixed class gives the consistent
      failure; spread wrong labels are outvoted by the right ones unless nearly all are wrong.

    Of a class with several plants, the images in one's subgroup are outside those of the others; see `SceneSetting`.

    Raises:
        UserError: an unknown kind, class, attribute, value or label, or a strength outside (0, 1].
    """

    kind: str
    shape: str
    attribute: str
    value: str
    strength: float
    noise_label: str | None = None

    def __post_init__(self):
        _check_known("the kind of plant", self.kind, KINDS)
        _check_known(f"the class of the {self.kind} plant", self.shape, SHAPES)
        _check_known(f"the attribute of the plant on {self.shape}", self.attribute, tuple(ATTRIBUTES))
        _check_known(f"the {self.attribute} of the plant on {self.shape}", self.value, ATTRIBUTES[self.attribute])
        if not 0 < self.strength <= 1:
            raise UserError(f"the plant on {self.shape} has strength {self.strength}; choose one above 0 and at most 1")
        if self.kind == "noise":
            others = tuple(shape for shape in SHAPES if shape != self.shape)
            _check_known(f"the wrong label of the noise plant on {self.shape}", self.noise_label, (*others, UNIFORM))
        elif self.noise_label is not None:
            raise UserError(
                f"the {self.kind} plant on {self.shape} has the wrong label {self.noise_label}; only noise takes one"
            )

    @classmethod
    def parse(cls, text):
        """Read a plant from its written form, which `str` gives back.

        Raises:
            UserError: the text has another form, or names a plant that cannot be.

        >>> Plant.parse("noise:circle:background=brick:0.5:star").noise_label
        'star'
        """
        try:
            kind, shape, condition, strength, *noise_label = text.split(":")
            attribute, value = condition.split("=")
            return cls(kind, shape, attribute, value, float(strength), *noise_label)
        except (ValueError, TypeError):
            raise UserError(f'cannot read the plant "{text}"; write {_PLANT_FORM}') from None

    def values(self, inside):
        """The values of `attribute` that images in the subgroup may have (`inside`), or those of the rest."""
        if inside == (self.kind != "correlation"):
            return {self.value}
        return set(ATTRIBUTES[self.attribute]) - {self.value}

    def __str__(self):
        label = f":{self.noise_label}" if self.noise_label else ""
        return f"{self.kind}:{self.shape}:{self.attribute}={self.value}:{self.strength:g}{label}"


@dataclass(frozen=True)
class SceneSetting:
    """A data set of scenes: its classes, what is planted in them, and how many images each split has.

    Args:
        plants: the planted failures; classes without one are even in colours and backgrounds. A class may have several:
            a correlation in colour and one in background, say, or two rare colours. Their subgroups do not overlap, and
            what is in none of them has the common values of all its correlations. So two correlations in one attribute
            cannot be, nor a correlation and a rare value of the same attribute.
        classes: at least six of `SHAPES`; a label is a position in it.
        train, val, test, unlabeled: images PER CLASS (of the drawn shape) in each split.
        size: side of the images in pixels, at least 32.
        seed: non-negative int; everything follows from it.
        minority_share: share of each planted subgroup in its class in val, test and unlabeled (and in train for noise).
        validation: the share in val: "natural" for `minority_share`, "balanced" for one half, shared evenly by the
            plants of a class, "skewed" for train's.

    Shares are exact up to rounding to whole images.

    Raises:
        UserError: any of these cannot be, told by name.
    """

    plants: tuple[Plant, ...] = ()
    classes: tuple[str, ...] = SHAPES
    train: int = 1000
    val: int = 400
    test: int = 400
    unlabeled: int = 800
    size: int = 32
    seed: int = 0
    minority_share: float = 0.2
    validation: str = "natural"

    def __post_init__(self):
        for shape in self.classes:
            _check_known("the class", shape, SHAPES)
        if len(set(self.classes)) < len(self.classes):
            raise UserError(f"the classes {', '.join(self.classes)} name one twice; name each once")
        if len(self.classes) < 6:
            raise UserError(f"the setting has {len(self.classes)} classes; name at least six of {', '.join(SHAPES)}")
        for split in SPLITS:
            _check_whole(f"the images per class in {split}", getattr(self, split), 0)
        _check_whole("the image size in pixels", self.size, 32)
        _check_whole("the seed", self.seed, 0)
        if not 0 < self.minority_share < 1:
            raise UserError(f"the minority share is {self.minority_share}; choose one between 0 and 1")
        _check_known("the validation", self.validation, VALIDATIONS)
        for plant in self.plants:
            if plant.shape not in self.classes:
                raise UserError(
                    f"the plant {plant} is on {plant.shape}, not one of the classes {', '.join(self.classes)}"
                )
            if plant.kind == "noise" and plant.noise_label not in (*self.classes, UNIFORM):
                raise UserError(
                    f"the plant {plant} labels as {plant.noise_label}, not one of the classes {', '.join(self.classes)}"
                )
        for shape in dict.fromkeys(plant.shape for plant in self.plants):
            self._check_class(shape)

    def _check_class(self, shape):
        """Raise `UserError` where the plants of a class leave no image that is in one subgroup alone, or in none."""
        plants = self.plants_of(shape)
        together = " and ".join(map(str, plants))
        for attribute in ATTRIBUTES:
            if not all(_values(plants, attribute, number) for number in range(len(plants) + 1)):
                raise UserError(f"{together} leave no {attribute} to some images; plant them in two classes")
        for split in SPLITS:
            taken = sum(self.subgroup_share(plant, split) for plant in plants)
            if taken >= 1:
                raise UserError(
                    f"{together} take all of {shape} in {split} ({taken:.2f} of it); lower the minority share or the "
                    "number of plants, or raise their strengths"
                )

    def plants_of(self, shape):
        """The plants of a class, in order: number 1 is the first."""
        return [plant for plant in self.plants if plant.shape == shape]

    def subgroup_share(self, plant, split):
        """The share of `plant`'s subgroup in its class in `split`."""
        if split == "train" or (split == "val" and self.validation == "skewed"):
            return self.minority_share if plant.kind == "noise" else 1 - plant.strength
        if split == "val" and self.validation == "balanced":
            return 0.5 / len(self.plants_of(plant.shape))
        return self.minority_share


def _values(plants, attribute, number):
    """The values of an attribute in the subgroup of a class's plant `number`, from 1; of 0, those of the rest."""
    values = set(ATTRIBUTES[attribute])
    for k, plant in enumerate(plants, start=1):
        if plant.attribute == attribute:
            values &= plant.values(inside=k == number)
    return [value for value in ATTRIBUTES[attribute] if value in values]


DEFAULT_STRENGTHS = {"correlation": 0.95, "rare": 0.99, "noise": 0.55}
_RIVAL_STRENGTH = 0.85

_LOOKALIKES = (("circle", "square"), ("triangle", "heart"), ("star", "cross"), ("semicircle", "crescent"))


def planted_setting(kind, seed=0, *, attribute="colour", n_plants=3, strength=None, classes=SHAPES, **options):
    """A setting with `n_plants` failures of one kind; which classes and which values is drawn from the seed.

    At most one of two lookalike shapes (circle and square, triangle and heart, star and cross, semicircle and crescent)
    holds a failure of this kind, and no two of them share a value.

    - `correlation`: classes without a plant have all values evenly, so the common value of a planted class speaks for
      that class, and the subgroup's values for all the others.
    - `rare`: a rare value alone costs a network nothing, however rare, for it learns the shape from the other values.
      So each rare value is the common value of the lookalike, by a weaker plant of correlation, and speaks for that.
    - `noise`: the wrong labels name the lookalike.

    Args:
        kind: one of `KINDS`.
        strength: of each of the `n_plants`; the kind's `DEFAULT_STRENGTHS` when None.
        options: further fields of `SceneSetting`.

    Returns:
        `SceneSetting`, the plants of `kind` first in its `plants`.

    Raises:
        UserError: as `Plant` and `SceneSetting`; more plants than `classes` has pairs of lookalikes.

    >>> [plant.kind for plant in planted_setting("rare", n_plants=2).plants]
    ['rare', 'rare', 'correlation', 'correlation']
    """
    _check_known("the kind of plant", kind, KINDS)
    _check_known("the attribute", attribute, tuple(ATTRIBUTES))
    if seed < 0:
        raise UserError(f"the seed is {seed}; choose 0 or more")
    pairs = [pair for pair in _LOOKALIKES if set(pair) <= set(classes)]
    if not 0 <= n_plants <= len(pairs):
        raise UserError(f"the setting has {n_plants} plants; choose 0 to {len(pairs)}")
    strength = DEFAULT_STRENGTHS[kind] if strength is None else strength
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(SPLITS),)))
    pairs = rng.permuted(rng.permutation(pairs)[:n_plants], axis=1).tolist()
    values = rng.permutation(ATTRIBUTES[attribute])[:n_plants].tolist()
    plants, rivals = [], []
    for (shape, lookalike), value in zip(pairs, values, strict=True):
        plants.append(Plant(kind, shape, attribute, value, strength, lookalike if kind == "noise" else None))
        if kind == "rare":
            rivals.append(Plant("correlation", lookalike, attribute, value, _RIVAL_STRENGTH))
    return SceneSetting((*plants, *rivals), classes=tuple(classes), seed=seed, **options)


def several_setting(seed=0, *, n_plants=2, classes=SHAPES, **options):
    """A setting with two or three failures in one class; which class and which values is drawn from the seed.

    Every failure has a colour of its own: a rare one, which is common in the lookalike as in `planted_setting`; one
    with noise, whose wrong labels name the lookalike; of three, another with noise, whose wrong labels name a third
    class. (A correlation in background costs a network less, and in some shapes nothing.)

    Returns:
        `SceneSetting`, the `n_plants` of the class first in its `plants`.

    Raises:
        UserError: as `SceneSetting`; another number of plants; no pair of lookalikes in `classes`.

    >>> [plant.kind for plant in several_setting(n_plants=3).plants]
    ['rare', 'noise', 'noise', 'correlation']
    """
    if n_plants not in (2, 3):
        raise UserError(f"the setting has {n_plants} plants in one class; choose 2 or 3")
    pairs = [pair for pair in _LOOKALIKES if set(pair) <= set(classes)]
    if not pairs:
        raise UserError(f"the classes {', '.join(classes)} hold no two lookalikes, such as circle and square")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(SPLITS), n_plants)))
    shape, lookalike = rng.permutation(pairs[rng.integers(len(pairs))]).tolist()
    colours = rng.permutation(COLOURS).tolist()
    others = [name for name in classes if name not in (shape, lookalike)]
    labels = (lookalike, str(rng.choice(others)))
    plants = [Plant("rare", shape, "colour", colours.pop(), DEFAULT_STRENGTHS["rare"])]
    for label in labels[: n_plants - 1]:
        plants.append(Plant("noise", shape, "colour", colours.pop(), DEFAULT_STRENGTHS["noise"], label))
    plants.append(Plant("correlation", lookalike, "colour", plants[0].value, _RIVAL_STRENGTH))
    return SceneSetting(tuple(plants), classes=tuple(classes), seed=seed, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The truth of a split
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SceneSplit:
    """One split: the truth of its N images, and the images themselves, drawn when asked for.

    `split[i]` is `(image, label, subgroup)`, (size, size, 3) uint8 and two ints, as `write_beton` wants them. Image `i`
    follows from the seed, the split, `i` and its own row of the table: any process may draw it, in any order.

    Attributes, each an (N,) array:
        label: int64, position in `setting.classes`, wrong where `mislabelled`.
        true_label: int64, the class that is drawn.
        shape, colour, background: str.
        subgroup: int64, which of the plants of `shape`, counted from 1 in their order, planted the image; 0 for none.
            The betons call it `spurious`.
        mislabelled: bool.
    """

    setting: SceneSetting
    name: str
    label: np.ndarray
    true_label: np.ndarray
    shape: np.ndarray
    colour: np.ndarray
    background: np.ndarray
    subgroup: np.ndarray
    mislabelled: np.ndarray

    def __len__(self):
        return len(self.label)

    def __getitem__(self, i):
        return self.image(i), int(self.label[i]), int(self.subgroup[i])

    def image(self, i):
        """Draw image `i`: (size, size, 3) uint8, RGB, 0..255."""
        rng = _rng(self.setting.seed, self.name, range(len(self))[i])
        return draw(self.setting.size, self.shape[i], self.colour[i], self.background[i], rng)

    def caption(self, i):
        """The caption of image `i`, which names what is drawn whatever the label says."""
        return caption(self.shape[i], self.colour[i], self.background[i])


def _rng(seed, split, *i):
    # A spawn key keeps the table's stream apart from the one of image 0.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), *i)))


def make_split(setting, split):
    """The truth of every image of one split of `setting`, with the classes interleaved in a seeded order.

    Args:
        setting: `SceneSetting`.
        split: one of `SPLITS`.

    Returns:
        `SceneSplit` of N = classes x images per class.

    Raises:
        UserError: an unknown split.

    >>> len(make_split(SceneSetting(test=5), "test"))
    40
    """
    _check_known("the split", split, SPLITS)
    rng = _rng(setting.seed, split)
    parts = [_make_class(setting, split, shape, rng) for shape in setting.classes]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = rng.permutation(len(columns["label"]))
    return SceneSplit(setting, split, **{name: column[order] for name, column in columns.items()})


def _make_class(setting, split, shape, rng):
    """The columns of the images that show `shape`, the subgroups first."""
    n, plants = getattr(setting, split), setting.plants_of(shape)
    true_label = np.full(n, setting.classes.index(shape))
    columns = {
        "label": true_label.copy(),
        "true_label": true_label,
        "shape": np.full(n, shape),
        "colour": _spread(COLOURS, n, rng),
        "background": _spread(BACKGROUNDS, n, rng),
        "subgroup": np.zeros(n, np.int64),
        "mislabelled": np.zeros(n, bool),
    }
    shares = np.cumsum([setting.subgroup_share(plant, split) for plant in plants]).tolist()
    numbers, bounds = [*range(1, len(plants) + 1), 0], [0, *(round(share * n) for share in shares), n]
    blocks = {number: slice(*bounds[k : k + 2]) for k, number in enumerate(numbers)}
    for number, block in blocks.items():
        columns["subgroup"][block] = number
    for attribute in ATTRIBUTES:
        if any(plant.attribute == attribute for plant in plants):
            for number, block in blocks.items():
                values = _values(plants, attribute, number)
                columns[attribute][block] = _spread(values, block.stop - block.start, rng)
    for number, plant in enumerate(plants, start=1):
        if plant.kind == "noise" and split == "train":
            start, stop = blocks[number].start, blocks[number].stop
            wrong = round(plant.strength * (stop - start))
            names = [plant.noise_label] if plant.noise_label != UNIFORM else [c for c in setting.classes if c != shape]
            labels = [setting.classes.index(name) for name in names]
            columns["label"][start : start + wrong] = _spread(labels, wrong, rng)
            columns["mislabelled"][start : start + wrong] = True
    return columns


def _spread(values, n, rng):
    """`n` of `values` in random order, each as often as any other up to one."""
    return np.array(values)[rng.permutation((np.arange(n) + rng.integers(len(values))) % len(values))]


def truth_rows(split):
    """The rows, in the order of `TRUTH_COLUMNS`, of the table kept beside a split's beton.

    >>> next(truth_rows(make_split(SceneSetting(), "test")))[0]
    0
    """
    classes = split.setting.classes
    for i in range(len(split)):
        yield [
            i,
            int(split.label[i]),
            classes[split.label[i]],
            classes[split.true_label[i]],
            str(split.shape[i]),
            str(split.colour[i]),
            str(split.background[i]),
            int(split.subgroup[i]),
            int(split.mislabelled[i]),
            split.caption(i),
        ]
