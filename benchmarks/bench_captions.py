"""Time to score the captions of one class, after they are embedded: 66,560 of them by 512 coordinates in under 1 s.

That is the size of the largest class of the CIFAR vocabulary. The embeddings are random: the time does not depend on
them.

    python benchmarks/bench_captions.py

Exits with 1 if the median of the runs with the SVM is 1 s or more.
"""

import argparse
import statistics
import sys
import time

import numpy as np
from failure_directions.captions.vocabulary import get_caption_set
from failure_directions.svm_utils import SVMFitter

LIMIT_S = 1.0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=66_560)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--runs", type=int, default=7)
    return parser.parse_args()


def timed(function, runs):
    """Seconds of each run, after one that warms up."""
    function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def report(what, seconds):
    print(f"{what}: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s")


def main():
    args = parse_arguments()
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(args.captions, args.dimensions)).astype(np.float32)
    images = rng.normal(size=(500, args.dimensions)).astype(np.float32)
    labels = np.zeros(len(images), dtype=int)
    preds = (rng.random(len(images)) < 0.3).astype(int)

    medians = {}
    for method in ("SVM", "MLP"):
        fitter = SVMFitter(split_and_search=False, method=method)
        fitter.set_preprocess(images)
        fitter.fit(preds=preds, ys=labels, latents=images)
        seconds = timed(lambda fitter=fitter: fitter.caption_scores(0, latents, latents[0]), args.runs)
        report(f"scoring {args.captions:,} captions x {args.dimensions}, {method}", seconds)
        medians[method] = statistics.median(seconds)

    bird = get_caption_set("CIFAR").for_class("bird")
    report(f"writing the {len(bird.captions()):,} captions of CIFAR's bird", timed(bird.captions, args.runs))
    sys.exit(medians["SVM"] >= LIMIT_S)


if __name__ == "__main__":
    main()
