"""A result's images for other tools: one row an image, each tool in the format that it opens by itself.

| name | what is written | opened by |
| --- | --- | --- |
| csv | a file | anything; `failure-directions find --predictions` |
| parquet | a file | pandas, polars, DuckDB |
| datasets | a folder | `datasets.load_from_disk` |
| spotlight | a folder with table.csv | Renumics Spotlight |
| fiftyone | a folder | `fiftyone.Dataset.from_dir` |

Images that are no files of their own, but in betons, are written into the folder as PNG; a table has none of these.
"""

import json
import math
import re
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from ..runtime.files import atomic_path, check_writable, new_folder, write_csv
from ..runtime.progress import Progress

FORMATS = ("csv", "parquet", "datasets", "spotlight", "fiftyone")
_FILES = FORMATS[:2]  # the others are folders


def export(proc, form, out, splits):
    """Write the images of a result's splits for a tool.

    Args:
        proc: an `SVMProcessor`.
        form: one of `FORMATS`.
        out: the file or the new folder.
        splits: names of splits.

    Returns:
        How it is opened, a line of Python or of a shell.

    Raises:
        UserError: a place that cannot be written, or a folder that is there; images that are needed and missing.
        ModuleNotFoundError: the tool's library writes its format, and is not there.
    """
    out = Path(out)
    if form in _FILES:
        check_writable(out)
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already; name a new folder")
    return {"csv": _csv, "parquet": _parquet, "datasets": _datasets, "spotlight": _spotlight, "fiftyone": _fiftyone}[
        form
    ](proc, out, splits)


def image_columns(proc, splits):
    """Column -> list of plain values, one an image of the splits in their order; None where a value is not known.

    What is known of no image has no column.

    `failure` is the id of the confirmed failure that an image lies in.
    """
    from .galleries import knows_confidences  # late: the names of the formats are all that --help needs

    columns = {}
    found, names = proc.loaded.found, np.array(proc.class_names, dtype=object)
    n = 0
    for split in splits:
        entry = proc.metrics(split)
        count = len(entry["classes"])
        failure = np.full(count, None, dtype=object)
        for one in found.confirmed if found else ():
            for part, rows in ((found.confirm, one.members), (found.find, one.found_members)):
                if part == split:
                    failure[rows] = one.id
        given = {
            "path": [str(Path(path).absolute()) for path in entry.get("paths") or ()] or [None] * count,
            "split": [split] * count,
            "index": entry["indices"].tolist(),
            "label": names[entry["classes"]].tolist(),
            "pred": names[entry["preds"]].tolist(),
            "correct": (entry["ytrue"] == 1).tolist(),
            "conf": _numbers(entry["confs"]) if knows_confidences(entry["confs"]) else [None] * count,
            "decision_value": _numbers(entry["decision_values"]),
            "flagged": (entry["ypred"] == 0).tolist(),
            "failure": failure.tolist(),
        }
        for rank, values in enumerate(entry.get("slice_values", np.empty((count, 0))).T, start=1):
            given[f"slice_{rank}"] = _numbers(values)
        if "spuriouses" in entry:
            given["spurious"] = entry["spuriouses"].tolist()
        given |= {name: values for name, values in (entry.get("metadata") or {}).items() if name not in given}
        for name in columns.keys() | given.keys():
            columns.setdefault(name, [None] * n).extend(given.get(name, [None] * count))
        n += count
    # As the first split has them, then what others add.
    ordered = dict.fromkeys([*given, *columns])
    known = [name for name in ordered if name == "failure" or any(value is not None for value in columns[name])]
    return {name: _alike(columns[name]) for name in known}


def _numbers(values):
    return [None if math.isnan(value) else value for value in values.astype(float).tolist()]


def _alike(values):
    """Values of one type: as they are where they have one, numbers as floats where some are, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    as_type = float if kinds <= {int, float} else str
    return [None if value is None else as_type(value) for value in values]


def _with_files(proc, columns, splits, folder, out):
    """The columns, in which every image has a path: of those without, PNGs are written into `folder`, to be `out`."""
    if None not in columns.get("path", [None]):
        return columns
    from PIL import Image

    paths, row = [None] * len(columns["split"]), 0
    (folder / "images").mkdir(exist_ok=True)
    with Progress(len(paths), "writing images") as bar:
        for split in splits:
            indices = proc.metrics(split)["indices"].tolist()
            for index, image in zip(indices, proc.images(split, range(len(indices))), strict=True):
                name = Path("images") / f"{split}_{index}.png"
                Image.fromarray(image).save(folder / name, compress_level=1)
                paths[row], row = str(out.absolute() / name), row + 1
                bar.advance(1)
    return {"path": paths} | columns | {"path": paths}


# ---------------------------------------------------------------------------------------------------------------------
# Each format
# ---------------------------------------------------------------------------------------------------------------------


def _csv(proc, out, splits):
    _write_table(out, image_columns(proc, splits))
    return f"pandas.read_csv({str(out)!r})"


def _write_table(path, columns):
    cells = [["" if value is None else value for value in values] for values in columns.values()]
    write_csv(path, columns, zip(*cells, strict=True), for_people=True)


def _parquet(proc, out, splits):
    import pyarrow
    from pyarrow import parquet

    with atomic_path(out) as temporary:
        parquet.write_table(pyarrow.table(image_columns(proc, splits)), temporary)
    return f"pandas.read_parquet({str(out)!r})"


def _datasets(proc, out, splits):
    from datasets import ClassLabel, Dataset, DatasetDict
    from datasets import Image as ImageFeature

    with new_folder(out) as folder:
        parts = {}
        for split in splits:
            columns = image_columns(proc, [split])
            files = _with_files(proc, columns, [split], folder, folder)["path"]
            part = Dataset.from_dict({"image": files, **columns})
            part = part.cast_column("image", ImageFeature())
            for name in ("label", "pred"):
                part = part.cast_column(name, ClassLabel(names=list(proc.class_names)))
            parts[split] = part
        # Images become part of it.
        DatasetDict(parts).save_to_disk(folder / "saved")
        _lift(folder / "saved", folder)
    return f"datasets.load_from_disk({str(out)!r})"


def _spotlight(proc, out, splits):
    with new_folder(out) as folder:
        columns = _with_files(proc, image_columns(proc, splits), splits, folder, out)
        _write_table(folder / "table.csv", {"image" if name == "path" else name: of for name, of in columns.items()})
    return f"spotlight {out / 'table.csv'}"


def _fiftyone(proc, out, splits):
    with new_folder(out) as folder:
        columns = _with_files(proc, image_columns(proc, splits), splits, folder, out)
        fields = {name: (_field_name(name), values) for name, values in columns.items() if name not in _FIFTYONE_OWN}
        kinds = {field: _field_kind(values) for field, values in fields.values()}
        labels = {"ground_truth": "label", "predicted": "pred"}
        described = {"id": "ObjectIdField", "filepath": "StringField", "tags": f"ListField({_FIELDS}.StringField)"}
        described |= dict.fromkeys(labels, "EmbeddedDocumentField(fiftyone.core.labels.Classification)") | kinds
        samples = []
        for i, path in enumerate(columns["path"]):
            sample = {"filepath": path, "tags": [columns["split"][i]], "_media_type": "image"}
            for field, column in labels.items():
                sample[field] = {"_cls": "Classification", "label": columns[column][i]}
            samples.append(sample | {field: values[i] for field, values in fields.values()})
        about = {"name": out.name, "media_type": "image", "info": {}}
        about["sample_fields"] = {name: f"{_FIELDS}.{kind}" for name, kind in described.items()}
        (folder / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
        (folder / "samples.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return f"fiftyone.Dataset.from_dir({str(out)!r}, dataset_type=fiftyone.types.LegacyFiftyOneDataset)"


_FIELDS = "fiftyone.core.fields"
_FIFTYONE_OWN = ("path", "split", "label", "pred")  # columns that become fields of FiftyOne's own
_RESERVED = {"id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "ground_truth", "predicted"}


def _field_name(name):
    """A column's name as FiftyOne takes it: word characters, a letter first, and none of its own."""
    plain = re.sub(r"\W", "_", name)
    return f"column_{plain}" if plain in _RESERVED or not plain[:1].isalpha() else plain


def _field_kind(values):
    kind = next((type(value) for value in values if value is not None), str)
    return {bool: "BooleanField", int: "IntField", float: "FloatField"}.get(kind, "StringField")


def _lift(folder, parent):
    """Move what lies in a folder into its parent, and remove it and the images beside it."""
    import shutil

    shutil.rmtree(parent / "images", ignore_errors=True)
    for entry in folder.iterdir():
        entry.rename(parent / entry.name)
    folder.rmdir()
