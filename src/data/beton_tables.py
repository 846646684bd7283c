"""`NAME_SPLIT.csv` beside a beton: which file each of its images is, and what else is known of it.

    index,path,label,class[,spurious][,any other column]

With it results, reports and exports name files, though a beton holds none.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from ..runtime.files import write_csv
from .image_tables import read_csv

HEADER = ("index", "path", "label", "class")
_OWN = {*HEADER, "spurious"}  # all others are metadata


@dataclass(frozen=True)
class Described:
    """What is known of N images: `paths`, a list of N strings or None, and `metadata`, columns of N strings."""

    paths: list | None = None
    metadata: dict = field(default_factory=dict)


def table_beside(beton_path):
    """Where the table of a beton is."""
    return Path(beton_path).with_suffix(".csv")


def is_table(path):
    """Whether there is a table of an earlier beton; False where there is nothing.

    Raises:
        UserError: what is there is someone's own.
    """
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as stream:
        if not stream.readline().startswith("index,"):
            raise UserError(f"{path} is in the way of the table beside the beton of that name: give another --name")
    return True


def write_beton_table(beton_path, source):
    """Write the table of the beton that an `ImageFiles` was written to."""
    columns = {
        "index": range(len(source)),
        "path": [str(Path(path).absolute()) for path in source.paths],
        "label": [_joined(label) for label in source.labels],
        "class": [_joined(label, source.class_names) for label in source.labels],
    }
    if source.spurious is not None:
        columns["spurious"] = source.spurious.tolist()
    columns |= {name: values for name, values in source.metadata.items() if name not in _OWN}
    write_csv(table_beside(beton_path), columns, zip(*columns.values(), strict=True))


def _joined(label, names=None):
    """A label, an int or for conditions a vector, as the numbers or the names of what is present."""
    present = np.flatnonzero(label) if isinstance(label, np.ndarray) else [int(label)]
    return "|".join(str(c) if names is None else names[c] for c in present)


def describe_split(split):
    """What the table beside the beton of a `Split` says of its examples, a `Described`; empty without such a table.

    Raises:
        UserError: the table is of another beton, or damaged.
    """
    path = table_beside(split.beton.path)
    if not path.is_file():
        return Described()
    columns, _, _ = read_csv(path)
    if "path" not in columns:  # the truth of scenes, which are no files
        return Described()
    labels = columns.get("label", [])
    if len(labels) != len(split.beton) or labels != [_joined(label) for label in split.beton.column("label")]:
        raise UserError(
            f"{path} lists other images than beton {split.beton.path} holds: write both again with failure-directions "
            "betons, or delete the table"
        )
    chosen = split.indices.tolist()
    return Described(
        [columns["path"][i] for i in chosen],
        {name: [values[i] for i in chosen] for name, values in columns.items() if name not in _OWN},
    )
