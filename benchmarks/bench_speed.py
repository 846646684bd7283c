"""What is fast and what could be faster: one table of ours, a peer and the limit, on one core.

    make bench                                                  # about five minutes
    python benchmarks/bench_speed.py --only svms loader         # some of it

Processor seconds, or items a second, of one thread; ours, peer and limit are measured in one run, one after the other.
The limit is what cannot be avoided: the reads and matrix products that any way needs, or the library below ours alone.
Peers that have another objective say so. The scripts named in the last column show more of each item.
"""

import argparse
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace

import bench_large_class
import bench_loader
import bench_slices
import bench_sparse
import bench_texts
import numpy as np
import sklearn
import torch
import torchvision
from bench_svm import make_problem
from failure_directions.directions.confirmation import find_and_confirm
from failure_directions.runtime.files import atomic_path
from failure_directions.sparse.path import elastic_net_path
from failure_directions.svm_utils import SVMFitter

HEADER = ("what", "ours", "peer", "limit", "peer : ours", "ours : limit", "aim", "more")
LIBLINEAR = f"LinearSVC of scikit-learn {sklearn.__version__}, whose intercept is penalised"

ASKED = 10
"""Of how many classes the peer fits the SVMs, which takes minutes for all; the others are counted alike."""


@dataclass
class Row:
    """A line of the table; all but `ours` may be ""."""

    what: str
    ours: str
    peer: str
    limit: str
    peer_to_ours: str
    ours_to_limit: str
    aim: str
    more: str


def seconds_row(what, ours, peer=None, peer_name="", limit=None, limit_name="", aim="", more=""):
    """A `Row` of processor seconds."""
    return Row(
        what,
        f"{ours:.2f} s",
        f"{peer:.2f} s: {peer_name}" if peer else "",
        f"{limit:.3f} s: {limit_name}" if limit else "",
        f"{peer / ours:.1f}" if peer else "",
        f"{ours / limit:.1f}" if limit else "",
        aim,
        more,
    )


def rate_row(what, ours, peer, peer_name, limit=None, limit_name="", aim="", more=""):
    """A `Row` of items a second, whose ratios are, too, of the times that they take."""
    return Row(
        what,
        f"{ours:,.0f} a second",
        f"{peer:,.0f}: {peer_name}",
        f"{limit:,.0f}: {limit_name}" if limit else "",
        f"{ours / peer:.1f}",
        f"{limit / ours:.2f}" if limit else "",
        aim,
        more,
    )


def timed(function):
    """Processor seconds of a call, the shorter of two."""
    seconds = []
    for _ in range(2):
        began = time.process_time()
        function()
        seconds.append(time.process_time() - began)
    return min(seconds)


def svms():
    """The single direction of each class, seven C by two folds."""
    for size in ((10, 1000, 512), (200, 100, 512), (1000, 50, 512)):
        ys, preds, latents = make_problem(*size, seed=0)
        fitter = SVMFitter(jobs=1)
        fitter.set_preprocess(latents)
        members = [np.flatnonzero(ys == c) for c in range(size[0])]

        def products(fitter=fitter, latents=latents, members=members):
            for rows in members:
                z = fitter.preprocess(latents[rows])
                z @ z.T

        def peer(fitter=fitter, latents=latents, members=members, right=preds == ys):
            for rows in members[:ASKED]:
                bench_large_class.liblinear(fitter.preprocess(latents[rows]), right[rows])

        yield seconds_row(
            "SVMs, {} x {:,} x {}".format(*size),
            timed(lambda fitter=fitter, ys=ys, preds=preds, x=latents: fitter.fit(preds=preds, ys=ys, latents=x)),
            timed(peer) * size[0] / ASKED,
            LIBLINEAR,
            timed(products),
            "gather, whitening, Gram matrix",
            "2.5 times the limit",
            "bench_svm.py",
        )


def large():
    """One class of many images."""
    for n, side, aim in ((5000, "libsvm", ".5 s"), (20_000, "primal", "5 s")):  # what so many images get
        ours = bench_large_class.measure_alone(n, side)["seconds"]
        peer = bench_large_class.measure_alone(n, "LinearSVC")["seconds"]
        more = "bench_large_class.py"
        yield seconds_row(f"one class, {n:,} x {bench_large_class.D}", ours, peer, LIBLINEAR, aim=aim, more=more)


def slices():
    """Several directions a class, found and confirmed, against the single ones."""
    size = (10, 1000, 512)
    ys, preds, x, find, confirm = bench_slices.halves(*size, seed=0)
    fitter = SVMFitter(jobs=1)
    fitter.set_preprocess(x[find])
    preprocess = bench_slices.Preprocess(fitter.mean, fitter.std, fitter.do_normalize)
    options = {"preprocess": preprocess, "seed": 0, "jobs": 1, "stability": False}
    yield seconds_row(
        "slices found and confirmed, {} x {:,} x {}".format(*size),
        timed(lambda: find_and_confirm(x, ys, preds, find, confirm, **options)),
        limit=timed(lambda: fitter.fit(preds=preds[find], ys=ys[find], latents=x[find])),
        limit_name="the single SVMs",
        aim="5 times the single SVMs",
        more="bench_slices.py",
    )


def sparse():
    """Ten lambdas to lambda_max / 100, one weight for itself and a feature for all classes."""
    n, d, classes = bench_sparse.SIZES["small"]
    X, y = bench_sparse.penultimate_features(n, d, classes)
    weight = torch.zeros(classes, d)
    features = torch.from_numpy(X)

    def path(group, rows=slice(None), k=10):
        elastic_net_path(
            X[rows], y[rows], bench_sparse.ALPHA, k=k, epsilon=0.01, group=group, do_zero=False, device="cpu"
        )

    def passes():
        for _ in range(10):
            (features @ weight.T).T @ features

    seconds = {}
    for group in (False, True):
        path(group, slice(500), 2)  # compiles
        seconds[group] = timed(lambda group=group: path(group))
    limit = timed(passes)
    name = f"sparse path, {n:,} x {d} x {classes}"
    limits = {"limit": limit, "limit_name": "two products a lambda", "more": "bench_sparse.py"}
    yield seconds_row(name, seconds[False], aim="below a second", **limits)
    yield seconds_row(
        f"{name}, grouped",
        seconds[True],
        aim=f"1.5 times the elementwise path: {seconds[True] / seconds[False]:.2f}",
        **limits,
    )


def loader():
    """256-pixel JPEGs, decoded, cropped, mirrored and normalised."""
    images, args = bench_loader.smooth_images(1000, 256), SimpleNamespace(workers=1, batch_size=250, repeats=2)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("jpeg 256 px, training", "jpeg 256 px, validation"):
            theirs, ours, alone = bench_loader.compare(kind, images, torch.device("cpu"), args, Path(folder))
            peer = f"DataLoader, torchvision {torchvision.__version__}"
            yield rate_row(
                f"loader, {kind}", ours, theirs, peer, alone, "FFCV alone", "1.2 times the limit", "bench_loader.py"
            )


def captions():
    """CLIP's text encoder."""
    slow, fast, _ = bench_texts.captions_a_second(256)
    yield rate_row(
        "captions embedded", fast, slow, "the whole context of 77", aim="5 times the peer", more="bench_texts.py"
    )


ITEMS = {item.__name__: item for item in (svms, large, slices, sparse, loader, captions)}


def main():
    """Parse arguments, measure, print the table as it goes and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ITEMS, default=list(ITEMS))
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [HEADER, ("---",) * len(HEADER)]
    print(markdown(lines), flush=True)
    for name in args.only:
        for row in ITEMS[name]():
            lines.append(astuple(row))
            print(markdown(lines[-1:]), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out) as temporary:
            temporary.write_text(markdown(lines) + "\n", encoding="utf-8")
        print(f"table: {args.out}")


def markdown(lines):
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
