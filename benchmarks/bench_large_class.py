"""One large class: the SVM with C searched, by libsvm on a Gram matrix and in the primal, beside LIBLINEAR.

    python benchmarks/bench_large_class.py

Processor seconds of one thread, each side in a process of its own, whose peak memory is what it held above its imports.
LinearSVC is scikit-learn's, on the same seven C, folds and final fit; it penalises its intercept, which is another
objective. "Above libsvm": by how much the primal's objective at the chosen C exceeds libsvm's at tolerance 1e-6,
relative, where the class is small enough for that.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from bench_svm import make_problem
from failure_directions.directions.class_fit import SEARCHED_C, class_weights, fit_svm, stratified_folds
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.tables import format_table

SIDES = ("libsvm", "primal", "LinearSVC")
SMALL = 5000  # examples, up to which libsvm is asked
D = 512


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 10_000, 20_000])
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.sizes[0], args.side)))
        return
    rows = []
    for n in args.sizes:
        for side in SIDES:
            if side == "libsvm" and n > SMALL:
                continue
            found = measure_alone(n, side)
            above = "" if found["above"] is None else f"{found['above']:.1e}"
            rows.append([n, side, f"{found['seconds']:.2f}", f"{found['MiB']:.0f}", f"{found['C']:g}", above])
    print(format_table(["images", "solver", "seconds", "MiB", "C", "above libsvm"], rows, left=0))


def measure_alone(n, side):
    """`measure` in a process of its own, whose memory nothing else has touched."""
    words = [sys.executable, __file__, "--sizes", str(n), "--side", side]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measure(n, side):
    """Fit one class; a dict of what is shown."""
    ys, preds, latents = make_problem(2, n, D, seed=0)
    z, right = latents[ys == 0].astype(np.float64), (preds == ys)[ys == 0]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    del ys, preds, latents
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    if side == "LinearSVC":
        chosen, above = liblinear(z, right), None
    else:
        fit = fit_svm(z, right, solver="primal" if side == "primal" else "auto")
        chosen, above = fit.C, None
    seconds = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    if side == "primal" and n <= SMALL:
        above = excess(z, right, fit)
    return {"seconds": seconds, "MiB": memory, "C": chosen, "above": above}


def liblinear(z, right):
    """The C that LinearSVC's two folds choose, after a last fit with it."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    warnings.simplefilter("ignore", ConvergenceWarning)  # its 1,000 passes are what it is given

    folds = stratified_folds(right, 2)
    svms = [LinearSVC(loss="hinge", class_weight="balanced", C=C, random_state=0) for C in SEARCHED_C]
    scores = [cross_val_score(svm, z, right, scoring="balanced_accuracy", cv=folds).mean() for svm in svms]
    svms[int(np.argmax(scores))].fit(z, right)
    return SEARCHED_C[int(np.argmax(scores))]


def excess(z, right, fit):
    from sklearn.svm import SVC

    weights = fit.C * class_weights(right, True)[right.astype(int)]
    y = np.where(right, 1.0, -1.0)

    def objective(direction, intercept):
        return direction @ direction / 2 + weights @ np.clip(1 - y * (z @ direction + intercept), 0, None)

    svm = SVC(kernel="linear", class_weight="balanced", C=fit.C, tol=1e-6).fit(z, right)
    ((direction, intercept),) = fit.layers
    reference = objective(svm.coef_[0], svm.intercept_[0])
    return (objective(direction[:, 0], intercept[0]) - reference) / reference


if __name__ == "__main__":
    main()
