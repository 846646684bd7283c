"""Do directions and slices find what was planted, and do captions name it? Many planted settings, drawing to test.

    python benchmarks/planted_scenes.py --kinds correlation rare noise --seeds 4 --embeddings latent clip --out OUT
    python benchmarks/planted_scenes.py --kinds several --seeds 5 --embeddings latent clip --out OUT

For every kind and seed: betons, a base model (ffcv_main.py), directions and slices (train_svms.py). Of `several`, two
failures are planted in one class (even seeds) or three (odd ones), else one in each of three classes. For each plant:

- the share of its minority among the 10 test images that come first, by the class's single direction, by confidence and
  by the best of its slices; with clip also whether one of the three hardest captions of the single direction names the
  planted attribute (of a correlation: a value that is not the common one);
- the slice that holds its minority best (F1 of its members in test), its verdict, the minority's share of its members,
  and the share of the minority that they are.

A plant is fair where the base model's accuracy on the minority lies between .3 and .8. Every confirmed slice of a class
without a plant is tested again on images drawn afresh, 2,000 of its class (one-sided p < .05).

Writes OUT/planted.csv, a row a plant and embedding, and OUT/claims.csv, a row a claim in a class without a plant. Base
models that are in OUT from an earlier call are used again.
"""

import argparse
import contextlib
import io
from pathlib import Path

import numpy as np
from failure_directions.commands import distil as train_svms
from failure_directions.commands import train as ffcv_main
from failure_directions.commands.planted_truth import plants_in_result, unplanted_claims
from failure_directions.data.beton_sets import write_scenes
from failure_directions.data.scenes import KINDS, planted_setting, several_setting
from failure_directions.directions.confirmation import CONFIRMED
from failure_directions.directions.results import CaptionRow, read_result, read_table
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
SVM_CONFIGS = {
    "latent": ROOT / "svm_configs" / "normalized_svm_latent_config.yaml",
    "clip": ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml",
}
SEVERAL = "several"
NAN = float("nan")
CLAIM_COLUMNS = ("kind", "seed", "embedding", "slice", "p_value", "holds")


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, SEVERAL), default=["correlation"])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--embeddings", nargs="+", choices=SVM_CONFIGS, default=["latent"])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rows, claims = [], []
    for kind in args.kinds:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            folder = Path(args.out) / f"{kind}_{seed}"
            found, claimed = run_setting(kind, seed, folder, args.embeddings)
            print(format_table(list(found[0]), [row.values() for row in found], left=4), flush=True)
            rows, claims = rows + found, claims + claimed
            write_csv(Path(args.out) / "planted.csv", rows[0], [row.values() for row in rows])
            write_csv(Path(args.out) / "claims.csv", CLAIM_COLUMNS, claims)
    print(format_table(*summary(rows, claims), left=2))


def run_setting(kind, seed, folder, embeddings):
    """Train and distil one setting: a dict for each of its plants and each embedding; rows of `CLAIM_COLUMNS`."""
    setting = several_setting(seed, n_plants=2 + seed % 2) if kind == SEVERAL else planted_setting(kind, seed)
    common = ["-c", str(ROOT / "dataset_configs" / "scenes.yaml"), "--root", str(folder)]
    run = folder / "runs" / "base" / "version_0"
    checkpoint = str(run / "checkpoints" / "checkpoint_last.pt")
    rows, claims = [], []
    with contextlib.redirect_stdout(io.StringIO()):
        write_scenes(setting, folder)
        if not (run / "metrics.pt").exists():  # written when training has ended
            ffcv_main.main([*common, "--runs", str(folder / "runs"), "--exp-name", "base", "--seed", str(seed)])
        for embedding in embeddings:
            out = folder / f"{embedding}.pt"
            captions = ["--captions", "SCENES"] if embedding == "clip" else []
            svm_config = ["-s", str(SVM_CONFIGS[embedding])]
            train_svms.main([*common, *svm_config, "--model-path", checkpoint, "--out-file", str(out), *captions])
            result = read_result(out)
            which = {"kind": kind, "seed": seed, "embedding": embedding}
            rows += [which | describe(found, result, out) for found in wanted(plants_in_result(result, setting), kind)]
            claims += [
                [*which.values(), claim.slice.id, claim.p_value, int(claim.holds)]
                for claim in unplanted_claims(out, result, setting)
            ]
    for beton in folder.glob("*.beton"):
        beton.unlink()  # drawn again from the seed whenever they are wanted
    return rows, claims


def wanted(plants, kind):
    """The plants that a setting of this kind is about: not those that are there to be the rivals of rare values."""
    if kind == SEVERAL:
        return [found for found in plants if found.plant.shape == plants[0].plant.shape]
    return [found for found in plants if found.plant.kind == kind]


def describe(found, result, out):
    """What a row says of one plant, a `PlantInResult`: the base model, the single direction and the slices."""
    split, best = found.split, found.slice
    row = {
        "plant": str(found.plant),
        "test accuracy": float(split.ytrue.mean()),
        "minority accuracy": found.accuracy,
        "fair": int(0.3 <= found.accuracy <= 0.8),
        "base rate": found.base_rate,
        "CV score": float(result.cv_scores[result.class_names.index(found.plant.shape)]),
        "P@10 SVM": found.precision_at(10, split.decision_values),
        "P@10 confidence": found.precision_at(10, split.confs),
        "P@10 best slice": max((found.slice_precision_at(10, one) for one in found.slices), default=0.0),
        "slice": best.id if best else "",
        "verdict": best.verdict if best else "",
        "minority in slice": found.minority_of_members(best) if best else None,
        "of minority": found.share_found(best) if best else None,
        "caption names it": names_it(found.plant, out),
    }
    return {name: NAN if value is None else value for name, value in row.items()}


def names_it(plant, out):
    """1 where one of the three hardest captions of the plant's class names what sets its minority apart, else 0.

    NaN without captions.
    """
    captions = read_table(out, CaptionRow)
    hardest = [
        row.caption
        for row in captions
        if (row.class_name, row.slice, row.side) == (plant.shape, "", "hard") and row.rank <= 3
    ]
    values = plant.values(inside=True)
    return float(any(set(caption.split()) & values for caption in hardest)) if captions else NAN


MEASURES = (
    "test accuracy",
    "minority accuracy",
    "CV score",
    "P@10 SVM",
    "P@10 confidence",
    "P@10 best slice",
    "minority in slice",
    "of minority",
)


def summary(rows, claims):
    """Per kind and embedding, over all plants and over the fair ones: means; how often a slice holds, how many claims.

    A setting reaches .9 where the mean P@10 of its plants does.
    """
    table = []
    for kind, embedding in dict.fromkeys((row["kind"], row["embedding"]) for row in rows):
        of_kind = [row for row in rows if (row["kind"], row["embedding"]) == (kind, embedding)]
        claimed = [holds for *which, _, _, holds in claims if (which[0], which[2]) == (kind, embedding)]
        for label, chosen in (("all", of_kind), ("fair", [row for row in of_kind if row["fair"]])):
            table.append(
                [
                    f"{kind}, {embedding}",
                    label,
                    len(chosen),
                    *(float(np.mean([row[measure] for row in chosen])) if chosen else None for measure in MEASURES),
                    settings_that_reach(0.9, "P@10 SVM", chosen),
                    settings_that_reach(0.9, "P@10 best slice", chosen),
                    f"{sum(row['verdict'] == CONFIRMED for row in chosen)} of {len(chosen)}",
                    settings_that_reach(1, "caption names it", chosen) if embedding == "clip" else "-",
                    f"{sum(claimed)} of {len(claimed)}",
                ]
            )
    header = [
        "",
        "plants",
        "number",
        *MEASURES,
        "settings with mean P@10 SVM >= .9",
        "settings with mean P@10 best slice >= .9",
        "slice that holds it confirmed",
        "settings named for every plant",
        "claims in unplanted classes that hold",
    ]
    return [name.replace(" ", "\n") for name in header], table


def settings_that_reach(least, measure, rows):
    """In how many settings the mean of a measure over its rows is at least `least`, in words."""
    settings = [[row[measure] for row in rows if row["seed"] == seed] for seed in {row["seed"] for row in rows}]
    return f"{sum(np.mean(values) >= least for values in settings)} of {len(settings)}"


if __name__ == "__main__":
    main()
