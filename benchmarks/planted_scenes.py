"""Do the directions find what was planted? Many seeds of planted scenes, from drawing to precision on test.

    python benchmarks/planted_scenes.py --kinds correlation --seeds 10 --out results/planted

For every seed and kind: betons, a base model (ffcv_main.py) and directions (train_svms.py), then for each planted
class the share of the minority among the 10 images that come first, by decision value and by confidence. A plant is
fair where the base model's accuracy on the minority lies between .3 and .8. Writes OUT/planted.csv, a row a plant.
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import ffcv_main
import train_svms
from src.errors import entry_point
from src.files import load_pt, write_csv
from src.make_betons import write_scenes
from src.minority import minority_precision
from src.scenes import KINDS, planted_setting
from src.tables import format_table

ROOT = Path(__file__).resolve().parents[1]
HEADER = (
    "kind",
    "seed",
    "class",
    "plant",
    "test_accuracy",
    "minority_accuracy",
    "fair",
    "cv_score",
    "svm",
    "confidence",
    "base_rate",
)


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["correlation"])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--svm-config", default=str(ROOT / "svm_configs" / "normalized_svm_latent_config.yaml"))
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rows = []
    for kind in args.kinds:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            rows += run_setting(kind, seed, Path(args.out) / f"{kind}_{seed}", args.svm_config)
            print(format_table(HEADER, rows[-3:]), flush=True)
            write_csv(Path(args.out) / "planted.csv", HEADER, rows)
    print(format_table(*summary(rows)))


def run_setting(kind, seed, folder, svm_config):
    """Rows of `HEADER`, one a planted class."""
    setting = planted_setting(kind, seed)
    common = ["-c", str(ROOT / "dataset_configs" / "scenes.yaml"), "--root", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()):
        write_scenes(setting, folder)
        ffcv_main.main([*common, "--runs", str(folder / "runs"), "--exp-name", "base", "--seed", str(seed)])
        run = max((folder / "runs" / "base").iterdir())
        checkpoint = str(run / "checkpoints" / "checkpoint_last.pt")
        train_svms.main([*common, "-s", svm_config, "--model-path", checkpoint, "--out-file", str(folder / "svm.pt")])
    for beton in folder.glob("*.beton"):
        beton.unlink()  # drawn again from the seed whenever they are wanted
    result = load_pt(folder / "svm.pt", "SVM result")
    test = {key: value.numpy() for key, value in result["test_metrics"].items() if hasattr(value, "numpy")}
    planted = [{1} if name in {plant.shape for plant in setting.plants} else set() for name in result["class_names"]]
    precision = minority_precision(
        test["classes"], test["spuriouses"], test["decision_values"], test["confs"], planted, top_k=(10,)
    )
    precision = {row["class"]: row for row in precision}
    rows = []
    for plant in setting.plants:
        c = result["class_names"].index(plant.shape)
        minority = (test["classes"] == c) & (test["spuriouses"] == 1)
        accuracy = float(test["ytrue"][minority].mean())
        found = precision.get(c, {"svm": float("nan"), "confidence": float("nan"), "base_rate": float("nan")})
        rows.append((
            kind, seed, plant.shape, str(plant), float(test["ytrue"].mean()), accuracy, int(0.3 <= accuracy <= 0.8),
            float(result["cv_scores"][c]), found["svm"], found["confidence"], found["base_rate"],
        ))  # fmt: skip
    return rows


def summary(rows):
    """Per kind: settings and means, over all planted classes and over the fair ones."""
    table = []
    for kind in dict.fromkeys(row[0] for row in rows):
        for label, chosen in (
            ("all", [r for r in rows if r[0] == kind]),
            ("fair", [r for r in rows if r[0] == kind and r[6]]),
        ):
            seeds = sorted({row[1] for row in chosen})
            # A seed counts where the mean over its planted classes reaches .9.
            reached = sum(np.mean([row[8] for row in chosen if row[1] == seed]) >= 0.9 for seed in seeds)
            means = [float(np.mean([row[k] for row in chosen])) if chosen else None for k in (4, 5, 7, 8, 9, 10)]
            table.append([f"{kind}, {label}", len(chosen), *means, f"{reached} of {len(seeds)}"])
    header = ["plants", "classes", "test acc", "minority acc", "CV score", "P@10 SVM", "P@10 confidence", "base rate",
              "seeds with P@10 >= .9"]  # fmt: skip
    return header, table


if __name__ == "__main__":
    main()
