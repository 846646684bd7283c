"""Is the middle of the interval of best intercepts better than libsvm's end of it? On images that were not fitted.

    python benchmarks/intercepts.py

Classes as `bench_svm.py` draws them: errors lie shifted along a direction, so that the cross-validated score is about
.65 (signal 1), or half as far, or not. Each class is fitted twice, with `intercept="libsvm"` and "middle"; the
difference of the balanced accuracies on 2,000 further images has a standard error over the classes.
"""

import argparse

import numpy as np
from failure_directions.directions.class_fit import INTERCEPTS, balanced_accuracy, decision_values, fit_svm
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.tables import format_table

HELD_OUT, D = 2000, 512


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000], help="images of a class")
    parser.add_argument("--classes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for n in args.sizes:
        for signal in (1.0, 0.5, 0.0):
            found = np.array([both(n, signal, [args.seed, n, c]) for c in range(args.classes)])
            (end_cv, middle_cv), (end, middle), (end_c, middle_c) = found.mean(axis=0).T
            difference = found[:, 1, 1] - found[:, 0, 1]
            error = difference.std(ddof=1) / len(difference) ** 0.5
            scores = [f"{score:.3f}" for score in (end_cv, middle_cv, end, middle)]
            gained = f"{difference.mean():+.4f} ({error:.4f})"
            rows.append([f"{n}", f"{signal:g}", *scores, gained, f"{end_c:.1f}", f"{middle_c:.1f}"])
    columns = ["images", "signal", "CV, libsvm", "CV, middle", "held out, libsvm", "held out, middle"]
    print(format_table([*columns, "difference (s.e.)", "log10 C, libsvm", "log10 C, middle"], rows, left=0))


def both(n, signal, seed):
    """(2, 3): CV score, balanced accuracy on held-out images and log10 of C, by either rule."""
    rng = np.random.default_rng(seed)
    right = rng.random(n + HELD_OUT) < 0.7
    direction = rng.standard_normal(D)
    shift = 1.45 * (1000 / n) ** 0.35 * signal / np.linalg.norm(direction)
    z = rng.standard_normal((len(right), D)) + np.where(right, 0.5, -0.5)[:, None] * shift * direction
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    found = []
    for rule in INTERCEPTS:
        fit = fit_svm(z[:n], right[:n], intercept=rule)
        says_right = decision_values(fit.layers, z[n:]) > 0
        found.append((fit.cv_score, balanced_accuracy(right[n:], says_right), np.log10(fit.C)))
    return found


if __name__ == "__main__":
    main()
