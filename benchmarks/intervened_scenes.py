"""Do interventions help the planted minority? Scenes with planted failures, several seeds, every choice of images.

    python benchmarks/intervened_scenes.py --kind correlation --seeds 5 --out results/intervened

For each seed a setting is drawn (as in planted_scenes.py); then scripts/run_loop.py, whose calls are printed, adds 50
images a class from the pool, and doubles loss weights: chosen by the SVM, by confidence, at random, and by the truth.
For kind noise it leaves out suspected label noise instead, and says how much of what is left out was mislabelled.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import run_loop
from scripts.steps import run
from src.errors import entry_point
from src.make_betons import write_scenes
from src.scenes import KINDS, planted_setting

ROOT = Path(__file__).resolve().parents[1]
CHOICES = ("random", "confidence", "svm", "minority")
INTERVENTIONS = (("add", "--per-class", 50), ("weights", "--scheme", "x2"))


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="correlation")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out, seeds = Path(args.out), range(args.seeds)
    for seed in seeds:
        if not (out / f"betons_{seed}" / "scenes_test.csv").exists():
            write_scenes(planted_setting(args.kind, seed), out / f"betons_{seed}")
    common = ["-c", ROOT / "dataset_configs" / "scenes.yaml",
              "-s", ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml", "--captions", "SCENES",
              "--root", out / "betons_{seed}", "--out", out, "--seeds", *seeds]  # fmt: skip
    for intervention, *options in INTERVENTIONS:
        run(run_loop.main, "scripts/run_loop.py", *common, "--intervention", intervention, *options, "--by", *CHOICES)


if __name__ == "__main__":
    main()
