"""Reading text data sets."""

import csv

import numpy as np
import pytest
from failure_directions.data.text_data import JIGSAW_LABELS, csv_sources, jigsaw_sources, sst_sources
from failure_directions.runtime.errors import UserError


def write(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)


@pytest.fixture
def jigsaw(tmp_path):
    names = ["id", "comment_text", *JIGSAW_LABELS]
    write(tmp_path / "train.csv", [names, ["a", "you, fool\nreally", 1, 0, 0, 0, 1, 0], ["b", "thanks", *"000000"]])
    write(tmp_path / "test.csv", [["id", "comment_text"], ["c", "unscored"], ["d", "idiot"], ["e", ""]])
    write(
        tmp_path / "test_labels.csv", [["id", *JIGSAW_LABELS], ["c", *["-1"] * 6], ["d", *"100010"], ["e", *"000000"]]
    )
    return tmp_path


def test_sst_sentences_keep_their_quotation_marks(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text('sentence\tlabel\n"never quite \t0\nan "instant" classic , é\t1\n')
    sources = sst_sources(tmp_path)
    assert sources["train"].texts == ['"never quite ', 'an "instant" classic , é']
    np.testing.assert_array_equal(sources["test"].labels, [0, 1])
    assert sources["train"].class_names == ["negative", "positive"]


@pytest.mark.parametrize("label", JIGSAW_LABELS)
def test_jigsaw_leaves_out_comments_that_were_not_scored(jigsaw, label):
    sources = jigsaw_sources(jigsaw, label)
    assert sources["train"].texts == ["you, fool\nreally", "thanks"]
    assert sources["test"].texts == ["idiot", ""]
    insulting = label in ("toxic", "insult")
    np.testing.assert_array_equal(sources["train"].labels, [insulting, 0])
    np.testing.assert_array_equal(sources["test"].labels, [insulting, 0])
    assert sources["test"].class_names == [f"not {label}", label]


def test_jigsaw_refuses_a_label_that_is_not_among_the_six(jigsaw):
    with pytest.raises(UserError, match="no label 'rude'; give one of toxic, severe_toxic"):
        jigsaw_sources(jigsaw, "rude")


def test_jigsaw_refuses_scores_of_other_comments(jigsaw):
    write(jigsaw / "test_labels.csv", [["id", *JIGSAW_LABELS], ["x", *"000000"], ["d", *"100010"], ["e", *"000000"]])
    with pytest.raises(UserError, match="the same ids"):
        jigsaw_sources(jigsaw, "toxic")


def test_labels_of_a_csv_may_be_numbers_or_names(tmp_path):
    for split in ("train", "val", "test"):
        write(
            tmp_path / f"{split}.csv", [["label", "text"], ["10", "ten"], *[[str(i), f"number {i}"] for i in range(10)]]
        )
    sources = csv_sources(tmp_path)
    assert list(sources) == ["train", "val", "test"]
    np.testing.assert_array_equal(sources["val"].labels, [10, *range(10)])
    (tmp_path / "val.csv").unlink()
    write(tmp_path / "train.csv", [["text", "label"], ["x", "pos"], ["y", "neg"]])
    write(tmp_path / "test.csv", [["text", "label"], ["z", "pos"]])
    sources = csv_sources(tmp_path)
    assert list(sources) == ["train", "test"]
    assert sources["train"].class_names == ["neg", "pos"]
    np.testing.assert_array_equal(sources["train"].labels, [1, 0])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text,label\na,0\nb,2\n", "no text of label 1"),
        ("text,label\na,-1\nb,0\n", "'-1', which is neither a name nor 0, 1, 2"),
        ("text,label\na,\nb,0\n", "'', which is neither a name nor"),
        ("text,class\na,0\n", "has the columns text, class, but no label"),
        ("", "has the columns .none., but no text"),
        ("text,label\n", "lists no texts"),
        ("text,label\na,0\nb\n", "line 3 has 1 values, not 2"),
        ("text,label\na,0\nb,1,c\n", "line 3 has 3 values, not 2"),
        (b"text,label\n\xff\xfe,0\n", "not a table in UTF-8"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_what_is_wrong(tmp_path, content, complaint):
    write(tmp_path / "test.csv", [["text", "label"], ["z", "0"]])
    (tmp_path / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=complaint):
        csv_sources(tmp_path)


def test_a_missing_table_and_a_label_that_train_lacks_are_refused(tmp_path):
    write(tmp_path / "train.csv", [["text", "label"], ["x", "pos"], ["y", "neg"]])
    with pytest.raises(UserError, match=r"test\.csv does not exist"):
        csv_sources(tmp_path)
    write(tmp_path / "test.csv", [["text", "label"], ["z", "odd"]])
    with pytest.raises(UserError, match=r"test\.csv has the label 'odd', which train\.csv lacks"):
        csv_sources(tmp_path)


def test_a_label_of_sst_that_is_no_number_is_refused(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text("sentence\tlabel\nfine\tgood\n")
    with pytest.raises(UserError, match="label is 'good' in some line, but must be 0 or 1"):
        sst_sources(tmp_path)


def test_labels_and_headers_of_texts_are_what_people_see(tmp_path):
    (tmp_path / "train.csv").write_text('text, label\n"good, film",caf\u00e9\nbad,no \n', encoding="utf-8")
    (tmp_path / "test.csv").write_text("text ,label\nfine, cafe\u0301\n", encoding="utf-8")
    sources = csv_sources(tmp_path)
    assert sources["train"].class_names == ["caf\u00e9", "no"]
    assert (sources["train"].texts, sources["test"].labels.tolist()) == (["good, film", "bad"], [0])


def test_lines_of_texts_are_counted_as_an_editor_does(tmp_path):
    (tmp_path / "train.csv").write_text('text,label\n\n"two\nlines",a\nbad\n')
    with pytest.raises(UserError, match=r"train.csv line 5 has 1 values"):
        csv_sources(tmp_path)
