"""What images decoded along a direction do to the base model: planted scenes, several seeds.

    python benchmarks/decoded_directions.py --seeds 5 --out OUT

For every seed: three planted correlations (`planted_scenes.py`, whose base models in OUT are used again), CLIP's single
direction of each planted class, and `failure-directions decode` towards hard and easy. At each alpha, of all classes
and seeds: the share of the images that the embedded CLIP takes for the class; of these the share that show the planted
attribute (towards hard a colour that is not the common one, towards easy the common one, as that CLIP names it among
the eight) and the base model's accuracy, with intervals that resample the planted classes.

Writes OUT/decoded.csv, a row an image.
"""

import argparse
import contextlib
import io
from pathlib import Path

import numpy as np
from failure_directions.commands import decode
from failure_directions.data.beton_sets import write_scenes
from failure_directions.data.scene_drawing import COLOURS
from failure_directions.data.scenes import planted_setting
from failure_directions.embeddings.clip import CLIPProcessor
from failure_directions.interventions.decoding import open_images, read_curve
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table
from planted_scenes import run_setting

COLUMNS = ("seed", "class", "side", "alpha", "in_class", "attribute", "right")
RESAMPLES = 2000


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--per-alpha", type=int, default=32)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of decode, after all others")
    args = parser.parse_args()
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        folder = Path(args.out) / f"correlation_{seed}"
        setting = planted_setting("correlation", seed)
        if not (folder / "clip.pt").exists():
            run_setting("correlation", seed, folder, ["clip"])
        with contextlib.redirect_stdout(io.StringIO()):
            write_scenes(setting, folder)
        for plant in setting.plants:
            rows += [(seed, plant.shape, *row) for row in decoded(folder, plant, args)]
        write_csv(Path(args.out) / "decoded.csv", COLUMNS, rows)
        for beton in folder.glob("*.beton"):
            beton.unlink()  # drawn again from the seed whenever they are wanted
    print(format_table(*summary(rows), left=1))


def decoded(folder, plant, args):
    """Decode one planted class: rows of `COLUMNS` from its third on."""
    out = folder / f"decoded_{plant.shape}"
    words = ["--svm", folder / "clip.pt", "--root", folder, "--class", plant.shape, "--out", out]
    words += ["--per-alpha", args.per_alpha, "--alphas", *args.alphas, *args.options]
    with contextlib.redirect_stdout(io.StringIO()):
        decode.main([str(word) for word in words])
    _, images = read_curve(out)
    colours = named_colours(open_images(out, [image.path for image in images]), plant.shape)
    for image, colour in zip(images, colours, strict=True):
        yield image.side, image.alpha, image.in_class, int(colour in plant.values(inside=True)), image.right


def named_colours(images, shape):
    """The colour of each image's shape, as the embedded CLIP names it."""
    clip = CLIPProcessor([0.0] * 3, [255.0] * 3, "scenes", device="cpu")
    names = list(COLOURS)
    texts = clip.evaluate_clip_captions([f"a photo of a {name} {shape}" for name in names])
    nearest = (clip.encode_pictures(images) @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T).argmax(axis=1)
    return [names[number] for number in nearest]


def summary(rows):
    """Header and rows of the table: a line for each side and alpha, hardest first."""
    table = np.array([(f"{seed} {name}", side, alpha, *rest) for seed, name, side, alpha, *rest in rows], dtype=object)
    order = {"hard": -1, "neutral": 0, "easy": 1}
    stops = sorted({(side, alpha) for _, side, alpha, *_ in table}, key=lambda stop: order[stop[0]] * stop[1])
    lines = []
    for side, alpha in stops:
        chosen = table[(table[:, 1] == side) & (table[:, 2] == alpha)]
        inside = chosen[chosen[:, 3] == 1]
        lines.append(
            [
                f"{side} {alpha:g}",
                f"{np.mean(chosen[:, 3].astype(float)):.3f}",
                *(share_with_interval(inside[:, 0], inside[:, column].astype(float)) for column in (4, 5)),
            ]
        )
    return ["", "in class", "off the common colour", "accuracy"], lines


def share_with_interval(groups, values):
    """A mean with its 95 % interval, resampling groups (N,) of the values (N,)."""
    names, numbers = np.unique(groups.astype(str), return_inverse=True)
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    picks = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
