"""The whole loop on drawn images: plant failures, train on them, and see that the directions find what was planted.

    failure-directions demo          (or: make demo)

Everything goes to demo/. The commands are printed as they could be typed.
"""

import argparse
import time
from pathlib import Path

from ..data.scenes import Plant, SceneSetting
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
    # One class with two failures.
    "correlation:crescent:colour=purple:0.95",
    "correlation:crescent:background=brick:0.95",
)
HARDEST = 3  # captions of a direction


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

    from ..directions.results import read_result  # late, as below: what takes torch
    from .planted_truth import unplanted_claims

    setting = SceneSetting(tuple(map(Plant.parse, PLANTS)), seed=args.seed)
    results = {embedding: read_result(out / f"scenes_{embedding}.pt") for embedding in SVM_CONFIGS}
    print("\nWhat was planted, and what each class's single direction found (test images):")
    print(format_table(*planted_and_found(results, setting), left=2))
    print("\nThe slice that holds each of them:")
    print(format_table(*planted_and_sliced(results, setting), left=5))
    print("\nHow captions name them, hardest first:")
    print(format_table(*hardest_captions(out, results["clip"], setting), left=4))
    print()
    for embedding, result in results.items():
        claims = unplanted_claims(out / f"scenes_{embedding}.pt", result, setting)
        print(f"{embedding}: {claims_in_words(claims)}")
    print(f"\nreport, to be opened in a browser: {out / 'report.html'}")
    print(f"finished in {time.perf_counter() - began:.0f} s")


def planted_and_found(results, setting):
    """One row a plant: how the minority fares, and how much of what each embedding's direction flags belongs to it."""
    from .planted_truth import plants_in_result

    rows = []
    for found in zip(*(plants_in_result(result, setting) for result in results.values()), strict=True):
        by_model = found[0]  # what is no matter of the embedding
        row = [*in_words(by_model.plant), by_model.base_rate, by_model.accuracy]
        row.append(by_model.precision_at(10, by_model.split.confs))
        for result, plant in zip(results.values(), found, strict=True):
            score = float(result.cv_scores[result.class_names.index(plant.plant.shape)])
            row += [score, plant.minority_of_flagged, plant.precision_at(10, plant.split.decision_values)]
        rows.append(row)
    header = ["class", "planted", "minority: base rate", "accuracy", "P@10 by confidence"]
    for embedding in results:
        header += [f"{embedding}: CV score", "minority among flagged", "P@10"]
    return [name.replace(" ", "\n") for name in header], rows


def planted_and_sliced(results, setting):
    """One row a plant and embedding: the slice that holds its minority, and how well."""
    from .planted_truth import plants_in_result

    rows = []
    for embedding, result in results.items():
        for found in plants_in_result(result, setting):
            best, row = found.slice, [*in_words(found.plant), embedding]
            if best is None:
                rows.append([*row, "none", result.found.skipped.get(result.class_names.index(found.plant.shape), "")])
                continue
            shares = [found.minority_of_members(best), found.share_found(best), found.slice_precision_at(10, best)]
            rows.append([*row, best.id, best.verdict, best.size, *shares])
    header = ["class", "planted", "embedding", "slice", "verdict", "images", "minority among them", "of the minority"]
    return [name.replace(" ", "\n") for name in [*header, "P@10"]], rows


def hardest_captions(out, result, setting):
    """The hardest captions of each planted class: of its single direction, and of the slices that hold its plants."""
    from ..directions.results import CaptionRow, read_table
    from .planted_truth import plants_in_result

    rows, table = read_table(out / "scenes_clip.pt", CaptionRow), []
    plants = plants_in_result(result, setting)
    for shape in dict.fromkeys(plant.shape for plant in setting.plants):
        of_class = [found for found in plants if found.plant.shape == shape]
        held = {"": of_class}
        for found in of_class:
            if found.slice is not None:
                held.setdefault(found.slice.id, []).append(found)
        for row in rows:
            if (row.class_name, row.side) == (shape, "hard") and row.rank <= HARDEST and row.slice in held:
                what = " and ".join(in_words(found.plant)[1] for found in held[row.slice])
                table.append([shape, what, row.slice or "single direction", row.caption, row.z])
    return ["class", "planted", "direction", "caption", "z"], table


def claims_in_words(claims):
    """A sentence on the `FreshClaim`s of one embedding."""
    from .planted_truth import FRESH_IMAGES, LEVEL

    if not claims:
        return "no failure is claimed in a class without a plant"
    hold = sum(claim.holds for claim in claims)
    return (
        f"of {len(claims)} failures claimed in classes without a plant, {hold} hold on {FRESH_IMAGES:,} images of the "
        f"class that were drawn afresh (one-sided p < {LEVEL:g})"
    )


def in_words(plant):
    """Class, and what is planted in it."""
    return plant.shape, f"{plant.kind}, {plant.attribute} {plant.value}"


if __name__ == "__main__":
    main()
