"""A classifier's failures as directions: per class a linear SVM between the images it gets right and those it does not.

"Distilling Model Failures as Directions in Latent Space", Jain et al., ICLR 2023. Plain arrays in, plain arrays out:
any model and any embedding will do.

    fitter = SVMFitter()
    fitter.set_preprocess(train_latents)
    cv_scores = fitter.fit(preds=val_preds, ys=val_labels, latents=val_latents)
    mask, decision_values = fitter.predict(ys=test_labels, latents=test_latents)

The numerical work on one class is in `directions.class_fit`.
"""

from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import LokyBackend, get_active_backend
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from .directions.class_fit import (
    INTERCEPTS,
    SEARCHED_C,
    SOLVERS,
    Preprocess,
    Recipe,
    balanced_accuracy,
    decision_values,
    fit_classes,
)
from .runtime.errors import UserError
from .runtime.moments import Moments
from .runtime.pt_files import FLOATS, is_plain, is_plain_tensor, load_pt, save_pt

METHODS = ("SVM", "MLP")
CHUNK_NUMBERS = 2**22  # numbers of a large array worked on at a time: 32 MiB in float64
CAPTION_NUMBERS = 2**17  # numbers of captions scored at a time: 1 MiB in float64 stays in the cache, twice as fast
CLASSES_PER_TASK = 16  # at most so many classes travel to a worker together: bounds the memory in flight

_FIELDS = ("method", "mean", "std", "normalize", "C", "cv_scores", "cv", "balanced", "split_and_search", "skipped")
_METHOD_FIELDS = {"SVM": ("coef", "intercept"), "MLP": ("weights", "biases", "svm_args")}


class SVMFitter:
    """One decision function per class, negative on images that look like the ones the model gets wrong.

    Args:
        split_and_search: choose C in 1e-6, 1e-5, ..., 1 by cross-validation (else C = 1; the score is still computed).
        balanced: weigh "right" and "wrong" equally, whatever their numbers.
        cv: folds; a class with fewer wrong or right examples than that is skipped.
        do_normalize: divide every (whitened) latent by its L2 norm.
        method: "SVM" (the paper's), or "MLP", a small network whose value is the log-odds of "right".
        solver: "auto", libsvm's answer up to `class_fit.GRAM_LIMIT` examples of a class and beyond them that of
            `directions.primal_svm`, or "primal": the latter always, in memory that grows with the examples alone.
        intercept: "libsvm" (the paper's), or "middle", of the interval of best intercepts where there is one: better on
            held-out images, see docs/RESULTS.md.
        svm_args: for "MLP" only: `hidden_layer_size` (100), and `first_layer` (False: none, logistic regression).
        jobs: processes over the classes, -1 for one per core. Inside `joblib.parallel_config` the workers are those of
            its backend, such as a Dask or Ray cluster (see `jobs`), with the same answer.

    Attributes:
        cv_scores, C: after `fit`, float64 (num_classes,), NaN where a class was skipped.
        coef, intercept: after `fit`, float64 (num_classes, d) and (num_classes,), both None for "MLP".
        skipped: after `fit`, a dict class -> reason.
    """

    def __init__(
        self,
        split_and_search: bool = True,
        balanced: bool = True,
        cv: int = 2,
        do_normalize: bool = True,
        method: str = "SVM",
        svm_args: dict[str, Any] | None = None,
        jobs: int = 1,
        solver: str = "auto",
        intercept: str = "libsvm",
    ) -> None:
        if method not in METHODS:
            raise UserError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
        if not isinstance(cv, int | np.integer) or cv < 2:
            raise UserError(f"cv = {cv!r} is not a number of folds; choose 2 or more")
        if not isinstance(jobs, int | np.integer) or jobs == 0:
            raise UserError(f"jobs = {jobs!r} is not a number of processes; choose 1 or more, or -1 for one per core")
        for name, value, known in (("solver", solver, SOLVERS), ("intercept", intercept, INTERCEPTS)):
            if value not in known:
                raise UserError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
        self.solver, self.intercept_rule = solver, intercept
        self.split_and_search, self.balanced, self.cv = bool(split_and_search), bool(balanced), int(cv)
        self.method, self.jobs = method, int(jobs)
        self.svm_args = dict(svm_args or {})
        self._hidden = _hidden_layers(self.svm_args)
        self._preprocess = Preprocess(None, None, bool(do_normalize))
        self.cv_scores: Any = None
        self.C: Any = None
        self.coef: Any = None
        self.intercept: Any = None
        self._layers: Any = None
        self.skipped: dict[int, str] = {}

    # ---- preprocessing ------------------------------------------------------------------------------------------

    @property
    def do_normalize(self) -> bool:
        """Whether latents are divided by their L2 norm."""
        return self._preprocess.normalize

    @property
    def mean(self) -> np.ndarray | None:
        """The whitening mean, float64 (d,), or None without whitening."""
        return self._preprocess.mean

    @property
    def std(self) -> np.ndarray | None:
        """The whitening standard deviation, float64 (d,), 1 for a constant coordinate, or None without whitening."""
        return self._preprocess.std

    @property
    def preprocessing(self) -> Preprocess:
        """The `class_fit.Preprocess` of the latents."""
        return self._preprocess

    def set_preprocess(self, train_latents: ArrayLike | None = None) -> None:
        """Take the whitening statistics from `train_latents` (N, d), or with nothing: no whitening.

        Reads float16, float32 or float64 arrays, tensors and memory maps in chunks, adding up in float64. Call it
        before `fit`.

        Raises:
            UserError: fewer than 2 rows, or rows that hold nan or infinity.
        """
        mean = std = None
        if train_latents is not None:
            mean, std = whitening(train_latents)
        self._preprocess = Preprocess(mean, std, self.do_normalize)
        self._layers = None

    def preprocess(self, latents: ArrayLike) -> np.ndarray:
        """Whiten and normalise `latents` (..., d); float64 of the same shape. `fit` and `predict` do it themselves."""
        latents = _to_numpy(latents)
        self._check_width(latents, None if self.mean is None else len(self.mean))
        return self._preprocess(latents)

    # ---- fitting ------------------------------------------------------------------------------------------------

    def fit(self, preds: ArrayLike, ys: ArrayLike, latents: ArrayLike, num_classes: int | None = None) -> np.ndarray:
        """Fit every class of a validation split.

        Args:
            preds, ys: int (N,), the model's predictions and the true labels; an example is "right" where they are
                equal.
            latents: float (N, d), not preprocessed.
            num_classes: the largest label seen + 1 if not given.

        Returns:
            Cross-validated balanced accuracies (num_classes,). A class that cannot be fitted, or whose decision value
            would be the same everywhere, has a NaN score and its reason in `skipped`.

        Raises:
            UserError: shapes that disagree, labels out of range, or latents that hold nan or infinity.
        """
        x, labels, guesses = _to_rows(latents, "latents"), _to_labels(ys, "ys"), _to_labels(preds, "preds")
        _check_lengths(latents=x, ys=labels, preds=guesses)
        if len(labels) == 0:
            raise UserError("there are no validation examples to fit on; check the validation indices")
        if num_classes is None:
            num_classes = int(max(labels.max(), guesses.max())) + 1
        _check_range(labels, num_classes, "give num_classes as large as the data set's, or mend the labels")
        self._check_width(x, None if self.mean is None else len(self.mean))
        _check_finite(x)

        right = guesses == labels
        members = _members(labels, num_classes)
        reasons = {c: _reason_to_skip(right[members[c]], self.cv) for c in range(num_classes)}
        self.skipped = {c: reason for c, reason in reasons.items() if reason}
        fitted = [c for c in range(num_classes) if c not in self.skipped]

        recipe = Recipe(
            preprocess=self._preprocess,
            method=self.method,
            candidates=SEARCHED_C if self.split_and_search else SEARCHED_C[-1:],
            balanced=self.balanced,
            cv=self.cv,
            hidden=self._hidden,
            solver=self.solver,
            intercept=self.intercept_rule,
        )
        fits = _in_processes(recipe, x, [(members[c], right[members[c]]) for c in fitted], self.jobs)

        self.cv_scores, self.C = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
        layers: list[list] = [[] for _ in range(num_classes)]
        for c, fit in zip(fitted, fits, strict=True):
            if fit.says_nothing:
                self.skipped[c] = "one decision value for all of its validation images: right and wrong ones look alike"
                continue
            self.cv_scores[c], self.C[c], layers[c] = fit.cv_score, fit.C, fit.layers
        self._set_layers(layers, x.shape[1])
        return self.cv_scores

    def _set_layers(self, layers, width):
        """Keep the decision functions; those of SVMs, one layer each, also as `coef` and `intercept`."""
        self._layers, self._width = layers, width
        self.coef = self.intercept = None
        if self.method == "SVM":
            self.coef, self.intercept = np.full((len(layers), width), np.nan), np.full(len(layers), np.nan)
            for c, class_layers in enumerate(layers):
                for weight, bias in class_layers:
                    self.coef[c], self.intercept[c] = weight[:, 0], bias[0]

    @property
    def no_consistent_failure(self) -> np.ndarray:
        """Bool (num_classes,): classes whose CV score is <= .5, so that the direction says nothing."""
        self._check_fitted()
        return self.cv_scores <= 0.5

    # ---- prediction ---------------------------------------------------------------------------------------------

    @overload
    def predict(
        self, ys: ArrayLike, latents: ArrayLike, preds: ArrayLike | None = None, compute_metrics: Literal[False] = False
    ) -> tuple[np.ndarray, np.ndarray]: ...

    @overload
    def predict(
        self, ys: ArrayLike, latents: ArrayLike, preds: ArrayLike | None = None, *, compute_metrics: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]: ...

    def predict(
        self, ys: ArrayLike, latents: ArrayLike, preds: ArrayLike | None = None, compute_metrics: bool = False
    ) -> tuple[Any, ...]:
        """Say of every example how it looks to the SVM of its class.

        Args:
            ys: int (N,), the true labels.
            latents: float (N, d), not preprocessed.
            preds: int (N,), needed for metrics.
            compute_metrics: give a third value, the dict of `svm_metrics`.

        Returns:
            `mask` int64 (N,), 1 = looks like those the model gets right, and `decision_values` float64 (N,), negative =
            hard; flagged (mask 0) is a decision value <= 0. Examples of a skipped class have NaN and mask 1.

        Raises:
            UserError: before `fit`, or shapes, widths or labels that do not fit it.
        """
        self._check_fitted()
        if compute_metrics and preds is None:
            raise UserError("metrics compare the SVM with the base model; give preds=, or compute_metrics=False")
        x, labels = _to_rows(latents, "latents"), _to_labels(ys, "ys")
        _check_lengths(latents=x, ys=labels)
        self._check_width(x, self._width)
        _check_range(
            labels, len(self.cv_scores), "predict on the classes that were fitted, or fit with more num_classes"
        )
        _check_finite(x)

        values = np.empty(len(labels))
        for rows in _chunks(x):
            values[rows] = self._decision_values(self._preprocess(x[rows]), labels[rows])
        mask = np.where(np.isnan(values), 1, values > 0).astype(np.int64)
        if not compute_metrics:
            return mask, values
        guesses = _to_labels(preds, "preds")
        _check_lengths(preds=guesses, ys=labels)
        return mask, values, svm_metrics(guesses == labels, values, labels, len(self.cv_scores))

    def caption_scores(self, c: int, caption_latents: ArrayLike, reference_latent: ArrayLike) -> np.ndarray:
        """Decision values of class `c` for caption embeddings, relative to a reference caption's.

        Args:
            caption_latents: float (M, d), as CLIP gives them, not normalised.
            reference_latent: float (d,).

        Returns:
            float64 (M,); lowest is hardest, and the sign carries no meaning (see captions.ranking).

        Raises:
            UserError: the class was skipped, or the embeddings are not of the fitter's space.
        """
        if c in self.skipped:
            raise UserError(f"class {c} has no direction to describe: {self.skipped[c]}; choose another class")
        captions, reference = np.asarray(caption_latents), np.asarray(reference_latent)
        scores = np.empty(len(captions))
        step = max(1, CAPTION_NUMBERS // len(reference))
        # One BLAS thread: on blocks this small a second one gains nothing, and waits for long on a busy machine.
        with threadpool_limits(1, user_api="blas"):
            for start in range(0, len(scores), step):
                differences = captions[start : start + step] - reference
                _, scores[start : start + step] = self.predict(ys=np.full(len(differences), c), latents=differences)
        return scores

    def _decision_values(self, z, ys):
        if self.coef is not None:
            return np.einsum("nd,nd->n", z, self.coef[ys]) + self.intercept[ys]
        values = np.full(len(ys), np.nan)
        for c in np.unique(ys):
            if self._layers[c]:
                values[ys == c] = decision_values(self._layers[c], z[ys == c])
        return values

    # ---- files --------------------------------------------------------------------------------------------------

    def export(self, path: str | Path) -> None:
        """Write `state` to `path` (.pt)."""
        save_pt(self.state(), path)

    def state(self) -> dict[str, Any]:
        """The directions and all that `predict` needs, as a dict of tensors, numbers, strings, lists and dicts.

        Keys: method, coef (num_classes, d), intercept (num_classes,) (for "MLP": weights and biases, per class a list
        of layers, empty where skipped), mean and std (d,) (zeros and ones without whitening), normalize, C, cv_scores,
        cv, balanced, split_and_search, svm_args, skipped (class as a string -> reason).
        """
        self._check_fitted()
        tensor = torch.from_numpy
        contents = {
            "method": self.method,
            "mean": tensor(np.zeros(self._width) if self.mean is None else self.mean),
            "std": tensor(np.ones(self._width) if self.std is None else self.std),
            "normalize": self.do_normalize,
            "C": tensor(self.C),
            "cv_scores": tensor(self.cv_scores),
            "cv": self.cv,
            "balanced": self.balanced,
            "split_and_search": self.split_and_search,
            "svm_args": self.svm_args,
            "skipped": {str(c): reason for c, reason in self.skipped.items()},
        }
        if self.method == "SVM":
            contents |= {"coef": tensor(self.coef), "intercept": tensor(self.intercept)}
        else:
            contents["weights"] = [[tensor(weight) for weight, _ in layers] for layers in self._layers]
            contents["biases"] = [[tensor(bias) for _, bias in layers] for layers in self._layers]
        return contents

    @classmethod
    def load(cls, path: str | Path) -> "SVMFitter":
        """Read what `export` wrote.

        Returns:
            `SVMFitter`, fitted.

        Raises:
            UserError: a file that is damaged or of another kind; what it lacks is named.
        """
        remedy = "fit it again: failure-directions distil writes OUT_model.pt"
        contents = load_pt(path, "SVM model", remedy)
        has = set(contents) if isinstance(contents, dict) else set()
        method = str(contents["method"]) if "method" in has else "SVM"
        missing = [name for name in (*_FIELDS, *_METHOD_FIELDS.get(method, ())) if name not in has]
        if missing:
            raise UserError(f"{path} is not an SVM model: it lacks {', '.join(missing)}; {remedy}")
        if not _is_state(contents):
            raise UserError(f"{path} is damaged: its values do not fit together; {remedy}")
        fitter = cls(
            split_and_search=contents["split_and_search"],
            balanced=contents["balanced"],
            cv=contents["cv"],
            do_normalize=contents["normalize"],
            method=method,
            svm_args=contents.get("svm_args"),
        )
        mean, std = contents["mean"].numpy(), contents["std"].numpy()
        fitter._preprocess = Preprocess(mean, std, bool(contents["normalize"]))
        fitter.C, fitter.cv_scores = contents["C"].numpy(), contents["cv_scores"].numpy()
        fitter.skipped = {int(c): reason for c, reason in contents["skipped"].items()}
        if method == "SVM":
            coef, intercept = contents["coef"].numpy(), contents["intercept"].numpy()
            layers = [
                [] if np.isnan(b) else [(w[:, None], np.array([b]))] for w, b in zip(coef, intercept, strict=True)
            ]
        else:
            layers = [
                [(weight.numpy(), bias.numpy()) for weight, bias in zip(weights, biases, strict=True)]
                for weights, biases in zip(contents["weights"], contents["biases"], strict=True)
            ]
        fitter._set_layers(layers, len(mean))
        return fitter

    # ---- checks -------------------------------------------------------------------------------------------------

    def _check_fitted(self):
        if self._layers is None:
            raise UserError("this SVMFitter is not fitted; call fit(preds=, ys=, latents=) or SVMFitter.load first")

    @staticmethod
    def _check_width(latents, width):
        if width is not None and latents.shape[-1] != width:
            raise UserError(
                f"latents have {latents.shape[-1]} coordinates where the SVM was prepared for {width}; "
                "use the same embedding for every split"
            )


def whitening(latents):
    """Mean and sample standard deviation (ddof = 1) of every coordinate of `latents` (N, d); float64 (d,) each.

    A constant coordinate gets the deviation 1. Reads in chunks: a memory-mapped array is never copied whole.

    Raises:
        UserError: fewer than 2 rows, rows with nan or infinity, or numbers whose squares overflow.
    """
    latents = _to_rows(latents, "train_latents")
    if len(latents) < 2:
        raise UserError(f"whitening needs at least 2 training latents, got {len(latents)}; give the whole training set")
    _check_finite(latents, "train_latents")
    moments = Moments()
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _chunks(latents):
            moments.update(latents[rows])
    std = moments.std(ddof=1)
    if not np.isfinite(std).all():
        raise UserError("the embeddings hold numbers so large that their squares overflow; scale them down")
    return moments.mean, np.where(std == 0, 1.0, std)


def svm_metrics(right, values, ys, num_classes):
    """How well the SVMs tell right from wrong.

    Args:
        right: bool (N,), whether the base model is right.
        values: float (N,), decision values, NaN where a class was skipped (those examples count nowhere but in the
            per-example entries).
        ys: int (N,).

    Returns:
        dict: accuracy, balanced_accuracy (floats, NaN without examples), confusion_matrix int64 (2, 2) (rows: base
        model wrong, right; columns: SVM says wrong, right), indiv_accs float64 (num_classes,), NaN where skipped or
        absent, ytrue and ypred int64 (N,), decision_values float64 (N,).
    """
    says_right = np.isnan(values) | (values > 0)
    judged = ~np.isnan(values)
    agree = right == says_right
    confusion = np.bincount(2 * right[judged] + says_right[judged], minlength=4).reshape(2, 2)
    counts = np.bincount(ys[judged], minlength=num_classes)
    agreed = np.bincount(ys[judged], weights=agree[judged], minlength=num_classes)
    return {
        "accuracy": float(agree[judged].mean()) if judged.any() else float("nan"),
        "balanced_accuracy": float(balanced_accuracy(right[judged], says_right[judged])),
        "confusion_matrix": confusion,
        "indiv_accs": np.divide(agreed, counts, out=np.full(num_classes, np.nan), where=counts > 0),
        "ytrue": right.astype(np.int64),
        "ypred": says_right.astype(np.int64),
        "decision_values": values,
    }


def _is_state(contents):
    """Whether the values of a dict with the keys of `SVMFitter.state` are of their kinds and sizes."""
    columns = [contents[key] for key in ("mean", "std", "C", "cv_scores")]
    if not all(is_plain_tensor(column, 1, FLOATS) for column in columns) or str(contents["method"]) not in METHODS:
        return False
    width, classes = len(columns[0]), len(columns[2])
    if contents["method"] == "SVM":
        coef, intercept = contents["coef"], contents["intercept"]
        chains = is_plain_tensor(coef, 2, FLOATS) and is_plain_tensor(intercept, 1, FLOATS)
        chains = chains and (*coef.shape, len(intercept)) == (classes, width, classes)
    else:
        weights, biases = contents["weights"], contents["biases"]
        chains = isinstance(weights, list) and isinstance(biases, list) and len(weights) == len(biases) == classes
        chains = chains and all(_is_chain(*layers, width) for layers in zip(weights, biases, strict=True))
    options = [contents[key] for key in ("balanced", "split_and_search", "normalize", "cv")]
    return (
        chains
        and [type(option) for option in options] == [bool, bool, bool, int]
        and len(columns[1]) == width
        and len(columns[3]) == classes
        and bool((columns[0].isfinite() & columns[1].isfinite() & (columns[1] > 0)).all())
        and is_plain([contents["skipped"], contents.get("svm_args")])
        and isinstance(contents["skipped"], dict)
        and set(contents["skipped"]) <= {str(c) for c in range(classes)}
        and isinstance(contents.get("svm_args"), dict | None)
        and isinstance((contents.get("svm_args") or {}).get("hidden_layer_size", 1), int)
    )


def _is_chain(weights, biases, width):
    """Whether these are the layers of a network from `width` numbers to one; none for a class that was skipped."""
    if not isinstance(weights, list) or not isinstance(biases, list) or len(weights) != len(biases):
        return False
    for weight, bias in zip(weights, biases, strict=True):
        if not is_plain_tensor(weight, 2, FLOATS) or not is_plain_tensor(bias, 1, FLOATS):
            return False
        if (len(weight), weight.shape[1]) != (width, len(bias)):
            return False
        width = len(bias)
    return not weights or width == 1


def _hidden_layers(svm_args):
    """The widths of the network's hidden layers that `svm_args` asks for: one, or none for logistic regression."""
    unknown = sorted(set(svm_args) - {"hidden_layer_size", "first_layer"})
    if unknown:
        raise UserError(f"unknown svm_args {', '.join(unknown)}; choose from hidden_layer_size, first_layer")
    return (int(svm_args.get("hidden_layer_size", 100)),) if svm_args.get("first_layer", True) else ()


def _in_processes(recipe, latents, problems, jobs):
    """`fit_classes` of the list `problems`, spread over joblib's workers in their order."""
    workers = min(effective_n_jobs(jobs), len(problems))
    if workers <= 1:
        return fit_classes(recipe, latents, problems)
    size = max(1, min(CLASSES_PER_TASK, len(problems) // (4 * workers)))
    # Asked here: joblib takes later tasks from the generator in threads that know no other backend than its own.
    send = _map_and_rows if _is_mapped(latents) and isinstance(get_active_backend()[0], LokyBackend) else _copied_rows
    tasks = (
        delayed(fit_classes)(recipe, *send(latents, problems[start : start + size]))
        for start in range(0, len(problems), size)
    )
    # Copied rows are not memory-mapped (max_nbytes): each is read once, by one worker.
    return [fit for fits in Parallel(workers, batch_size=1, max_nbytes=None)(tasks) for fit in fits]


def _map_and_rows(latents, problems):
    """What a process of this machine needs: joblib sends it a map as the name of the file."""
    return latents, problems


def _copied_rows(latents, problems):
    """What any worker needs: the rows of these classes, and slices of them as problems."""
    ends = np.cumsum([len(rows) for rows, _ in problems])
    slices = [slice(end - len(rows), end) for end, (rows, _) in zip(ends, problems, strict=True)]
    rows = np.concatenate([rows for rows, _ in problems])
    return latents[rows], [(piece, right) for piece, (_, right) in zip(slices, problems, strict=True)]


def _is_mapped(array):
    """Whether `array` is (a view of) a memory map whose file has the same content."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None and array.filename is not None and array.mode != "c"


def _members(ys, num_classes):
    """Indices of every class's examples, in their order."""
    order = np.argsort(ys, kind="stable")
    return np.split(order, np.searchsorted(ys[order], np.arange(1, num_classes)))


def _reason_to_skip(right, cv):
    """Why a class with these outcomes cannot be fitted in `cv` folds, or None."""
    total, rights = len(right), int(right.sum())
    wrongs = total - rights
    if total == 0:
        return "no validation images"
    if wrongs == 0:
        return f"no errors among {_plural(total, 'validation image')}"
    if rights == 0:
        return f"only errors among {_plural(total, 'validation image')}"
    if wrongs < cv:
        return f"{_plural(wrongs, 'error')}, fewer than cv = {cv}"
    if rights < cv:
        return f"{_plural(rights, 'correct prediction')}, fewer than cv = {cv}"
    return None


def _plural(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _chunks(latents):
    step = max(1, CHUNK_NUMBERS // max(1, latents.shape[1]))
    return [slice(start, start + step) for start in range(0, len(latents), step)]


def _to_numpy(array):
    """A view of `array` (tensor, memory map, anything array-like) in NumPy; copied only from a GPU or bfloat16."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    return np.asarray(array)


def _to_rows(latents, name):
    latents = _to_numpy(latents)
    if latents.ndim != 2 or latents.dtype.kind not in "fiu" or not latents.shape[1]:
        raise UserError(f"{name} are {latents.dtype} of shape {latents.shape}; give numbers of shape (examples, d)")
    return latents


def _to_labels(labels, name):
    labels = _to_numpy(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise UserError(f"{name} are {labels.dtype} of shape {labels.shape}; give integers of shape (examples,)")
    return labels.astype(np.int64)


def _check_lengths(**arrays):
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise UserError(f"the numbers of examples disagree ({lengths}); give one row per example, all of one split")


def _check_range(ys, num_classes, remedy):
    outside = ys[(ys < 0) | (ys >= num_classes)]
    if len(outside):
        raise UserError(f"label {outside[0]} is outside 0..{num_classes - 1} ({len(outside)} such); {remedy}")


def _check_finite(latents, name="latents"):
    if latents.dtype.kind == "f":
        bad = sum(int((~np.isfinite(latents[rows]).all(axis=1)).sum()) for rows in _chunks(latents))
        if bad:
            raise UserError(
                f"{bad} of {len(latents)} rows of {name} hold nan or infinity; compute the embeddings again, "
                "or leave those images out"
            )
