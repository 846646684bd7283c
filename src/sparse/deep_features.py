"""Deep features: the input of a model's last linear layer, computed once for each split and kept on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..models.features import FeatureExtractor, last_linear
from ..runtime.devices import autocast
from ..runtime.errors import UserError
from .feature_chunks import META_FILE, FeatureChunks


@dataclass(frozen=True)
class ModelInputs:
    """One split, ready for a model.

    Attributes:
        labels: (N,) int64.
        batches: a function that gives an iterable of (inputs, positions): what the model takes, and which of the N
            examples these are, (B,) ints. Within a window of some batches, positions may come in any order.
        fingerprint: a string that is the same for the same examples, prepared in the same way.
    """

    labels: np.ndarray
    batches: Callable
    fingerprint: str

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class SparseTask:
    """A data set and a model whose last layer is to be made sparse.

    Attributes:
        model: in evaluation mode on the CPU; `last_linear` finds its last layer.
        name: the model in words, its weights included: another model has another name.
        class_names: list of K.
        inputs: dict of `ModelInputs`: train, val, test.
        dense: the model's own last layer as an `nn.Linear(d, K)` of which the largest output is the model's prediction;
            None where its outputs are not these classes.
        build_params: the arguments of `build_model`, for a model that it can build, else None.
        remarks: list of sentences for the user.
    """

    model: nn.Module
    name: str
    class_names: list
    inputs: dict
    dense: nn.Linear | None
    build_params: dict | None = None
    remarks: tuple = ()


def cached_features(folder, task, split, device):
    """The deep features of one split of a `SparseTask`, as (N, d) `FeatureChunks`, computed unless `folder` has them.

    Half precision where they were computed in it (CUDA), else float32.

    Not in an `EmbeddingCache`: these are a part of a sparse result (`OUT/features/`), of examples that need no beton.

    Raises:
        UserError: `folder` has those of another model or other examples, or the model does not end in a linear layer.
    """
    inputs = task.inputs[split]
    fingerprint = f"{task.name} on {inputs.fingerprint}"
    if not (Path(folder) / META_FILE).exists():
        dtype = np.float16 if device.type == "cuda" else np.float32
        bar = tqdm(desc=f"deep features of {split}", total=len(inputs), unit="ex", disable=None, leave=False)
        with bar:
            batches = feature_batches(task.model, inputs.batches(), device, bar.update)
            FeatureChunks.write(folder, batches, fingerprint, dtype)
    return FeatureChunks.open(folder, fingerprint)


@torch.no_grad()
def feature_batches(model, batches, device, progress=lambda count: None):
    """Features (n, d) in the order of the examples, of batches as in `ModelInputs`."""
    model = model.eval().to(device, memory_format=torch.channels_last)
    layer, done, waiting = last_linear(model), 0, []
    with FeatureExtractor(model) as extractor:
        for inputs, positions in batches:
            with autocast(device):
                logits, features = extractor(inputs.to(device))
                if not (done or waiting):
                    _check_head(model, layer, logits, features)
            waiting.append((np.asarray(positions), features.float().cpu().numpy()))
            progress(len(positions))
            # A window is over when every position so far has come.
            together = np.concatenate([part for part, _ in waiting])
            if together.max() + 1 == done + len(together):
                yield np.concatenate([part for _, part in waiting])[np.argsort(together)]
                done, waiting = done + len(together), []


def _check_head(model, layer, logits, features):
    """The logits must be the linear layer's outputs, and nothing after or beside it."""
    fits = features.dim() == 2 and logits.shape == (len(features), layer.out_features)
    if not fits or not torch.allclose(layer(features).float(), logits.float(), rtol=1e-2, atol=1e-2):
        what = type(getattr(model, "model", model)).__name__
        raise UserError(
            f"the outputs of {what} are not those of a linear layer on one feature vector an example, so there is no "
            "layer to make sparse; take another model"
        )


def dense_layer(layer, rows, binary=False):
    """A model's last layer, rearranged so that output c is class c.

    Args:
        layer: an `nn.Linear`.
        rows: which output of the layer is class 0, 1, ...; with `binary` the one output that is above 0 for class 1.
    """
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float().cpu()
    weight, bias = layer.weight.detach().float().cpu()[rows], bias[rows]
    if binary:
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    dense = nn.Linear(weight.shape[1], len(weight))
    dense.load_state_dict({"weight": weight, "bias": bias})
    return dense


@torch.no_grad()
def accuracy(layer, features, labels):
    """The share of examples for which the layer's largest output is the label's, over `FeatureChunks`."""
    right = start = 0
    for chunk in features.chunks():
        for rows in torch.from_numpy(np.array(chunk)).split(2**16):
            found = layer(rows.float()).argmax(1).numpy()
            right += int((found == labels[start : start + len(rows)]).sum())
            start += len(rows)
    return right / len(labels)
