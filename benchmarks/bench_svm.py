"""SVMFitter against the plain scikit-learn loop it replaces: time, peak memory, and whether the answers agree.

The plain loop is `SVC(kernel="linear", class_weight="balanced")` on float64 features, `cross_val_score` per C and a
refit per C, one class after the other. Both get the same latents, whitened by the same statistics; the plain loop gets
them whitened and normalised for nothing, SVMFitter does it while the clock runs. Each side runs in a process of its own
(peak memory is that of the process and its workers above what they held before fitting), and workers are started before
the clock.

    python benchmarks/bench_svm.py                      # both sizes, all cores
    python benchmarks/bench_svm.py --jobs 1 --sizes 10x1000x512

Exits with 1 if any class chose another C or a decision value differs by more than 1e-2 of its class's deviation.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import psutil
from failure_directions.directions.class_fit import SEARCHED_C
from failure_directions.svm_utils import SVMFitter
from joblib import Parallel, delayed, effective_n_jobs

TOLERANCE = 1e-2


def parse_size(text):
    """`10x1000x512` -> (classes, examples per class, coordinates)."""
    return tuple(int(part) for part in text.split("x"))


def make_problem(classes, examples, d, seed):
    """Labels, predictions and float32 latents in which errors lie shifted along a direction of their class.

    The shift shrinks with the number of examples so that the cross-validated scores are about .65 at every size.
    """
    rng = np.random.default_rng(seed)
    ys = np.repeat(np.arange(classes), examples)
    right = rng.random(len(ys)) < 0.7
    directions = rng.standard_normal((classes, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    latents = rng.standard_normal((len(ys), d), dtype=np.float32)
    shift = 1.45 * (1000 / examples) ** 0.35
    latents += (np.where(right, 0.5, -0.5)[:, None] * shift * directions[ys]).astype(np.float32)
    order = rng.permutation(len(ys))
    preds = np.where(right, ys, (ys + 1) % classes)
    return ys[order], preds[order], latents[order]


def fit_plain(ys, preds, z):
    """The reference: chosen C, best CV score and decision values of every class's own examples."""
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    classes = int(ys.max()) + 1
    chosen, scores, values = np.empty(classes), np.empty(classes), np.empty(len(ys))
    for c in range(classes):
        members = ys == c
        x, right = z[members], (preds == ys)[members].astype(int)
        fits, means = [], []
        for C in SEARCHED_C:
            svc = SVC(kernel="linear", class_weight="balanced", C=C)
            means.append(cross_val_score(svc, x, right, scoring="balanced_accuracy", cv=2).mean())
            fits.append(svc.fit(x, right))
        best = int(np.argmax(means))
        chosen[c], scores[c] = SEARCHED_C[best], means[best]
        values[members] = fits[best].decision_function(x)
    return chosen, scores, values


class PeakMemory:
    """Peak resident memory of this process and its children above that on entry, sampled every 5 ms, in MiB."""

    def __enter__(self):
        self.family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        self.base = self.peak = self._now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _now(self):
        total = 0
        for process in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has ended
                total += process.memory_info().rss
        return total / 2**20

    def _watch(self):
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self._now())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.above = max(self.peak, self._now()) - self.base


def run_side(side, size, seed, jobs, output):
    """One side of the comparison, in this process: fit, save the answers to `output`, print the costs as JSON."""
    ys, preds, latents = make_problem(*size, seed)
    fitter = SVMFitter(jobs=jobs)
    fitter.set_preprocess(latents)
    # Both warm up on two small classes: imports, libsvm, and the pool of workers.
    small = make_problem(4 * effective_n_jobs(jobs), 40, size[2], seed)
    if side == "plain":
        fit_plain(*small)
        z = fitter.preprocess(latents)
    else:
        if effective_n_jobs(jobs) > 1:
            Parallel(jobs)(delayed(time.sleep)(0.2) for _ in range(4 * effective_n_jobs(jobs)))
        SVMFitter(jobs=jobs).fit(preds=small[1], ys=small[0], latents=small[2])
    with PeakMemory() as memory:
        start = time.perf_counter()
        if side == "plain":
            chosen, scores, values = fit_plain(ys, preds, z)
        else:
            scores = fitter.fit(preds=preds, ys=ys, latents=latents)
        seconds = time.perf_counter() - start
    if side == "ours":
        chosen, values = fitter.C, fitter.predict(ys=ys, latents=latents)[1]
    np.savez(output, chosen=chosen, scores=scores, values=values, ys=ys)
    print(json.dumps({"seconds": seconds, "memory": memory.above}))


def measure(side, size, seed, jobs, folder):
    """Run one side in a process of its own; return its costs and answers."""
    output = os.path.join(folder, f"{side}.npz")
    command = [sys.executable, __file__, "--side", side, "--sizes", "x".join(map(str, size)), "--output", output]
    command += ["--seed", str(seed), "--jobs", str(jobs)]
    costs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    with np.load(output) as saved:
        return costs, dict(saved)


def compare(size, seed, jobs, repeats):
    """Print the comparison at one size; return whether the answers agree."""
    times = {"plain": [], "ours": []}
    memory = {"plain": 0.0, "ours": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            answers = {}
            for side in times:
                costs, answers[side] = measure(side, size, seed, jobs, folder)
                times[side].append(costs["seconds"])
                memory[side] = max(memory[side], costs["memory"])
    plain, ours = answers["plain"], answers["ours"]
    same_C = plain["chosen"] == ours["chosen"]
    gap = max(
        np.abs(plain["values"] - ours["values"])[ours["ys"] == c].max() / plain["values"][ours["ys"] == c].std()
        for c in range(size[0])
    )
    agrees = bool(same_C.all()) and gap <= TOLERANCE
    best = {side: min(seconds) for side, seconds in times.items()}
    print(f"{size[0]} classes x {size[1]} examples x {size[2]} coordinates, jobs {effective_n_jobs(jobs)}")
    print(f"  mean CV score           plain {plain['scores'].mean():.4f}, ours {ours['scores'].mean():.4f}")
    print(f"  time (best of {repeats})        plain {best['plain']:.3f} s, ours {best['ours']:.3f} s")
    print(f"  ratio                   {best['plain'] / best['ours']:.1f}x")
    print(f"  peak memory of the fit  plain {memory['plain']:.1f} MiB, ours {memory['ours']:.1f} MiB")
    print(f"  same C                  in {same_C.sum()} of {len(same_C)} classes")
    print(f"  largest CV score gap    {np.abs(plain['scores'] - ours['scores']).max():.1e}")
    print(f"  decision value gap      {gap:.1e} standard deviations of the class (at most {TOLERANCE:g})", flush=True)
    return agrees


def main():
    """Parse arguments, run the sizes, exit with 1 on any disagreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=-1, help="worker processes of SVMFitter (default: all cores)")
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[(10, 1000, 512), (200, 100, 512)])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1, help="the best time of so many counts, for both sides")
    parser.add_argument("--side", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, args.sizes[0], args.seed, args.jobs, args.output)
        return
    agree = [compare(size, args.seed, args.jobs, args.repeats) for size in args.sizes]
    if not all(agree):
        sys.exit("error: the answers disagree")


if __name__ == "__main__":
    main()
