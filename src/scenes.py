"""Scenes: a data set that is drawn, not downloaded, with failures planted where we know them.

Every image shows one shape in one colour on one textured background and knows its caption ("a photo of a red circle on
a striped background"). A `SceneSetting` says how many images each split has and which failures are planted;
`make_split` turns it into the table of the truth, a `SceneSplit`, which draws its images on demand. Ours.
"""

import math
from dataclasses import dataclass
from functools import cache
from numbers import Integral

import numpy as np

from .captions import with_article
from .errors import UserError

# ---------------------------------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------------------------------

# Signed distances (negative inside) to shapes that fill the unit disc. Unions and intersections by min and max are
# exact near an edge, which is all that antialiasing asks for.


def _circle(x, y):
    return np.hypot(x, y) - 0.88


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.74


def _triangle(x, y):
    return np.maximum(-y, math.sqrt(3) / 2 * np.abs(x) + 0.5 * y) - 0.52


def _star(x, y):
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(y, x) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    # One edge runs from the outer point (1, 0) to the inner corner; folding by the symmetry makes it serve for all ten.
    inner = 0.45
    along_x, along_y = inner * math.cos(sector / 2) - 1, inner * math.sin(sector / 2)
    length = math.hypot(along_x, along_y)
    return (along_y * (radius * np.cos(angle) - 1) - along_x * radius * np.sin(angle)) / length


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.3)


def _heart(x, y):
    # Two discs that touch on the axis, and below them the wedge between their outer tangents through the tip.
    radius, height = 0.46, 1.25
    along, up = np.abs(x) - radius, y - 0.3
    twice = 2 * math.atan(radius / height)
    edge = math.cos(twice) * along - math.sin(twice) * up - radius
    end = math.sin(twice) * along + math.cos(twice) * up
    return np.minimum(np.hypot(along, up) - radius, np.maximum(np.maximum(edge, end), up))


def _semicircle(x, y):
    return np.maximum(np.hypot(x, y + 0.42) - 0.95, -0.42 - y)


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 0.92, 0.66 - np.hypot(x - 0.6, y))


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "semicircle": _semicircle,
    "crescent": _crescent,
}

PALETTE = {
    "red": (205, 30, 35),
    "green": (35, 150, 55),
    "blue": (30, 70, 205),
    "yellow": (245, 225, 40),
    "orange": (240, 125, 20),
    "purple": (130, 40, 165),
    "white": (240, 240, 240),
    "black": (18, 18, 18),
}

# Textures over coordinates counted in cells, with values in -1..1; `lattice` is (16, 16) uniform random numbers.


def _lines(u):
    """Thin lines at the whole numbers."""
    return np.clip(3 - 14 * np.abs(u - np.round(u)), -0.5, 1)


def _striped(u, v, lattice):
    return np.clip(2 * np.sin(2 * math.pi * (u + 0.7 * v)), -1, 1)


def _checkered(u, v, lattice):
    return np.clip(5 * np.sin(math.pi * u) * np.sin(math.pi * v), -1, 1)


def _dotted(u, v, lattice):
    return np.clip(3 - 9 * np.hypot(u - np.round(u), v - np.round(v)), -0.5, 1)


def _brick(u, v, lattice):
    row = np.floor(v)
    return np.maximum(_lines(v), _lines(0.5 * u + 0.5 * (row % 2)))


def _wavy(u, v, lattice):
    return np.sin(2 * math.pi * (v + 0.35 * np.sin(1.5 * math.pi * u)))


def _grid(u, v, lattice):
    return np.maximum(_lines(0.65 * u), _lines(0.65 * v))


def _speckled(u, v, lattice):
    rows, columns = np.floor(3 * v).astype(int) % 16, np.floor(3 * u).astype(int) % 16
    return np.where(lattice[rows, columns] < 0.2, 1.0, -0.3)


def _plain(u, v, lattice):
    return np.zeros_like(u)


_TEXTURES = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "brick": _brick,
    "wavy": _wavy,
    "grid": _grid,
    "speckled": _speckled,
    "plain": _plain,
}

SHAPES = tuple(_DISTANCES)
COLOURS = tuple(PALETTE)
BACKGROUNDS = tuple(_TEXTURES)


@cache
def _pixel_centres(size):
    centres = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    return np.meshgrid(centres, centres)


def _turn(x, y, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


# The stretch and the warp set how hard the shapes are, and so how much a shortcut tempts a network. Ruled shapes hold
# no temptation; a warp of 0.13 costs a small network one image in ten and makes hearts hard to name.
_STRETCH = 1.1  # of the shape along one of its axes, at most
_WARP = 0.06  # amplitude, in shape radii
_WAVES = (2, 4)  # frequency of the warp, in radians per shape radius
_RADIUS = (0.45, 0.8)  # of the shape, in half sides
_TONE = (105, 145)  # of the background: with the contrast, it leaves room for white and for black
_CONTRAST = (28, 42)
_NOISE = 18  # standard deviation per pixel and channel


def draw(size, shape, colour, background, rng, *, radius=_RADIUS, turn=2 * math.pi):
    """Draw one scene. Ours.

    The same `rng` state draws the same position, tones and noise whatever the shape, colour and background are, so that
    images that differ in one of them alone can be made; at another `size` all but the noise stays.

    Args:
        size: side of the image in pixels, at least 32.
        shape, colour, background: one of `SHAPES`, of `COLOURS` and of `BACKGROUNDS`.
        rng: `numpy.random.Generator`.
        radius: least and greatest radius of the shape, in half sides, 0..1.
        turn: greatest turn of the shape, in radians.

    Returns:
        (size, size, 3) uint8 array, RGB, 0..255.

    >>> draw(32, "star", "red", "striped", np.random.default_rng(0)).shape
    (32, 32, 3)
    """
    x, y = _pixel_centres(size)
    # Everything is drawn before anything is looked at, so that the names do not shift the stream.
    chance = rng.random(17).tolist()
    tint = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
    lattice = rng.random((16, 16), dtype=np.float32)
    noise = rng.standard_normal((size, size, 3), dtype=np.float32)

    def between(low, high):
        return low + (high - low) * chance.pop()

    radius = between(*radius)
    # The whole disc around the shape stays in the image.
    left, top = between(radius - 1, 1 - radius), between(radius - 1, 1 - radius)
    u, v = _turn((x - left) / radius, (y - top) / radius, between(0, turn))
    stretch = between(1 / _STRETCH, _STRETCH)
    u, v = u * stretch, v / stretch
    u, v = (
        u + _WARP * np.sin(between(*_WAVES) * v + between(0, 2 * math.pi)),
        v + _WARP * np.sin(between(*_WAVES) * u + between(0, 2 * math.pi)),
    )
    distance = _DISTANCES[shape](u, v) * (radius * size / 2)  # in pixels
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    ink = np.float32(PALETTE[colour]) + between(-15, 15) + 8 * tint[0]

    cells = between(1.7, 2.6)  # in half a side
    u, v = _turn(cells * x + between(0, 8), cells * y + between(0, 8), between(-0.3, 0.3))
    sign = 1 if chance.pop() < 0.5 else -1
    tone = between(*_TONE) + sign * between(*_CONTRAST) * _TEXTURES[background](u, v, lattice)
    paper = tone[..., None] + 12 * tint[1]

    image = paper + cover * (ink - paper) + _NOISE * noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def caption(shape, colour, background):
    """The caption of a scene.

    >>> caption("star", "orange", "striped")
    'a photo of an orange star on a striped background'
    """
    return f"a photo of {with_article(f'{colour} {shape}')} on {with_article(f'{background} background')}"


# ---------------------------------------------------------------------------------------------------------------------
# What is planted
# ---------------------------------------------------------------------------------------------------------------------

KINDS = ("correlation", "rare", "noise")
ATTRIBUTES = {"colour": COLOURS, "background": BACKGROUNDS}
SPLITS = ("train", "val", "test", "unlabeled")
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

    def __str__(self):
        label = f":{self.noise_label}" if self.noise_label else ""
        return f"{self.kind}:{self.shape}:{self.attribute}={self.value}:{self.strength:g}{label}"


@dataclass(frozen=True)
class SceneSetting:
    """A data set of scenes: its classes, what is planted in them, and how many images each split has.

    Args:
        plants: the planted failures, at most one per class; every other class is even in colours and backgrounds.
        classes: at least six of `SHAPES`; a label is a position in it.
        train, val, test, unlabeled: images PER CLASS (of the drawn shape) in each split.
        size: side of the images in pixels, at least 32.
        seed: non-negative int; everything follows from it.
        minority_share: share of each planted subgroup in its class in val, test and unlabeled (and in train for noise).
        validation: the share in val: "natural" for `minority_share`, "balanced" for one half, "skewed" for train's.

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
        planted = [plant.shape for plant in self.plants]
        for plant in self.plants:
            if plant.shape not in self.classes:
                raise UserError(
                    f"the plant {plant} is on {plant.shape}, not one of the classes {', '.join(self.classes)}"
                )
            if plant.kind == "noise" and plant.noise_label not in (*self.classes, UNIFORM):
                raise UserError(
                    f"the plant {plant} labels as {plant.noise_label}, not one of the classes {', '.join(self.classes)}"
                )
            if planted.count(plant.shape) > 1:
                raise UserError(f"{plant.shape} has {planted.count(plant.shape)} plants; plant one in a class")

    def subgroup_share(self, plant, split):
        """The share of `plant`'s subgroup in its class in `split`."""
        if split == "train" or (split == "val" and self.validation == "skewed"):
            return self.minority_share if plant.kind == "noise" else 1 - plant.strength
        if split == "val" and self.validation == "balanced":
            return 0.5
        return self.minority_share


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
        subgroup: int64, 1 in a planted subgroup.
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
    plants = {plant.shape: plant for plant in setting.plants}
    parts = [_make_class(setting, split, shape, plants.get(shape), rng) for shape in setting.classes]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = rng.permutation(len(columns["label"]))
    return SceneSplit(setting, split, **{name: column[order] for name, column in columns.items()})


def _make_class(setting, split, shape, plant, rng):
    """The columns of the images that show `shape`, the subgroup first."""
    n = getattr(setting, split)
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
    if plant is None:
        return columns

    minority = round(setting.subgroup_share(plant, split) * n)
    columns["subgroup"][:minority] = 1
    others = [value for value in ATTRIBUTES[plant.attribute] if value != plant.value]
    inside, outside = ([plant.value], others) if plant.kind != "correlation" else (others, [plant.value])
    columns[plant.attribute] = np.concatenate([_spread(inside, minority, rng), _spread(outside, n - minority, rng)])
    if plant.kind == "noise" and split == "train":
        wrong = round(plant.strength * minority)
        names = [plant.noise_label] if plant.noise_label != UNIFORM else [c for c in setting.classes if c != shape]
        columns["label"][:wrong] = _spread([setting.classes.index(name) for name in names], wrong, rng)
        columns["mislabelled"][:wrong] = True
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
