"""Does acting on confirmed slices repair a model better than what people use without them?

    python -m benchmarks.slices.repair --data scenes --seeds 6 --out results/repair
    python -m benchmarks.slices.repair --data several --slices data/slices --seeds 3 --out results/repair

For each seed a base model is trained in which several subgroups fail, in one class of scenes (`several_setting`), or in
two classes of photographs (`several` of benchmarks/slices, whose folder is --slices). Slices are found in `find` and
confirmed in `confirm`; everything is chosen there, and measured on `evaluate`, which has chosen nothing.

Table (a): the same number of labelled images from a pool is added to the training images, chosen at random, by the
lowest confidence, by the class's single direction, by the confirmed slices (sharing by errors, or equally), or by the
truth; the network is then trained further. JTT and AFR don't choose: they get the random ones. Table (b): no image is
added; the last layer is fitted again on features that are kept: on those of `find`, which the network has not been
trained on (JTT: of train). Placebo: the base trained anew with another seed. Hyper-parameters are chosen on seed 0 by
the worst found slice in confirm, and kept.

Measures: the planted images ("minority"), the worst planted subgroup, the found slices and the rest, overall. Writes
OUT/DATA.csv, a row a seed, method and measure, after every seed, and goes on where it stopped; prints differences from
the base (a: from the base trained further without more images), paired by seed, with 95 % intervals.
"""

import argparse
import csv
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from failure_directions.data.scenes import make_split, several_setting
from failure_directions.directions.class_fit import Preprocess
from failure_directions.directions.confirmation import find_and_confirm
from failure_directions.interventions.choosing import choose_by_slice, in_slices, shared_budget
from failure_directions.interventions.comparison import paired_interval
from failure_directions.interventions.last_layer import LEAST_OF_GROUP, Layer, afr, dfr, fit_layer, group_dro, jtt
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table
from failure_directions.svm_utils import SVMFitter

from .base_model import train
from .make import kept_model
from .planted import draw, permuted, read_setting

EPOCHS = {"scenes": 20, "several": 8}
# Epochs and rate of further training, and how many images are added: with these the truth gains on seed 0.
FURTHER, FURTHER_RATE = 4, {"scenes": 0.05, "several": 0.1}
EARLY = 4  # JTT's first model is trained for one in so many of the base's epochs
PLACEBO = 1000  # added to the seed
BUDGET = {"scenes": 200, "several": 1000}
PARTS_OF_BUDGET = (2,)  # as half of it, for what is gained per 100 labels
GRIDS = {  # at most six values each
    "afr": [{"gamma": gamma, "penalty": penalty} for gamma in (2, 6, 12) for penalty in (1e-3, 1e-1)],
    "jtt": [{"factor": factor, "penalty": penalty} for factor in (3, 10, 30) for penalty in (1e-3, 1e-1)],
    "dfr": [{"penalty": penalty} for penalty in (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)],
    "dro": [{"step": step, "penalty": penalty} for step in (0.01, 0.1) for penalty in (1e-3, 1e-2, 1e-1)],
    "jtt network": [{"factor": factor} for factor in (3, 10)],
}
COMPARED = {  # ours -> what it is set against
    "a": {
        "slices, errors": (
            *("placebo", "random", "confidence", "single direction", "slices, equal", "JTT + random", "AFR + random"),
            "truth",
        ),
        "AFR + slices, errors": ("AFR + random", "confidence", "truth", "truth + DFR, true"),
        "slices + DFR, found": ("AFR + random", "truth + DFR, true"),
    },
    "b": {
        "DFR, found": ("placebo", "refit", "JTT", "AFR", "DFR, true"),
        "DFR, found as one": ("refit", "AFR", "DFR, found", "DFR, true"),
        "group DRO, found": ("AFR", "DFR, found", "group DRO, true"),
    },
}
MEASURES = ("minority", "worst planted", "found slices", "rest", "overall")
COLUMNS = ("seed", "table", "method", "measure", "accuracy", "images", "seconds", "settings")


@dataclass(frozen=True)
class Data:
    """Images of a setting: `train_*` to learn from, the others in the parts find, confirm, evaluate and pool."""

    train_images: np.ndarray
    train_labels: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    planted: np.ndarray  # number of the subgroup, -1 for none
    part: np.ndarray
    num_classes: int
    name: str
    models: Path | None = None  # folder of base models that are there already
    embeddings: np.ndarray | None = None  # None: the base's own features

    def rows(self, part):
        return np.flatnonzero(self.part == part)

    @property
    def epochs(self):
        return EPOCHS[self.name]

    def base(self, seed):
        """The base model of a seed."""
        if self.models is not None:
            return kept_model(self.train_images, self.train_labels, self.num_classes, seed, self.models)
        return train(self.train_images, self.train_labels, self.num_classes, seed, self.epochs)


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("scenes", "several"), default="scenes")
    parser.add_argument("--slices", help="of several: folder with photographs.npz and embeddings")
    parser.add_argument("--seeds", type=int, default=6, help="how many, from 0, which chooses hyper-parameters")
    parser.add_argument("--tables", nargs="+", choices=("a", "b"), default=["a", "b"])
    parser.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    path = Path(args.out) / f"{args.data}.csv"
    rows = read_rows(path)
    for seed in range(args.seeds):
        if not any(row["seed"] == seed for row in rows):
            chosen = {row["method"]: row["settings"] for row in rows if row["seed"] == 0 and row["settings"]}
            rows += run_seed(read_data(args, seed), seed, args, chosen)
            write_csv(path, COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    new = [row for row in rows if row["seed"] > 0] or rows  # the first has chosen hyper-parameters
    for table in args.tables:
        of_table = [row for row in new if row["table"] == table]
        print(f"\ntable ({table})")
        print(format_table(*summary(of_table)))
        for ours, others in COMPARED[table].items():
            print(format_table(*compared(of_table, ours, others)))
    if "a" in args.tables:
        print("\ngained per 100 labels, over the base trained further without more images")
        print(format_table(*per_hundred(new)))
    for method, settings in {row["method"]: row["settings"] for row in rows if row["settings"]}.items():
        print(f"{method}: {settings}")


def read_rows(path):
    if not path.is_file():
        return []
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = {"seed": int, "accuracy": float, "images": int, "seconds": float}
    return [{name: numbers.get(name, str)(value) for name, value in row.items()} for row in rows]


# ---- Data -----------------------------------------------------------------------------------------------------------


def read_data(args, seed):
    """The `Data` of a seed."""
    return scenes(seed) if args.data == "scenes" else photographs(args, seed)


def scenes(seed):
    setting = several_setting(seed, n_plants=2 + seed % 2, train=600, val=400, test=1000, unlabeled=800)
    first = setting.plants[0].shape
    columns = {}
    for name in ("train", "val", "test", "unlabeled"):
        split = make_split(setting, name)
        planted = np.where(split.shape == first, split.subgroup - 1, -1)
        images = np.stack([split.image(i) for i in range(len(split))])
        columns[name] = images, split.label, planted
    # The test images come in random order.
    test = np.where(np.arange(len(columns["test"][1])) % 2 == 0, "confirm", "evaluate")
    looked = ("val", "test", "unlabeled")
    parts = [np.full(len(columns["val"][1]), "find"), test, np.full(len(columns["unlabeled"][1]), "pool")]
    images, labels, planted = (np.concatenate([columns[name][k] for name in looked]) for k in range(3))
    return Data(*columns["train"][:2], images, labels, planted, np.concatenate(parts), len(setting.classes), "scenes")


def photographs(args, seed):
    files = [Path(args.slices or "") / name for name in ("photographs.npz", f"several-seed{seed}.npz")]
    if not args.slices or not all(file.is_file() for file in files):
        raise UserError(
            "--slices must name the folder that python -m benchmarks.slices.make --settings several --out wrote, with "
            f"seed {seed}"
        )
    with np.load(Path(args.slices) / "photographs.npz", allow_pickle=False) as kept:
        images, subclasses, names = kept["images"], kept["subclasses"], kept["names"].tolist()
    training, looked = draw(read_setting("several"), subclasses, names, seed)
    part = looked.part.astype("<U8")
    pool = np.flatnonzero(part == "pool")
    part[pool[::2]] = "evaluate"
    embeddings = np.load(Path(args.slices) / f"several-seed{seed}.npz", allow_pickle=False)["embeddings"]
    return Data(
        images[training.rows],
        training.labels,
        images[looked.rows],
        looked.labels,
        looked.slices,
        part,
        len(training.class_names),
        "several",
        Path(args.slices) / "models",
        embeddings,
    )


# ---- One seed -------------------------------------------------------------------------------------------------------


class Bench:
    """A seed's base model, its slices, and the rows of all methods."""

    def __init__(self, data, seed, chosen):
        self.data, self.seed, self.chosen, self.rows = data, seed, dict(chosen), []
        start = time.monotonic()
        self.base = data.base(seed)
        probs, self.features = self.base(data.images)
        self.probs, self.preds = probs, probs.argmax(1)
        linear = self.base.network.fc
        self.layer = Layer(*(part.detach().numpy().astype(float) for part in (linear.weight, linear.bias)))
        self.find_slices()
        self.note("a", "base, as it was", self.preds, start)

    def find_slices(self):
        data = self.data
        x = self.features if data.embeddings is None else data.embeddings
        find = data.rows("find")
        preprocess = Preprocess(*(f(x[find], axis=0, dtype=float) for f in (np.mean, _deviation)), True)
        x = preprocess(np.asarray(x, float))
        how = {"find": find, "confirm": data.rows("confirm"), "stability": False}
        found = find_and_confirm(x, data.labels, self.preds, **how, probs=self.probs, seed=self.seed)
        order = permuted(data.labels, data.part, self.seed)
        null = find_and_confirm(x, data.labels, self.preds[order], **how, probs=self.probs[order], seed=self.seed)
        self.slices = found.confirmed
        print(
            f"seed {self.seed}: {len(self.slices)} of {len(found.slices)} slices confirmed; of permuted predictions "
            f"{len(null.confirmed)} of {len(null.slices)}",
            flush=True,
        )
        self.values = np.full((len(data.labels), max([one.rank for one in found.slices], default=1)), np.nan)
        for one in found.slices:
            rows = data.labels == one.class_index
            self.values[rows, one.rank - 1] = one.score(x[rows])
        self.flagged = in_slices(self.slices, data.labels, self.values)
        # Groups of the find part by cross-fitted scores, as the slices were found; elsewhere as they flag.
        self.groups = np.asarray(data.labels).copy()
        for number, one in reversed(list(enumerate(self.slices))):
            if len(one.found_members) >= LEAST_OF_GROUP:
                self.groups[one.found_members] = data.num_classes + number
        flags = np.asarray(data.labels).copy()
        for number, one in reversed(list(enumerate(self.slices))):
            flags[in_slices([one], data.labels, self.values)] = data.num_classes + number
        self.groups = np.where(data.part == "find", self.groups, flags)
        self.true_groups = np.where(data.planted < 0, data.labels, data.num_classes + data.planted)
        fitter = SVMFitter()
        fitter.fit(self.preds[find], data.labels[find], x[find], data.num_classes)
        self.direction = np.full(len(data.labels), np.nan)
        for c in {one.class_index for one in self.slices} - set(fitter.skipped):
            rows = data.labels == c
            self.direction[rows] = x[rows] @ fitter.coef[c] + fitter.intercept[c]

    def worst_in_confirm(self, preds):
        """Accuracy on the worst confirmed slice, in confirm: what hyper-parameters are chosen by."""
        return min(
            (float((preds[one.members] == self.data.labels[one.members]).mean()) for one in self.slices), default=0
        )

    def note(self, table, method, preds, start, images=0, settings=""):
        """Add the rows of a method that gives these predictions."""
        data, evaluate = self.data, self.data.part == "evaluate"
        right = preds == data.labels
        planted = [float(right[evaluate & (data.planted == k)].mean()) for k in range(data.planted.max() + 1)]
        groups = (data.planted >= 0, None, self.flagged, ~self.flagged, np.ones(len(right), bool))
        for measure, of in zip(MEASURES, groups, strict=True):
            value = min(planted) if of is None else right[evaluate & of].mean() if (evaluate & of).any() else np.nan
            row = (self.seed, table, method, measure, float(value), images, time.monotonic() - start, settings)
            self.rows.append(dict(zip(COLUMNS, row, strict=True)))
        print(f"  ({table}) {method}: " + ", ".join(f"{r['accuracy']:.3f}" for r in self.rows[-5:]), flush=True)

    def tuned(self, table, method, family, make, images=0):
        """Note a method of several settings, those chosen on seed 0; `make(**settings)` gives predictions."""
        start = time.monotonic()
        if method in self.chosen:
            settings = next(one for one in GRIDS[family] if str(one) == self.chosen[method])
            self.note(table, method, make(**settings), start, images, str(settings))
            return
        made = [(settings, make(**settings)) for settings in GRIDS[family]]
        settings, preds = max(made, key=lambda one: self.worst_in_confirm(one[1]))
        self.chosen[method] = str(settings)
        self.note(table, method, preds, start, images, str(settings))


def _deviation(x, axis, dtype):
    deviation = np.std(x, axis=axis, dtype=dtype)
    return np.where(deviation == 0, 1, deviation)


def run_seed(data, seed, args, chosen):
    """Rows of all methods of a seed."""
    bench = Bench(data, seed, chosen)
    start = time.monotonic()
    placebo = train(data.train_images, data.train_labels, data.num_classes, seed + PLACEBO, data.epochs)
    if "b" in args.tables:
        bench.note("b", "placebo", predicted(placebo, data), start)
    if "a" in args.tables:
        bench.note("a", "placebo", further(bench, data.rows("pool")[:0], start=placebo), start)
    start = time.monotonic()
    early = train(data.train_images, data.train_labels, data.num_classes, seed, epochs=max(2, data.epochs // EARLY))
    errors = early(data.train_images)[0].argmax(1) != data.train_labels
    print(
        f"  JTT's first model: {errors.mean():.3f} of the training images are errors; {time.monotonic() - start:.0f} s"
    )
    if "a" in args.tables:
        with_images(bench, errors, BUDGET[args.data])
    if "b" in args.tables:
        without_images(bench, errors)
    return bench.rows


def predicted(model, data):
    """Predictions int (N,), but for the pool: -1."""
    preds = np.full(len(data.labels), -1)
    asked = np.flatnonzero(data.part != "pool")
    preds[asked] = model(data.images[asked])[0].argmax(1)
    return preds


def further(bench, extra, weights=None, start=None):
    """Predictions of the base, or `start`, trained further on the training images and those at these positions."""
    data = bench.data
    images = np.concatenate([data.train_images, data.images[extra]])
    labels = np.concatenate([data.train_labels, data.labels[extra]])
    how = {"epochs": FURTHER, "start": start or bench.base, "rate": FURTHER_RATE[data.name], "weights": weights}
    return predicted(train(images, labels, data.num_classes, bench.seed, **how), data)


def with_images(bench, errors, budget):
    """Table (a)."""
    data, pool, rng = bench.data, bench.data.rows("pool"), np.random.default_rng([bench.seed, 7])
    labels = data.labels[pool]
    start = time.monotonic()
    bench.note("a", "base", further(bench, pool[:0]), start)
    random = rng.choice(pool, budget, replace=False)
    confident = bench.probs[pool, labels]
    choices = {"random": random, "confidence": pool[np.argsort(confident, kind="stable")[:budget]]}
    if bench.slices:
        choices["single direction"] = by_direction(bench, pool, budget)
        for how in ("errors", "equal"):
            choices[f"slices, {how}"] = by_slices(bench, pool, budget, how)
    choices["truth"] = by_truth(data, pool, budget, rng)
    for method, extra in choices.items():
        start = time.monotonic()
        share = (data.planted[extra] >= 0).mean()
        print(f"  {method}: {len(extra)} images, {share:.2f} of them planted", flush=True)
        bench.note("a", method, further(bench, extra), start, len(extra))
    for part in PARTS_OF_BUDGET:  # those chosen first, in each way
        fewer = {"random": random[: budget // part], "confidence": choices["confidence"][: budget // part]}
        if bench.slices:
            fewer["slices, errors"] = by_slices(bench, pool, budget // part, "errors")
        for method, extra in fewer.items():
            start = time.monotonic()
            bench.note("labels", method, further(bench, extra), start, len(extra))
    factors = np.concatenate([errors, np.zeros(budget, bool)])

    def jtt_network(factor):
        return further(bench, random, np.where(factors, factor, 1.0))

    bench.tuned("a", "JTT + random", "jtt network", jtt_network, budget)
    x = bench.features.astype(float)
    for method in ("random", *(["slices, errors"] if bench.slices else [])):
        rows = np.concatenate([data.rows("find"), choices[method]])

        def afr_preds(rows=rows, **settings):
            return afr(x[rows], data.labels[rows], bench.layer, **settings).predict(x)

        bench.tuned("a", f"AFR + {method}", "afr", afr_preds, budget)
    with_groups = {"truth + DFR, true": (choices["truth"], bench.true_groups)}
    if bench.slices:
        with_groups["slices + DFR, found"] = choices["slices, errors"], bench.groups
    for method, (extra, groups) in with_groups.items():
        rows = np.concatenate([data.rows("find"), extra])
        given = x[rows], data.labels[rows], groups[rows], data.num_classes

        def dfr_preds(given=given, **settings):
            return dfr(*given, **settings).predict(x)

        bench.tuned("a", method, "dfr", dfr_preds, budget)


def by_slices(bench, pool, budget, how):
    """The hardest by each confirmed slice, which share the budget."""
    counts = shared_budget(bench.slices, budget, how)
    taken = choose_by_slice(bench.slices, counts, bench.data.labels[pool], bench.values[pool])
    return pool[np.concatenate(list(taken.values()))]


def by_direction(bench, pool, budget):
    """The hardest by the single direction of each class that has a confirmed slice, sharing by the slices' errors."""
    counts = shared_budget(bench.slices, budget, "errors")
    extra = []
    for c in sorted({one.class_index for one in bench.slices}):
        count = sum(counts[one.id] for one in bench.slices if one.class_index == c)
        members = pool[bench.data.labels[pool] == c]
        extra.append(members[np.argsort(bench.direction[members], kind="stable")[:count]])
    return np.concatenate(extra)


def by_truth(data, pool, budget, rng):
    """Planted images, the subgroups equally."""
    subgroups = [pool[data.planted[pool] == k] for k in range(data.planted.max() + 1)]
    each = budget // len(subgroups)
    return np.concatenate([rng.permutation(of)[:each] for of in subgroups])


def without_images(bench, errors):
    """Table (b)."""
    data, find = bench.data, bench.data.rows("find")
    x, base, k = bench.features.astype(float), bench.layer, bench.data.num_classes
    on_train = bench.base(data.train_images)[1].astype(float)
    start = time.monotonic()
    bench.note("b", "base", bench.preds, start)
    refit = fit_layer(x[find], data.labels[find], np.ones(len(find)), k, 1e-2, base)
    bench.note("b", "refit", refit.predict(x), start)
    in_find = x[find], data.labels[find]

    def preds_of(fit, *given):
        return lambda **settings: fit(*given, **settings).predict(x)

    bench.tuned(
        "b",
        "JTT",
        "jtt",
        preds_of(
            jtt,
            on_train,
            data.train_labels,
            errors,
            k,
        ),
    )
    bench.tuned("b", "AFR", "afr", preds_of(afr, *in_find, base))
    found = bench.groups[find]
    ways = {"true": bench.true_groups[find]}
    if bench.slices:  # each a group of its own, or those of a class one group
        ways = {"found": found, "found as one": np.where(found >= k, k + data.labels[find], found)} | ways
    for name, groups in ways.items():
        bench.tuned("b", f"DFR, {name}", "dfr", preds_of(dfr, *in_find, groups, k))
        bench.tuned("b", f"group DRO, {name}", "dro", preds_of(group_dro, *in_find, groups, base))


# ---- What is printed ------------------------------------------------------------------------------------------------


def summary(rows):
    """Header and lines: each method's mean accuracies, and differences from the base on the same seeds."""
    found, lines = by_seed(rows), []
    for method in dict.fromkeys(row["method"] for row in rows):
        seeds = sorted({row["seed"] for row in rows if row["method"] == method})
        line = [method, len(seeds)]
        for measure in MEASURES:
            ours, base = (np.array([found[name, measure, seed] for seed in seeds]) for name in (method, "base"))
            there = np.isfinite(ours - base)
            line.append(f"{ours[there].mean():.3f}" + ("" if method == "base" else f" {change(ours, base)}"))
        of = [row for row in rows if row["method"] == method]
        lines.append([*line, f"{np.mean([row['seconds'] for row in of]):.0f}"])
    return ["", "seeds", *MEASURES, "s"], lines


def compared(rows, ours, others):
    """Header and lines: differences of one method from others, paired by the seeds that have both."""
    found, lines = by_seed(rows), []
    for other in others:
        seeds = sorted({seed for method, _, seed in found if method == ours and (other, "overall", seed) in found})
        pairs = [
            [np.array([found[name, measure, seed] for seed in seeds]) for name in (ours, other)] for measure in MEASURES
        ]
        if seeds:
            lines.append([f"less {other}", len(seeds), *(change(*pair) for pair in pairs)])
    return [ours, "seeds", *MEASURES], lines


def per_hundred(rows):
    """Header and lines: what a method gains on the planted images for every 100 labels, by the images added."""
    base = {(row["measure"], row["seed"]): row["accuracy"] for row in rows if (row["table"], row["method"]) == BASE}
    wanted = [row for row in rows if row["table"] == "labels"]
    methods, measures = list(dict.fromkeys(row["method"] for row in wanted)), ("minority", "worst planted", "overall")
    wanted += [row for row in rows if row["table"] == "a" and row["method"] in methods]
    lines = []
    for images in sorted({row["images"] for row in wanted}):
        for method in methods:
            line = [images, method]
            for measure in measures:
                of = [r for r in wanted if (r["images"], r["method"], r["measure"]) == (images, method, measure)]
                gained = np.array([(r["accuracy"] - base[measure, r["seed"]]) * 100 / images for r in of])
                line.append(change(gained, np.zeros(len(gained))))
            lines.append(line)
    return ["images", "", *measures], lines


BASE = ("a", "base")


def by_seed(rows):
    """dict (method, measure, seed) -> accuracy."""
    return {(row["method"], row["measure"], row["seed"]): row["accuracy"] for row in rows}


def change(ours, others):
    """The mean difference of two arrays (seeds,) with its interval, as text; NaN seeds are left out."""
    there = np.isfinite(ours - others)
    low, high = paired_interval(ours[there], others[there])
    return f"{(ours - others)[there].mean():+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()
