"""Settings with planted slices: from a frozen YAML file and a seed to lists of rows. Arrays in, arrays out.

A setting says which photographs train the base model and which are looked at afterwards, in three parts that share no
image: `find` (where methods look), `confirm` (where a claim may be tested) and `pool` (where all are scored). Find and
confirm are of one size; a marked part of each is the `lean` version of it.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from failure_directions.runtime.errors import UserError

FOLDER = Path(__file__).parent / "settings"
KINDS = ("rare", "noise", "cues", "scenes")
PARTS = ("find", "confirm", "pool")


@dataclass(frozen=True)
class Setting:
    """A frozen setting.

    Attributes:
        name: the file's name.
        kind: "rare" (subclasses thinned in train), "noise" (also mislabeled there), "cues" (looks that agree with a
            class) or "scenes" (drawn; see scenes.py).
        superclasses: lists of subclass names, or a number of classes into which the seed deals all subclasses.
        families: lists of subclass names, of each of which every class is dealt the same number; a class then has
            something to be taken for in another.
        train_images: training images of a subclass that is not thinned.
        slice_share: a planted slice's share of its class in find, confirm and pool.
        find, lean, pool: images in find (and in confirm), in its lean version, and in pool.
        rare: names of the planted subclasses, or how many a class may have (the seed chooses).
        thinned: 1 of so many is kept in train; the seed chooses one for each planted subclass.
        mislabeled: share of a planted subclass's training labels that are the next class's.
        looks: for "cues", one look a class.
        foreign_looks: how many other looks a class also has: those of the classes after it.
        agreement: share of a class's training images that have its own look.
    """

    name: str
    kind: str
    superclasses: tuple | int
    train_images: int
    slice_share: float
    find: int
    lean: int
    pool: int
    families: tuple = ()
    rare: tuple = ()
    thinned: tuple = ()
    mislabeled: float = 0.0
    looks: tuple = ()
    foreign_looks: int = 0
    agreement: float = 1.0

    @property
    def digest(self):
        """Eight hexadecimal digits that change with anything in the setting but its name."""
        content = dataclasses.asdict(self)
        del content["name"]
        return hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class TrainingSet:
    """What a base model learns from: rows of the photographs, their labels as given, and the looks put on them."""

    rows: np.ndarray
    labels: np.ndarray
    looks: np.ndarray
    class_names: list


@dataclass(frozen=True)
class LookedAt:
    """The images after training, in random order within each part; arrays of one length.

    Attributes:
        rows: int64, into the photographs. labels: int64, all right. slices: int64, a planted slice's number or -1.
        looks: int64, into the setting's looks, or -1. part: str, of `PARTS`. lean: bool, in the lean find or confirm.
        slice_names: what each number means.
    """

    rows: np.ndarray
    labels: np.ndarray
    slices: np.ndarray
    looks: np.ndarray
    part: np.ndarray
    lean: np.ndarray
    slice_names: list


def setting_names(photographs=True):
    """Names of the frozen settings, or of those alone that need no photographs."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return names if photographs else [name for name in names if read_setting(name).kind == "scenes"]


def read_setting(name):
    """The `Setting` of that name. Raises `UserError` for an unknown name, key or kind."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"there is no setting {name!r}; choose from {', '.join(setting_names())}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {field.name for field in dataclasses.fields(Setting)} - {"name"}
    unknown = sorted(set(content) - known)
    if unknown:
        raise UserError(f"setting {path.name}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if content.get("kind") not in KINDS:
        raise UserError(f"setting {path.name}: kind {content.get('kind')!r} is none of {', '.join(KINDS)}")
    return Setting(name=name, **{key: _frozen(value) for key, value in content.items()})


def _frozen(value):
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def draw(setting, subclasses, subclass_names, seed):
    """The images of a setting.

    Args:
        setting: a `Setting`. subclasses: int (N,), what each photograph shows; subclass_names: their names.
        seed: deals the subclasses into classes and the photographs into parts.

    Returns:
        `TrainingSet`, `LookedAt`. Settings that differ only after training draw the same `TrainingSet`.

    Raises `UserError` where a subclass has too few photographs or a name is unknown.
    """
    rng = np.random.default_rng([seed, 0])
    groups = _groups(setting, list(subclass_names), rng)
    stacks = [_Stack(name, rng.permutation(np.flatnonzero(subclasses == s))) for s, name in enumerate(subclass_names)]
    plants = (
        _plan_cues(setting) if setting.kind == "cues" else _plan_subclasses(setting, groups, list(subclass_names), rng)
    )
    class_names = ["+".join(subclass_names[s] for s in group) for group in groups]
    training = _draw_training(setting, groups, plants, stacks, class_names, np.random.default_rng([seed, 1]))
    looked_at = _draw_parts(setting, groups, plants, stacks, subclass_names, np.random.default_rng([seed, 2]))
    return training, looked_at


class _Stack:
    """The photographs of a subclass in random order, dealt from the top."""

    def __init__(self, name, rows):
        self.name, self.rows, self.taken = name, rows, 0

    def deal(self, count):
        self.taken += count
        if self.taken > len(self.rows):
            raise UserError(
                f"{len(self.rows)} photographs of {self.name} are too few, {self.taken} are needed; give all CIFAR-10"
            )
        return self.rows[self.taken - count : self.taken]


@dataclass(frozen=True)
class _Plant:
    """A planted slice: a subclass (and how much it is thinned), or a look, of a class."""

    label: int
    subclass: int = -1
    thinned: int = 1
    look: int = -1


def _groups(setting, names, rng):
    count = setting.superclasses if isinstance(setting.superclasses, int) else 0
    lists = setting.families if count else setting.superclasses
    unknown = sorted({name for group in lists for name in group} - set(names))
    if unknown:
        raise UserError(f"setting {setting.name} needs photographs of {unknown[0]}; there are {', '.join(names)}")
    groups = [[names.index(name) for name in group] for group in lists]
    if not count:
        return groups
    dealt = [rng.permutation(family) for family in groups]
    return [rng.permutation(np.concatenate([family[label::count] for family in dealt])) for label in range(count)]


def _plan_subclasses(setting, groups, names, rng):
    plants = []
    for label, group in enumerate(groups):
        if isinstance(setting.rare[0], int):
            chosen = group[: rng.choice(setting.rare)]
        else:
            chosen = [subclass for subclass in group if names[subclass] in setting.rare]
        plants += [_Plant(label, int(subclass), int(rng.choice(setting.thinned))) for subclass in chosen]
    return plants


def _plan_cues(setting):
    return [_Plant(label, look=look) for label in range(len(setting.looks)) for look in _foreign(setting, label)]


def _foreign(setting, label):
    """The looks of other classes that a class's slices have."""
    return [(label + step) % len(setting.looks) for step in range(1, setting.foreign_looks + 1)]


def _draw_training(setting, groups, plants, stacks, class_names, rng):
    thinned = {plant.subclass: plant.thinned for plant in plants}
    rows, labels, looks = [], [], []
    for label, group in enumerate(groups):
        for subclass in group:
            count = setting.train_images // thinned.get(int(subclass), 1)
            given = np.full(count, label)
            wrong = round(setting.mislabeled * count) if int(subclass) in thinned else 0
            given[:wrong] = (label + 1) % len(groups)
            rows.append(stacks[subclass].deal(count))
            labels.append(given)
            looks.append(_looks(setting, label, count, (1 - setting.agreement) / max(1, setting.foreign_looks), rng))
    rows, labels, looks = map(np.concatenate, (rows, labels, looks))
    return TrainingSet(rows, labels, looks, class_names)


def _looks(setting, label, count, other_share, rng):
    """`count` looks for images of a class: its own, but each other one in `other_share` of the images."""
    if not setting.looks:
        return np.full(count, -1)
    odd = np.repeat(_foreign(setting, label), round(other_share * count))
    return rng.permutation(np.concatenate([odd, np.full(count - len(odd), label)]))


def _draw_parts(setting, groups, plants, stacks, subclass_names, rng):
    columns = []
    for part in ("find_lean", "find_rest", "confirm_lean", "confirm_rest", "pool"):
        size = {"pool": setting.pool, "lean": setting.lean, "rest": setting.find - setting.lean}[part.split("_")[-1]]
        rows, labels, slices, looks = _draw_part(setting, groups, plants, stacks, size, rng)
        order = rng.permutation(len(rows))
        name, _, which = part.partition("_")
        same = (np.full(len(rows), name), np.full(len(rows), which == "lean"))
        columns.append([array[order] for array in (rows, labels, slices, looks)] + [*same])
    names = [
        f"{subclass_names[plant.subclass]} (1/{plant.thinned} in train)"
        if plant.look < 0
        else f"{'+'.join(subclass_names[s] for s in groups[plant.label])} with {setting.looks[plant.look]}"
        for plant in plants
    ]
    rows, labels, slices, looks, part, lean = map(np.concatenate, zip(*columns, strict=True))
    return LookedAt(rows, labels, slices, looks, part, lean, names)


def _draw_part(setting, groups, plants, stacks, size, rng):
    rows, labels, slices, looks = [], [], [], []
    for label, group in enumerate(groups):
        in_class = size // len(groups)
        own = {plant.subclass: number for number, plant in enumerate(plants) if plant.label == label}
        of_slice = round(setting.slice_share * in_class)
        planted = [s for s in group if int(s) in own]
        common = [s for s in group if int(s) not in own]
        counts = dict.fromkeys(planted, of_slice)
        rest = in_class - sum(counts.values())
        # The first subclasses take what does not divide evenly.
        counts |= {s: rest // len(common) + (i < rest % len(common)) for i, s in enumerate(common)}
        for subclass, count in counts.items():
            rows.append(stacks[subclass].deal(count))
            labels.append(np.full(count, label))
            slices.append(np.full(count, own.get(int(subclass), -1)))
            looks.append(_looks(setting, label, count, setting.slice_share, rng))
    rows, labels, slices, looks = map(np.concatenate, (rows, labels, slices, looks))
    for number, plant in enumerate(plants):
        if plant.look >= 0:
            slices[(labels == plant.label) & (looks == plant.look)] = number
    return rows, labels, slices, looks


def permuted(labels, parts, seed):
    """A null model: an order of rows in which only rows of the same class and part have changed places.

    Applied to predictions, probabilities and features together, it leaves every rate of every class as it is and makes
    them independent of the embeddings.

    Args:
        labels: int (N,). parts: (N,), compared for equality. seed: int.

    Returns:
        int64 (N,).
    """
    rng = np.random.default_rng([seed, 3])
    order = np.arange(len(labels))
    for label in np.unique(labels):
        for part in np.unique(parts):
            members = np.flatnonzero((labels == label) & (parts == part))
            order[members] = rng.permutation(members)
    return order


def noise_embeddings(shape, seed):
    """Another null model: standard normal numbers, float32 of `shape`."""
    return np.random.default_rng([seed, 4]).standard_normal(shape, dtype=np.float32)


def fair_slices(slices, labels, right, pool, margin=0.1):
    """Numbers of the planted slices that the model really fails on.

    A slice is fair where the accuracy on it is at least `margin` below that on its whole class, both on the scored
    images.

    Args:
        slices: int (N,), -1 for none. labels: int (N,). right: bool (N,), where the model is. pool: bool (N,), scored.

    Returns:
        list of int, in order.
    """
    fair = []
    for number in np.unique(slices[pool & (slices >= 0)]):
        members = pool & (slices == number)
        of_class = pool & (labels == labels[members][0])
        if right[members].mean() <= right[of_class].mean() - margin + 1e-12:
            fair.append(int(number))
    return fair
