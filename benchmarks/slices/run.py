"""Run slice discovery methods on the settings that `make` wrote: a row each method, setting, size and seed.

    python -m benchmarks.slices.run --data FOLDER --out results.csv [--methods domino:mixed ours] [--seeds 1 2 3]

Each fit is a process of its own, stopped after --limit seconds; what raises, takes too long or gives scores of a wrong
length or NaN is a row with a reason. Rows that are there are not run again. --nulls N adds N runs a file on data with
nothing to find. `python -m benchmarks.slices.report results.csv` makes the tables.
"""

import argparse
import csv
import io
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
from failure_directions.runtime.errors import UserError, entry_point

from .confirming import claimed, finds, tested, worse_than_rest
from .methods import Find, load_methods
from .metrics import MEASURES, PROTOCOLS, best_guesses
from .planted import fair_slices, noise_embeddings, permuted

MOST_GUESSES = max(PROTOCOLS.values())
QUALITY = [f"{measure} ({protocol})" for protocol in PROTOCOLS for measure in MEASURES]
KEY = ["setting", "null", "size", "seed", "method"]
HEADER = [
    *[*KEY, "digest", "title", "uses_outputs", "planted", "fair", "base", "images", "guesses", *QUALITY],
    *["claims", "false_claims", "fair_found", "naive_claims", "seconds", "megabytes", "reason"],
]
NULLS = ("permuted", "noise")


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that benchmarks.slices.make wrote")
    parser.add_argument("--out", required=True, help="CSV, appended to")
    parser.add_argument("--settings", nargs="+", help="which (default: all that are there)")
    parser.add_argument("--seeds", type=int, nargs="+", help="which (default: all that are there)")
    parser.add_argument("--sizes", nargs="+", choices=("full", "lean"), default=["full", "lean"])
    parser.add_argument("--methods", nargs="+", help="which (default: all)")
    parser.add_argument("--nulls", type=int, default=0, help="runs on null models for each file, kind and size")
    parser.add_argument("--limit", type=float, default=300, help="seconds a method may take")
    parser.add_argument("--jobs", type=int, default=1, help="files worked on at a time")
    args = parser.parse_args(argv)
    files = find_files(Path(args.data), args.settings, args.seeds)
    load_methods(args.methods)
    done = {tuple(row[name] for name in KEY) for row in read_rows(args.out)}

    from joblib import Parallel, delayed

    work = delayed(_run_file)
    Parallel(args.jobs)(work(path, args.methods, args.sizes, args.nulls, args.limit, args.out, done) for path in files)


def find_files(folder, settings=None, seeds=None):
    """Files SETTING-seedS.npz of the folder, in order. Raises `UserError` where there is none."""
    named = {}
    for path in sorted(folder.glob("*-seed*.npz")):
        setting, _, seed = path.stem.rpartition("-seed")
        if (not settings or setting in settings) and seed.isdecimal() and (not seeds or int(seed) in seeds):
            named[setting, int(seed)] = path
    if not named:
        raise UserError(f"{folder} has no such SETTING-seedS.npz; python -m benchmarks.slices.make writes them")
    return [named[key] for key in sorted(named)]


def read_rows(path):
    """The rows of a results CSV as dicts of strings, the last of each `KEY`; none where it is not there yet."""
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        whole = (row for row in csv.DictReader(stream) if None not in row.values())
        return list({tuple(row[name] for name in KEY): row for row in whole}.values())


def _run_file(path, method_names, sizes, nulls, limit, out, done):
    with np.load(path, allow_pickle=False) as stored:
        data = dict(stored)
    setting, seed = path.stem.rpartition("-seed")[::2]
    versions = [("", int(seed))] + [(kind, 1000 * int(seed) + i) for kind in NULLS for i in range(nulls)]
    for kind, draw in versions:
        version = None
        for size in sizes:
            for method in load_methods(method_names).values():
                row = {"setting": setting, "null": kind, "size": size, "seed": str(draw), "method": method.name}
                if tuple(row[name] for name in KEY) in done or (kind and (method.uses_outputs or method.knows_slices)):
                    continue
                version = null_version(data, kind, draw) if version is None else version
                row |= {"title": method.title, "uses_outputs": int(method.uses_outputs), "digest": data["setting"][1]}
                row |= measure(method, version, size, draw, limit)
                _append(out, row)


def null_version(data, kind, seed):
    """The data with nothing to find: "permuted" outputs, or "noise" for embeddings; "" leaves them as they are."""
    data = dict(data)
    if kind == "permuted":
        order = permuted(data["labels"], np.char.add(data["part"], data["lean"].astype(str)), seed)
        data |= {name: data[name][order] for name in ("preds", "probs", "features")}
    elif kind == "noise":
        data["embeddings"] = noise_embeddings(data["embeddings"].shape, seed)
    if kind:
        data["slice"] = np.full_like(data["slice"], -1)
    return data


def measure(method, data, size, seed, limit):
    """The measured part of a row: a dict of `HEADER`'s columns; with a reason where the method fails.

    Args:
        method: a `methods.Method`. data: arrays of a file. size: "full" or "lean". limit: seconds.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, method, data, size, seed), daemon=True)
    process.start()
    theirs.close()
    try:
        result = ours.recv() if ours.poll(limit) else {"reason": f"longer than {limit:g} s"}
    except EOFError:
        result = {"reason": "ended without an answer"}
    process.kill()
    process.join()
    return result


def _send(pipe, method, data, size, seed):
    try:
        pipe.send(evaluated(method, data, size, seed))
    except Exception as error:  # a method may raise anything
        pipe.send({"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})


def evaluated(method, data, size, seed):
    """Fit on find, test on confirm, score on pool. Raises whatever the method does, and `ValueError` for bad scores."""
    part, labels, slices = data["part"], data["labels"], data["slice"]
    chosen = data["lean"] | (size == "full")
    parts = {name: (part == name) & chosen for name in ("find", "confirm")} | {"pool": part == "pool"}
    right = data["preds"] == labels
    names = ("embeddings", "labels", "preds", "probs", "features")
    find = Find(*(data[name][parts["find"]] for name in names), seed=seed)
    start, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    guesses = method.fit(find, slices[parts["find"]]) if method.knows_slices else method.fit(find)
    seconds = time.perf_counter() - start
    by_class = {label: [s for s in guesses if s.label == label][:MOST_GUESSES] for label in np.unique(labels).tolist()}
    fair = fair_slices(slices, labels, right, parts["pool"])
    row = {
        "planted": len(np.unique(slices[slices >= 0])),
        "fair": len(fair),
        "images": round(np.mean([(slices[parts["find"]] == number).sum() for number in fair]), 1) if fair else 0,
        "guesses": sum(map(len, by_class.values())),
        "seconds": round(seconds, 3),
    }
    scores = {
        (name, label): _scores(found, data, parts[name] & (labels == label), method)
        for name in parts
        for label, found in by_class.items()
    }
    measured = []
    for number in fair:
        label = int(labels[slices == number][0])
        members = slices[parts["pool"] & (labels == label)] == number
        best = best_guesses(scores["pool", label], members)
        measured.append([members.mean(), *(best[protocol, m] for protocol in PROTOCOLS for m in MEASURES)])
    if measured:
        row |= dict(zip(["base", *QUALITY], np.mean(measured, axis=0).round(6).tolist(), strict=True))
    if not method.uses_outputs and not method.knows_slices:
        row |= _claims(scores, by_class, parts, labels, slices, ~right, fair)
    row["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    return row


def _claims(scores, by_class, parts, labels, slices, wrong, fair):
    """How many guesses are claimed on confirm, how many of them are no worse than the rest on pool, and how many fair
    slices a claimed guess finds; naive: claims by the same test on the images that found them."""
    claims, naive = (
        {
            label: tested(scores[name, label], wrong[parts[name] & (labels == label)])
            for label, found in by_class.items()
            if found
        }
        for name in ("confirm", "find")
    )
    order = list(claims)
    p = np.concatenate([claims[label].p for label in order]) if order else []
    ends = np.cumsum([len(claims[label].p) for label in order])[:-1] if order else []
    is_claimed = dict(zip(order, np.split(claimed(p), ends), strict=True)) if order else {}
    false = found_slices = 0
    for label in order:
        pool = parts["pool"] & (labels == label)
        worse = worse_than_rest(scores["pool", label], claims[label].cuts, wrong[pool])
        false += int((is_claimed[label] & ~worse).sum())
        kept = [s for s, yes in zip(scores["pool", label], is_claimed[label], strict=True) if yes]
        own = [number for number in fair if labels[slices == number][0] == label]
        found_slices += sum(any(finds(s, slices[pool] == number) for s in kept) for number in own)
    naive_p = np.concatenate([naive[label].p for label in order]) if order else []
    return {
        "claims": int(sum(map(sum, is_claimed.values()))),
        "false_claims": false,
        "fair_found": found_slices,
        "naive_claims": int(claimed(naive_p).sum()),
    }


def _scores(found, data, rows, method):
    """Scores of these rows, an array a slice; all slices are given the very same array, which they may remember."""
    embeddings = data["embeddings"][rows]
    extra = {"probs": data["probs"][rows], "features": data["features"][rows]} if method.uses_outputs else {}
    scores = [np.asarray(one.score(embeddings, **extra), dtype=float) for one in found]
    for score in scores:
        if score.shape != (len(embeddings),):
            raise ValueError(f"scores of shape {score.shape} for {len(embeddings)} images")
        if np.isnan(score).any():
            raise ValueError(f"scores of {int(np.isnan(score).sum())} of {len(score)} images are NaN")
    return scores


def _append(path, row):
    """Append a row with one write, so that several processes may do so."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, restval="")
    if not path.is_file() or not path.stat().st_size:
        writer.writeheader()
    writer.writerow(row)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, text.getvalue().encode())
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
