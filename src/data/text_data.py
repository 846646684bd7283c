"""Text data sets: SST, Jigsaw's toxic comments, and any table of texts and labels.

Every reader gives a dict of `Texts`: train, test and, where the data set has its own, val.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from .names import clean_name

JIGSAW_LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")


@dataclass(frozen=True)
class Texts:
    """N strings, which may be empty, and their labels (N,), int64 numbers of `class_names`."""

    texts: list
    labels: np.ndarray
    class_names: list

    def __len__(self):
        return len(self.texts)

    def keep(self, positions):
        """The same data with only the examples at `positions`."""
        return replace(self, texts=[self.texts[i] for i in positions], labels=self.labels[positions])


def sst_sources(folder):
    """The Stanford Sentiment Treebank, binary: `train.tsv` and `test.tsv` with the columns `sentence`, `label` (0, 1).

    Tabs separate the columns and quotation marks are ordinary characters.
    """
    sources = {}
    for split in ("train", "test"):
        path = Path(folder) / f"{split}.tsv"
        table = read_table(path, ("sentence", "label"), delimiter="\t")
        labels = _zeros_and_ones(path, "label", table["label"])
        sources[split] = Texts(table["sentence"], labels, ["negative", "positive"])
    return sources


def jigsaw_sources(folder, label):
    """Kaggle's toxic comments (`train.csv`, `test.csv`, `test_labels.csv`), with one of `JIGSAW_LABELS` as the class.

    Test comments that were not scored (label -1) are left out.
    """
    if label not in JIGSAW_LABELS:
        raise UserError(f"Jigsaw has no label {label!r}; give one of {', '.join(JIGSAW_LABELS)}")
    folder, class_names = Path(folder), [f"not {label}", label]
    table = read_table(folder / "train.csv", ("comment_text", label))
    labels = _zeros_and_ones(folder / "train.csv", label, table[label])
    train = Texts(table["comment_text"], labels, class_names)
    comments = read_table(folder / "test.csv", ("id", "comment_text"))
    scores = read_table(folder / "test_labels.csv", ("id", label))
    if comments["id"] != scores["id"]:
        raise UserError(f"{folder / 'test.csv'} and test_labels.csv do not list the same ids; take both from Kaggle")
    scored = [i for i, value in enumerate(scores[label]) if value.strip() != "-1"]
    if not scored:
        raise UserError(f"{folder / 'test_labels.csv'} has only -1 for {label}; take Kaggle's latest file")
    labels = _zeros_and_ones(folder / "test_labels.csv", label, [scores[label][i] for i in scored])
    return {"train": train, "test": Texts([comments["comment_text"][i] for i in scored], labels, class_names)}


def csv_sources(folder):
    """A folder of tables with the columns `text`, `label`: `train.csv`, `test.csv` and, maybe, `val.csv`.

    Labels are numbers 0..K-1, or names, which are numbered in alphabetical order.
    """
    folder = Path(folder)
    splits = [split for split in ("train", "val", "test") if split != "val" or (folder / "val.csv").exists()]
    tables = {split: read_table(folder / f"{split}.csv", ("text", "label")) for split in splits}
    for table in tables.values():
        table["label"] = list(map(clean_name, table["label"]))
    in_train = set(tables["train"]["label"])
    odd = sorted(label for label in in_train if re.fullmatch(r"\s*|[-+][0-9.]+|[0-9]*\.[0-9]*", label))
    if odd:
        raise UserError(
            f"{folder / 'train.csv'} has the label {odd[0]!r}, which is neither a name nor 0, 1, 2, ...; correct it"
        )
    if all(re.fullmatch("[0-9]{1,6}", label) for label in in_train):
        class_names = [str(i) for i in range(max(map(int, in_train)) + 1)]
        absent = [name for name in class_names if name not in in_train]
        if absent:
            raise UserError(
                f"{folder / 'train.csv'} has no text of label {absent[0]}; number labels 0, 1, 2, ..., or give names"
            )
    else:
        class_names = sorted(in_train)
    number = {name: i for i, name in enumerate(class_names)}
    for split, table in tables.items():
        strange = set(table["label"]) - set(number)
        if strange:
            raise UserError(
                f"{folder / split}.csv has the label {sorted(strange)[0]!r}, which train.csv lacks; correct the files"
            )
    return {
        split: Texts(table["text"], np.array([number[label] for label in table["label"]]), class_names)
        for split, table in tables.items()
    }


def read_table(path, columns, delimiter=","):
    """Columns of a table in UTF-8 with a header, as a dict of lists of strings.

    Raises:
        UserError: the file or a column is missing, or a line has too few values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; check --dataset-path")
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    table = {column: [] for column in columns}
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter == ",")
            header = list(map(clean_name, next(reader, [])))
            missing = [column for column in columns if column not in header]
            if missing:
                raise UserError(
                    f"{path} has the columns {', '.join(header) or '(none)'}, but no {missing[0]}; mend its first line"
                )
            places = [header.index(column) for column in columns]
            read = reader.line_num
            for row in reader:
                line, read = read + 1, reader.line_num  # a quoted text may go over several
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    raise UserError(f"{path} line {line} has {len(row)} values, not {len(header)}; mend it")
                for column, place in zip(columns, places, strict=True):
                    table[column].append(row[place])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a table in UTF-8 ({error}); save it as one") from None
    if not table[columns[0]]:
        raise UserError(f"{path} lists no texts")
    return table


def _zeros_and_ones(path, column, values):
    values = list(map(clean_name, values))
    strange = set(values) - {"0", "1"}
    if strange:
        raise UserError(f"{path}: {column} is {sorted(strange)[0]!r} in some line, but must be 0 or 1; mend the file")
    return np.array(values, dtype=np.int64)
