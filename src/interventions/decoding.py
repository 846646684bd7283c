"""Images decoded along a failure's direction: what does "harder" look like, and does the model fail on it?

"Distilling Model Failures as Directions in Latent Space" (Jain et al., ICLR 2023) moves from a class's reference along
its direction in CLIP's space and decodes. The way is in `directions.interpolation`, the diffusion model in
`interfaces.image_decoder`; here are the images' folder, and what CLIP and the base model say of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import stats

from ..captions.vocabulary import get_caption_set
from ..directions.results import OutputFiles
from ..runtime.english import some, with_article
from ..runtime.errors import UserError
from ..runtime.files import read_rows, write_rows
from ..svm_utils import SVMFitter

NEUTRAL = "neutral"  # the side of alpha 0
MEAN_OF = 200  # images of a class whose mean is its origin
LEFT = 0.8
"""A class is left where fewer than this share of the images at alpha 0 that show it still do."""
IMAGES_CSV, CURVE_CSV = "decoded.csv", "curve.csv"


# ---------------------------------------------------------------------------------------------------------------------
# Directions
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Target:
    """A direction to decode along.

    Attributes:
        c: number of the class.
        label: its name.
        slice: the slice's id, "" for the class's single direction.
        folder: of its images.
        normal: float64 (d,), in the preprocessed embedding; negative is hard.
    """

    c: int
    label: str
    slice: str
    folder: str
    normal: np.ndarray

    @property
    def title(self):
        return self.slice or self.label


def targets(proc, fitter, classes=None, slice_rank=None):
    """The directions of a result to decode along.

    Args:
        proc: `SVMProcessor`.
        fitter: the result's `SVMFitter`.
        classes: names; their single directions. None: every confirmed slice.
        slice_rank: int, of the one class that is given: its slice of this rank instead.

    Returns:
        list of `Target`.

    Raises:
        UserError: nothing is confirmed, an unknown class, one without a direction, or a slice that is not confirmed.
    """
    from .synthetic import folder_names  # late: it imports what trains, which reading a folder's tables needs not

    folders = folder_names(proc.class_names)
    found = proc.loaded.found
    confirmed = found.confirmed if found else []
    if classes is None:
        if not confirmed:
            raise UserError(f"{proc.path} has no confirmed slice to decode; name a --class to see its single direction")
        return [_of_slice(one, folders) for one in confirmed]
    numbers = [proc.class_number(name) for name in classes]
    if slice_rank is not None:
        if len(numbers) != 1:
            raise UserError("--slice is the rank of a slice of one class; name that class alone with --class")
        name = proc.class_names[numbers[0]]
        ranks = {one.rank: one for one in proc.slices(numbers[0])}
        if slice_rank not in ranks:
            raise UserError(f"the class {name} has no slice {slice_rank}; it has {some(sorted(ranks)) or 'none'}")
        if ranks[slice_rank] not in confirmed:
            verdict = ranks[slice_rank].verdict
            raise UserError(
                f"the slice {ranks[slice_rank].id} is {verdict}: what it shows may be chance; choose another"
            )
        return [_of_slice(ranks[slice_rank], folders)]
    for c in numbers:
        if c in proc.skipped:
            raise UserError(f"the class {proc.class_names[c]} has no direction ({proc.skipped[c]}); choose another")
    names = {c: proc.class_names[c] for c in numbers}
    return [Target(c, name, "", folders[name], fitter.coef[c]) for c, name in names.items()]


def _of_slice(one, folders):
    folder = f"{folders[one.class_name]}-{one.rank}"
    return Target(one.class_index, one.class_name, one.id, folder, np.asarray(one.direction))


def fitter_of(proc):
    """The `SVMFitter` of a result whose directions are linear and in CLIP's space.

    Raises:
        UserError: they are not.
    """
    config = proc.loaded.svm_config
    if config is None or config.embedding != "clip":
        other = "an embedding of its own" if config is None else repr(config.embedding)
        raise UserError(
            f"{proc.path} has directions in {other}, and images can be decoded from CLIP's space alone; make it with "
            "failure-directions distil and embedding: clip"
        )
    if proc.loaded.dataset_config.bce:
        raise UserError(f"{proc.path} is of one condition; images are decoded for results on classes")
    fitter = SVMFitter.load(OutputFiles(proc.path).model)
    if fitter.coef is None:
        raise UserError(f"{proc.path} was made with method: {fitter.method}, which has no directions; use method: SVM")
    return fitter


def references(proc):
    """A caption for each class, such as "a photo of a cat": of the result's caption set, where it has one."""
    if proc.args.get("captions"):
        generators = get_caption_set(proc.args["captions"]).for_classes(proc.class_names)
        return [generator.reference for generator in generators]
    return [f"a photo of {with_article(name)}" for name in proc.class_names]


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodedImage:
    """A row of decoded.csv, which is a manifest as well.

    Attributes:
        path: of the image, from the folder of the table.
        label: name of its class.
        slice: id of the slice, "" for the class's single direction.
        side: "hard", "easy" or "neutral".
        alpha: 0 (the origin) to 1 (the direction itself).
        seed: of its noise.
        decision_value: of the direction, on the image's own embedding.
        in_class: 1 where CLIP finds the class's reference the nearest of all classes' references, else 0.
        pred: the base model's class, "" where there is no model at hand.
        right: 1 where that is the label; "" as for `pred`.
    """

    path: str
    label: str
    slice: str
    side: str
    alpha: float
    seed: int
    decision_value: float
    in_class: int
    pred: str = ""
    right: int | str = ""


@dataclass(frozen=True)
class CurvePoint:
    """A row of curve.csv: the images of one direction, side and alpha.

    Attributes:
        label, slice, side, alpha: as in `DecodedImage`.
        images, in_class: how many there are, and how many show the class.
        decision_value: mean over the images.
        accuracy: of the base model, on the images that show the class; NaN without a model.
        low, high: Wilson's 95 % interval of the accuracy.
        left: 1 from where on the way has left the class (see `LEFT`), else 0.
    """

    label: str
    slice: str
    side: str
    alpha: float
    images: int
    in_class: int
    decision_value: float
    accuracy: float
    low: float
    high: float
    left: int


def image_paths(target, side, alpha, count):
    """Where the images of a target lie, from the folder of all: a list of `Path`."""
    folder = Path(target.folder) / (NEUTRAL if alpha == 0 else f"{side}_{alpha:g}")
    return [folder / f"{number:03}.png" for number in range(count)]


def stops(alphas, sides):
    """The pairs (side, alpha) to decode, alpha 0 once."""
    alphas = sorted(set(alphas))
    zero = [(NEUTRAL, 0.0)] if 0 in alphas else []
    return zero + [(side, alpha) for side in sides for alpha in alphas if alpha > 0]


def judge(images, clip, texts, fitter, target):
    """What CLIP says of images: decision values (N,) along the target, and whether each shows its class, (N,) bool.

    Args:
        images: list of N PIL images.
        clip: `CLIPProcessor`.
        texts: (K, d), embeddings of the classes' references.
        fitter: `SVMFitter`, whose preprocessing the target's direction is of.
        target: `Target`.
    """
    embeddings = clip.encode_pictures(images)
    values = fitter.preprocess(embeddings) @ target.normal
    lengths = np.linalg.norm(texts, axis=1)
    nearest = (embeddings @ texts.T / lengths).argmax(axis=1)
    return values, nearest == target.c


def open_images(out, paths):
    """Images of a folder: a list of PIL images, RGB."""
    images = []
    for path in paths:
        with Image.open(Path(out) / path) as image:
            images.append(image.convert("RGB"))
    return images


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------


def write_images_table(out, rows):
    write_rows(Path(out) / IMAGES_CSV, DecodedImage, rows)


def grouped(rows):
    """dict (label, slice, side, alpha) -> rows, of a list of `DecodedImage`, in their order."""
    groups = {}
    for row in rows:
        groups.setdefault((row.label, row.slice, row.side, row.alpha), []).append(row)
    return groups


def curve(rows):
    """The points of all directions, from a list of `DecodedImage`, in their order: a list of `CurvePoint`."""
    groups = grouped(rows)
    points, gone = [], set()
    for (label, name, side, alpha), group in groups.items():
        inside = [row for row in group if row.in_class]
        start = groups.get((label, name, NEUTRAL, 0.0), group)
        at_start = np.mean([row.in_class for row in start])
        if len(inside) < LEFT * at_start * len(group):
            gone.add((label, name, side))
        known = [row.right for row in inside if row.right != ""]
        accuracy, low, high = (np.nan,) * 3
        if known:
            found = stats.binomtest(int(sum(known)), len(known))
            accuracy, (low, high) = found.statistic, found.proportion_ci(method="wilson")
        value = float(np.mean([row.decision_value for row in group]))
        left = int((label, name, side) in gone)
        points.append(CurvePoint(label, name, side, alpha, len(group), len(inside), value, accuracy, low, high, left))
    return points


def write_curve(out, points):
    write_rows(Path(out) / CURVE_CSV, CurvePoint, points)


def read_curve(out):
    """The `CurvePoint`s and `DecodedImage`s of a folder that `failure-directions decode` wrote, two lists.

    Raises:
        UserError: they are missing or damaged.
    """
    return _read(Path(out) / CURVE_CSV, CurvePoint), _read(Path(out) / IMAGES_CSV, DecodedImage)


def _read(path, kind):
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the folder that failure-directions decode wrote")
    try:
        rows = read_rows(path, kind)
    except ValueError as error:
        raise UserError(f"{path} is damaged; decode the images again, into a new folder") from error
    if not rows:
        raise UserError(f"{path} is damaged: it has no rows; decode the images again, into a new folder")
    return rows


def where_it_leaves(points):
    """dict (label, slice, side) -> the first alpha at which the class is left, for those that leave it."""
    first = {}
    for point in points:
        if point.left:
            first.setdefault((point.label, point.slice, point.side), point.alpha)
    return first
