"""What people have, read into one table: and everything that is not as it seems is told."""

import json
import os
import shutil
import unicodedata
import zlib

import numpy as np
import pytest
from failure_directions.data.image_checks import check_image_files
from failure_directions.data.image_tables import read_table
from failure_directions.runtime.errors import UserError
from PIL import Image


def draw(path, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)


def tree(root, *names):
    for name in names:
        draw(root / name)
    return root


def table_of(tmp_path, text, name="t.csv", encoding="utf-8", **options):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_table(tmp_path / name, **options)


# ---- Folders ------------------------------------------------------------------------------------------------------


def test_class_folders_become_classes_and_nested_images_are_read(tmp_path):
    table = read_table(tree(tmp_path, "dog/1.png", "cat/deep/er/2.jpg", "cat/0.png"))
    assert table.class_names == ["cat", "dog"]
    assert table.labels.tolist() == [0, 0, 1]
    assert [os.path.relpath(path, tmp_path) for path in table.paths] == ["cat/0.png", "cat/deep/er/2.jpg", "dog/1.png"]
    assert table.split is None


@pytest.mark.parametrize(
    ("val", "test"), [("val", "test"), ("Valid", "TEST"), ("validation", "confirm"), ("find", "test")]
)
def test_top_folders_are_splits_where_all_are(tmp_path, val, test):
    table = read_table(tree(tmp_path, f"{val}/cat/0.png", f"{val}/dog/0.png", f"{test}/cat/1.png", "train/dog/2.png"))
    assert table.split.tolist() == ["train", "val", "val", "test"]
    assert table.class_names == ["cat", "dog"]


def test_one_top_folder_that_is_no_split_makes_all_of_them_classes(tmp_path):
    table = read_table(tree(tmp_path, "train/0.png", "test/1.png", "tram/2.png"))
    assert table.class_names == ["test", "train", "tram"]
    assert "tram is no split" in table.notes[0]


def test_no_splits_makes_a_class_called_train(tmp_path):
    tree(tmp_path, "train/0.png", "test/1.png")
    with pytest.raises(UserError, match="give --no-splits where test, train are the classes"):
        read_table(tmp_path)
    assert read_table(tmp_path, splits=False).class_names == ["test", "train"]


def test_hidden_names_and_systems_folders_are_neither_classes_nor_images(tmp_path):
    tree(
        tmp_path, "cat/0.png", "dog/1.png", ".ipynb_checkpoints/0.png", "cat/.ipynb_checkpoints/1.png", "__MACOSX/2.png"
    )
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\26\7")
    table = read_table(tmp_path)
    assert (table.class_names, len(table), table.notes) == (["cat", "dog"], 2, ())


def test_images_of_any_suffix_are_read_by_content_and_others_are_named_and_counted(tmp_path):
    tree(tmp_path, "cat/0.png", "dog/1.png")
    for name in ("a.jfif", "b.jpe", "nosuffix", "c.image"):
        draw(tmp_path / "cat" / name, format="JPEG")
    for i in range(3):
        (tmp_path / "dog" / f"{i}.heic").write_bytes(b"phone")
    (tmp_path / "dog" / "notes.txt").write_bytes(b"x")
    table = read_table(tmp_path)
    assert len(table) == 6
    notes = " ".join(table.notes)
    assert "4 other file(s): .heic (3), .txt (1), such as" in notes
    assert "2 file(s)" in notes


def test_accents_composed_and_decomposed_are_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    table = read_table(tree(tmp_path, f"val/{composed}/0.png", f"test/{apart}/1.png", "val/dog/0.png"))
    assert table.class_names == [composed, "dog"]


def test_names_that_differ_only_by_case_are_told(tmp_path):
    assert "Cat and cat differ only by case" in read_table(tree(tmp_path, "val/Cat/0.png", "test/cat/1.png")).notes[0]


def test_loose_images_and_empty_class_folders_are_told(tmp_path):
    tree(tmp_path, "0.png", "cat/0.png", "dog/1.png")
    (tmp_path / "emu").mkdir()
    table = read_table(tmp_path)
    assert table.class_names == ["cat", "dog", "emu"]
    assert "1 image(s)" in table.notes[0]
    assert "without an image: emu" in table.notes[1]


def test_folder_links_are_followed_and_loops_end(tmp_path):
    tree(tmp_path / "real", "0.png")
    tree(tmp_path / "data", "dog/1.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "dog" / "self").symlink_to(tmp_path / "data" / "dog")
    assert read_table(tmp_path / "data").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "words"),
    [([], "holds no images"), (["0.png"], "not in class folders"), (["train/0.png"], "in no class folder")],
)
def test_a_folder_without_class_folders_says_how_to_lay_it_out(tmp_path, names, words):
    tree(tmp_path, *names)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path)


def test_a_folder_of_nothing_readable_names_what_is_there(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.heic").write_bytes(b"phone")
    with pytest.raises(UserError, match=r"no image that can be read, but 1 other file\(s\): \.heic"):
        read_table(tmp_path)


# ---- Tables -------------------------------------------------------------------------------------------------------


def test_every_column_of_the_format(tmp_path):
    table = table_of(
        tmp_path,
        "path,label,split,group,pred,prob_dog,prob_cat,age\na.png,cat,val,p1,dog,.6,.4,3\nb/c.png,dog,test,p2,dog,.9,.1,4\n",
    )
    assert table.paths == [str(tmp_path / "a.png"), str(tmp_path / "b/c.png")]
    assert table.class_names == ["dog", "cat"]  # of the prob_ columns, whose order is the probabilities'
    assert table.labels.tolist() == [1, 0]
    assert table.preds.tolist() == [0, 0]
    np.testing.assert_allclose(table.probs, [[0.6, 0.4], [0.9, 0.1]])
    assert table.split.tolist() == ["val", "test"]
    assert table.group.tolist() == ["p1", "p2"]
    assert table.metadata == {"age": ["3", "4"]}


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\na.png,cat\nb.png,dog\n",
        "path;label\r\na.png;cat\r\nb.png;dog\r\n",
        "\n\npath, label \n\na.png, cat\n\n\nb.png,dog  \n\n",
        'Path\tLABEL\n"a.png"\t"cat"\nb.png\tdog\n',
    ],
    ids=["BOM", "semicolons and Windows line ends", "blank lines and blanks", "tabs and capitals"],
)
def test_csv_in_any_dress_is_the_same_table(tmp_path, text):
    table = table_of(tmp_path, text)
    assert (table.class_names, table.labels.tolist()) == (["cat", "dog"], [0, 1])
    assert table.paths == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_a_table_that_excel_wrote_in_utf_16_is_read(tmp_path):
    assert table_of(tmp_path, "path\tlabel\na.png\tcafé\n", encoding="utf-16").class_names == ["café"]


def test_labels_are_normalised(tmp_path):
    apart = unicodedata.normalize("NFD", "café")
    table = table_of(tmp_path, f"path,label\na.png,café\nb.png,{apart} \n")
    assert table.class_names == ["café"]


def test_numbers_from_one_make_no_phantom_class(tmp_path):
    table = table_of(tmp_path, "path,label\na.png,1\nb.png,2\nc.png,10\n")
    assert table.class_names == ["1", "2", "10"]


def test_conditions_are_joined_by_bars(tmp_path):
    table = table_of(tmp_path, "path,label,pred\na.png,wet | old,wet\nb.png,,old\nc.png,old,\n")
    assert table.class_names == ["old", "wet"]
    assert table.labels.tolist() == [[True, True], [False, False], [True, False]]
    assert table.preds.tolist() == [[False, True], [True, False], [False, False]]


def test_texts_take_the_place_of_paths(tmp_path):
    table = table_of(tmp_path, 'text,label\n"fine, really",good\nawful,bad\n')
    assert table.texts == ["fine, really", "awful"]
    assert table.images is None


def test_image_root_and_paths_written_on_windows(tmp_path):
    draw(tmp_path / "images" / "cat" / "a.png")
    table = table_of(tmp_path, "path,label\ncat\\a.png,cat\n", image_root=tmp_path / "images")
    assert os.path.isfile(table.paths[0])
    absolute = table_of(tmp_path, f"path,label\n{tmp_path}/images/cat/a.png,cat\n")
    assert os.path.isfile(absolute.paths[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("path,label\n", "no rows"),
        ("path,lable\na,cat\n", "did you mean lable"),
        ("label\ncat\n", r"no column path \(or text\)"),
        ("path,label,Label\na,b,c\n", "column label twice"),
        ("path,label\na,cat\n\n\nb,dog,x\n", "line 5 has 3 values"),
        ('path,label\na,"ca\nt"\nb,dog,x\n', "line 4 has 3 values"),
        ("path,label\na,cat\nb,\n", "line 3: label is empty"),
        ("path,label\n,cat\n", "line 2: path is empty"),
        ("path,label,split\na,cat,vall\n", "split is 'vall'"),
        ("path,label,pred\na,cat,3\nb,dog,1\n", r"no pred of .* is among its labels"),
        ("path,label,pred,prob_a,prob_b\nx,a,c,.5,.5\n", "pred is 'c', but must be one of a, b"),
        ("path,label,prob_a,prob_b\nx,a,.5,.6\n", "line 2 sum to 1.1"),
        ("path,label,prob_a,prob_b\nx,a,,1\n", "prob_a is ''"),
        ("path,label,prob_a,prob_b\nx,a,-2,3\n", "not logits"),
        ("path,label,prob_a,prob_b\nx,c,.5,.5\n", "label is 'c', but must be one of a, b"),
        ("path,label\nhttps://a/b.png,cat\n", "is an address"),
        ("path,label\na\0,cat\n", "zero bytes"),
    ],
)
def test_each_bad_table_is_one_sentence_that_names_the_place(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        table_of(tmp_path, text)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(UserError, match="not in UTF-8"):
        table_of(tmp_path, "path,label\na,café\n", encoding="latin-1")


def test_a_prediction_that_no_image_has_as_label_is_told(tmp_path):
    table = table_of(tmp_path, "path,label,pred\na,cat,cat\nb,dog,emu\n")
    assert table.class_names == ["cat", "dog", "emu"]
    assert "predicts emu, of which it has no image" in table.notes[0]


def test_a_path_listed_twice_is_found_at_once_in_a_long_table(tmp_path):
    rows = "".join(f"{i}.png,cat\n" for i in range(100_000))
    table = table_of(tmp_path, f"path,label\n{rows}99999.png,cat\n")
    assert "line 100002" in table.notes[0]


def test_row_numbers_stay_those_of_the_file_where_rows_are_left_out(tmp_path):
    table = table_of(tmp_path, "path,label\na,cat\nb,dog\nc,cat\n").keep(np.array([2, 0]), "a note")
    assert table.rows.tolist() == [2, 0]
    assert [os.path.basename(path) for path in table.paths] == ["c", "a"]
    assert table.notes == ("a note",)


@pytest.mark.parametrize("name", ["missing.csv", "missing"])
def test_a_path_that_is_not_there_says_what_to_give(tmp_path, name):
    with pytest.raises(UserError, match="does not exist; give a folder of images, or a table"):
        read_table(tmp_path / name)


def test_one_image_is_no_table(tmp_path):
    draw(tmp_path / "a.png")
    with pytest.raises(UserError, match="is one image: give the folder"):
        read_table(tmp_path / "a.png")


# ---- Files that are missing, empty or there twice --------------------------------------------------------------------


def test_missing_empty_and_doubled_images_are_counted_and_left_out_where_asked(tmp_path):
    tree(tmp_path, "cat/0.png", "cat/1.png", "dog/2.png")
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "dog" / "3.png")
    (tmp_path / "dog" / "4.png").touch()
    text = "path,label\n" + "".join(
        f"{f},{f[:3]}\n" for f in ("cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png", "dog/4.png", "cat/9.png")
    )
    table = table_of(tmp_path, text)
    with pytest.raises(UserError, match=r"2 of the 6 images .* are empty or missing.*--skip-broken"):
        check_image_files(table)
    kept = check_image_files(table, skip_broken=True)
    assert kept.rows.tolist() == [0, 1, 2]
    notes = " ".join(kept.notes)
    assert "2 image(s) that are empty or missing" in notes
    assert "1 image(s) are copies of others" in notes
    assert "1 of them have another label" in notes


def test_copies_across_splits_are_told_and_kept(tmp_path):
    tree(tmp_path, "val/cat/0.png", "test/dog/1.png")
    shutil.copy(tmp_path / "val/cat/0.png", tmp_path / "test/dog/2.png")
    table = check_image_files(read_table(tmp_path))
    assert len(table) == 3
    assert "lie in another split" in table.notes[0]


def test_no_image_at_all_suggests_the_root(tmp_path):
    with pytest.raises(UserError, match="give --image-root"):
        check_image_files(table_of(tmp_path, "path,label\na,cat\nb,dog\n"), skip_broken=True)


# ---- Parquet, datasets, DataFrames ---------------------------------------------------------------------------------


def test_parquet_is_read_as_the_csv_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"path": ["a", "b"], "label": ["cat", "dog"], "pred": ["dog", "dog"], "age": [3, None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert (table.labels.tolist(), table.preds.tolist()) == ([0, 1], [1, 1])
    assert table.metadata == {"age": [3, None]}
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not a Parquet file"):
        read_table(tmp_path / "bad.parquet")


def test_parquet_and_datasets_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pyarrow: pip install .failure-directions\[hf\]"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"pip install .failure-directions\[hf\]"):
        read_table(tmp_path / "saved")


class Frame(dict):
    """What of a DataFrame is used, of pandas and polars alike."""

    columns = property(lambda self: list(self))


def test_a_frame_is_read_by_its_columns(tmp_path):
    frame = Frame(path=["a", "b"], label=[3.0, 7.0], pred=[7, 7], camera=["x", None])
    table = read_table(frame, image_root=tmp_path)
    assert table.class_names == ["3", "7"]
    assert table.preds.tolist() == [1, 1]
    assert table.metadata["camera"] == ["x", None]


def test_a_pandas_frame_with_nan_names_the_row():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(UserError, match="row 1: label is empty"):
        read_table(pandas.DataFrame({"path": ["a", "b"], "label": ["cat", float("nan")]}))


def test_a_saved_data_set_has_images_names_and_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    from failure_directions.data.any_images import AnyImages

    tree(tmp_path, "0.png", "1.png", "2.png")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"]), "age": datasets.Value("int64")}
    )
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    whole = datasets.Dataset.from_dict({"img": paths, "label": [1, 0, 1], "age": [1, 2, 3]}, features=features)
    datasets.DatasetDict({"validation": whole.select([0, 1]), "test": whole.select([2])}).save_to_disk(
        tmp_path / "saved"
    )
    for source in (tmp_path / "saved", {"validation": whole.select([0, 1]), "test": whole.select([2])}):
        table = read_table(source)
        assert table.class_names == ["dog", "cat"]
        assert table.labels.tolist() == [1, 0, 1]
        assert table.split.tolist() == ["val", "val", "test"]
        assert table.metadata == {"age": [1, 2, 3]}
        for i in range(3):
            np.testing.assert_array_equal(AnyImages(table.images).read(i), Image.open(paths[i]))
    assert AnyImages(read_table(whole).keep([2]).images).read(0).size == (6, 6)


def test_a_damaged_saved_data_set_is_one_sentence(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "gone.arrow"}]}))
    with pytest.raises(UserError, match="incomplete or damaged"):
        read_table(tmp_path)
