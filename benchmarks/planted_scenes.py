"""Do the directions find what was planted, and do captions name it? Many planted settings, from drawing to test.

    python benchmarks/planted_scenes.py --kinds correlation rare noise --seeds 4 --embeddings latent clip --out OUT

For every kind and seed: betons, a base model (ffcv_main.py) and directions (train_svms.py), then for each planted class
the share of the minority among the 10 test images that come first, by decision value and by confidence; with clip also
whether one of the three hardest captions names the planted attribute (of a correlation: a colour that is not the common
one). A class is fair where the base model's accuracy on the minority lies between .3 and .8. Writes OUT/planted.csv, a
row a class and embedding. Base models that are in OUT from an earlier call are used again.
"""

import argparse
import contextlib
import io
from pathlib import Path

import numpy as np
from failure_directions.commands import distil as train_svms
from failure_directions.commands import train as ffcv_main
from failure_directions.data.beton_sets import write_scenes
from failure_directions.data.scenes import ATTRIBUTES, KINDS, planted_setting
from failure_directions.directions.minority import minority_precision
from failure_directions.directions.results import CaptionRow, read_result, read_table
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
SVM_CONFIGS = {
    "latent": ROOT / "svm_configs" / "normalized_svm_latent_config.yaml",
    "clip": ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml",
}
NAN = float("nan")


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["correlation"])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--embeddings", nargs="+", choices=SVM_CONFIGS, default=["latent"])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rows = []
    for kind in args.kinds:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            found = run_setting(kind, seed, Path(args.out) / f"{kind}_{seed}", args.embeddings)
            print(format_table(list(found[0]), [row.values() for row in found], left=4), flush=True)
            rows += found
            write_csv(Path(args.out) / "planted.csv", rows[0], [row.values() for row in rows])
    print(format_table(*summary(rows), left=2))


def run_setting(kind, seed, folder, embeddings):
    """Train and distil one setting; a dict for each of its three plants of this kind and each embedding."""
    setting = planted_setting(kind, seed)
    common = ["-c", str(ROOT / "dataset_configs" / "scenes.yaml"), "--root", str(folder)]
    run = folder / "runs" / "base" / "version_0"
    checkpoint = str(run / "checkpoints" / "checkpoint_last.pt")
    rows = []
    with contextlib.redirect_stdout(io.StringIO()):
        write_scenes(setting, folder)
        if not (run / "metrics.pt").exists():  # written when training has ended
            ffcv_main.main([*common, "--runs", str(folder / "runs"), "--exp-name", "base", "--seed", str(seed)])
        for embedding in embeddings:
            out = folder / f"{embedding}.pt"
            captions = ["--captions", "SCENES"] if embedding == "clip" else []
            svm_config = ["-s", str(SVM_CONFIGS[embedding])]
            train_svms.main([*common, *svm_config, "--model-path", checkpoint, "--out-file", str(out), *captions])
            rows += [describe(kind, seed, plant, embedding, out) for plant in setting.plants if plant.kind == kind]
    for beton in folder.glob("*.beton"):
        beton.unlink()  # drawn again from the seed whenever they are wanted
    return rows


def describe(kind, seed, plant, embedding, out):
    """One row: how the base model does on a plant's minority, and how well one embedding's direction finds it."""
    result = read_result(out)
    test, c = result.splits["test"], result.class_names.index(plant.shape)
    minority = (test.classes == c) & (test.spuriouses == 1)
    accuracy = float(test.ytrue[minority].mean())
    values = [{1} if k == c else set() for k in range(len(result.class_names))]
    precision = minority_precision(test.classes, test.spuriouses, test.decision_values, test.confs, values, top_k=(10,))
    found = precision[0] if precision else {"svm": NAN, "confidence": NAN, "base_rate": NAN}
    return {
        "kind": kind,
        "seed": seed,
        "plant": str(plant),
        "embedding": embedding,
        "test accuracy": float(test.ytrue.mean()),
        "minority accuracy": accuracy,
        "fair": int(0.3 <= accuracy <= 0.8),
        "CV score": float(result.cv_scores[c]),
        "P@10 SVM": found["svm"],
        "P@10 confidence": found["confidence"],
        "base rate": found["base_rate"],
        "caption names it": names_it(plant, out) if embedding == "clip" else NAN,
    }


def names_it(plant, out):
    """1 where one of the three hardest captions of the plant's class names what sets its minority apart, else 0."""
    hardest = [
        row.caption
        for row in read_table(out, CaptionRow)
        if (row.class_name, row.side) == (plant.shape, "hard") and row.rank <= 3
    ]
    values = {plant.value}
    if plant.kind == "correlation":
        values = set(ATTRIBUTES[plant.attribute]) - values
    return float(any(set(caption.split()) & values for caption in hardest))


def summary(rows):
    """Means per kind and embedding, over all planted classes and over the fair ones, and settings that reach .9."""
    measures = ("test accuracy", "minority accuracy", "CV score", "P@10 SVM", "P@10 confidence", "base rate")
    table = []
    for kind, embedding in dict.fromkeys((row["kind"], row["embedding"]) for row in rows):
        of_kind = [row for row in rows if (row["kind"], row["embedding"]) == (kind, embedding)]
        for label, chosen in (("all", of_kind), ("fair", [row for row in of_kind if row["fair"]])):
            settings = [
                [row for row in chosen if row["seed"] == seed] for seed in sorted({row["seed"] for row in chosen})
            ]
            reached = sum(np.mean([row["P@10 SVM"] for row in setting]) >= 0.9 for setting in settings)
            named = sum(np.mean([row["caption names it"] for row in setting]) == 1 for setting in settings)
            table.append(
                [
                    f"{kind}, {embedding}",
                    label,
                    len(chosen),
                    *(float(np.mean([row[measure] for row in chosen])) if chosen else None for measure in measures),
                    f"{reached} of {len(settings)}",
                    f"{named} of {len(settings)}" if embedding == "clip" else "-",
                ]
            )
    header = ["", "classes", "number", *measures, "settings with mean P@10 >= .9", "settings named in every class"]
    return header, table


if __name__ == "__main__":
    main()
