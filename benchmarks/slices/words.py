"""Do the words that are said of a planted slice name it?

    python -m benchmarks.slices.words --data data/slices --settings several pairs cues --seeds 1 2 3 --out words.csv

Failures are found in `find` and confirmed in `confirm` (5,000 images each), and described: subclasses of photographs by
the labels of EfficientNet-Lite0, looks (cues) by image qualities. A confirmed slice counts where it has
found a fair planted slice (`confirming.finds`, on the pool). Right is a label or kind of the planted subclass that fits
no other subclass of the same class, and is narrower than "vehicle" or "animal"; which labels a subclass has was written
down before any run. Writes a row a slice; prints the shares.
"""

import argparse
from pathlib import Path

import failure_directions as fd
import numpy as np
from failure_directions.captions.labels import read_kinds
from failure_directions.captions.statements import GOES_WITH, NAMES
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table

from .confirming import finds
from .make import shown_images
from .planted import fair_slices, permuted, read_setting
from .run import find_files

LABELS = {  # positions of ImageNet's 1,000
    "airplane": {404, 895, 908},
    "automobile": {407, 436, 468, 479, 511, 581, 609, 627, 656, 661, 751, 817},
    "bird": {*range(7, 25), *range(80, 101), *range(127, 147)},
    "cat": {*range(281, 294)},
    "deer": {*range(348, 354)},  # no deer is among them: sheep and antelopes
    "dog": {*range(151, 269), 273, 274, 275},
    "frog": {30, 31, 32},
    "horse": {339, 603},
    "ship": {403, 484, 510, 536, 554, 625, 628, 724, 780, 814, 833, 871, 913, 914},
    "truck": {555, 569, 675, 717, 734, 757, 864, 867},
}
QUALITIES = {
    "tint": {"less blue", "redder"},
    "border": {"with a blank border"},
    "blur": {"blurrier", "smoother"},
    "dark": {"darker"},
}
COLUMNS = (
    "setting",
    "seed",
    "planted",
    "slice",
    "first",
    "second",
    "third",
    "first_right",
    "right_among_three",
    "named",
)


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that benchmarks.slices.make wrote")
    parser.add_argument("--settings", nargs="+", default=["several", "pairs", "cues"])
    parser.add_argument("--seeds", type=int, nargs="+", help="which (default: all that are there)")
    parser.add_argument("--permuted", action="store_true", help="ask for words of images that have changed places")
    parser.add_argument(
        "--random", type=int, default=0, metavar="N", help="ask N columns of random numbers, and no image"
    )
    parser.add_argument("--out", required=True, help="CSV to write")
    args = parser.parse_args(argv)
    photographs = Path(args.data) / "photographs.npz"
    if not photographs.is_file():
        raise UserError(f"{photographs} does not exist; python -m benchmarks.slices.make writes it")
    with np.load(photographs, allow_pickle=False) as kept:
        images = kept["images"]
    rows, named = [], []
    for path in find_files(Path(args.data), args.settings, args.seeds):
        of_path, of_slices = of_file(path, images, args.permuted, args.random)
        rows, named = rows + of_path, named + of_slices
        write_csv(args.out, COLUMNS, rows)
    print(f"{sum(named)} of {len(named)} confirmed slices are named")
    if not (args.permuted or args.random):
        print(format_table(*summary(rows)))


def of_file(path, images, in_other_places=False, random=0):
    """Rows of the confirmed slices of a file that have found a fair planted slice, and whether each slice is named."""
    setting, seed = path.stem.rpartition("-seed")[::2]
    with np.load(path, allow_pickle=False) as stored:
        data = dict(stored)
    setting, used, pool = read_setting(setting), data["part"] != "pool", data["part"] == "pool"
    shown = shown_images(setting, images[data["rows"][used]], data["looks"][used])
    if in_other_places:
        shown = shown[permuted(data["labels"][used], data["part"][used], int(seed))]
    source = "qualities" if setting.kind == "cues" else "labels"
    source, rng = "metadata" if random else source, np.random.default_rng(int(seed))
    found = fd.find_failures(
        data["labels"][used],
        data["preds"][used],
        data["embeddings"][used],
        split=np.where(data["part"][used] == "find", "val", "test"),
        images=shown,
        class_names=data["class_names"].tolist(),
        metadata={f"random {i}": rng.normal(size=used.sum()).tolist() for i in range(random)} or None,
    ).describe(source)
    _, values = found.score(data["embeddings"][pool], data["labels"][pool])
    fair = fair_slices(data["slice"], data["labels"], data["preds"] == data["labels"], pool)
    rows = []
    for one in found.confirmed:
        of_class = data["labels"][pool] == one.class_index
        hardness = -values[of_class, one.rank - 1]
        inside = data["slice"][pool][of_class]
        planted = [n for n in fair if (inside == n).any() and finds(hardness, inside == n)]
        if planted:
            name = str(data["slice_names"][planted[0]])
            said = [row for row in found.words if row.slice == one.id][:3]
            texts = [row.statement.removeprefix("looks like ") for row in said]
            right = [is_right(text, name, one.class_name) for text in texts]
            texts += [""] * (3 - len(texts))
            names, holds = (sum(row.verdict in those for row in said) for those in ((NAMES,), (NAMES, GOES_WITH)))
            marks = (right[:1] == [True], any(right), f"{names}/{holds}")
            rows.append((setting.name, seed, name, one.id, *texts, *marks))
    named = [any(row.verdict == NAMES for row in found.words if row.slice == one.id) for one in found.confirmed]
    return rows, named


def is_right(text, planted, class_name):
    """Whether a statement names a planted slice and nothing else of its class."""
    if " with " in planted:
        return text in QUALITIES[planted.rpartition(" with ")[2]]
    subclass = planted.split()[0]
    of = positions(text.split(" ", 1)[-1])
    others = set(class_name.split("+")) - {subclass}
    kinds = read_kinds()
    broad = any(set(kinds[kind].tolist()) <= of for kind in ("vehicle", "animal"))
    return bool(of & LABELS[subclass]) and not broad and not any(of & LABELS[other] for other in others)


def positions(name):
    """The set of ImageNet's labels that a label or kind stands for."""
    from timm.data import ImageNetInfo

    info, kinds = ImageNetInfo(), read_kinds()
    labels = {i for i in range(1000) if info.index_to_description(i).split(",")[0] == name}
    return labels or set(kinds.get(name, np.empty(0, int)).tolist())


def summary(rows):
    """Header and rows: a line a setting."""
    header = ["setting", "slices found", "first right", "right among three", "with a word that names it"]
    cells = []
    for setting in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == setting]
        shares = [f"{np.mean([row[k] for row in own]):.2f} ({sum(row[k] for row in own)})" for k in (7, 8)]
        named = sum(not row[9].startswith("0/") for row in own)
        cells.append([setting, len(own), *shares, f"{named / len(own):.2f} ({named})"])
    return header, cells


if __name__ == "__main__":
    main()
