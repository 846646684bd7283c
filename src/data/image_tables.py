"""What people have, as one table: a folder of images, a CSV, Parquet, a saved `datasets` folder, or objects in Python.

    table = read_table("my_images")          # [SPLIT/]CLASS/**/FILE
    table = read_table("predictions.csv")    # path,label[,split][,group][,pred][,prob_CLASS ...], others are metadata

`datasets`, pandas and pyarrow are used where the user has them; nothing here needs them otherwise.
"""

import csv
import io
import itertools
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..runtime.english import nearest, plain_name, some
from ..runtime.errors import UserError
from ..runtime.extras import pip_line
from .class_folders import IMAGE_SUFFIXES, read_class_folders
from .names import SPLIT_NAMES, alike, clean_name
from .probabilities import check_probabilities

KNOWN = ("path", "text", "image", "label", "split", "group", "pred")
PROBABILITY = "prob_"
_LONGEST_CELL = 100_000_000
_FORMAT = "path,label[,split][,group][,pred][,prob_CLASS ...]"


@dataclass(frozen=True)
class ImageTable:
    """Labelled images (or texts), one row each.

    Attributes:
        name: what messages call it.
        images: paths (list of str), or what gives a PIL image or an array by row number; None for texts.
        texts: list of str, or None.
        labels: int64 (N,); for conditions, of which an image has any number, bool (N, K).
        class_names: K names.
        split: (N,) of "train", "val", "test"; None where nothing is said.
        group: (N,) of str, images that belong together (a patient, a video); or None.
        preds: int64 (N,), for conditions bool (N, K); or None.
        probs: float32 (N, K), 0..1; or None.
        metadata: dict of column name -> list of N values.
        rows: int64 (N,), the row of each in what was read, from 0: a file of embeddings is in that order.
        total: how many rows were read.
        notes: sentences for the user: what was left out or looks wrong.
    """

    name: str
    images: object
    labels: np.ndarray
    class_names: list
    texts: list | None = None
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    preds: np.ndarray | None = None
    probs: np.ndarray | None = None
    metadata: dict = field(default_factory=dict)
    rows: np.ndarray | None = None
    total: int = 0
    notes: tuple = ()

    def __post_init__(self):
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(len(self.labels)))
            object.__setattr__(self, "total", len(self.labels))

    def __len__(self):
        return len(self.labels)

    @property
    def paths(self):
        """List of the images' paths, or None where they are no files."""
        return self.images if isinstance(self.images, list) and all(isinstance(x, str) for x in self.images) else None

    @property
    def has_conditions(self):
        """Whether an image may have several labels, or none."""
        return self.labels.ndim == 2

    def keep(self, rows, *notes):
        """The table with only these rows, given as numbers or a mask, and more notes."""
        rows = np.arange(len(self))[rows]

        def taken(values):
            if values is None or isinstance(values, np.ndarray):
                return None if values is None else values[rows]
            return [values[i] for i in rows] if isinstance(values, list) else Taken(values, rows)

        columns = ("images", "texts", "labels", "split", "group", "preds", "probs", "rows")
        return replace(
            self,
            **{name: taken(getattr(self, name)) for name in columns},
            metadata={name: taken(values) for name, values in self.metadata.items()},
            notes=(*self.notes, *notes),
        )


class Taken:
    """Some rows of a sequence that is not to be held in memory."""

    def __init__(self, values, rows):
        self.values, self.rows = values, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.values[int(self.rows[i])]


def read_table(source, image_root=None, splits=True, class_names=None):
    """Labelled images or texts, from where people keep them.

    Args:
        source: a path (folder, CSV, Parquet, saved `datasets` folder), a `datasets` object or a DataFrame.
        image_root: folder that a table's paths are relative to; by default the table's own.
        splits: take a folder's top folders as splits where every one of them has a split's name.
        class_names: the classes' order; by default that of the prob_ columns, else sorted.

    Returns:
        `ImageTable`.

    Raises:
        UserError: whatever can't be read, with its line.
    """
    if hasattr(source, "columns") and not isinstance(source, str | os.PathLike):  # a DataFrame, of pandas or polars
        columns = {str(name): _to_list(source[name]) for name in source.columns}
        return _from_columns("the table", columns, _row, image_root or ".", class_names)
    if _is_dataset(source):
        return _from_dataset("the data set", source, class_names)
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"images can't be read from a {type(source).__name__}: give a path, a DataFrame or a data set")
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _from_dataset(str(path), _load_dataset(path), class_names)
        return _from_folder(path, splits, class_names)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of images, or a table (.csv, .parquet)")
    if not path.is_file():
        raise UserError(f"{path} is no ordinary file; give a folder of images, or a table (.csv, .parquet)")
    root = Path(image_root) if image_root else path.parent
    if not root.is_dir():
        raise UserError(f"--image-root {root} is not a folder; check the path")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _from_columns(str(path), _read_parquet(path), _row, root, class_names)
    if path.suffix.lower() == ".beton":
        raise UserError(f"{path} is a beton: give the images themselves, or use failure-directions train and distil")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{path} is one image: give the folder of all, with class folders in it, or a table")
    columns, lines, notes = read_csv(path)
    return _from_columns(str(path), columns, lambda i: f"line {lines[i]}", root, class_names, notes)


def _row(i):
    return f"row {i}"


# ---------------------------------------------------------------------------------------------------------------------
# Folders, files and objects: columns, each a list of values
# ---------------------------------------------------------------------------------------------------------------------


def _from_folder(folder, splits, class_names):
    found = read_class_folders(folder, splits)
    names = _checked_names(class_names) or found.class_names
    numbers = _numbers(found.classes, names, str(folder), lambda i: f"of {found.paths[i]}", "class")
    split = None if found.splits is None else np.array(found.splits)
    notes = list(found.notes)
    if len(names) == 1:
        notes.append(f"{folder} has one class folder, {names[0]}: is this one folder too high or too low?")
    return ImageTable(str(folder), found.paths, numbers, names, split=split, notes=tuple(notes))


def read_csv(path):
    """Columns of a CSV (dict of lists of str), the line that each row begins on, and notes."""
    text, notes = _decoded(path), []
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        delimiter = _delimiter(text, path)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        header = next((cells for cells in reader if any(cell.strip() for cell in cells)), None)
        if header is None:
            raise UserError(f"{path} is empty; a table has the columns {_FORMAT}")
        rows, lines, read = [], [], reader.line_num
        for cells in reader:
            line, read = read + 1, reader.line_num  # a quoted value may go over several
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path} line {line} has {len(cells)} values, but the header has {len(header)}: mend the line, or "
                    "quote what holds a separator"
                )
            rows.append(cells)
            lines.append(line)
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV ({error}); save it as one") from None
    finally:
        csv.field_size_limit(before)
    columns, names = {}, map(clean_name, header)
    for name, values in zip(names, zip(*rows, strict=True) if rows else [()] * len(header), strict=True):
        if not name:
            if any(value.strip() for value in values):
                notes.append(f"a column of {path} has no name and is left out")
            continue
        if name in columns:
            raise UserError(f"{path} has the column {name} twice; rename one")
        columns[name] = list(values)
    return columns, lines, notes


def _decoded(path):
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error.reason} at byte {error.start}); save it as such") from None
    if "\0" in text:
        raise UserError(f"{path} is not a CSV: it holds zero bytes; give a table saved as CSV or Parquet")
    return text


def _delimiter(text, path):
    """The separator with which the first line is a header."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in ",;\t":
        cells = {clean_name(cell).casefold() for cell in next(csv.reader([first], delimiter=delimiter), [])}
        if "label" in cells:
            return delimiter
    return max(",;\t", key=first.count)


def _read_parquet(path):
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"reading {path} needs pyarrow: {pip_line('hf')}, or save the table as CSV") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file, or damaged ({str(error).splitlines()[0][:200]})") from None
    return {clean_name(name): table.column(i).to_pylist() for i, name in enumerate(table.column_names)}


def _load_dataset(path):
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{path} is a saved data set of Hugging Face's datasets, which is not installed: {pip_line('hf')}"
        ) from None
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow raise many kinds
        raise UserError(f"the saved data set {path} is incomplete or damaged: {_first_line(error)}") from None


def _is_dataset(source):
    """Whether it is a `datasets.Dataset`, or a dict of them by split."""
    if isinstance(source, dict):
        return bool(source) and all(map(_is_dataset, source.values()))
    return hasattr(source, "features") and hasattr(source, "column_names") and hasattr(source, "__getitem__")


def _from_dataset(name, dataset, class_names):
    if isinstance(dataset, dict):
        parts = {key: _from_dataset(f"{name} ({key})", part, class_names) for key, part in dataset.items()}
        return _joined(name, parts)
    features = dict(dataset.features)
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    columns = {c: list(dataset[c]) for c, kind in kinds.items() if kind in ("Value", "ClassLabel")}
    for column, feature in features.items():
        if kinds[column] == "ClassLabel":
            columns[column] = [None if v is None or v < 0 else feature.int2str(v) for v in columns[column]]
    if "label" not in columns:
        labels = [c for c, kind in kinds.items() if kind == "ClassLabel"] or [c for c in columns if c == "labels"]
        if len(labels) != 1:
            raise UserError(f"{name} has no column label, but {some(features)}: rename the one with the labels")
        columns["label"] = columns.pop(labels[0])
        kinds["label"] = kinds.pop(labels[0])
        features["label"] = features.pop(labels[0])
    if class_names is None and kinds["label"] == "ClassLabel":
        class_names = list(features["label"].names)
    images = None
    if "path" not in columns and "text" not in columns:
        found = [column for column, kind in kinds.items() if kind == "Image"]
        column = "image" if "image" in found else found[0] if len(found) == 1 else None
        if column is None:
            raise UserError(f"{name} has no column path, text or image, but {some(features)}: rename one")
        images = DatasetImages(dataset, column)
    return _from_columns(name, columns, _row, ".", class_names, images=images)


def _joined(name, tables):
    """Tables of splits as one."""
    unknown = [key for key in tables if key.casefold() not in SPLIT_NAMES]
    if unknown:
        raise UserError(f"{name} has the split {unknown[0]}, which is none of {', '.join(SPLIT_NAMES)}: rename it")
    parts = list(tables.values())
    first = parts[0]
    if any(part.class_names != first.class_names for part in parts):
        raise UserError(f"the splits of {name} do not have the same classes: make label a ClassLabel in all of them")
    lengths = [len(part) for part in parts]
    named = [np.full(n, SPLIT_NAMES[key.casefold()]) for key, n in zip(tables, lengths, strict=True)]

    def chained(attribute):
        values = [getattr(part, attribute) for part in parts]
        if any(value is None for value in values):
            return None
        if isinstance(values[0], np.ndarray):
            return np.concatenate(values)
        return list(itertools.chain(*values)) if isinstance(values[0], list) else Chained(values)

    shared = [column for column in first.metadata if all(column in part.metadata for part in parts)]
    return ImageTable(
        name,
        chained("images"),
        chained("labels"),
        first.class_names,
        texts=chained("texts"),
        split=np.concatenate(named),
        group=chained("group"),
        preds=chained("preds"),
        probs=chained("probs"),
        metadata={c: list(itertools.chain(*(part.metadata[c] for part in parts))) for c in shared},
        notes=tuple(note for part in parts for note in part.notes),
    )


class DatasetImages:
    """The images of a column of a `datasets.Dataset`, decoded when they are asked for."""

    def __init__(self, dataset, column):
        self.dataset, self.column = dataset, column

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        return self.dataset[int(i)][self.column]

    @property
    def fingerprint(self):
        """What `datasets` calls the content by."""
        return f"{getattr(self.dataset, '_fingerprint', '')} {self.column}"


class Chained:
    """Sequences one after the other."""

    def __init__(self, parts):
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self):
        return int(self.ends[-1])

    def __getitem__(self, i):
        part = int(np.searchsorted(self.ends, i, side="right"))
        return self.parts[part][int(i) - (int(self.ends[part - 1]) if part else 0)]


def _to_list(series):
    return series.to_list() if hasattr(series, "to_list") else list(series)


# ---------------------------------------------------------------------------------------------------------------------
# Columns to a table
# ---------------------------------------------------------------------------------------------------------------------


def _from_columns(name, columns, place, root, class_names=None, notes=(), images=None):
    """A table of columns (dict of lists); `place(i)` is what messages call row i."""
    columns, notes = _known_columns(name, columns, images is not None), list(notes)
    n = len(columns["label"])
    if n == 0:
        raise UserError(f"{name} has a header, but no rows")
    texts = None
    if images is None and "path" in columns:
        images = [_resolved(root, value, name, place, i) for i, value in enumerate(columns["path"])]
        notes += _doubles(images, name, place)
    elif images is None:
        texts = [_filled(_text(value), name, "text", place, i) for i, value in enumerate(columns["text"])]
    labels = [clean_name(_text(value)) for value in columns["label"]]
    preds = [clean_name(_text(value)) for value in columns["pred"]] if "pred" in columns else None
    conditions = any("|" in label for label in labels)
    prob_columns = {clean_name(c[len(PROBABILITY) :]): c for c in columns if c.casefold().startswith(PROBABILITY)}
    names, fixed = _checked_names(class_names) or list(prob_columns), bool(class_names or prob_columns)
    if prob_columns and class_names is None:
        names = _spelt_as(names, {word for label in labels for word in _words(label, conditions)})
    if not fixed:
        names = _sorted_names(name, labels, preds, conditions, place)
        notes += alike(names, "the labels")
    if conditions:
        labels, preds = (
            None if column is None else _present(column, names, name, place, what)
            for column, what in ((labels, "label"), (preds, "pred"))
        )
    else:
        labels = _numbers(labels, names, name, place, "label")
        if preds is not None:
            preds = _numbers(preds, names, name, place, "pred")
            if only := sorted({names[i] for i in np.setdiff1d(preds, labels)}) if not fixed else []:
                notes.append(f"{name} predicts {some(only)}, of which it has no image")
    probs = None
    if prob_columns:
        by_plain = {plain_name(clean): columns[c] for clean, c in prob_columns.items()}
        if set(by_plain) != set(map(plain_name, names)):
            raise UserError(f"{name} has prob_ columns of {some(prob_columns)}, but the classes are {some(names)}")
        probs = np.stack([_floats(by_plain[plain_name(c)], name, f"prob_{c}", place) for c in names], axis=1)
        check_probabilities(probs, not conditions, name, place)
        if preds is None:
            preds = probs >= 0.5 if conditions else probs.argmax(axis=1)
    split = None
    if "split" in columns:
        split = np.array([_split(value, name, place, i) for i, value in enumerate(columns["split"])])
    group = None
    if "group" in columns:
        group = np.array([clean_name(_text(value)) or f"(row {i})" for i, value in enumerate(columns["group"])])
    metadata = {
        column: [clean_name(value) if isinstance(value, str) else value for value in values]
        for column, values in columns.items()
        if column not in KNOWN and column not in prob_columns.values()
    }
    return ImageTable(name, images, labels, names, texts, split, group, preds, probs, metadata, notes=tuple(notes))


def _known_columns(name, columns, has_images):
    """The columns, with the names that mean something in lower case."""
    found = {}
    for column, values in columns.items():
        known = column.casefold() if column.casefold() in KNOWN else column
        if known in found:
            raise UserError(f"{name} has the column {known} twice; rename one")
        found[known] = values
    place = has_images or "path" in found or "text" in found
    if "label" not in found or not place:
        missing = "label" if "label" not in found else "path (or text)"
        hint = nearest(missing.split()[0], [c for c in found if c not in KNOWN])
        hint = f"; {hint.removesuffix('?')}? rename it" if hint else ""
        raise UserError(f"{name} has no column {missing}, but {some(found) or 'none'}: it must have {_FORMAT}{hint}")
    return found


def _text(value):
    """A cell as text; nothing for None and NaN; whole floats as integers, as pandas makes them of blanks."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _words(label, conditions):
    return [word for word in map(clean_name, label.split("|")) if word] if conditions else [label]


def _filled(value, name, column, place, i):
    if not value:
        raise UserError(f"{name} {place(i)}: {column} is empty; fill it, or remove the row")
    return value


def _resolved(root, value, name, place, i):
    path = _filled(_text(value).strip(), name, "path", place, i)
    if re.match(r"[a-z][a-z0-9+]+://", path, re.IGNORECASE):
        raise UserError(f"{name} {place(i)}: {path[:120]} is an address: fetch the images, and give their paths")
    joined = os.path.join(root, path)
    if "\\" in path and not os.path.exists(joined):  # written on Windows
        joined = os.path.join(root, path.replace("\\", "/"))
    return joined


def _doubles(paths, name, place):
    first, doubles = {}, []
    for i, path in enumerate(paths):
        if first.setdefault(path, i) != i:
            doubles.append((path, i))
    if not doubles:
        return []
    path, i = doubles[0]
    return [f"{name} lists {len(doubles)} image(s) again, the first at {place(i)}: {path}, as at {place(first[path])}"]


def _checked_names(class_names):
    if class_names is None:
        return None
    names = [clean_name(name) for name in class_names]
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"class names are given twice: {some(twice)}")
    return names


def _spelt_as(names, labels):
    """The names of prob_ columns, spelt as the labels are where they differ by case, underscores or blanks."""
    spelt = {plain_name(label): label for label in labels}
    return [name if name in labels else spelt.get(plain_name(name), name) for name in names]


def _sorted_names(name, labels, preds, conditions, place):
    """Class names from labels and predictions: numbers by value, else in the order of their letters."""
    present = {word for label in labels for word in _words(label, conditions) if word}
    predicted = {word for label in preds or [] for word in _words(label, conditions) if word}
    if not present:
        raise UserError(f"{name} has no label in any row; fill the column label")
    if predicted and not conditions and not predicted & present:
        raise UserError(
            f"no pred of {name} is among its labels: pred has {some(sorted(predicted))}, label has "
            f"{some(sorted(present))}; write both in the same names"
        )
    everything = present | predicted
    if all(word.isdecimal() for word in everything):
        return sorted(everything, key=lambda word: (len(word.lstrip("0")), word))
    return sorted(everything)


def _numbers(words, names, name, place, column):
    """Class numbers, int64, of one name a row."""
    number = {class_name: i for i, class_name in enumerate(names)}
    if not all(class_name.isdecimal() for class_name in names):
        number = {str(i): i for i in range(len(names))} | number
    for i, word in enumerate(words):
        if not word:
            raise UserError(f"{name} {place(i)}: {column} is empty: fill it")
        if word not in number:
            hint = nearest(word, names, "correct it")
            raise UserError(f"{name} {place(i)}: {column} is {word[:80]!r}, but must be one of {some(names)}; {hint}")
    return np.array([number[word] for word in words], dtype=np.int64)


def _present(words, names, name, place, column):
    """Conditions, bool (N, K), of names joined by |; an empty cell has none."""
    number = {class_name: i for i, class_name in enumerate(names)}
    present = np.zeros((len(words), len(names)), dtype=bool)
    for i, cell in enumerate(words):
        for word in _words(cell, True):
            if word not in number:
                what = f"{column} has {word[:80]!r}, which is none of {some(names)}"
                raise UserError(f"{name} {place(i)}: {what}; {nearest(word, names, 'correct it')}")
            present[i, number[word]] = True
    return present


def _floats(values, name, column, place):
    numbers = np.empty(len(values), dtype=np.float32)
    for i, value in enumerate(values):
        text = str(value).strip() if value is not None else ""
        try:
            numbers[i] = float(text.replace(",", ".", 1) if "," in text else text)
        except ValueError:
            raise UserError(f"{name} {place(i)}: {column} is {text[:80]!r}, which is no number") from None
    return numbers


def _split(value, name, place, i):
    word = clean_name(_text(value)).casefold()
    if word not in SPLIT_NAMES:
        raise UserError(f"{name} {place(i)}: split is {word[:80]!r}, which is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[word]


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
