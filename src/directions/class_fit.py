"""One class at a time: from embeddings and "was the model right?" to a decision function with a cross-validated score.

Everything here is plain NumPy and scikit-learn on one class, so that worker processes import neither torch nor the
rest of the package.

Why this is much faster than a loop over `cross_val_score(SVC(kernel="linear"), ...)` and yet the same answer: the
kernel depends neither on C nor on the fold, so one Gram matrix serves every fit; libsvm is called at the level where
`SVC.fit` calls it, because `SVC.fit` itself spends 0.7 ms checking a problem that libsvm solves in 0.03 ms (50
examples); and only the chosen C is refitted on all examples. That level is private to scikit-learn, so that it is used
in the versions of `LIBSVM_KNOWN_IN` alone; in others `SVC.fit` gives the same answer, more slowly.

A shortcut that is *not* taken. With balanced weights both classes carry C n / 2, so at a small C every multiplier can
sit at its bound; that is optimal exactly when max f(right) - min f(wrong) <= 2, f being the decision function without
its intercept, and the direction is then C times one weighted difference of means: no solver needed. But any intercept
in an interval is optimal, and which one libsvm returns hangs on the last bit of its multipliers: the midpoint if all of
them reach their bound exactly, an end of the interval if one is left 1e-17 short, which is the usual case, and at an
end (almost) every example is called right, or wrong, and the score is .5. The closed form with the midpoint gives most
of these fits another score: on `benchmarks/bench_svm.py` it chose another C in 142 of 200 classes.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from .primal_svm import best_intercepts, solve_primal

SEARCHED_C = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The paper's grid. Written out: the scores of the smallest C react to the last bit of C (see above)."""

GRAM_LIMIT = 16_384
"""Classes with more examples (a Gram matrix beyond 2 GiB) are solved by `primal_svm`, in less memory."""

SOLVERS, INTERCEPTS = ("auto", "primal"), ("libsvm", "middle")

LIBSVM_KNOWN_IN = ("1.9.",)
"""Versions of scikit-learn whose private `sklearn.svm._libsvm` was seen to answer as `SVC.fit` does: how they begin."""

MLP_L2 = 1.0
"""scikit-learn's `alpha`, ours: without a hidden layer that is logistic regression at C = 1, the top of the grid."""

MLP_MAX_ITER = 100

SAME_VALUE = 1e-12, 1e-6
"""Decision values that vary by less than this, of what they could for the SVM and of their size for the MLP (in single
precision), are rounding: the direction is 0."""


@dataclass(frozen=True)
class Preprocess:
    """Whitening per coordinate, then division by the L2 norm; either may be absent.

    `mean` and `std` are float64 of shape (d,), or both None for no whitening.
    """

    mean: np.ndarray | None
    std: np.ndarray | None
    normalize: bool

    def __call__(self, latents):
        """Map `latents` (..., d) of any float dtype to float64 of the same shape; a zero vector stays zero."""
        z = self.whiten(latents)
        if self.normalize:
            norms = np.linalg.norm(z, axis=-1, keepdims=True)
            norms[norms == 0] = 1
            z /= norms
        return z

    def whiten(self, latents):
        """The first step alone: a new float64 array of the same shape."""
        z = np.array(latents, dtype=np.float64)
        if self.mean is not None:
            z -= self.mean
            z /= self.std
        return z

    def undo(self, whitened):
        """Latents (..., d) float64 that `whiten` maps to these."""
        return np.array(whitened, dtype=np.float64) if self.mean is None else whitened * self.std + self.mean


@dataclass(frozen=True)
class Recipe:
    """What to fit in every class: the arguments of `SVMFitter` that matter to one class."""

    preprocess: Preprocess
    method: str
    candidates: tuple[float, ...]
    balanced: bool
    cv: int
    hidden: tuple[int, ...]
    solver: str = "auto"
    intercept: str = "libsvm"


@dataclass(frozen=True)
class ClassFit:
    """One class's decision function: `layers` is a list of (weight (fan_in, fan_out), bias (fan_out,)), ReLU between.

    A linear SVM is one layer with one output. `C` is NaN where the method has none. `says_nothing`: the value is the
    same for all images of the class, as where its right and wrong ones are at the same places.
    """

    layers: list
    C: float
    cv_score: float
    says_nothing: bool


def balanced_accuracy(right, says_right):
    """Mean of the recalls of "wrong" and "right" (those of the two present in `right`), NaN for no examples at all.

    The definition is scikit-learn's `balanced_accuracy_score`.

    Args:
        right: bool (N,).
        says_right: bool (N,), or (N, k) for k classifiers at once, which gives an array (k,).
    """
    recalls = [np.mean(~says_right[~right], axis=0)] if not right.all() else []
    recalls += [np.mean(says_right[right], axis=0)] if right.any() else []
    return sum(recalls) / len(recalls) if recalls else np.full(says_right.shape[1:], np.nan)[()]


def class_weights(right, balanced):
    """Weights of (wrong, right), float64 (2,): n / (2 n_class) if `balanced`, else ones."""
    return len(right) / (2.0 * np.bincount(right, minlength=2)) if balanced else np.ones(2)


def decision_values(layers, z):
    """Values (N,) of a `ClassFit.layers` on preprocessed latents `z` (N, d); negative = hard."""
    for weight, bias in layers[:-1]:
        z = np.maximum(z @ weight + bias, 0)
    weight, bias = layers[-1]
    return (z @ weight + bias)[:, 0]


def solve_dual(gram, right, C, weights):
    """libsvm's C-SVC, as `sklearn.svm.SVC(kernel="precomputed", C=C, class_weight=weights)` calls it.

    Args:
        gram: float64 (n, n) and C-contiguous.
        right: bool (n,).
        weights: float64 (2,) for wrong and right.

    Returns:
        Signed multipliers (n,), positive for "right", such that the direction is their weighted sum of the examples,
        and the intercept.
    """
    signed = np.zeros(len(right))
    if not sklearn.__version__.startswith(LIBSVM_KNOWN_IN):
        svm = SVC(kernel="precomputed", C=C, class_weight=dict(enumerate(weights))).fit(gram, right.astype(int))
        signed[svm.support_] = svm.dual_coef_[0]
        return signed, svm.intercept_[0]
    from sklearn.svm import _libsvm

    _libsvm.set_verbosity_wrap(0)  # libsvm prints its progress unless told not to
    support, _, _, multipliers, intercept, *_ = _libsvm.fit(
        gram, right.astype(np.float64), kernel="precomputed", C=C, class_weight=weights
    )
    # libsvm's decision function is positive for the first label, 0; SVC turns the sign in the same way.
    signed[support] = -multipliers[0]
    return signed, -intercept[0]


def stratified_folds(right, cv):
    """The folds of scikit-learn's `StratifiedKFold(cv)`, without its checks, which take longer than a small SVM.

    Args:
        right: bool (n,), at least `cv` of each kind.

    Returns:
        list of `cv` pairs of int arrays, the places to train and to test on.
    """
    # scikit-learn counts classes in the order in which they appear, and deals both kinds together.
    kind = right != right[0]
    dealt = np.sort(kind)
    counts = np.array([np.bincount(dealt[fold::cv], minlength=2) for fold in range(cv)])
    folds = np.empty(len(right), dtype=np.int64)
    for value in (False, True):
        folds[kind == value] = np.repeat(np.arange(cv), counts[:, int(value)])
    return [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(cv)]


def fit_svm(z, right, candidates=SEARCHED_C, balanced=True, cv=2, solver="auto", intercept="libsvm"):
    """The paper's linear SVM of one class (Jain et al. 2023, section 2), with C chosen by cross-validation.

    The score of a C is the mean balanced accuracy over the folds of `cross_val_score(..., cv=cv)`; the first best of
    `candidates` wins and is fitted on all examples.

    Args:
        z: preprocessed latents, float64 (n, d).
        right: bool (n,), at least `cv` examples of each kind.
        solver: "auto", libsvm on a Gram matrix up to `GRAM_LIMIT` examples and `primal_svm` beyond, or "primal".
        intercept: where it is free within an interval, as at a small C: "libsvm", an end of it, at which nearly all
            examples are called the same, or "middle".
    """
    primal = solver == "primal" or len(z) > GRAM_LIMIT
    path = (_primal_path if primal else _gram_path)(z, right, balanced, intercept)
    scores = np.zeros((len(candidates), cv))
    for fold, (train, test) in enumerate(stratified_folds(right, cv)):
        directions, intercepts = path(train, candidates)
        says_right = z[test] @ directions + intercepts > 0
        scores[:, fold] = balanced_accuracy(right[test], says_right)
    # Along the contiguous axis NumPy adds in the order of `cross_val_score(...).mean()`, so that ties stay ties.
    scores = scores.mean(axis=1)
    best = int(np.argmax(scores))
    direction, bias = path(None, candidates[best : best + 1])
    # Multipliers add up to at most C n, so that values could vary by about this much.
    most = candidates[best] * np.einsum("nd,nd->", z, z)
    says_nothing = np.ptp(z @ direction) <= SAME_VALUE[0] * most
    return ClassFit([(direction, bias)], candidates[best], float(scores[best]), bool(says_nothing))


def _gram_path(z, right, balanced, intercept):
    """A function of members (int array, None for all) and k candidates: directions (d, k) and intercepts (k,)."""
    gram = z @ z.T

    def path(members, candidates):
        kernel, x, y = (
            (gram, z, right) if members is None else (gram[np.ix_(members, members)], z[members], right[members])
        )
        weights = class_weights(y, balanced)
        fits = [solve_dual(kernel, y, C, weights) for C in candidates]
        multipliers, intercepts = zip(*fits, strict=True)
        directions = x.T @ np.stack(multipliers, axis=1)
        if intercept == "middle":
            values, of_example = x @ directions, weights[y.astype(int)]
            intercepts = [np.mean(best_intercepts(column, y, of_example)) for column in values.T]
        return directions, np.array(intercepts)

    return path


def _primal_path(z, right, balanced, intercept):
    """The same as `_gram_path`, each C beginning at the solution of the one before."""

    def path(members, candidates):
        x, y = (z, right) if members is None else (z[members], right[members])
        weights = class_weights(y, balanced)[y.astype(int)]
        start, directions, intercepts = None, [], []
        for C in candidates:
            direction, (low, high), _ = solve_primal(x, y, C * weights, start)
            start = direction, (low + high) / 2
            directions.append(direction)
            # libsvm's end is one at which all of a kind are called right.
            intercepts.append(high if intercept == "libsvm" else (low + high) / 2)
        return np.stack(directions, axis=1), np.array(intercepts)

    return path


def fit_mlp(z, right, hidden=(100,), balanced=True, cv=2):
    """A small ReLU network instead of the SVM: same targets, folds and score; its value is the log-odds of "right".

    `hidden` holds the width of the hidden layer, or nothing for logistic regression. Arguments else as in `fit_svm`.
    Fitted in float32 by L-BFGS from a fixed seed.
    """
    z = z.astype(np.float32)

    def layers(members):
        network = MLPClassifier(hidden, solver="lbfgs", alpha=MLP_L2, max_iter=MLP_MAX_ITER, random_state=0)
        with warnings.catch_warnings():
            # The iterations are a budget; where they run out the score says what the network is worth.
            warnings.simplefilter("ignore", ConvergenceWarning)
            weights = class_weights(right[members], balanced)[right[members].astype(int)]
            network.fit(z[members], right[members], sample_weight=weights)
        return list(zip(network.coefs_, network.intercepts_, strict=True))

    scores = [
        balanced_accuracy(right[test], decision_values(layers(train), z[test]) > 0)
        for train, test in stratified_folds(right, cv)
    ]
    fitted = layers(np.arange(len(z)))
    values = decision_values(fitted, z)
    says_nothing = np.ptp(values) <= SAME_VALUE[1] * np.abs(values).max()
    return ClassFit(fitted, float("nan"), float(np.mean(scores)), bool(says_nothing))


def fit_class(recipe, latents, right):
    """Preprocess one class's raw `latents` (n, d) and fit what `recipe` says to `right` (bool, (n,))."""
    z = recipe.preprocess(latents)
    if recipe.method == "MLP":
        return fit_mlp(z, right, recipe.hidden, recipe.balanced, recipe.cv)
    return fit_svm(z, right, recipe.candidates, recipe.balanced, recipe.cv, recipe.solver, recipe.intercept)


def fit_classes(recipe, latents, problems):
    """`fit_class` over an iterable of (rows of `latents`, right), one in memory at a time: the work of one process.

    BLAS stays on one thread: a class is small, so a second thread gains little on an idle machine and its waiting costs
    up to 30 times the work on a busy one (measured for the MLP on 2 shared cores).

    Args:
        latents: may be a memory map, of which only the rows of `problems` are read.
        problems: of each, the rows are indices or a slice.
    """
    with threadpool_limits(1, user_api="blas"):
        return [fit_class(recipe, latents[rows], right) for rows, right in problems]
