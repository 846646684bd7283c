"""Looking at a result: `OUT.pt` as train_svms.py wrote it, its orderings, and the images behind its rows.

Nothing is computed again: predictions and decision values come from the result, pixels from the betons it was made of.
"""

import io
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.any_images import AnyImages
from ..data.images import read_image
from ..data.names import clean_name
from ..runtime.english import nearest, some
from ..runtime.errors import UserError
from ..runtime.figure_files import save_figure
from .gallery_figure import extremes_figure
from .minority import minority_values
from .results import as_result, read_content, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .confirmation import Slice
    from .results import Result

ORDERINGS = ("svm", "confidence")


class MissingBeton(UserError):
    """The images of a result are not where it says."""


class SVMProcessor:
    """A result of train_svms.py, loaded.

        proc = SVMProcessor("demo/scenes_clip.pt")
        proc.display_extremes("circle", filename="circle.png")

    Args:
        result_path: `OUT.pt`.
        root: folder of the betons; by default the `--root` that the result was made with.
        get_unlabeled: also load the unlabeled pool, which must be in the result.

    Attributes:
        result: the file's dict.
        loaded: the same as a `Result`.
        class_names: list of str.
        cv_scores: float64 (num_classes,), NaN where skipped.
        skipped: a dict class -> reason.
        splits: names of the splits there are.

    Raises:
        UserError: a file of another kind or a newer format, or one that lacks something, naming it.
    """

    def __init__(self, result_path: str | Path, root: str | Path | None = None, get_unlabeled: bool = False) -> None:
        self.result = read_content(result_path)
        self._take(as_result(self.result, result_path), result_path, root, get_unlabeled)

    @classmethod
    def of(
        cls, result: "Result", path: str | Path | None = None, images: Any = None, tables: dict | None = None
    ) -> "SVMProcessor":
        """A result that is in memory.

        Args:
            result: a `Result`.
            path: of what messages call it.
            images: indexed by the examples' `indices`, where they are neither in betons nor files of their own.
            tables: as those of `results.Analysis`; None for those in files beside `path`.
        """
        proc = cls.__new__(cls)
        proc.result, proc._given, proc._tables = None, images, tables
        proc._take(result, path or "this result", None, "unlabeled" in result.splits)
        proc.in_file = path is not None
        return proc

    _given, in_file = None, True
    _tables: dict | None = None

    def _take(self, result, path, root, get_unlabeled):
        self.path, self.loaded = Path(path), result
        self.args = self.loaded.args
        self.root = Path(self.args.get("root", ".") if root is None else root)
        self.class_names, self.cv_scores = self.loaded.class_names, self.loaded.cv_scores
        self.skipped = self.loaded.skipped
        self.splits = tuple(name for name in self.loaded.splits if get_unlabeled or name != "unlabeled")
        if get_unlabeled and "unlabeled" not in self.splits:
            raise UserError(
                f"{self.path} has no unlabeled pool; run failure-directions distil with --unlabeled, or leave it out"
            )
        self._metrics, self._orders, self._images = {}, {}, {}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def dataset_config(self) -> dict[str, Any] | None:
        """The dataset config of the run, as a dict; None where the result is of plain arrays."""
        if self.result is not None:
            return self.result.get("dataset_config")  # with what this version does not know
        return self.loaded.dataset_config and self.loaded.dataset_config.model_dump()

    # ---- numbers ------------------------------------------------------------------------------------------------

    def metrics(self, split: str) -> dict[str, Any]:
        """A split's entry (docs/formats.md) with arrays for tensors, as a dict.

        Raises:
            UserError: the result has no such split.
        """
        if split not in self.splits:
            remedy = "; give get_unlabeled=True" if split in self.loaded.splits else ""
            raise UserError(f"{self.path} has no split {split!r}, only {', '.join(self.splits)}{remedy}")
        if split not in self._metrics:
            entry = {key: value for key, value in vars(self.loaded.splits[split]).items() if value is not None}
            self._metrics[split] = entry | {"skipped_classes": {str(c): why for c, why in self.skipped.items()}}
        return self._metrics[split]

    def minority(self) -> list[set[int]]:
        """The minority's values of `spurious` in each class, a list of sets: the config's, or by the rule, on train."""
        config = self.loaded.dataset_config
        given = None if config is None or config.bce else config.minority
        if "train" not in self.splits:
            return [set() for _ in range(self.num_classes)]
        train = self.metrics("train")
        if given is None and "spuriouses" not in train:
            return [set() for _ in range(self.num_classes)]
        spurious = train.get("spuriouses")
        return minority_values(train["classes"], spurious, self.num_classes, given, self.class_names)

    def class_number(self, c: int | str) -> int:
        """Number of a class given by number or by name.

        Raises:
            UserError: there is no such class.
        """
        if isinstance(c, str):
            name = c if c in self.class_names else clean_name(c)
            if name not in self.class_names:
                hint = nearest(name, self.class_names, f"it has {some(self.class_names)}")
                raise UserError(f"{self.path} has no class {c[:80]!r}; {hint}")
            return self.class_names.index(name)
        if not 0 <= c < self.num_classes:
            raise UserError(f"class {c} is outside 0..{self.num_classes - 1}, the classes of {self.path}")
        return int(c)

    def ordering(self, c: int | str, split: str = "test", by: str | int = "svm") -> np.ndarray:
        """Positions in the split of the examples of class `c`, int (n,), hardest first.

        Args:
            by: "svm", lowest decision value first, "confidence", lowest probability of the true class first, or the
                rank of a slice of the class, from 1.

        Raises:
            UserError: a class without a direction where `by` is "svm".
        """
        c = self.class_number(c)
        if isinstance(by, int):
            members = self.ordering(c, split, "confidence")
            values = self.metrics(split).get("slice_values", np.empty((0, 0)))
            if not 1 <= by <= values.shape[1] or np.isnan(values[members, by - 1]).any():
                raise UserError(
                    f"class {self.class_names[c]!r} has no slice of rank {by}; it has {len(self.slices(c))}"
                )
            return members[np.argsort(values[members, by - 1], kind="stable")]
        if by not in ORDERINGS:
            raise UserError(f"there is no ordering by {by!r}; choose one of {', '.join(ORDERINGS)}")
        if by == "svm" and c in self.skipped:
            raise UserError(f"class {self.class_names[c]!r} has no direction ({self.skipped[c]}); choose another class")
        if (split, by) not in self._orders:
            metrics = self.metrics(split)
            values = metrics["decision_values" if by == "svm" else "confs"]
            # Sorted once for all classes: with a thousand of them, a pass over the split for each would be slow.
            order = np.lexsort((values, metrics["classes"]))
            starts = np.searchsorted(metrics["classes"][order], np.arange(self.num_classes + 1))
            self._orders[split, by] = order, starts
        order, starts = self._orders[split, by]
        return order[starts[c] : starts[c + 1]]

    def slices(self, c: int | str | None = None) -> list["Slice"]:
        """The slices of a class by rank, or of all classes, most harm first; none in results of format 1."""
        found = self.loaded.found
        if found is None:
            return []
        return found.slices if c is None else found.of_class(self.class_number(c))

    def rows(self, kind: type) -> list:
        """The rows of a table of the result, of its memory or of its CSV; empty where there is none.

        Args:
            kind: one of `results.TABLES`.
        """
        return read_table(self.path, kind) if self._tables is None else list(self._tables.get(kind, ()))

    # ---- images -------------------------------------------------------------------------------------------------

    def beton_path(self, split: str) -> Path:
        """Where the split's beton should be."""
        config = self.loaded.dataset_config
        return self.root / (getattr(config, f"{split}_beton") or config.train_beton)

    def images(self, split: str, positions: Iterable[int]) -> Iterator[np.ndarray]:
        """The stored images, uint8 (H, W, 3) RGB each, at `positions` in the split; an iterator.

        Raises:
            MissingBeton: the images are not where the result says.
            UserError: the beton is not the one that the result was made from.
        """
        indices = self.metrics(split)["indices"]
        paths, in_betons = self.metrics(split).get("paths"), self.loaded.dataset_config is not None
        if paths and not (in_betons and self.beton_path(split).is_file()):
            missing = next((paths[position] for position in positions if not Path(paths[position]).exists()), None)
            if missing is not None:
                raise MissingBeton(f"the image {missing} does not exist any more")
            return (read_image(paths[position]) for position in positions)
        if self._given is not None:
            return (np.asarray(AnyImages(self._given).read(int(indices[position]))) for position in positions)
        if self.loaded.dataset_config is None:
            raise MissingBeton("neither paths nor images were given")
        if split not in self._images:
            self._images[split] = StoredImages(self._open_beton(split))
        return (self._images[split][indices[position]] for position in positions)

    def texts(self, split: str) -> list[str] | None:
        """The N texts of a split, a list, where what was classified are texts and no images; else None."""
        if self._given is not None or self.loaded.dataset_config is not None or self.metrics(split).get("paths"):
            return None
        texts = (self.metrics(split).get("metadata") or {}).get("text")
        return None if texts is None else [str(text) for text in texts]

    def _open_beton(self, split):
        path = self.beton_path(split)
        if not path.is_file():
            raise MissingBeton(
                f"images are read from the beton {path}, which does not exist; give the folder of the betons as root"
            )
        from ..data.betons import open_beton  # late: it takes ffcv, which images that are files do without

        beton, metrics = open_beton(path), self.metrics(split)
        beton.check_content()
        remedy = f"give the root of the betons that {self.path} was made from"
        if metrics["indices"].max() >= len(beton):
            raise UserError(
                f"{self.path} speaks of example {metrics['indices'].max()} of {split}, but beton {path} has "
                f"{len(beton)} examples; {remedy}"
            )
        labels = beton.column("label")
        bce = self.loaded.dataset_config.bce
        if labels.ndim != 1 + bce or (bce and self.args["bce_class"] >= labels.shape[1]):
            raise UserError(f"beton {path} has labels of another kind than {self.path}; {remedy}")
        if bce:
            labels = labels[:, self.args["bce_class"]]
        differ = np.flatnonzero(labels[metrics["indices"]] != metrics["classes"])
        if len(differ):
            at = differ[0]
            raise UserError(
                f"example {metrics['indices'][at]} of beton {path} has the label {labels[metrics['indices'][at]]:g}, "
                f"but {metrics['classes'][at]} in {self.path}; {remedy}"
            )
        return beton

    # ---- figures ------------------------------------------------------------------------------------------------

    def display_extremes(
        self,
        c: int | str,
        split: str = "test",
        rows: int = 2,
        columns: int = 8,
        filename: str | Path | None = None,
    ) -> "Figure":
        """Figure of the hardest and easiest images of a class, by SVM and by confidence, over a scatter of the two.

        Args:
            c: number or name of a class.
            rows, columns: of each of the four galleries.
            filename: where to save the figure as well, its ending (.png, .pdf, .svg) choosing the format.

        Returns:
            A matplotlib figure that a notebook shows where it ends a cell (in a loop: `display(figure)`).

        Raises:
            UserError: a class without a direction, a split that is not there, or missing or other betons.
        """
        c = self.class_number(c)
        if rows < 1 or columns < 1:
            raise UserError(f"a gallery of {rows} x {columns} images shows nothing; give 1 or more rows and columns")
        metrics = self.metrics(split)
        paths = metrics.get("paths")
        orders = {by: self.ordering(c, split, by) for by in ORDERINGS}
        if not len(orders["svm"]):
            raise UserError(f"class {self.class_names[c]!r} has no examples in {split}; choose another class or split")
        galleries = []
        for by, name in (("svm", "decision value"), ("confidence", "confidence")):
            for side, picked in zip(("Hardest", "Easiest"), ends(orders[by], rows * columns), strict=True):
                titles = [
                    f"{metrics['decision_values'][i]:.2f} | {metrics['confs'][i]:.2f}"
                    + ("" if metrics["ytrue"][i] else f"\n{_short(self.class_names[metrics['preds'][i]])}")
                    for i in picked
                ]
                files = [_short(Path(paths[i]).name, 24) if paths else "" for i in picked]
                heading = f"{side} by {name}  (decision value | confidence; what was predicted, where wrong)"
                texts = self.texts(split)
                shown = self.images(split, picked) if texts is None else (texts[i] for i in picked)
                galleries.append((heading, list(shown), titles, files))
        members = orders["svm"]
        figure = extremes_figure(
            f"{self.class_names[c]}, {split}: CV score {self.cv_scores[c]:.3f}, "
            f"accuracy {metrics['ytrue'][members].mean():.3f}",
            galleries,
            columns,
            *(metrics[key][members] for key in ("decision_values", "confs", "ytrue")),
        )
        if filename is not None:
            save_figure(figure, filename)
        return figure


class StoredImages:
    """The images of a beton as they were stored: `images[i]` is uint8 (H, W, 3), RGB, without crop or normalisation.

    For a handful of images: FFCV's loaders would compile a pipeline, and deliver them at the model's size.
    """

    def __init__(self, beton):
        beton.require("image")
        self._path = beton.path
        self._stored = beton.reader.metadata[f"f{beton.fields.index('image')}"]
        self._table = beton.reader.alloc_table
        self._data = np.memmap(beton.path, np.uint8, "r")

    @cached_property
    def _blocks(self):
        """Starts and sizes, bytes, of the file's blocks, sorted by start."""
        order = np.argsort(self._table["ptr"])
        return self._table["ptr"][order], self._table["size"][order]

    def __getitem__(self, index):
        stored = self._stored[index]
        start, height, width = int(stored["data_ptr"]), int(stored["height"]), int(stored["width"])
        if stored["mode"] == 1:  # raw
            return np.array(self._data[start : start + height * width * 3]).reshape(height, width, 3)
        starts, sizes = self._blocks
        size = int(sizes[np.searchsorted(starts, start)])
        try:
            with Image.open(io.BytesIO(self._data[start : start + size]), formats=["JPEG"]) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow raises many kinds for broken images
            raise UserError(
                f"image {index} of beton {self._path} is damaged ({error}); write the beton again"
            ) from None


def knows_confidences(confs):
    """Whether these (N,) are probabilities; without any, a result holds 1 where the model is right and 0 elsewhere."""
    return bool(((confs > 0) & (confs < 1)).any())


def ends(order, count):
    """At most `count` from each end of an ordering, each end first, never the same in both: two arrays."""
    from_start = order[: min(count, (len(order) + 1) // 2)]
    return from_start, order[::-1][: min(count, len(order) - len(from_start))]


def _short(name, most=16):
    return name if len(name) <= most else name[: most - 1] + "…"
