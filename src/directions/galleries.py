"""Looking at a result: `OUT.pt` as train_svms.py wrote it, its orderings, and the images behind its rows.

Nothing is computed again: predictions and decision values come from the result, pixels from the betons it was made of.
"""

import io
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.betons import open_beton
from ..runtime.english import some
from ..runtime.errors import UserError
from ..runtime.figures import save_figure
from ..runtime.pt_files import FLOATS, INTEGERS, is_plain, is_plain_tensor, load_pt
from .gallery_figure import extremes_figure
from .minority import minority_values

SPLITS = ("train", "val", "test", "unlabeled")
ORDERINGS = ("svm", "confidence")
MOST_EXAMPLES = 10**9  # of a beton: a larger index would make an intervention fill the memory

_RESULT_KEYS = ("args", "dataset_config", "svm_config", "class_names", "cv_scores")
_SPLIT_KEYS = ("preds", "classes", "confs", "ytrue", "ypred", "decision_values", "indices", "skipped_classes")
_OPTIONAL_KEYS = ("spuriouses", "looks_like", "looks_like_values", "hard_similarity", "easy_similarity")
_MAY_BE_NAN = (*_OPTIONAL_KEYS[2:], "decision_values")  # of a class that was skipped
_MAKE_AGAIN = "make it with train_svms.py of this version"


class MissingBeton(UserError):
    """The images of a result are not where it says."""


class SVMProcessor:
    """A result of train_svms.py, loaded.

        proc = SVMProcessor("demo/scenes_clip.pt")
        proc.display_extremes("circle", filename="circle.png")

    result_path: `OUT.pt`. root: folder of the betons; by default the `--root` that the result was made with.
    get_unlabeled: also load the unlabeled pool, which must be in the result.

    Attributes: `result`, the file's dict; `class_names`; `cv_scores` float64 (num_classes,), NaN where skipped;
    `skipped`, a dict class -> reason; `splits`, names of the splits there are.
    Raises `UserError` for a file of another kind or version, naming what it lacks.
    """

    def __init__(self, result_path, root=None, get_unlabeled=False):
        self.path = Path(result_path)
        self.result = load_pt(self.path, "SVM result", _MAKE_AGAIN)
        self._check_result()
        self.args = self.result["args"]
        self.root = Path(self.args.get("root", ".") if root is None else root)
        self.class_names = self.result["class_names"]
        self.cv_scores = self.result["cv_scores"].numpy()
        self.splits = tuple(
            name for name in SPLITS if f"{name}_metrics" in self.result and (get_unlabeled or name != "unlabeled")
        )
        if get_unlabeled and "unlabeled" not in self.splits:
            raise UserError(f"{self.path} has no unlabeled pool; run train_svms.py with --unlabeled, or leave it out")
        self._metrics, self._orders, self._images = {}, {}, {}
        self.skipped = {int(c): reason for c, reason in self.metrics(self.splits[0])["skipped_classes"].items()}

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def dataset_config(self):
        """The dataset config of the run, as a dict."""
        return self.result["dataset_config"]

    # ---- numbers ------------------------------------------------------------------------------------------------

    def metrics(self, split):
        """A split's entry (docs/formats.md) with arrays for tensors. Raises `UserError` where there is none."""
        if split not in self.splits:
            remedy = "; give get_unlabeled=True" if f"{split}_metrics" in self.result else ""
            raise UserError(f"{self.path} has no split {split!r}, only {', '.join(self.splits)}{remedy}")
        if split not in self._metrics:
            entry = self.result[f"{split}_metrics"]
            plain = {key for key, value in entry.items() if is_plain_tensor(value, getattr(value, "ndim", None))}
            self._metrics[split] = {key: value.numpy() if key in plain else value for key, value in entry.items()}
        return self._metrics[split]

    def minority(self):
        """The minority's values of `spurious` in each class, a list of sets: the config's, or by the rule, on train."""
        given = None if self.dataset_config.get("bce") else self.dataset_config.get("minority")
        train = self.metrics("train")
        if given is None and "spuriouses" not in train:
            return [set() for _ in range(self.num_classes)]
        spurious = train.get("spuriouses")
        return minority_values(train["classes"], spurious, self.num_classes, given, self.class_names)

    def class_number(self, c):
        """Number of a class given by number or by name. Raises `UserError` where there is none."""
        if isinstance(c, str):
            if c not in self.class_names:
                raise UserError(f"{self.path} has no class {c!r}; it has {some(self.class_names)}")
            return self.class_names.index(c)
        if not 0 <= c < self.num_classes:
            raise UserError(f"class {c} is outside 0..{self.num_classes - 1}, the classes of {self.path}")
        return int(c)

    def ordering(self, c, split="test", by="svm"):
        """Positions in the split of the examples of class `c`, int (n,), hardest first.

        by: "svm", lowest decision value first, or "confidence", lowest probability of the true class first.
        Raises `UserError` for a class without a direction where `by` is "svm".
        """
        c = self.class_number(c)
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

    # ---- images -------------------------------------------------------------------------------------------------

    def beton_path(self, split):
        """Where the split's beton should be."""
        config = self.dataset_config
        return self.root / (config.get(f"{split}_beton") or config["train_beton"])

    def images(self, split, positions):
        """The stored images, uint8 (H, W, 3) RGB each, at `positions` in the split; an iterator.

        Raises `MissingBeton`, and `UserError` where the beton is not the one that the result was made from.
        """
        indices = self.metrics(split)["indices"]
        if split not in self._images:
            self._images[split] = StoredImages(self._open_beton(split))
        return (self._images[split][indices[position]] for position in positions)

    def _open_beton(self, split):
        path = self.beton_path(split)
        if not path.is_file():
            raise MissingBeton(
                f"images are read from the beton {path}, which does not exist; give the folder of the betons as root"
            )
        beton, metrics = open_beton(path), self.metrics(split)
        remedy = f"give the root of the betons that {self.path} was made from"
        if metrics["indices"].max() >= len(beton):
            raise UserError(
                f"{self.path} speaks of example {metrics['indices'].max()} of {split}, but beton {path} has "
                f"{len(beton)} examples; {remedy}"
            )
        labels = beton.column("label")
        bce = self.dataset_config.get("bce")
        if labels.ndim != 1 + bool(bce) or (bce and self.args["bce_class"] >= labels.shape[1]):
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

    def display_extremes(self, c, split="test", rows=2, columns=8, filename=None):
        """Figure of the hardest and easiest images of a class, by SVM and by confidence, over a scatter of the two.

        c: number or name of a class. rows, columns: of each of the four galleries. filename: where to save the figure
        as well, its ending (.png, .pdf, .svg) choosing the format.
        Returns a matplotlib figure that a notebook shows where it ends a cell (in a loop: `display(figure)`).
        Raises `UserError` for a class without a direction, a split that is not there, and missing or other betons.
        """
        c = self.class_number(c)
        if rows < 1 or columns < 1:
            raise UserError(f"a gallery of {rows} x {columns} images shows nothing; give 1 or more rows and columns")
        metrics = self.metrics(split)
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
                heading = f"{side} by {name}  (decision value | confidence; what was predicted, where wrong)"
                galleries.append((heading, list(self.images(split, picked)), titles))
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

    # ---- checks -------------------------------------------------------------------------------------------------

    def _check_result(self):
        result = self.result if isinstance(self.result, dict) else {}
        missing = [key for key in _RESULT_KEYS if key not in result]
        there = [name for name in SPLITS if f"{name}_metrics" in result]
        if not there:
            missing.append("test_metrics")
        for name in there:
            entry = result[f"{name}_metrics"] if isinstance(result[f"{name}_metrics"], dict) else {}
            missing += [f"{name}_metrics['{key}']" for key in _SPLIT_KEYS if key not in entry]
        if missing:
            raise UserError(f"{self.path} is not an SVM result: it lacks {some(missing)}; {_MAKE_AGAIN}")
        kinds = {
            "args": dict,
            "dataset_config": dict,
            "svm_config": dict,
            "class_names": list,
            "cv_scores": torch.Tensor,
        }
        for key, kind in kinds.items():
            if not isinstance(result[key], kind):
                raise UserError(f"{self.path} is damaged: {key} is a {type(result[key]).__name__}; {_MAKE_AGAIN}")
        self._check_options(result)
        names, scores = result["class_names"], result["cv_scores"]
        if not is_plain(names) or not all(map(_is_text, names)) or len(set(names)) < len(names):
            raise self._damaged("class_names is not a list of different names")
        if not is_plain_tensor(scores, 1, FLOATS) or len(scores) != len(names) or scores.isinf().any():
            raise self._damaged(f"cv_scores is not one number for each of {len(names)} class_names")
        for name in there:
            self._check_split(f"{name}_metrics", result[f"{name}_metrics"], len(names))
        extra = result.get("extra_indices", torch.arange(0))
        if not is_plain_tensor(extra, 1, INTEGERS) or (extra < 0).any():
            raise self._damaged("extra_indices is not a list of positions")
        if not isinstance(result.get("train_labels_digest", ""), str):
            raise self._damaged("train_labels_digest is not text")

    def _check_options(self, result):
        """What is read of the command line and the configs; most of it is there to be shown alone."""
        args, config, svm_config = (result[key] for key in ("args", "dataset_config", "svm_config"))
        for key in ("args", "dataset_config", "svm_config"):
            if not is_plain(result[key]):
                raise self._damaged(f"{key} holds more than text and numbers")
        texts = {"args root": args.get("root", "."), "svm_config embedding": svm_config.get("embedding")}
        texts["dataset_config train_beton"] = config.get("train_beton")
        for split in ("val", "test", "unlabeled"):
            texts[f"dataset_config {split}_beton"] = config.get(f"{split}_beton") or ""
        for what, value in texts.items():
            if not isinstance(value, str):
                raise self._damaged(f"{what} is not text")
        if config.get("bce") and not (isinstance(args.get("bce_class"), int) and args["bce_class"] >= 0):
            raise self._damaged("args bce_class is not the number of a condition")
        minority = config.get("minority")
        for values in minority.values() if isinstance(minority, dict) else [minority]:
            numbers = values if isinstance(values, list) else [0 if values is None else values]
            if not all(isinstance(number, int) and abs(number) < 2**63 for number in numbers):
                raise self._damaged("dataset_config minority is not a number or list of numbers")

    def _check_split(self, where, entry, num_classes):
        """One number an example of the right kind in every column, those that not every result has included."""
        if not is_plain_tensor(entry["indices"], 1, INTEGERS) or not len(entry["indices"]):
            raise self._damaged(f"{where}['indices'] is not one whole number an example")
        below = {
            "preds": num_classes,
            "classes": num_classes,
            "looks_like": num_classes,
            "ytrue": 2,
            "ypred": 2,
            "indices": MOST_EXAMPLES,
        }
        for key in (*_SPLIT_KEYS, *_OPTIONAL_KEYS):
            if key not in entry or key == "skipped_classes":
                continue
            column, whole = entry[key], key in below or key == "spuriouses"
            if not is_plain_tensor(column, 1, INTEGERS if whole else FLOATS) or len(column) != len(entry["indices"]):
                raise self._damaged(f"{where}['{key}'] is not one {'whole ' * whole}number an example")
            if key in below and ((column < 0) | (column >= below[key])).any():
                raise self._damaged(f"{where}['{key}'] holds other than the numbers it should")
            if not whole and (column.isinf() | (column.isnan() & (key not in _MAY_BE_NAN))).any():
                raise self._damaged(f"{where}['{key}'] holds NaN or infinity")
        for one, other in (("looks_like", "looks_like_values"), ("hard_similarity", "easy_similarity")):
            if (one in entry) != (other in entry):
                raise self._damaged(f"{where} has one of {one} and {other} alone")
        skipped = entry["skipped_classes"]
        reasons = skipped if isinstance(skipped, dict) and is_plain(skipped) else {"": None}
        if not set(reasons) <= {str(c) for c in range(num_classes)} or not all(map(_is_text, reasons.values())):
            raise self._damaged(f"{where}['skipped_classes'] is not a reason for each class that was skipped")

    def _damaged(self, how):
        return UserError(f"{self.path} is damaged: {how}; {_MAKE_AGAIN}")


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


def ends(order, count):
    """At most `count` from each end of an ordering, each end first, never the same in both: two arrays."""
    from_start = order[: min(count, (len(order) + 1) // 2)]
    return from_start, order[::-1][: min(count, len(order) - len(from_start))]


def _is_text(value):
    return isinstance(value, str)


def _short(name, most=16):
    return name if len(name) <= most else name[: most - 1] + "…"
