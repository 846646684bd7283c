"""The whole loop on drawn images: plant failures, train on them, and see that the directions find what was planted.

    python scripts/demo.py          (or: make demo)

Everything goes to demo/. The commands are printed as they could be typed.
"""

import argparse
import csv
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ffcv_main
import train_svms
from scripts import make_betons
from src.errors import entry_point
from src.files import load_pt
from src.scenes import Plant
from src.tables import format_table

CONFIG = Path(__file__).resolve().parents[1] / "dataset_configs" / "scenes.yaml"
SVM_CONFIG = CONFIG.parents[1] / "svm_configs" / "normalized_svm_latent_config.yaml"
PLANTS = (
    "correlation:star:colour=red:0.95",
    # Blue squares are rare. They fail because blue says circle, the shape that looks like a square.
    "rare:square:colour=blue:0.99",
    "correlation:circle:colour=blue:0.85",
    "noise:heart:colour=green:0.55:triangle",
)


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="demo", help="folder for everything (default: demo)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="change the config")
    args = parser.parse_args(argv)
    out = Path(args.out)
    began = time.perf_counter()

    overrides = [word for override in args.override for word in ("--override", override)]
    plants = [word for plant in PLANTS for word in ("--plant", plant)]
    run(make_betons.main, "scripts/make_betons.py", "scenes", "--out", out, "--seed", args.seed, *plants)
    run(ffcv_main.main, "ffcv_main.py", "-c", CONFIG, "--root", out, "--runs", out / "runs", "--exp-name", "scenes",
        "--seed", args.seed, *overrides)  # fmt: skip
    version = max((out / "runs" / "scenes").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    run(train_svms.main, "train_svms.py", "-c", CONFIG, "-s", SVM_CONFIG, "--root", out, "--unlabeled", "--spurious",
        "--model-path", version / "checkpoints" / "checkpoint_last.pt", "--out-file", out / "scenes_svm.pt",
        *overrides)  # fmt: skip

    print("\nWhat was planted, and what the directions flag (test):")
    print(format_table(*planted_and_found(out)))
    print(f"\nfinished in {time.perf_counter() - began:.0f} s")


def run(command, name, *words):
    """Print a command line, then do what it does."""
    words = [str(word) for word in words]
    print(f"\n$ python {name} {shlex.join(words)}", flush=True)
    command(words)


def planted_and_found(out):
    """One row a plant: how the minority fares, the CV score, and the share of the minority among the flagged."""
    classes = defaultdict(list)
    for row in read_csv(out / "scenes_svm_test.csv"):
        classes[row["class_name"]].append(row)
    at_10 = {row["class"]: row for row in read_csv(out / "scenes_svm_precision.csv")
             if row["split"] == "test" and row["k"] == "10"}  # fmt: skip
    cv_scores = cv_score_by_class(out / "scenes_svm.pt")
    rows = []
    for plant in map(Plant.parse, PLANTS):
        images = classes[plant.shape]
        minority = [row for row in images if row["spurious"] == "1"]
        flagged = [row for row in images if row["flagged"] == "1"]
        rows.append([
            plant.shape,
            f"{plant.kind}, {plant.attribute} {plant.value}",
            share(minority, "correct"),
            cv_scores[plant.shape],
            share(flagged, "spurious"),
            share(images, "spurious"),
            float(at_10[plant.shape]["svm"]) if plant.shape in at_10 else None,
            float(at_10[plant.shape]["confidence"]) if plant.shape in at_10 else None,
        ])  # fmt: skip
    header = ["class", "planted", "accuracy on minority", "CV score", "minority among flagged", "base rate",
              "precision at 10", "by confidence"]  # fmt: skip
    return header, rows


def cv_score_by_class(result_path):
    result = load_pt(result_path, "SVM result")
    return dict(zip(result["class_names"], result["cv_scores"].tolist(), strict=True))


def read_csv(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def share(rows, column):
    return sum(row[column] == "1" for row in rows) / len(rows) if rows else None


if __name__ == "__main__":
    main()
