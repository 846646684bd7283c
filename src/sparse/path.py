"""The regularisation path of a sparse decision layer: from no feature to all of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..runtime.devices import resolve_device
from ..runtime.errors import UserError
from ..runtime.files import written_together
from ..runtime.pt_files import FLOATS, is_plain, is_plain_tensor, load_pt, save_pt
from .datafits import Gaussian, Multinomial
from .rows import StandardizedRows, check_features, check_finite, free_memory, statistics
from .solver import Solver, evaluate

FLOAT32_TOL = 1e-5
"""Below this `tol`, products in float32 are too coarse, and the iterations run in float64 too."""

AIM = 0.02
"""Of lambda: the violation that is aimed at where `tol * lambda_max` would be laxer, towards the end of the path."""


@dataclass
class SparsePath:
    """Linear layers from the sparsest to the densest; L lambdas, K classes (or outputs), d features.

    Weights and biases act on standardised features, `(X - mean) / std`; where `std` is 0 the weight is 0.

    Attributes:
        lambdas: (L,) float64, falling; the last is 0 with `do_zero`.
        weight: (L, K, d) float32, or float64 where `tol` asked for more than float32 can give.
        bias: (L, K), same dtype.
        kkt: (L,) float64: the largest violation of the optimality conditions, over all weights and the intercept.
        converged: (L,) bool: kkt <= tol * lambdas[0].
        metrics: a list of L dicts: `lambda`, `loss` (weighted mean over the training rows), `objective` (loss +
            penalty), `nonzeros` (features per class, mean over the classes), `nonzeros_per_class` (list of K ints)
            and `acc_tr`, `acc_val`, `acc_test`: shares of 1 (gaussian: R^2), None for a set that was not given.
        mean, std: (d,) float64.
        settings: dict of `alpha`, `family`, `group`, `tol`.
    """

    lambdas: np.ndarray
    weight: torch.Tensor
    bias: torch.Tensor
    kkt: np.ndarray
    converged: np.ndarray
    metrics: list
    mean: np.ndarray
    std: np.ndarray
    settings: dict

    def __len__(self):
        return len(self.lambdas)

    @property
    def best(self):
        """The index with the best validation accuracy, the sparser of equals; never the all-zero first one.

        Without a validation set: by training accuracy.
        """
        nonzero = np.array([row["nonzeros"] > 0 for row in self.metrics])
        return int(np.argmax(np.where(nonzero, self.accuracy, -np.inf)))

    @property
    def accuracy(self):
        """(L,) validation accuracy, or training accuracy where there was no validation set."""
        which = "acc_tr" if self.metrics[0]["acc_val"] is None else "acc_val"
        return np.array([row[which] for row in self.metrics])

    def to_linear(self, i):
        """Layer i as an `nn.Linear(d, K)` for features that are not standardised."""
        scale = np.divide(1.0, self.std, out=np.zeros_like(self.std), where=self.std > 0)
        weight = self.weight[i].double() * torch.from_numpy(scale)
        bias = self.bias[i].double() - weight @ torch.from_numpy(self.mean)
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=self.weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return linear

    def save(self, folder):
        """Write `folder/checkpoint/params{i}.pth`, one file a lambda, in place of those of an earlier path.

        Each holds `lam, weight, bias, loss, metrics, kkt, converged` of its layer and `mean, std, settings, length`.
        """
        folder = Path(folder) / "checkpoint"
        # Without the first file nothing loads: it goes first and comes last, so that no two paths are ever mixed.
        with written_together(old=[folder / "params0.pth", *folder.glob("params*.pth")]):
            self._save_layers(folder)

    def _save_layers(self, folder):
        for i in reversed(range(len(self))):
            content = {
                "lam": float(self.lambdas[i]),
                "weight": self.weight[i].clone(),
                "bias": self.bias[i].clone(),
                "loss": self.metrics[i]["loss"],
                "metrics": self.metrics[i],
                "kkt": float(self.kkt[i]),
                "converged": bool(self.converged[i]),
                "mean": torch.from_numpy(self.mean),
                "std": torch.from_numpy(self.std),
                "settings": self.settings,
                "length": len(self),
            }
            save_pt(content, folder / f"params{i}.pth")

    @classmethod
    def load(cls, folder):
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing, damaged or of another path.
        """
        folder = Path(folder) / "checkpoint"
        hint = "run the path again"
        files = [load_pt(folder / "params0.pth", "sparse layer", hint)]
        try:
            files += [load_pt(folder / f"params{i}.pth", "sparse layer", hint) for i in range(1, files[0]["length"])]
            if not all(_is_layer(file, files[0]) for file in files):
                raise TypeError("a value is of another kind")
            return cls(
                np.array([file["lam"] for file in files]),
                torch.stack([file["weight"] for file in files]),
                torch.stack([file["bias"] for file in files]),
                np.array([file["kkt"] for file in files]),
                np.array([file["converged"] for file in files]),
                [file["metrics"] for file in files],
                files[0]["mean"].numpy(),
                files[0]["std"].numpy(),
                files[0]["settings"],
            )
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"the files in {folder} are not the layers of one path; {hint}") from None


def _is_layer(file, first):
    """Whether what a file holds is a layer of the path that begins with `first`."""
    weight, bias, metrics = file["weight"], file["bias"], file["metrics"]
    moments, numbers = [file["mean"], file["std"]], [file["lam"], file["kkt"]]
    counts = [metrics["nonzeros"], metrics["loss"], *(metrics[f"acc_{part}"] for part in ("tr", "val", "test"))]
    return (
        is_plain_tensor(weight, 2, FLOATS)
        and is_plain_tensor(bias, 1, FLOATS)
        and (weight.shape, weight.dtype) == (first["weight"].shape, first["weight"].dtype)
        and (len(bias), bias.dtype) == (len(weight), weight.dtype)
        and all(is_plain_tensor(column, 1, FLOATS) and len(column) == weight.shape[1] for column in moments)
        and all(bool(column.isfinite().all()) for column in (weight, bias, *moments))
        and all(isinstance(number, float) for number in numbers)
        and all(isinstance(count, int | float | None) for count in counts)
        and isinstance(file["converged"], bool)
        and is_plain([metrics, file["settings"]])
        and file["length"] == first["length"]
    )


def elastic_net_path(
    X,
    y,
    alpha=0.99,
    k=100,
    epsilon=1e-3,
    family="multinomial",
    group=False,
    sample_weight=None,
    val=None,
    test=None,
    do_zero=True,
    device="auto",
    tol=1e-4,
    memory_gb=None,
):
    """Linear layers from no feature to all of them: an elastic-net path (Wong, Santurkar, Madry; ICML 2021).

    For each lambda, over W (K, d) and the unpenalised b (K,), with Z = (X - mean) / std,

        minimise  sum_i w_i loss(y_i, W z_i + b) / sum_i w_i  +  lambda (alpha |W|_1 + (1 - alpha) / 2 |W|_2^2).

    For instance:

        path = elastic_net_path(features, labels, val=(val_features, val_labels))
        layer = path.to_linear(select_sparse_model(path, "sparsity", factor=15))

    Args:
        X: (n, d) floats (16, 32 or 64 bits): array, memory map, tensor or `FeatureChunks`.
        y: multinomial (cross-entropy of softmax): (n,) ints, every class of 0..K-1 present.
            gaussian (1/2 |y - score|^2, summed over the outputs): (n,) or (n, K) numbers.
        alpha: share of the l1 norm, 0..1.
        k, epsilon: k log-spaced lambdas from lambda_max, the smallest with W = 0 (for alpha < .001: that of
            alpha = .001), to lambda_max * epsilon, each started from the last.
        family: "multinomial" or "gaussian".
        group: one group per feature: `sum_j |W[:, j]|_2` in place of |W|_1, without a factor sqrt(K).
        sample_weight: (n,) weights >= 0, or None for 1 each. Mean and std are weighted too, so that a weight of 2 is
            the same as the row twice.
        val, test: (X, y) pairs to report accuracy on, not weighted.
        do_zero: whether lambda = 0 ends the path.
        device: "auto", "cpu", "cuda" or "cuda:N".
        tol: a layer is done when it misses the optimality conditions by at most `tol * lambda_max` in any weight or
            intercept; by how much is measured in float64 (`kkt`), and a layer that did not get there in 1,000 passes
            says so (`converged`). Layers are float64 where tol < 1e-5, else float32.
        memory_gb: what the features may take on the device; default half of what is free. Features that do not fit are
            read from X block by block in every pass, which gives the same path.

    Returns:
        `SparsePath`. A feature with std 0 has weight 0.

    Raises:
        UserError: labels that are not 0..K-1, a single class, NaN, lengths that differ, classes in val or test that are
            not in y, settings out of range, or features or targets that are all constant.
    """
    from .penalties import ElasticNet, GroupElasticNet  # late: numba, which reading a path does not take

    _check_settings(alpha, k, epsilon, family, tol)
    device = resolve_device(device)
    dtype = torch.float32 if tol >= FLOAT32_TOL else torch.float64
    check_features(X, "X")
    y = _check_targets(y, len(X), family, "y")
    weights = _check_weights(sample_weight, len(X))
    mean, std = statistics(X, None if sample_weight is None else weights)
    if not std.any():
        raise UserError("all features are constant; there is nothing to learn from them")
    outputs = _outputs(y, weights, family)
    budget = free_memory(device) / 2 if memory_gb is None else memory_gb * 1e9

    def data(X, y, weights):
        nonlocal budget
        rows = StandardizedRows(X, mean, std, device, dtype, budget)
        budget -= rows.resident_bytes
        y, weights = torch.from_numpy(y).to(device), torch.from_numpy(weights).to(device)
        return rows, Multinomial(y, weights, outputs) if family == "multinomial" else Gaussian(y, weights)

    rows, datafit = data(X, y, weights)
    held_out = {
        name: None if pair is None else data(*_check_held_out(pair, name, X.shape[1], outputs, family))
        for name, pair in (("val", val), ("test", test))
    }

    solver = Solver(rows, datafit, (GroupElasticNet if group else ElasticNet)(alpha))
    coef = np.zeros((outputs, X.shape[1] + 1))
    coef[:, -1] = datafit.null_bias().cpu().numpy()
    at = evaluate(rows, datafit, coef, torch.float64)
    lambda_max = solver.penalty.feature_strength(at.gradient[:, :-1]).max() / max(alpha, 1e-3)
    if lambda_max <= 0:
        raise UserError("y does not depend on any feature, not even by chance; look at what y holds")
    lambdas = lambda_max * epsilon ** (np.arange(k) / max(k - 1, 1))
    if do_zero:
        lambdas = np.append(lambdas, 0.0)

    coefs = torch.empty((len(lambdas), *coef.shape), dtype=dtype)
    kkt, metrics = np.empty(len(lambdas)), []
    for i, lam in enumerate(tqdm(lambdas, desc="regularisation path", unit="lambda", disable=None)):
        required = 0.9 * tol * lambda_max  # the rest is for rounding
        aim = min(required, max(AIM * lam, 1e-2 * required)) if lam > 0 else required
        coef = solver.solve(coef, at, lam, lambdas[max(i - 1, 0)], aim, required)
        coefs[i] = torch.from_numpy(coef)
        coef = coefs[i].double().numpy()  # what is certified is what is returned
        at = evaluate(rows, datafit, coef, torch.float64)
        kkt[i] = solver.penalty.violations(coef, at.gradient, lam).max()
        nonzeros = np.count_nonzero(coef[:, :-1], axis=1)
        row = {
            "lambda": float(lam),
            "loss": at.loss,
            "objective": at.loss + solver.penalty.value(coef, lam),
            "nonzeros": float(nonzeros.mean()),
            "nonzeros_per_class": nonzeros.tolist(),
            "acc_tr": at.accuracy,
        }
        for name, part in held_out.items():
            row[f"acc_{name}"] = None if part is None else evaluate(*part, coef, dtype, with_gradient=False).accuracy
        metrics.append(row)
    return SparsePath(
        lambdas=lambdas,
        weight=coefs[..., :-1].contiguous(),
        bias=coefs[..., -1].contiguous(),
        kkt=kkt,
        converged=kkt <= tol * lambda_max,
        metrics=metrics,
        mean=mean,
        std=std,
        settings={"alpha": float(alpha), "family": family, "group": bool(group), "tol": float(tol)},
    )


def _check_settings(alpha, k, epsilon, family, tol):
    if family not in ("multinomial", "gaussian"):
        raise UserError(f"there is no family {family!r}; give multinomial or gaussian")
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is {alpha}; give a number from 0 (ridge) to 1 (lasso)")
    if not (isinstance(k, int | np.integer) and k >= 1):
        raise UserError(f"k is {k}; give the number of lambdas, at least 1")
    if not 0 < epsilon < 1:
        raise UserError(f"epsilon is {epsilon}; give the smallest lambda as a share of the largest, between 0 and 1")
    if not tol > 0:
        raise UserError(f"tol is {tol}; give a number above 0")


def _check_targets(y, n, family, what):
    """(n,) int64 classes, or (n, m) float64 targets."""
    y = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if len(np.shape(y)) not in ((1,) if family == "multinomial" else (1, 2)):
        raise UserError(f"{what} has the shape {y.shape}; it must be one {_target_word(family)} an example")
    if len(y) != n:
        raise UserError(f"{what} has {len(y)} entries for {n} rows of features; they must belong together")
    if family == "gaussian":
        if y.dtype.kind not in "fiub":
            raise UserError(f"{what} holds {y.dtype} where the family gaussian needs numbers")
        y = y.astype(np.float64).reshape(n, -1)
        check_finite(y, 0, what)
        return y
    if y.dtype.kind not in "iu":
        raise UserError(f"{what} holds {y.dtype} where the family multinomial needs whole numbers 0..K-1")
    y = y.astype(np.int64)
    if y.min() < 0:
        raise UserError(f"{what} has the label {y.min()} in row {y.argmin()}; labels are 0..K-1")
    return y


def _target_word(family):
    return "class number" if family == "multinomial" else "number, or one row of numbers,"


def _check_weights(sample_weight, n):
    """(n,) float64, summing to 1."""
    if sample_weight is None:
        return np.full(n, 1 / n)
    if isinstance(sample_weight, torch.Tensor):
        sample_weight = sample_weight.detach().cpu().numpy()
    weights = np.asarray(sample_weight, np.float64)
    if weights.shape != (n,):
        raise UserError(f"sample_weight has the shape {weights.shape} for {n} rows; give one weight a row")
    check_finite(weights[:, None], 0, "sample_weight")
    if weights.min() < 0:
        raise UserError(f"sample_weight is negative in row {weights.argmin()}; weights are 0 or more")
    if weights.sum() == 0:
        raise UserError("all sample weights are 0; give some rows a weight")
    return weights / weights.sum()


def _outputs(y, weights, family):
    """The number of classes or outputs."""
    if family == "gaussian":
        constant = y.std(axis=0) == 0
        if constant.all():
            raise UserError("y is constant; there is nothing to predict")
        return y.shape[1]
    if y.max() >= len(y):  # before an array of that length is made
        raise UserError(f"y has the label {y.max()}, but only {len(y)} rows; labels are 0..K-1, numbered without gaps")
    counts = np.bincount(y)
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UserError(f"no row of y has the label {named}; labels are 0..{len(counts) - 1}, numbered without gaps")
    if len(counts) == 1:
        raise UserError("y has one class only; give examples of at least two")
    weightless = np.flatnonzero(np.bincount(y, weights) == 0)
    if len(weightless):
        raise UserError(f"all rows of class {weightless[0]} have the sample weight 0; leave the class out or weigh it")
    return len(counts)


def _check_held_out(pair, name, d, outputs, family):
    """X, targets and equal weights of a set that is only scored."""
    X, y = pair
    check_features(X, f"X of {name}")
    if X.shape[1] != d:
        raise UserError(f"X of {name} has {X.shape[1]} features and X has {d}; both must come from the same layer")
    y = _check_targets(y, len(X), family, f"y of {name}")
    if family == "multinomial" and y.max() >= outputs:
        raise UserError(
            f"y of {name} has the label {y.max()} in row {y.argmax()}, but y has the classes 0..{outputs - 1} only; "
            f"drop such rows or train on that class too"
        )
    if family == "gaussian" and y.shape[1] != outputs:
        raise UserError(f"y of {name} has {y.shape[1]} columns and y has {outputs}; they must agree")
    statistics(X, what=f"X of {name}")  # for its check of NaN and infinities
    return X, y, np.full(len(X), 1 / len(X))
