"""The whole loop on drawn images: plant failures, train on them, and see that the directions find what was planted.

    failure-directions demo          (or: make demo)

Everything goes to demo/. The commands are printed as they could be typed.
"""

import argparse
import time
from pathlib import Path

from ..data.scenes import Plant
from ..runtime.errors import entry_point
from ..runtime.tables import format_table
from ..training.run_folders import LAST, latest_version
from .steps import repeated, run

SVM_CONFIGS = {"latent": "normalized_svm_latent_config", "clip": "normalized_svm_scenes_config"}
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

    overrides, plants = repeated("--override", args.override), repeated("--plant", PLANTS)
    config = ["-c", "scenes", "--root", out]
    run("betons", "scenes", "--out", out, "--seed", args.seed, *plants)
    run("train", *config, "--runs", out / "runs", "--exp-name", "scenes", "--seed", args.seed, *overrides)
    versions = out / "runs" / "scenes"
    model = ["--model-path", versions / f"version_{latest_version(versions)}" / LAST]
    for embedding, svm_config in SVM_CONFIGS.items():
        more = ("--captions", "SCENES") if embedding == "clip" else ()
        result = out / f"scenes_{embedding}.pt"
        run("distil", *config, "-s", svm_config, "--spurious", *model, "--out-file", result, *more, *overrides)
    run("report", "--svm", out / "scenes_clip.pt", "--root", out, "--report", out / "report.html")

    print("\nWhat was planted, and what the directions found (test images):")
    print(format_table(*planted_and_found(out), left=2))
    print("\nHow captions name it, hardest first:")
    print(format_table(*hardest_captions(out), left=3))
    print(f"\nreport, to be opened in a browser: {out / 'report.html'}")
    print(f"finished in {time.perf_counter() - began:.0f} s")


def planted_and_found(out):
    """One row a plant: how the minority fares, and how much of what each embedding's direction flags belongs to it."""
    from ..directions.results import read_result

    results = {embedding: read_result(out / f"scenes_{embedding}.pt") for embedding in SVM_CONFIGS}
    rows = []
    for plant in map(Plant.parse, PLANTS):
        row = [plant.shape, f"{plant.kind}, {plant.attribute} {plant.value}"]
        for embedding, result in results.items():
            c, test = result.class_names.index(plant.shape), result.splits["test"]
            precision = precision_at_10(out / f"scenes_{embedding}.pt", plant.shape)
            of_class = test.classes == c
            minority, flagged = of_class & (test.spuriouses == 1), of_class & test.flagged
            if embedding == "latent":
                row += [share(minority, of_class), share(test.ytrue == 1, minority), precision and precision.confidence]
            row += [float(result.cv_scores[c]), share(minority, flagged), precision and precision.svm]
        rows.append(row)
    header = ["class", "planted", "minority: base rate", "accuracy", "P@10 by confidence"]
    for embedding in SVM_CONFIGS:
        header += [f"{embedding}: CV score", "minority among flagged", "P@10"]
    return [name.replace(" ", "\n") for name in header], rows


def precision_at_10(result, name):
    """A class's `MinorityPrecision` among its 10 first test images; None where it has no direction."""
    from ..directions.results import MinorityPrecision, read_table

    rows = read_table(result, MinorityPrecision)
    return next((row for row in rows if (row.split, row.class_name, row.k) == ("test", name, 10)), None)


def hardest_captions(out):
    """The three hardest captions of each planted class."""
    from ..directions.results import CaptionRow, read_table

    rows = read_table(out / "scenes_clip.pt", CaptionRow)
    table = [
        [plant.shape, f"{plant.kind}, {plant.attribute} {plant.value}", row.caption, row.z]
        for plant in map(Plant.parse, PLANTS)
        for row in rows
        if (row.class_name, row.side) == (plant.shape, "hard") and row.rank <= 3
    ]
    return ["class", "planted", "caption", "z"], table


def share(part, whole):
    """Share of `part` in `whole`, both (N,) bool."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None


if __name__ == "__main__":
    main()
