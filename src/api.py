"""From a model's labels, predictions and embeddings, as plain arrays, to failures that are confirmed: the whole loop's
first half in a few lines.

    import failure_directions as fd
    found = fd.find_failures(labels, preds, embeddings, images=paths)
    found.confirmed
    found.report("report.html"); found.save("OUT.pt"); fd.load("OUT.pt")

What is computed here is in `directions`; this module turns what people have into its arrays, and its results into what
people open. Neither ffcv nor a configuration is needed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from .config_parsing import MOST, SVMConfig
from .data import guards
from .data.guards import check_finite, check_rows
from .data.names import SPLIT_NAMES, clean_name
from .data.probabilities import check_probabilities
from .directions.analysis import analyse, slice_values, slices_in_words, with_slices
from .directions.confirmation import CONFIRMED, Slice, split_in_halves
from .directions.results import (
    TABLES,
    Analysis,
    FoundSlices,
    OutputFiles,
    SliceRow,
    WordRow,
    read_directions,
    read_result,
    read_table,
    slice_rows,
    table_rows,
    write_analysis,
)
from .runtime.english import nearest, some
from .runtime.environment import environment
from .runtime.errors import UserError
from .runtime.files import unchanged
from .training.evaluation import Predictions

if TYPE_CHECKING:
    import pandas


def find_failures(
    labels: ArrayLike,
    preds: ArrayLike,
    embeddings: ArrayLike,
    split: Sequence[str] | np.ndarray | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    probs: ArrayLike | None = None,
    images: Sequence[Any] | np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    metadata: Any = None,
    directions: Literal["auto"] | int = "auto",
    fdr: float = 0.1,
    seed: int = 0,
    jobs: int = -1,
    made_from: dict[str, str] | None = None,
) -> "Failures":
    """Find the failures of a model on some of these images and confirm them on the others.

    Args:
        labels: (N,) class numbers or names.
        preds: (N,) class numbers or names, or (N, K) probabilities.
        embeddings: float (N, d), of any space; a memory map is read a class at a time.
        split: (N,) of "train", "val" (or "find") and "test" (or "confirm"); without it each class is halved by seed.
        groups: (N,) of anything: images that belong together (a patient, a video) are never on both sides.
        probs: float (N, K), the model's probabilities; without them nothing is said of its confidence.
        images: N paths, PIL images or arrays (H, W, 3), for the report.
        class_names: K names, in the order of the numbers and of the columns of probabilities.
        metadata: columns of N values each: a dict, a DataFrame or a `datasets.Dataset`.
        directions: failures sought in each class: "auto", or at most so many.
        fdr: which share of the confirmed failures may be false.
        seed: of halves and search.
        jobs: processes, -1 for one a core.
        made_from: a dict of what (model, embedding, ...) -> a sentence on it, which the report repeats.

    Returns:
        `Failures`.

    Raises:
        UserError: arrays that do not fit each other or hold what they should not, naming rows.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(400, 8)); wrong = x[:, 0] > 1
    >>> [one.verdict for one in find_failures(np.zeros(400, int), wrong.astype(int), x).confirmed][:1]
    ['confirmed']
    """
    if isinstance(fdr, bool) or not isinstance(fdr, Real) or not 0 < fdr < 1:
        raise UserError(f"fdr is {fdr!r}: give a share between 0 and 1, both excluded, such as 0.1")
    if directions != "auto" and not (_is_count(directions, 1) and int(directions) <= MOST):
        raise UserError(
            f"directions is {directions!r}: give auto, or how many failures a class may have, up to {MOST:,}"
        )
    if not _is_count(seed, 0):
        raise UserError(f"seed is {seed!r}: give a whole number of 0 or more")
    embeddings = _as_array(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu" or not embeddings.shape[1]:
        raise UserError(f"embeddings are {embeddings.dtype} of shape {embeddings.shape}; give numbers (images, d)")
    if not len(embeddings):
        raise UserError("there are no images: labels, preds and embeddings are empty; give one row an image")
    labels, preds, probs, class_names = _as_classes(labels, preds, probs, class_names)
    split = None if split is None else np.array([_split_name(name, i) for i, name in enumerate(split)])
    groups = None if groups is None else np.unique(np.array([str(name) for name in groups]), return_inverse=True)[1]
    metadata = _as_columns(metadata)
    check_rows(
        labels=labels,
        preds=preds,
        embeddings=embeddings,
        split=split,
        groups=groups,
        probs=probs,
        images=images,
        **metadata,
    )
    check_finite(embeddings)
    guards.check_groups(groups, split if split is not None and {"val", "test"} <= set(split) else None)
    notes = _notes(labels, preds, probs, split, class_names)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    rows = _parts(labels, split, groups, seed)
    highest = None if probs is None else probs.max(axis=1)
    # Without probabilities, certain: what orders by confidence then has nothing to order by.
    confs = (labels == preds).astype(np.float32) if probs is None else probs[np.arange(len(labels)), labels]
    predictions = {
        name: Predictions(of, labels[of], preds[of], confs[of], None if highest is None else highest[of])
        for name, of in rows.items()
    }
    latents = {name: embeddings[of] for name, of in rows.items()}
    config = SVMConfig(directions=directions if directions == "auto" else int(directions), fdr=float(fdr))
    found = analyse(predictions, latents, class_names, config, jobs=jobs)
    found = with_slices(
        found,
        latents,
        confidences=highest if highest is None else {name: highest[of] for name, of in rows.items()},
        groups=groups if groups is None else {name: groups[of] for name, of in rows.items()},
        directions=config.directions,
        fdr=config.fdr,
        seed=int(seed),
        jobs=jobs,
    )
    paths = images if isinstance(images, list | tuple) and all(isinstance(one, str | Path) for one in images) else None
    splits = {
        name: replace(
            found.result.splits[name],
            paths=None if paths is None else [str(paths[i]) for i in of],
            metadata={column: [values[i] for i in of] for column, values in metadata.items()} or None,
        )
        for name, of in rows.items()
    }
    result = replace(
        found.result,
        svm_config=None,
        splits=splits,
        args={"seed": seed},
        environment=environment(),
        made_from={str(what): str(told) for what, told in (made_from or {}).items()},
        notes=list(notes),
    )
    return Failures(replace(found, result=result), None if paths else images)


def load(path: str | Path) -> "Failures":
    """The `Failures` that `Failures.save` or train_svms.py left at `OUT.pt`.

    Raises:
        UserError: there are none, or they are a result of an earlier version, which knew no slices.
    """
    with unchanged(path):
        result = read_result(path)
        if result.found is None:
            raise UserError(f"{path} holds a single direction a class and no slices; make it with this version")
        # The tables beside it, too: saved again, nothing of it is lost.
        tables = {kind: rows for kind in TABLES if (rows := read_table(path, kind))}
        return Failures(Analysis(result, read_directions(path), tables), path=Path(path))


@dataclass(frozen=True, eq=False)
class Failures:
    """The failures of a model, found on some images and tested on others.

    Attributes:
        analysis: all of it, see `directions.results.Analysis`.
        images: what was given as images, where that is no list of paths; indexed by the rows of the arrays.
        path: where it was loaded from.
    """

    analysis: Analysis
    images: Sequence[Any] | np.ndarray | None = None
    path: Path | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what may be wrong with what was given; `find_failures` warned of them."""
        return tuple(self.analysis.result.notes)

    @property
    def _found(self) -> FoundSlices:
        found = self.analysis.result.found
        assert found is not None  # `load` refuses a result without slices
        return found

    @property
    def slices(self) -> list[Slice]:
        """List of `directions.confirmation.Slice`, most harm first; `members` are rows of the arrays as given."""
        found = self._found
        rows = {name: self.analysis.result.splits[name].indices for name in (found.find, found.confirm)}
        return [
            replace(
                one,
                members=rows[found.confirm][one.members],
                found_members=rows[found.find][one.found_members],
            )
            for one in found.slices
        ]

    @property
    def confirmed(self) -> list[Slice]:
        """The slices whose verdict is "confirmed"."""
        return [one for one in self.slices if one.verdict == CONFIRMED]

    @property
    def class_names(self) -> list[str]:
        return self.analysis.result.class_names

    def score(
        self, embeddings: ArrayLike, labels: ArrayLike, confirmed_only: bool = True
    ) -> tuple[list[list[str]], np.ndarray]:
        """What confirmed failures new images belong to.

        Args:
            embeddings: float (n, d), of the space that the failures were found in.
            labels: (n,) class numbers or names; predictions where labels are not known.

        Returns:
            a list of n lists of slice ids, the images' failures, and decision values float32 (n, S), the failures of
            each image's class by rank, at or below 0 where the image belongs to it; NaN where there is none.

        Raises:
            UserError: another number of coordinates, or an unknown class.
        """
        embeddings = _as_array(embeddings)
        number = {name: c for c, name in enumerate(self.class_names)}
        labels = np.array([_class_number(label, number, i) for i, label in enumerate(_as_list(labels))], dtype=np.int64)
        check_rows(embeddings=embeddings, labels=labels)
        check_finite(embeddings)
        found = self._found
        values = slice_values(found, self.analysis.fitter.preprocess, embeddings, labels)
        ids: list[list[str]] = [[] for _ in labels]
        for one in found.confirmed if confirmed_only else found.slices:
            for i in np.flatnonzero((labels == one.class_index) & (values[:, one.rank - 1] <= 0)):
                ids[i].append(one.id)
        return ids, values

    def describe(
        self,
        sources: Sequence[str] | str = "auto",
        *,
        captions: Sequence[str] | str | Path | None = None,
        clip: str | None = None,
        classifier: str | None = None,
    ) -> "Failures":
        """The same failures with what their images have in common; `save` then also writes `OUT_words.csv`.

        Args:
            sources: "auto", all that there is something for, or a list of "qualities" (how the images look), "labels"
                (what a pretrained classifier sees in them), "captions" (texts that a CLIP finds near) and "metadata"
                (its columns).
            captions: a list of texts, a text file of one a line, a caption set's name or YAML file.
            clip: the CLIP of captions, "ViT-B/32" where None; "scenes" for the embedded one.
            classifier: with label names, as `predict` takes it; None for EfficientNet-Lite0 where it is at hand.

        Returns:
            `Failures`, whose `words` are filled.

        Raises:
            UserError: an unknown source, or one for which there is nothing.
        """
        from .captions.describing import with_words
        from .directions.galleries import SVMProcessor

        # Loaded or not, images are reached by the same door.
        proc = SVMProcessor.of(self.analysis.result, self.path, self.images)
        described = with_words(self.analysis, proc.images, sources, captions, clip, classifier)
        return replace(self, analysis=described)

    @property
    def words(self) -> list[WordRow]:
        """The statements of `describe`, a slice after another, those that hold most in find first."""
        return list(self.analysis.tables.get(WordRow, ()))

    def to_frame(self) -> "pandas.DataFrame":
        """One row a slice, with the columns of `OUT_slices.csv`, as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise UserError("a DataFrame needs pandas: pip install pandas") from None
        header, *rows = table_rows(SliceRow, slice_rows(self.analysis.result))
        return pandas.DataFrame(rows, columns=header)

    def save(self, path: str | Path) -> Path:
        """Write `OUT.pt`, `OUT_model.pt`, `OUT_slices.csv` and a CSV for each split, all or none.

        Images that are no files are not in it: a report of the loaded result has none.

        Returns:
            The path.
        """
        files = OutputFiles.named(path)
        write_analysis(files, self.analysis)
        return files.result

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file.

        Returns:
            The path.

        Raises:
            UserError: it cannot be written.
        """
        from .directions.galleries import SVMProcessor
        from .report.page import write_report

        analysis = self.analysis
        return write_report(SVMProcessor.of(analysis.result, self.path, self.images, analysis.tables), path)

    def __str__(self) -> str:
        return slices_in_words(self.analysis.result).strip()


# ---------------------------------------------------------------------------------------------------------------------
# What people have, as arrays
# ---------------------------------------------------------------------------------------------------------------------


def _as_array(values: Any) -> np.ndarray:
    """An array or memory map as it is; a tensor, a list as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asanyarray(values)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _as_list(values: Any) -> Any:
    array = _as_array(values)
    return array.tolist() if array.ndim == 1 else array


def _as_classes(
    labels: Any, preds: Any, probs: Any, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """Class numbers int64 (N,) of labels and of predictions, probabilities float (N, K) or None, and K names."""
    preds = _as_array(preds)
    if preds.ndim == 2:
        if probs is not None:
            raise UserError("preds are probabilities, and probs are given too: give one of them")
        probs, preds = preds, preds.argmax(axis=1)
    probs = None if probs is None else _as_array(probs)
    labels, preds = _as_list(labels), _as_list(preds)
    for what, values in (("labels", labels), ("preds", preds)):
        if not isinstance(values, list):
            raise UserError(f"{what} have the shape {values.shape}; give one class an image, (images,)")
    if class_names is None:
        class_names = _names_of([*labels, *preds], None if probs is None else probs.shape[1])
    class_names = [clean_name(name) for name in class_names]
    if len(set(class_names)) < len(class_names):
        raise UserError(f"class_names {some(class_names)} are not all different")
    number = {name: c for c, name in enumerate(class_names)}
    labels, preds = (
        np.array([_class_number(value, number, i, what) for i, value in enumerate(values)], dtype=np.int64)
        for what, values in (("labels", labels), ("preds", preds))
    )
    if probs is not None:
        if probs.ndim != 2 or probs.shape[1] != len(class_names):
            raise UserError(f"probs have the shape {probs.shape}; give a column for each of {len(class_names)} classes")
        check_rows(labels=labels, probs=probs)
        check_probabilities(probs)
    return labels, preds, probs, class_names


def _names_of(values: list, columns: int | None) -> list[str]:
    if all(isinstance(value, int | bool) for value in values):
        return [str(c) for c in range(columns or max(values, default=-1) + 1)]
    if any(isinstance(value, int | bool) for value in values):
        raise UserError("labels and preds are names and numbers mixed: give all as one, or class_names for the numbers")
    return sorted({clean_name(value) for value in values})


def _class_number(value: Any, number: dict[str, int], i: int, what: str = "labels") -> int:
    """The number of a class given by number or by name."""
    if isinstance(value, bool | int | np.integer):
        if not 0 <= value < len(number):
            raise UserError(
                f"{what}: row {i} is {value}, outside 0..{len(number) - 1}; name all classes in class_names"
            )
        return int(value)
    if isinstance(value, float) and value.is_integer() and 0 <= value < len(number):
        return int(value)
    if clean_name(value) not in number:
        hint = nearest(clean_name(value), number, f"there are {some(number)}")
        raise UserError(f"{what}: row {i} is {str(value)[:80]!r}, which is no class; {hint}")
    return number[clean_name(value)]


def _split_name(name: Any, i: int) -> str:
    known = SPLIT_NAMES.get(clean_name(name).casefold())
    if known is None:
        raise UserError(f"split: row {i} is {str(name)[:80]!r}; name the rows train, val (or find), test (or confirm)")
    return known


def _parts(labels: np.ndarray, split: np.ndarray | None, groups: np.ndarray | None, seed: int) -> dict[str, np.ndarray]:
    """Rows of each split: val and test, of which one finds and the other confirms, and train where there is any."""
    if split is None or not {"val", "test"} <= set(split):
        rest = np.arange(len(labels)) if split is None else np.flatnonzero(split != "train")
        if not len(rest):
            raise UserError("all rows are train: a model's failures do not show there; give images it has not seen")
        find, confirm = split_in_halves(labels[rest], None if groups is None else groups[rest], seed)
        rows = {"train": np.setdiff1d(np.arange(len(labels)), rest), "val": rest[find], "test": rest[confirm]}
    else:
        rows = {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}
    for name in ("val", "test"):
        if not len(rows[name]):
            more = "give more images" + ("" if groups is None else ", smaller groups (none is cut), or a split")
            raise UserError(f"no image is left to {'find' if name == 'val' else 'confirm'} failures: {more}")
    return {name: of for name, of in rows.items() if len(of)}


def _notes(
    labels: np.ndarray,
    preds: np.ndarray,
    probs: np.ndarray | None,
    split: np.ndarray | None,
    class_names: list[str],
) -> tuple[str, ...]:
    """Sentences on predictions and labels that look wrong, and on classes in which little can be told."""
    notes = [guards.training_rows(labels, preds), guards.below_chance(labels, preds, len(class_names))]
    if probs is not None:
        notes.append(guards.column_order(probs, labels, class_names))
    split = split if split is not None and {"val", "test"} <= set(split) else None
    notes.append(guards.classes_in_test_alone(labels, split, class_names))
    notes.append(guards.too_few_images(labels, preds != labels, split, class_names))
    return tuple(note for note in notes if note)


def _as_columns(metadata: Any) -> dict[str, Any]:
    """Columns of plain values by name: of a dict, a DataFrame, or a data set."""
    if metadata is None:
        return {}
    if hasattr(metadata, "column_names"):  # datasets.Dataset
        return {name: list(metadata[name]) for name in metadata.column_names}
    if hasattr(metadata, "columns") and hasattr(metadata, "to_dict"):  # DataFrame
        return {str(name): metadata[name].tolist() for name in metadata.columns}
    return {str(name): _as_list(values) for name, values in dict(metadata).items()}
