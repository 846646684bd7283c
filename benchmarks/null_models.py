"""False alarms and true claims of `directions/`: what stands for the level of the tests where no proof does.

False alarms: runs in which nothing is to be found, and in which any slice is called confirmed. Embeddings of
independent noise; and, given settings files, photographs whose (prediction, probabilities) are permuted jointly within
each class and part (probabilities decide no verdict, so that with and without them claims are the same).

True claims, given settings files: of the confirmed slices, how many are no worse than their class on pool images that
neither found nor confirmed them (twice that share estimates the false ones, since a slice that is no failure is worse
than its class half of the time), how often the interval covers the pool's difference, and how many fair planted slices
are found and confirmed: they are at least min(.5, 3 x base) of the 50 hardest pool images.

    python benchmarks/null_models.py                                   # noise, 200 runs at 1,500 and 5,000 images
    python benchmarks/null_models.py --settings several-seed0.npz pairs-seed0.npz --runs 50

A settings file holds embeddings (N, d), labels, preds (N,), probs (N, classes), part (find, confirm or pool), lean (N,)
bool, the smaller version, and slice (N,), the planted slice or -1. Intervals are exact (Clopper and Pearson, 95 %).
"""

import argparse
from pathlib import Path

import numpy as np
from failure_directions.directions.class_fit import Preprocess
from failure_directions.directions.confirmation import find_and_confirm
from failure_directions.svm_utils import SVMFitter
from joblib import Parallel, delayed
from scipy.stats import binomtest


def exact(successes, trials):
    """`0.050 [0.024, 0.090] (10 of 200)`."""
    if not trials:
        return "none"
    interval = binomtest(int(successes), int(trials)).proportion_ci(method="exact")
    return f"{successes / trials:.3f} [{interval.low:.3f}, {interval.high:.3f}] ({successes} of {trials})"


def noise_run(images, classes, d, error_rate, seed):
    """Whether any slice is confirmed where embeddings and errors are independent; `images` find, as many confirm."""
    rng = np.random.default_rng([seed, images])
    x = rng.standard_normal((2 * images, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.arange(2 * images) % classes
    preds = np.where(rng.random(2 * images) < error_rate, (labels + 1) % classes, labels)
    half = np.arange(2 * images) < images
    return bool(find_and_confirm(x, labels, preds, half, ~half, seed=seed, stability=False).confirmed)


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

    def permuted_run(self, seed):
        """Whether any slice is confirmed, and beyond confidence, after the model's outputs are permuted jointly."""
        rng = np.random.default_rng(seed)
        order = np.arange(len(self.labels))
        for rows in (self.find, self.confirm):
            for c in np.unique(self.labels[rows]):
                members = rows[self.labels[rows] == c]
                order[members] = rng.permutation(members)
        preds, probs, seed = self.preds[order], self.probs[order], int(rng.integers(1 << 30))
        confirmed = find_and_confirm(
            self.x, self.labels, preds, self.find, self.confirm, probs=probs, seed=seed, stability=False
        ).confirmed
        return bool(confirmed), any(s.beyond_confidence_q <= 0.1 for s in confirmed)

    def claims(self, seed, swap):
        """Counts of one run: claims, those no worse on the pool, intervals that cover, fair slices, those found."""
        find, confirm = (self.confirm, self.find) if swap else (self.find, self.confirm)
        confirmed = find_and_confirm(
            self.x, self.labels, self.preds, find, confirm, probs=self.probs, seed=seed, stability=False
        )
        wrong = self.preds != self.labels
        counts = dict.fromkeys(("claims", "no worse", "covered", "fair", "found"), 0)
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
                difference = wrong[rows[flagged]].mean() - wrong[rows[rest]].mean() if flagged.any() else 0.0
                counts["claims"] += 1
                counts["no worse"] += int(difference <= 0)
                counts["covered"] += int(s.interval[0] <= difference <= s.interval[1])
                first = self.slice[rows[np.argsort(scores, kind="stable")[:50]]]
                found |= {p for p, share in base.items() if np.mean(first == p) >= min(0.5, 3 * share)}
        counts["fair"], counts["found"] = len(self.fair), len(found)
        return counts


def main():
    """Parse arguments and print one line for each null model and each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", default=[], help="settings files (.npz)")
    parser.add_argument("--runs", type=int, default=200, help="runs of each null model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1500, 5000], help="images of the noise runs")
    parser.add_argument("--dimensions", type=int, default=128, help="of the noise embeddings")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--error-rate", type=float, default=0.2)
    parser.add_argument("--jobs", type=int, default=-1)
    parser.add_argument("--no-nulls", action="store_true", help="true claims only")
    args = parser.parse_args()
    workers = Parallel(args.jobs)

    if not args.no_nulls:
        print("share of runs with any claim (fdr 0.1)")
        for images in args.sizes:
            shape = images, args.classes, args.dimensions, args.error_rate
            claimed = workers(delayed(noise_run)(*shape, seed) for seed in range(args.runs))
            print(f"  noise, {images} images: {exact(sum(claimed), args.runs)}", flush=True)
        above = cv_scores_above_chance(100, 400, 512, args.error_rate, seed=0)
        print(f"  the single direction, 100 classes x 400 x 512: CV score above .5 in {exact(*above)}", flush=True)
    total = {}
    for path in args.settings:
        for lean in (True, False):
            setting = Setting(path, lean)
            name = f"{Path(path).stem}, {len(setting.find)} images"
            if not args.no_nulls:
                runs = workers(delayed(setting.permuted_run)(seed) for seed in range(args.runs))
                for what, claimed in zip(("any claim", "beyond confidence"), zip(*runs, strict=True), strict=True):
                    print(f"  permuted, {name}, {what}: {exact(sum(claimed), args.runs)}", flush=True)
            for swap in (False, True):
                counts = setting.claims(0, swap)
                total.setdefault(lean, []).append(counts)
                print(f"  true claims, {name}, {'swapped' if swap else 'as given'}: {counts}", flush=True)
    for lean, runs in total.items():
        claims, worse, covered, fair, found = (
            sum(run[key] for run in runs) for key in ("claims", "no worse", "covered", "fair", "found")
        )
        print(f"{'lean' if lean else 'full'}: false share {2 * worse / max(1, claims):.3f} of {claims} claims")
        print(f"  intervals that cover {exact(covered, claims)}, fair slices found {exact(found, fair)}")


if __name__ == "__main__":
    main()
