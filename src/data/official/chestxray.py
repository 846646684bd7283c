"""ChestX-ray14 (Wang et al., CVPR 2017): 14 conditions, of which an image may show any, and the view as `spurious`.

Official files: `Data_Entry_2017.csv` (or `Data_Entry_2017_v2020.csv`), the images in `images/` or
`images_001/images/` to `images_012/images/`, and the lists of a split:

- `train_list.txt`, `val_list.txt`, `test_list.txt`, which the papers use (78,468, 11,219 and 22,433 images; they come
  with https://github.com/arnoweng/CheXNet), an image a line and maybe labels, which are not read; or
- the official `train_val_list.txt` and `test_list.txt`. The images of every 8th patient of the first are then
  validation (ours).
"""

from pathlib import Path

import numpy as np

from ...runtime.errors import UserError
from ..image_sources import ImageFiles
from .files import check_classes, check_present, codes, official_path, read_lines, read_table

ORIGIN = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
CONDITIONS = [
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
]
VIEWS = {"PA": 0, "AP": 1}


def chestxray_sources(folder):
    """Train, val and test: labels (N, 14) float32, 1 where the condition is found; `spurious` PA 0, AP 1."""
    folder = Path(folder)
    table = official_path(folder, ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"], ORIGIN)
    rows = read_table(table, ["Image Index", "Finding Labels", "Patient ID", "View Position"])
    row_of = {row["Image Index"]: row for row in rows}
    images = {path.name: path for pattern in ("images/*", "images_*/images/*") for path in folder.glob(pattern)}
    sources = {}
    for split, (listing, names) in _split_names(folder, table, row_of).items():
        paths = [images.get(name, folder / "images" / name) for name in names]
        check_present(paths, listing)
        listed = [row_of[name] for name in names]
        sources[split] = ImageFiles(
            paths,
            _conditions(table, [row["Finding Labels"] for row in listed]),
            CONDITIONS,
            codes(table, "View Position", (row["View Position"] for row in listed), VIEWS),
        )
    check_classes(sources)
    return sources


def _split_names(folder, table, row_of):
    """Split -> (the list's path, its image names), no image twice."""
    if any((folder / f"{split}_list.txt").exists() for split in ("train", "val")):
        files = {split: f"{split}_list.txt" for split in ("train", "val", "test")}
    else:
        files = {"train": "train_val_list.txt", "test": "test_list.txt"}
    splits, seen = {}, {}
    for split, file in files.items():
        path = official_path(folder, [file], ORIGIN)
        names = [Path(words[0]).name for words in read_lines(path)]
        for name in names:
            if name not in row_of:
                raise UserError(f"{path} names {name}, which is not in {table.name}; get both files again")
            if name in seen:
                raise UserError(f"{name} is in {seen[name]} and in {file}; take the lists of one split")
            seen[name] = file
        splits[split] = path, names
    if "val" in splits:
        return splits
    path, names = splits["train"]
    patients = [row_of[name]["Patient ID"] for name in names]
    set_apart = set(list(dict.fromkeys(patients))[::8])
    halves = {"train": [], "val": []}
    for name, patient in zip(names, patients, strict=True):
        halves["val" if patient in set_apart else "train"].append(name)
    return {**{split: (path, part) for split, part in halves.items()}, "test": splits["test"]}


def _conditions(table, findings):
    """Texts such as "Mass|Nodule" or "No Finding" as 0/1 vectors."""
    labels = np.zeros((len(findings), len(CONDITIONS)), np.float32)
    for row, text in zip(labels, findings, strict=True):
        for word in text.split("|"):
            if word in CONDITIONS:
                row[CONDITIONS.index(word)] = 1
            elif text != "No Finding":
                raise UserError(f"{table}: {word!r} in {text!r} is none of the 14 conditions; get the file again")
    return labels
