"""What `sparse_main.py` left in its folder: the path, the labels and the deep features, ready to be read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from ...data.names import clean_name
from ...runtime.english import nearest, some
from ...runtime.errors import UserError
from ...runtime.pt_files import FLOATS, INTEGERS, is_plain, is_plain_tensor, load_pt
from ..feature_chunks import FeatureChunks
from ..path import SparsePath
from ..selection import select_sparse_model

_AGAIN = "run failure-directions sparse again"
_BLOCK = 2**16  # rows


@dataclass(frozen=True)
class Layer:
    """A linear decision layer on standardised features.

    Attributes:
        weight: (K, d) float32.
        bias: (K,).
    """

    weight: np.ndarray
    bias: np.ndarray

    def scores(self, standardised):
        """(n, K) class scores of (n, d) standardised features."""
        return standardised @ self.weight.T + self.bias

    def probabilities(self, standardised):
        return softmax(self.scores(standardised), axis=1)

    def strongest(self, c, count=5):
        """Numbers of at most `count` features with the largest weights, of either sign, in class c; none that is 0."""
        order = np.argsort(-np.abs(self.weight[c]), kind="stable")[:count]
        return order[self.weight[c, order] != 0]


@dataclass(frozen=True)
class SparseResult:
    """A folder OUT of sparse_main.py.

    Attributes:
        folder: OUT.
        args: dict of the command's options.
        model: the model in words, its weights included.
        class_names: list of K.
        labels: dict split -> (N,) int64, in the order of the features.
        path: `SparsePath`.
        own_head: the model's own last layer as (weight (K, d), bias (K,)) for features as they are, or None.
    """

    folder: Path
    args: dict
    model: str
    class_names: list
    labels: dict
    path: SparsePath
    own_head: tuple | None

    @classmethod
    def load(cls, folder):
        """Read what sparse_main.py left in a folder.

        Raises:
            UserError: the folder is not a result, or is damaged.
        """
        folder = Path(folder)
        run = load_pt(folder / "run.pt", "sparse result", _AGAIN)
        if not _is_run(run):
            raise UserError(f"{folder / 'run.pt'} does not describe a sparse result; {_AGAIN}")
        path, dense = SparsePath.load(folder), run["dense"]
        if path.weight.shape[1] != len(run["class_names"]) or (
            dense and dense["weight"].shape != path.weight.shape[1:]
        ):
            raise UserError(f"the layers in {folder} and its run.pt are of different classes; {_AGAIN}")
        labels = {split: column.numpy() for split, column in run["labels"].items()}
        own_head = dense and (dense["weight"].numpy(), dense["bias"].numpy())
        return cls(folder, run["args"], run["model"], run["class_names"], labels, path, own_head)

    @property
    def selected(self):
        """The index of the layer that the command selected."""
        return select_sparse_model(self.path, self.args["select"], self.args["factor"])

    def layer(self, i=None):
        """Layer i of the path as a `Layer`, by default the selected one.

        Raises:
            UserError: the path has no such layer.
        """
        i = self.selected if i is None else i
        if not 0 <= i < len(self.path):
            raise UserError(f"layer {i} is not on the path in {self.folder}, whose layers are 0..{len(self.path) - 1}")
        return Layer(self.path.weight[i].numpy().astype(np.float32), self.path.bias[i].numpy().astype(np.float32))

    @property
    def dense(self):
        """The model's own last layer as a `Layer`, or None where its outputs are not these classes."""
        if self.own_head is None:
            return None
        weight, bias = self.own_head
        return Layer((weight * self.path.std).astype(np.float32), (bias + weight @ self.path.mean).astype(np.float32))

    def standardise(self, features):
        """(n, d) deep features as the layers take them, float32; a constant feature becomes 0."""
        varies = self.path.std > 0
        scaled = (np.asarray(features, np.float64) - self.path.mean) / np.where(varies, self.path.std, 1)
        return np.where(varies, scaled, 0).astype(np.float32)

    def class_number(self, name):
        name = name if name in self.class_names else clean_name(name)
        if name not in self.class_names:
            hint = nearest(name, self.class_names, f"it has {some(self.class_names)}")
            raise UserError(f"{self.folder} has no class {name[:80]!r}; {hint}")
        return self.class_names.index(name)

    def features(self, split):
        """The deep features of a split, (N, d) `FeatureChunks`, still those of this model and these examples."""
        if split not in self.labels:
            raise UserError(f"{self.folder} has no split {split!r}, only {', '.join(self.labels)}")
        folder = Path(self.args["cache"]) if self.args["cache"] else self.folder / "features"
        features = FeatureChunks.open(folder / split)
        expected = (len(self.labels[split]), len(self.path.mean))
        if features.shape != expected or not features.fingerprint.startswith(f"{self.model} on "):
            raise UserError(f"the features in {folder / split} are not those of {self.folder}; {_AGAIN}")
        return features

    def blocks(self, split):
        """The split's standardised features in blocks: (start, (n, d) float32), in order."""
        features = self.features(split)
        for start in range(0, len(features), _BLOCK):
            yield start, self.standardise(features[start : start + _BLOCK])

    def columns(self, split, features):
        """(N, m) standardised activations of m features on all examples of a split."""
        return np.concatenate([block[:, features] for _, block in self.blocks(split)])

    def predictions(self, split, layer):
        """The classes (N,) that a layer predicts."""
        return np.concatenate([layer.scores(block).argmax(1) for _, block in self.blocks(split)])


def _is_run(run):
    """Whether this is what sparse_main.py saves as run.pt."""
    if not isinstance(run, dict) or not {"args", "model", "class_names", "labels", "dense"} <= set(run):
        return False
    args, names, labels, dense = (run[key] for key in ("args", "class_names", "labels", "dense"))
    if not (isinstance(args, dict) and is_plain(args) and {"select", "factor", "cache"} <= set(args)):
        return False
    if not (isinstance(names, list) and is_plain(names) and all(isinstance(name, str) for name in names)):
        return False
    if not (isinstance(labels, dict) and set(labels) <= {"train", "val", "test"}):
        return False
    if not all(is_plain_tensor(column, 1, INTEGERS) and len(column) for column in labels.values()):
        return False
    if dense is not None and not (isinstance(dense, dict) and {"weight", "bias"} <= set(dense)):
        return False
    return (
        isinstance(run["model"], str)
        and isinstance(args["select"], str)
        and isinstance(args["factor"], int | float | None)
        and isinstance(args["cache"], str | None)
        and len(names) > 1
        and len(names) == len(set(names))
        and all(int(column.min()) >= 0 and int(column.max()) < len(names) for column in labels.values())
        and (
            dense is None or (is_plain_tensor(dense["weight"], 2, FLOATS) and is_plain_tensor(dense["bias"], 1, FLOATS))
        )
        and (dense is None or len(dense["weight"]) == len(dense["bias"]))
    )


def top_positions(columns, count, among=None):
    """Rows in which features are largest.

    Args:
        columns: (N, m), m features of N examples.
        among: positions to choose from; by default all.

    Returns:
        (m, count) ints, the largest first; fewer columns where there are fewer examples.
    """
    among = np.arange(len(columns)) if among is None else np.asarray(among)
    return among[np.argsort(-columns[among], axis=0, kind="stable")[:count].T]


def check_same_examples(result, task, split):
    """Raise `UserError` unless `task` has the model and the examples that the result was made of."""
    expected = f"{task.name} on {task.inputs[split].fingerprint}"
    if result.features(split).fingerprint != expected:
        raise UserError(
            f"the model or the {split} data have changed since {result.folder} was made; {_AGAIN}, with another "
            "--out-path"
        )
