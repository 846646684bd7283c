"""Several directions a class, found and confirmed, against the single SVMs of the same classes: time and memory.

Both get the same embeddings, and whiten and normalise them; slices are then tested on as many images again. The sides
take turns in one process, so that a busy machine slows both; seconds are processor time, the best of the repeats, and
for several processes time that passes.

    python benchmarks/bench_slices.py                          # 1,000 classes x 256 x 512, one process
    python benchmarks/bench_slices.py --sizes 10x1000x512 --jobs 2 --repeats 5

Exits with 1 if the answer of `--jobs` processes is another than that of one.
"""

import argparse
import sys
import time

import numpy as np
from bench_svm import PeakMemory, make_problem, parse_size
from failure_directions.directions.class_fit import Preprocess
from failure_directions.directions.confirmation import find_and_confirm
from failure_directions.svm_utils import SVMFitter
from joblib import Parallel, delayed, effective_n_jobs


def halves(classes, examples, d, seed):
    """Labels, predictions, embeddings (N, d), and the rows that find and confirm, `examples` a class."""
    ys, preds, latents = make_problem(classes, 2 * examples, d, seed)
    order = np.argsort(ys, kind="stable").reshape(classes, -1)
    return ys, preds, latents, order[:, :examples].ravel(), order[:, examples:].ravel()


def same(one, other):
    """Whether two `Findings` are the same to the last bit."""
    if one.skipped != other.skipped or len(one.slices) != len(other.slices):
        return False
    try:
        for a, b in zip(one.slices, other.slices, strict=True):
            np.testing.assert_equal(vars(a), vars(b))
    except AssertionError:
        return False
    return True


def compare(size, seed, jobs, repeats):
    """Print the comparison at one size; return whether one process gives the same answer."""
    ys, preds, x, find, confirm = halves(*size, seed)
    fitter = SVMFitter(jobs=jobs)
    found = {"preds": preds[find], "ys": ys[find], "latents": x[find]}
    fitter.set_preprocess(found["latents"])

    def svms():
        fitter.fit(**found)

    def slices(stability=True, jobs=jobs):
        preprocess = Preprocess(fitter.mean, fitter.std, fitter.do_normalize)
        options = {"preprocess": preprocess, "seed": seed, "jobs": jobs, "stability": stability}
        return find_and_confirm(x, ys, preds, find, confirm, **options)

    sides = {
        "the single SVMs": svms,
        "slices, found and confirmed": lambda: slices(stability=False),
        "slices, with their stability": slices,
    }
    clock = time.process_time if effective_n_jobs(jobs) == 1 else time.perf_counter
    Parallel(jobs)(delayed(time.sleep)(0.2) for _ in range(4 * effective_n_jobs(jobs)))  # starts the workers
    seconds = {name: [] for name in sides}
    memory = dict.fromkeys(sides, 0.0)
    for _ in range(repeats):
        for name, run in sides.items():
            with PeakMemory() as peak:
                start = clock()
                run()
                seconds[name].append(clock() - start)
            memory[name] = max(memory[name], peak.above)
    best = {name: min(times) for name, times in seconds.items()}
    print("{} classes x {} images that find and as many that confirm x {} coordinates".format(*size), end=", ")
    print(f"jobs {effective_n_jobs(jobs)}, {'processor time' if clock is time.process_time else 'time'}")
    for name in sides:
        ratio = best[name] / best["the single SVMs"]
        print(f"  {name:30} {best[name]:7.2f} s   {ratio:5.2f} times the SVMs   {memory[name]:6.0f} MiB", flush=True)
    if effective_n_jobs(jobs) == 1:
        return True
    agrees = same(slices(), slices(jobs=1))
    print(f"  the answer of {effective_n_jobs(jobs)} processes is {'that' if agrees else 'NOT that'} of one")
    return agrees


def main():
    """Parse arguments, run the sizes, exit with 1 where the number of processes changes the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=[(1000, 256, 512)], metavar="CxNxD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    agree = [compare(size, args.seed, args.jobs, args.repeats) for size in args.sizes]
    if not all(agree):
        sys.exit("error: the answers disagree")


if __name__ == "__main__":
    main()
