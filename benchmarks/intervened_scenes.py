"""Do interventions help the planted minority? Scenes with planted failures, several seeds.

    python benchmarks/intervened_scenes.py --kind correlation --seeds 5 --out results/intervened
    python benchmarks/intervened_scenes.py --kind noise --seeds 5 --out results/filtered

For each seed a setting is drawn (as in planted_scenes.py). Correlations: failure-directions loop, whose calls are
printed, adds 50 images a class from the pool, and doubles loss weights, chosen at random, by confidence, by the SVM,
and by the truth. Noise: it leaves out training images whose labels look wrong; how many of them were is in
OUT/left_out.csv.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from failure_directions.commands.steps import run
from failure_directions.data.beton_sets import write_scenes
from failure_directions.data.index_files import load_index_file
from failure_directions.data.scenes import planted_setting
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
CHOICES = ("random", "confidence", "svm", "minority")
INTERVENTIONS = {
    "correlation": (("add", "--per-class", 50, "--by", *CHOICES), ("weights", "--scheme", "x2", "--by", *CHOICES)),
    "noise": (("filter", "--by", "svm"),),
}


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=INTERVENTIONS, default="correlation")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out, seeds = Path(args.out), range(args.seeds)
    for seed in seeds:
        if not (out / f"betons_{seed}" / "scenes_train.csv").exists():
            write_scenes(planted_setting(args.kind, seed), out / f"betons_{seed}")
    common = [
        "-c",
        ROOT / "dataset_configs" / "scenes.yaml",
        "-s",
        ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml",
        "--captions",
        "SCENES",
        "--root",
        out / "betons_{seed}",
        "--out",
        out,
        "--seeds",
        *seeds,
        "--unconfirmed",
    ]
    for intervention in INTERVENTIONS[args.kind]:
        run("loop", *common, "--intervention", *intervention)
    if args.kind == "noise":
        rows = [left_out(out, seed) for seed in seeds]
        write_csv(out / "left_out.csv", rows[0], [row.values() for row in rows])
        print(format_table(list(rows[0]), [row.values() for row in rows]))


def left_out(out, seed):
    """How many labels of a seed's setting are wrong, how many images were left out, and how many of those are wrong."""
    with open(out / f"betons_{seed}" / "scenes_train.csv", newline="") as stream:
        wrong = np.array([row["mislabelled"] == "1" for row in csv.DictReader(stream)])
    kept = load_index_file(out / "interventions" / f"filter_svm_seed_{seed}.pt")["train_indices"]
    gone = np.setdiff1d(np.arange(len(wrong)), kept)
    hits = int(wrong[gone].sum())
    return {
        "seed": seed,
        "mislabelled": int(wrong.sum()),
        "left out": len(gone),
        "of them mislabelled": hits,
        "precision": hits / max(1, len(gone)),
        "recall": hits / max(1, int(wrong.sum())),
    }


if __name__ == "__main__":
    main()
