"""False alarms and true claims of `directions/`: what stands for the level of the tests where no proof does.

False alarms: runs in which nothing is to be found, and in which any slice, or any class's single direction (a family
of its own), is called confirmed. Embeddings of independent noise; and, given settings files, photographs whose
(prediction, probabilities) are permuted jointly within each class and part, with and without probabilities, and
independent noise in place of their embeddings.

True claims, given settings files: of the confirmed slices, how many are no worse than their class on pool images that
neither found nor confirmed them (twice that share estimates the false ones, since a slice that is no failure is worse
than its class half of the time), how often the interval covers the pool's difference, and how many fair planted slices
are found and confirmed: they are at least min(.5, 3 x base) of the 50 hardest pool images. The pool's difference is an
estimate, too: "agree" counts the intervals that cover it when its own sampling error is added (Newcombe's intervals of
both, by the square root of the sum of squares).

    python benchmarks/null_models.py                                   # noise, 200 runs at 1,500 and 5,000 images
    python benchmarks/null_models.py --settings several-seed0.npz pairs-seed0.npz --runs 50

A settings file holds embeddings (N, d), labels, preds (N,), probs (N, classes), part (find, confirm or pool), lean (N,)
bool, the smaller version, and slice (N,), the planted slice or -1. Intervals are exact (Clopper and Pearson, 95 %).
"""

import argparse
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from failure_directions.directions.class_fit import Preprocess
from failure_directions.directions.confirmation import (
    CONFIRMED,
    confirm_directions,
    find_and_confirm,
    newcombe_interval,
)
from failure_directions.svm_utils import SVMFitter
from joblib import Parallel, delayed
from scipy.stats import binomtest

NULLS = ("permuted", "permuted, no probabilities", "noise")


def exact(successes, trials):
    """`0.050 [0.024, 0.090] (10 of 200)`."""
    if not trials:
        return "none"
    interval = binomtest(int(successes), int(trials)).proportion_ci(method="exact")
    return f"{successes / trials:.3f} [{interval.low:.3f}, {interval.high:.3f}] ({successes} of {trials})"


@dataclass(frozen=True)
class Alarms:
    """What one run claims, though nothing is there: bools.

    slices: any slice is confirmed. beyond: and any is said to be beyond confidence. directions: any single direction.
    """

    slices: bool
    beyond: bool
    directions: bool


def alarms(x, labels, preds, find, confirm, probs, seed):
    """`Alarms` of one run on preprocessed embeddings x (N, d)."""
    confirmed = find_and_confirm(x, labels, preds, find, confirm, probs=probs, seed=seed, stability=False).confirmed
    fitter = SVMFitter(do_normalize=False)
    fitter.fit(preds=preds[find], ys=labels[find], latents=x[find], num_classes=int(labels.max()) + 1)
    _, values = fitter.predict(ys=labels[confirm], latents=x[confirm])
    directions = confirm_directions(values, labels[confirm], preds[confirm], seed=seed)
    return Alarms(
        bool(confirmed),
        any(s.beyond_confidence_q <= 0.1 for s in confirmed),
        any(one.verdict == CONFIRMED for one in directions),
    )


def noise(images, d, rng):
    """Embeddings (images, d) of length 1 in directions of their own."""
    x = rng.standard_normal((images, d), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def noise_run(images, classes, d, error_rate, seed):
    """`Alarms` where embeddings and errors are independent; `images` find, as many confirm."""
    rng = np.random.default_rng([seed, images])
    x = noise(2 * images, d, rng)
    labels = np.arange(2 * images) % classes
    preds = np.where(rng.random(2 * images) < error_rate, (labels + 1) % classes, labels)
    return alarms(x, labels, preds, np.arange(images), np.arange(images, 2 * images), None, seed)


def cv_scores_above_chance(classes, images, d, error_rate, seed):
    """Of how many classes the single direction's CV score is above .5, where embeddings and errors are independent."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images)
    preds = np.where(rng.random(len(labels)) < error_rate, (labels + 1) % classes, labels)
    latents = rng.standard_normal((len(labels), d))
    fitter = SVMFitter()
    fitter.set_preprocess(latents)
    scores = fitter.fit(preds=preds, ys=labels, latents=latents)
    return int((scores > 0.5).sum()), int(np.isfinite(scores).sum())


def fair_slices(planted, labels, right):
    """Planted slices on which the model is at least .1 below its class, of arrays of the pool."""
    fair = []
    for s in np.unique(planted[planted >= 0]):
        members = planted == s
        if right[members].mean() <= right[labels == labels[members][0]].mean() - 0.1:
            fair.append(int(s))
    return fair


class Setting:
    """A settings file with embeddings whitened by its find part and normalised."""

    def __init__(self, path, lean):
        with np.load(path, allow_pickle=False) as saved:
            self.labels, self.preds, self.probs, self.slice = (
                saved[name] for name in ("labels", "preds", "probs", "slice")
            )
            part, latents = saved["part"], saved["embeddings"]
            self.find, self.confirm = (
                np.flatnonzero((part == name) & (saved["lean"] | (not lean))) for name in ("find", "confirm")
            )
        self.pool = np.flatnonzero(part == "pool")
        self.fair = fair_slices(self.slice[self.pool], self.labels[self.pool], (self.preds == self.labels)[self.pool])
        std = latents[self.find].std(axis=0, ddof=1, dtype=np.float64)
        mean = latents[self.find].mean(axis=0, dtype=np.float64)
        self.x = Preprocess(mean, np.where(std > 0, std, 1), True)(latents).astype(np.float32)

    def permuted_run(self, seed, with_probs):
        """`Alarms` after the model's outputs are permuted jointly."""
        rng = np.random.default_rng(seed)
        order = np.arange(len(self.labels))
        for rows in (self.find, self.confirm):
            for c in np.unique(self.labels[rows]):
                members = rows[self.labels[rows] == c]
                order[members] = rng.permutation(members)
        probs = self.probs[order] if with_probs else None
        return alarms(
            self.x, self.labels, self.preds[order], self.find, self.confirm, probs, int(rng.integers(1 << 30))
        )

    def noise_run(self, seed):
        """`Alarms` with noise in place of the embeddings; the model's outputs are its own."""
        rng = np.random.default_rng(seed)
        used = np.concatenate([self.find, self.confirm])
        cut = len(self.find)
        parts = np.arange(cut), np.arange(cut, len(used))
        x = noise(len(used), 128, rng)
        return alarms(x, self.labels[used], self.preds[used], *parts, self.probs[used], seed)

    def claims(self, seed, swap):
        """Counts of one run: claims, those no worse on the pool, intervals that cover, fair slices, those found."""
        find, confirm = (self.confirm, self.find) if swap else (self.find, self.confirm)
        confirmed = find_and_confirm(
            self.x, self.labels, self.preds, find, confirm, probs=self.probs, seed=seed, stability=False
        )
        wrong = self.preds != self.labels
        counts = dict.fromkeys(("claims", "no worse", "covered", "agree", "fair", "found"), 0)
        level = 1 - 0.05 * len(confirmed.confirmed) / max(1, len(confirmed.slices))
        found = set()
        for c in np.unique(self.labels):
            rows = self.pool[self.labels[self.pool] == c]
            taken = np.zeros(len(rows), dtype=bool)
            base = {s: np.mean(self.slice[rows] == s) for s in self.fair if (self.slice[rows] == s).any()}
            for s in sorted((s for s in confirmed.slices if s.class_index == c), key=lambda s: s.rank):
                scores = s.score(self.x[rows])
                flagged = (scores <= 0) & ~taken
                rest = ~flagged & ~taken
                taken |= flagged
                if s.verdict != "confirmed":
                    continue
                rates = [wrong[rows[of]].mean() if of.any() else 0.0 for of in (flagged, rest)]
                difference = rates[0] - rates[1]
                counts["claims"] += 1
                counts["no worse"] += int(difference <= 0)
                counts["covered"] += int(s.interval[0] <= difference <= s.interval[1])
                of_pool = newcombe_interval(rates[0], flagged.sum(), rates[1], rest.sum(), level)
                gap = s.difference - difference
                low = gap - np.hypot(s.difference - s.interval[0], of_pool[1] - difference)
                high = gap + np.hypot(s.interval[1] - s.difference, difference - of_pool[0])
                counts["agree"] += int(low <= 0 <= high)
                first = self.slice[rows[np.argsort(scores, kind="stable")[:50]]]
                found |= {p for p, share in base.items() if np.mean(first == p) >= min(0.5, 3 * share)}
        counts["fair"], counts["found"] = len(self.fair), len(found)
        return counts


def main():
    """Parse arguments and print one line for each null model and each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=[], help="settings files (.npz)")
    parser.add_argument("--runs", type=int, default=200, help="runs of each null model")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1500, 5000], help="images of the noise runs")
    parser.add_argument("--dimensions", type=int, default=128, help="of the noise embeddings")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--error-rate", type=float, default=0.2)
    parser.add_argument("--versions", nargs="+", choices=("lean", "full"), default=["lean", "full"], help="of settings")
    parser.add_argument("--jobs", type=int, default=-1)
    parser.add_argument("--nulls", nargs="*", choices=NULLS, default=NULLS, help="of settings; none: true claims only")
    args = parser.parse_args()
    workers = Parallel(args.jobs)

    def measure(name, run, *shape):
        """Print how many runs claim anything, of slices and of single directions."""
        found = workers(delayed(run)(*shape, seed) for seed in range(args.runs))
        counts = [sum(getattr(one, kind.name) for one in found) for kind in fields(Alarms)]
        print(f"| {name} | " + " | ".join(exact(count, args.runs) for count in counts) + " |", flush=True)

    if args.nulls:
        print("| runs that claim anything (fdr 0.1) | slices | slices beyond confidence | single directions |")
        print("| --- | --- | --- | --- |")
        for images in args.sizes:
            shape = images, args.classes, args.dimensions, args.error_rate
            measure(f"noise, {images} images", noise_run, *shape)
    total = {}
    for path in args.settings:
        for lean in (version == "lean" for version in args.versions):
            setting = Setting(path, lean)
            name = f"{Path(path).stem}, {len(setting.find)} images"
            nulls = {
                "permuted": partial(setting.permuted_run, with_probs=True),
                "permuted, no probabilities": partial(setting.permuted_run, with_probs=False),
                "noise": setting.noise_run,
            }
            for null in args.nulls:
                measure(f"{name}, {null}", nulls[null])
            for swap in (False, True):
                counts = setting.claims(0, swap)
                total.setdefault(lean, []).append(counts)
                print(f"  true claims, {name}, {'swapped' if swap else 'as given'}: {counts}", flush=True)
    if args.nulls and args.sizes:
        above = cv_scores_above_chance(100, 400, 512, args.error_rate, seed=0)
        print(f"the single direction, 100 classes x 400 x 512, noise: CV score above .5 in {exact(*above)}", flush=True)
    for lean, runs in total.items():
        claims, worse, covered, agree, fair, found = (
            sum(run[key] for run in runs) for key in ("claims", "no worse", "covered", "agree", "fair", "found")
        )
        print(f"{'lean' if lean else 'full'}: false share {2 * worse / max(1, claims):.3f} of {claims} claims")
        print(f"  intervals that cover {exact(covered, claims)}, that agree with the pool's {exact(agree, claims)}")
        print(f"  fair slices found {exact(found, fair)}")


if __name__ == "__main__":
    main()
