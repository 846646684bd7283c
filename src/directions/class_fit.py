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
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

SEARCHED_C = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The paper's grid. Written out: the scores of the smallest C react to the last bit of C (see above)."""

GRAM_LIMIT = 16_384
"""Classes with more examples (a Gram matrix beyond 2 GiB) leave the kernel to libsvm's cache: slower, same answer."""

LIBSVM_KNOWN_IN = ("1.9.",)
"""Versions of scikit-learn whose private `sklearn.svm._libsvm` was seen to answer as `SVC.fit` does: how they begin."""

MLP_L2 = 1.0
"""scikit-learn's `alpha`, ours: without a hidden layer that is logistic regression at C = 1, the top of the grid."""

MLP_MAX_ITER = 100


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
        z = np.array(latents, dtype=np.float64)
        if self.mean is not None:
            z -= self.mean
            z /= self.std
        if self.normalize:
            norms = np.linalg.norm(z, axis=-1, keepdims=True)
            norms[norms == 0] = 1
            z /= norms
        return z


@dataclass(frozen=True)
class Recipe:
    """What to fit in every class: the arguments of `SVMFitter` that matter to one class."""

    preprocess: Preprocess
    method: str
    candidates: tuple[float, ...]
    balanced: bool
    cv: int
    hidden: tuple[int, ...]


@dataclass(frozen=True)
class ClassFit:
    """One class's decision function: `layers` is a list of (weight (fan_in, fan_out), bias (fan_out,)), ReLU between.

    A linear SVM is one layer with one output. `C` is NaN where the method has none.
    """

    layers: list
    C: float
    cv_score: float


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


def solve_dual(kernel, x, right, C, weights):
    """libsvm's C-SVC, as `sklearn.svm.SVC(kernel=kernel, C=C, class_weight=weights)` calls it.

    Args:
        x: float64 and C-contiguous, the Gram matrix (n, n) for "precomputed", the features (n, d) for "linear".
        right: bool (n,).
        weights: float64 (2,) for wrong and right.

    Returns:
        Signed multipliers (n,), positive for "right", such that the direction is their weighted sum of the examples,
        and the intercept.
    """
    signed = np.zeros(len(right))
    if not sklearn.__version__.startswith(LIBSVM_KNOWN_IN):
        svm = SVC(kernel=kernel, C=C, class_weight=dict(enumerate(weights))).fit(x, right.astype(int))
        signed[svm.support_] = svm.dual_coef_[0]
        return signed, svm.intercept_[0]
    from sklearn.svm import _libsvm

    _libsvm.set_verbosity_wrap(0)  # libsvm prints its progress unless told not to
    support, _, _, multipliers, intercept, *_ = _libsvm.fit(
        x, right.astype(np.float64), kernel=kernel, C=C, class_weight=weights
    )
    # libsvm's decision function is positive for the first label, 0; SVC turns the sign in the same way.
    signed[support] = -multipliers[0]
    return signed, -intercept[0]


def fit_svm(z, right, candidates=SEARCHED_C, balanced=True, cv=2):
    """The paper's linear SVM of one class (Jain et al. 2023, section 2), with C chosen by cross-validation.

    The score of a C is the mean balanced accuracy over the folds of `cross_val_score(..., cv=cv)`; the first best of
    `candidates` wins and is fitted on all examples.

    Args:
        z: preprocessed latents, float64 (n, d).
        right: bool (n,), at least `cv` examples of each kind.
    """
    kernel = "precomputed" if len(z) <= GRAM_LIMIT else "linear"
    x = z @ z.T if kernel == "precomputed" else z

    def solve(x, members, candidates):
        """Directions (d, number of candidates) and intercepts of fits on `members`, whose kernel or features are x."""
        weights = class_weights(right[members], balanced)
        fits = [solve_dual(kernel, x, right[members], C, weights) for C in candidates]
        multipliers, intercepts = zip(*fits, strict=True)
        return z[members].T @ np.stack(multipliers, axis=1), np.array(intercepts)

    scores = np.zeros((len(candidates), cv))
    for fold, (train, test) in enumerate(StratifiedKFold(cv).split(right, right)):
        block = x[np.ix_(train, train)] if kernel == "precomputed" else x[train]
        directions, intercepts = solve(block, train, candidates)
        says_right = z[test] @ directions + intercepts > 0
        scores[:, fold] = balanced_accuracy(right[test], says_right)
    # Along the contiguous axis NumPy adds in the order of `cross_val_score(...).mean()`, so that ties stay ties.
    scores = scores.mean(axis=1)
    best = int(np.argmax(scores))
    direction, intercept = solve(x, slice(None), candidates[best : best + 1])
    return ClassFit([(direction, intercept)], candidates[best], float(scores[best]))


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
        for train, test in StratifiedKFold(cv).split(right, right)
    ]
    return ClassFit(layers(np.arange(len(z))), float("nan"), float(np.mean(scores)))


def fit_class(recipe, latents, right):
    """Preprocess one class's raw `latents` (n, d) and fit what `recipe` says to `right` (bool, (n,))."""
    z = recipe.preprocess(latents)
    if recipe.method == "MLP":
        return fit_mlp(z, right, recipe.hidden, recipe.balanced, recipe.cv)
    return fit_svm(z, right, recipe.candidates, recipe.balanced, recipe.cv)


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
