"""Statements tested on the slices of many classes, against what cannot be avoided: one matrix product and one sort.

    python benchmarks/bench_words.py                                     # 1,000 classes x 1,000 statements

A slice a class, a fifth of its images; scores are products of embeddings and texts, as a CLIP's are. The product and
the sort are those of all scores, of both parts. Processor seconds of one thread, for the classes one after the other,
and the peak memory of the process above what it held before the first.
"""

import argparse
import resource
import time

import numpy as np
from failure_directions.captions.statements import held_statements


def draw(images, d, rng):
    """Embeddings (images, d), slice and errors bool (images,): the slice lies apart and is wrong more often."""
    inside = np.arange(images) < images // 5
    x = rng.normal(size=(images, d)).astype(np.float32)
    x[inside, 0] += 2
    return x, inside, rng.random(images) < np.where(inside, 0.5, 0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--statements", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100, help="of a class, in find and as many in confirm")
    parser.add_argument("--dimensions", type=int, default=512)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(args.dimensions, args.statements)).astype(np.float32)
    names = [f"statement {i}" for i in range(args.statements)]
    product = sort = ours = 0.0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(args.classes):
        (first, members, _), (second, confirmed, wrong) = (draw(args.images, args.dimensions, rng) for _ in range(2))
        began = time.process_time()
        find, confirm = first @ texts, second @ texts
        multiplied = time.process_time()
        np.sort(find, axis=0), np.sort(confirm, axis=0)
        sorted_ = time.process_time()
        held_statements(find, members, confirm, confirmed, wrong, names, 0.1)
        ours += time.process_time() - sorted_
        product, sort = product + multiplied - began, sort + sorted_ - multiplied
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    whole = product + ours
    print(f"{args.classes:,} classes x {args.statements:,} statements, {args.images} images a class and part")
    print(f"product {product:.1f} s, sort {sort:.1f} s, statements {ours:.1f} s")
    print(f"product and statements: {whole / (product + sort):.1f} times product and sort; peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
