import csv
import pickle
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.commands import betons as make_betons
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.any_images import AnyImages
from failure_directions.data.beton_sets import write_splits, write_starter_config
from failure_directions.data.beton_tables import describe_split
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import cifar_sources, folder_sources, group_classes, manifest_sources
from failure_directions.data.images import read_image
from failure_directions.data.splits import Split, open_splits
from failure_directions.loaders import make_loader
from failure_directions.models.build import build_model
from failure_directions.runtime.errors import UserError
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two classes, three splits, PNGs of one colour each, one of them greyscale."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                colour = tuple(int(c) for c in rng.integers(0, 255, 3))
                Image.new("RGB", (20, 20), colour).save(tmp_path / "images" / split / name / f"{i}.png")
    Image.new("L", (20, 20), 90).save(tmp_path / "images" / "test" / "dog" / "grey.png")
    return tmp_path / "images"


def write_manifest(path, rows, header=("path", "label", "split")):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_a_folder_becomes_betons_with_a_config_that_reads_them(folder, tmp_path):
    out = tmp_path / "out"
    make_betons.main(["folder", "--data", str(folder), "--out", str(out), "--name", "pets", "--workers", "2"])
    config = load_dataset_config(out / "pets.yaml")
    assert (config.num_classes, config.class_names, config.imgsz) == (2, ["cat", "dog"], 20)
    assert (config.train_img_decoder, config.val_beton) == ("simple", "pets_val.beton")
    assert "# passes over the training images" in (out / "pets.yaml").read_text()
    beton = open_beton(out / config.test_beton)
    assert beton.column("label").tolist() == [0, 0, 1, 1, 1]
    batch = next(iter(make_loader(Split("test", beton, np.array([4])), config, torch.device("cpu"))))
    pixels = batch.image[0] * torch.tensor(config.std)[:, None, None] + torch.tensor(config.mean)[:, None, None]
    assert torch.allclose(pixels, torch.full((3, 20, 20), 90.0), atol=1e-3)


def test_a_broken_image_is_named_and_stops_the_write(folder, tmp_path, capsys):
    (folder / "train" / "dog" / "bad.jpg").write_bytes(b"\xff\xd8 not a jpeg")
    with pytest.raises(SystemExit) as stop:
        make_betons.main(["folder", "--data", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert stop.value.code == 2
    assert "bad.jpg is broken" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*train*"))


def test_a_broken_image_of_a_later_split_leaves_no_beton_at_all(folder, tmp_path, capsys):
    (folder / "test" / "dog" / "bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        make_betons.main(["folder", "--data", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert "bad.png is broken" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_broken_images_are_left_out_and_listed_when_asked(folder, tmp_path):
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    (folder / "train" / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    make_betons.main(["folder", "--data", str(folder), "--out", str(out), "--name", "x", "--skip-broken"])
    beton = open_beton(out / "x_train.beton")
    assert beton.column("label").tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert beton.column("index").tolist() == list(range(7))
    assert "0.png" in (out / "x_train_left_out.csv").read_text()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: [path.unlink() for path in (root / "test").rglob("*.png")], "test holds no images"),
        (lambda root: (root / "val" / "bird").mkdir(), "bird is none of the classes cat, dog"),
        (lambda root: (root / "train").rename(root / "training"), "no folder train"),
    ],
)
def test_a_folder_with_another_layout_is_refused(folder, damage, words):
    damage(folder)
    with pytest.raises(UserError, match=words):
        folder_sources(folder)


def test_a_folder_is_taken_in_by_one_rule(folder, capsys, tmp_path):
    """Hidden names are skipped; nested images, odd suffixes and other names of val are read; the rest is told."""
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "train" / ".ipynb_checkpoints" / "0-checkpoint.png")
    (folder / "train" / "cat" / "._0.png").write_bytes(b"\0\5\26\7")
    (folder / "train" / "dog" / "deep").mkdir()
    for name in ("deep/1.jfif", "2.jpe", "3", "4.JPG"):
        Image.new("RGB", (20, 20)).save(folder / "train" / "dog" / name, "JPEG")
    Image.new("L", (20, 20)).save(folder / "train" / "dog" / "5.pgm")
    for name in ("6.heic", "7.avif", "notes.txt"):
        (folder / "train" / "dog" / name).write_bytes(b"x")
    (folder / "val").rename(folder / "Validation")
    (folder / "labels").mkdir()
    (folder / "train" / "dog" / "8.png").mkdir()
    sources = folder_sources(folder)
    assert sources["train"].class_names == ["cat", "dog"]
    assert sources["train"].labels.tolist() == [0] * 4 + [1] * 9
    assert len(sources["val"]) == 4
    make_betons.main(["folder", "--data", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"])
    told = capsys.readouterr().out
    assert "3 other file(s): " in told
    assert "1 folder(s) are called as images are" in told
    assert ".heic (1)" in told
    assert "they are no split (confirm, find, test, train, unlabeled, val, valid, validation): labels" in told
    assert "folder_train.beton: 13 images (cat 4, dog 9)" in told


def test_class_folders_are_one_whether_their_accents_are_composed_or_not(folder):
    for split, name in (("train", "caf\u00e9"), ("val", "cafe\u0301"), ("test", "caf\u00e9 ")):
        (folder / split / "cat").rename(folder / split / name)
    sources = folder_sources(folder)
    assert sources["train"].class_names == ["caf\u00e9", "dog"]
    assert [len(source) for source in sources.values()] == [8, 4, 5]


def image_of(folder, size, mode="RGB"):
    Image.new(mode, size).save(folder / "train" / "dog" / "odd.png")


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        ((1, 60), [], "has 1 x 60 pixels, too few on the short side"),
        ((60, 1), ["--image-format", "jpg"], "has 60 x 1 pixels, too few on the short side"),
        ((70_000, 20), [], "more than the 65,535 a side that FFCV can store; give --max-resolution"),
        ((65_520, 20), ["--image-format", "jpg"], "more than the 65,500 a side"),
        ((65_520, 100), ["--image-format", "jpg", "--max-resolution", "256"], "of which --max-resolution leaves 0"),
        ((2000, 2000), [], "takes more than the 8 MiB that a beton has for one; give --max-resolution, or"),
        ((12_000, 9_000), ["--max-resolution", "64"], "is too large .* give --max-pixels"),
    ],
)
def test_what_cannot_be_stored_or_decoded_is_named_or_left_out(folder, tmp_path, capsys, size, options, words):
    image_of(folder, size, "1" if size[0] > 9000 else "RGB")
    call = ["folder", "--data", str(folder), "--out", str(tmp_path / "out"), "--name", "x", "--workers", "1", *options]
    with pytest.raises(SystemExit):
        make_betons.main(call)
    assert re.search(f"odd.png .*{words}", capsys.readouterr().err)
    make_betons.main([*call, "--skip-broken"])
    assert open_beton(tmp_path / "out" / "x_train.beton").column("label").tolist() == [0] * 4 + [1] * 4
    assert re.search(words, (tmp_path / "out" / "x_train_left_out.csv").read_text())


def test_a_larger_image_is_read_where_it_is_asked_for_and_scaled_down(folder, tmp_path):
    image_of(folder, (12_000, 9_000), "1")
    options = ["--workers", "1", "--max-pixels", "110000000", "--max-resolution", "64"]
    make_betons.main(["folder", "--data", str(folder), "--out", str(tmp_path / "out"), "--name", "x", *options])
    widths, heights = open_beton(tmp_path / "out" / "x_train.beton").image_sizes
    assert (widths[-1], heights[-1]) == (64, 48)


def test_names_that_yaml_takes_for_numbers_come_back_as_names(folder, tmp_path):
    for split in ("train", "val", "test"):
        (folder / split / "cat").rename(folder / split / "25921e05")
        (folder / split / "dog").rename(folder / split / "no")
    make_betons.main(["folder", "--data", str(folder), "--out", str(tmp_path), "--name", "x", "--workers", "1"])
    assert load_dataset_config(tmp_path / "x.yaml").class_names == ["25921e05", "no"]


def test_a_manifest_keeps_its_order_and_numbers_names(folder, tmp_path):
    rows = [("test/dog/1.png", "dog", "test"), ("train/cat/2.png", "cat", "train"), ("train/dog/0.png", "dog", "train")]
    sources = manifest_sources(write_manifest(tmp_path / "list.csv", rows), folder)
    assert [path.name for path in sources["train"].paths] == ["2.png", "0.png"]
    assert (sources["train"].labels.tolist(), sources["test"].labels.tolist()) == ([0, 1], [1])
    assert sources["train"].class_names == ["cat", "dog"]
    ordered = manifest_sources(tmp_path / "list.csv", folder, class_names=["dog", "cat"])
    assert ordered["train"].labels.tolist() == [1, 0]


def test_a_manifest_of_conditions_gives_vectors(folder, tmp_path):
    rows = [("train/cat/0.png", "old|wet"), ("train/cat/1.png", ""), ("train/cat/2.png", "wet")]
    manifest = write_manifest(tmp_path / "list.csv", rows, ("path", "label"))
    source = manifest_sources(manifest, folder, bce=True)["train"]
    assert source.class_names == ["old", "wet"]
    assert source.labels.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_numbers_are_ordered_by_value_without_classes_that_nobody_has_and_spurious_is_read(folder, tmp_path):
    rows = [("train/cat/0.png", "10", "red"), ("train/cat/1.png", "2", "blue")]
    source = manifest_sources(write_manifest(tmp_path / "x.csv", rows, ("path", "label", "spurious")), folder)["train"]
    assert (source.labels.tolist(), source.class_names) == ([1, 0], ["2", "10"])
    assert source.spurious.tolist() == [1, 0]
    assert "numbers 2, 10, not 0, 1, 2" in source.notes[0]


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 255)).save(tmp_path / "solid.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    assert (read_image(tmp_path / "solid.png") == [255, 0, 0]).all()


def test_pixels_without_a_scale_are_refused_by_name_by_every_reader(tmp_path):
    for mode, value in (("F", 0.7), ("I", 70_000), ("LAB", 0)):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (4, 4), value).save(path)
        with pytest.raises(UserError, match=f"{mode}.tif is of mode {mode} .*save it as RGB or grey of 8 or 16 bits"):
            read_image(path)
        with pytest.raises(UserError, match=f"image 0 is of mode {mode}"):
            AnyImages([{"bytes": path.read_bytes(), "path": None}]).read(0)


def test_a_pgm_of_16_bits_is_scaled_and_held_images_are_read_as_files_are(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n\x80\x80\xff\xff")
    assert read_image(tmp_path / "deep.pgm")[0, :, 0].tolist() == [128, 255]
    held = Image.fromarray(np.array([[32_896, 65_535]], dtype=np.uint16))
    assert np.asarray(AnyImages([held]).read(0))[0, :, 0].tolist() == [128, 255]


def test_deep_greys_are_scaled_and_turned_photographs_set_upright(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png")[..., 1], ramp / 257, atol=0.51)
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 10, 3)


def test_a_class_without_a_training_image_is_named(folder):
    (folder / "train" / "bird").mkdir()
    with pytest.raises(UserError, match=r"train/bird holds no images"):
        folder_sources(folder)


def test_a_manifest_of_train_images_alone_becomes_a_beton(folder, tmp_path, capsys):
    manifest = write_manifest(
        tmp_path / "x.csv", [("train/cat/0.png", "a"), ("train/cat/1.png", "b")], ("path", "label")
    )
    words = ["manifest", "--data", str(manifest), "--image-root", str(folder), "--out", str(tmp_path / "out")]
    make_betons.main([*words, "--workers", "1"])
    assert open_beton(tmp_path / "out" / "manifest_train.beton").column("label").tolist() == [0, 1]
    assert "no config to start from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["-1", "0"], "label is '-1'"),
        (["1.5", "0"], "label is '1.5'"),
        (["0", "cat"], "label is '0'"),
        (["", ""], "no label"),
    ],
)
def test_labels_are_numbers_throughout_or_names_throughout(tmp_path, labels, words):
    rows = [(f"{i}.png", label) for i, label in enumerate(labels)]
    with pytest.raises(UserError, match=words):
        manifest_sources(write_manifest(tmp_path / "x.csv", rows, ("path", "label")))


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([("../../etc/passwd", "a", "train")], ("path", "label", "split"), "line 2: .* lies outside"),
        ([("/etc/passwd", "a", "train")], ("path", "label", "split"), "line 2: .* lies outside"),
        ([("a.png", "a", "training")], ("path", "label", "split"), "line 2: split is 'training'"),
        ([("a.png", "a")], ("path", "class"), "columns path,class"),
        ([], ("path", "label"), "lists no images"),
        ([("a.png",)], ("path", "label"), "line 2 has 1 values, but the header has 2"),
        ([("a.png", "a"), ("a.png", "b")], ("path", "label"), "a.png twice, in lines 2 and 3"),
        ([("a.png", "a", "b")], ("path", "label", "label"), "column label twice"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_line(tmp_path, rows, header, words):
    with pytest.raises(UserError, match=words):
        manifest_sources(write_manifest(tmp_path / "x.csv", rows, header))


def manifest_of(tmp_path, text, **options):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    return manifest_sources(tmp_path / "list.csv", **options)


@pytest.mark.parametrize(
    ("text", "class_names", "labels"),
    [
        ("path, label\na.png, cat\nb.png, dog\n", ["cat", "dog"], [0, 1]),
        ("Path,LABEL\na.png,cat \nb.png,cat\n", ["cat"], [0, 0]),
        ("path,label\na.png,caf\u00e9\nb.png,cafe\u0301\n", ["caf\u00e9"], [0, 0]),
        ("path,label\na.png,02\nb.png,01\n", ["01", "02"], [1, 0]),
        ("path,label\na.png,1\nb.png,2\n", ["1", "2"], [0, 1]),
        ("path;label\n\na.png;1e3\nb.png;no\n", ["1e3", "no"], [0, 1]),
    ],
)
def test_labels_are_what_people_see(tmp_path, text, class_names, labels):
    source = manifest_of(tmp_path, text)["train"]
    assert (source.class_names, source.labels.tolist()) == (class_names, labels)


def test_conditions_splits_and_given_names_are_without_blanks_too(tmp_path):
    source = manifest_of(tmp_path, "path,label\na.png,wet | old\nb.png,wet\n", bce=True)["train"]
    assert (source.class_names, source.labels.tolist()) == (["old", "wet"], [[1, 1], [0, 1]])
    text = "path,label,split\na.png,b,train\nb.png,a,Valid \nc.png,a, validation\nd.png,a,unlabeled\n"
    sources = manifest_of(tmp_path, text, class_names=["b ", " a"])
    assert {split: len(source) for split, source in sources.items()} == {"train": 1, "val": 2, "unlabeled": 1}
    assert sources["val"].labels.tolist() == [1, 1]


def test_labels_that_differ_by_case_are_told_and_one_number_is_written_in_one_way(tmp_path):
    assert (
        "Cat and cat differ only by case"
        in manifest_of(tmp_path, "path,label\na.png,cat\nb.png,Cat\n")["train"].notes[0]
    )
    with pytest.raises(UserError, match=r"label is 0?1 in some line and 0?1 in another"):
        manifest_of(tmp_path, "path,label\na.png,1\nb.png,01\n")


def test_a_class_that_is_in_test_alone_is_refused_unless_it_was_given(tmp_path):
    text = "path,label,split\na.png,cat,train\nb.png,dog,test\n"
    with pytest.raises(UserError, match="no image of dog in train, but 1 in other splits"):
        manifest_of(tmp_path, text)
    assert manifest_of(tmp_path, text, class_names=["cat", "dog"])["test"].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "line"), [("a.png,cat\n\n\nb.png,dog,x\n", 5), ('a.png,"ca\nt"\nb.png,dog,x\n', 4), ('a,"\nb",c\n', 2)]
)
def test_lines_are_counted_as_an_editor_does(tmp_path, text, line):
    with pytest.raises(UserError, match=f"line {line} has 3 values"):
        manifest_of(tmp_path, f"path,label\n{text}")


def test_a_path_that_is_twice_in_a_long_manifest_is_found_in_one_pass(tmp_path):
    rows = [f"images/{i:07d}.jpg,{'ab'[i % 2]}\n" for i in range(200_000)]
    text = "path,label\n" + "".join(rows) + rows[-1]
    start = time.process_time()
    with pytest.raises(UserError, match="twice, in lines 200001 and 200002"):
        manifest_of(tmp_path, text)
    assert time.process_time() - start < 60  # 3 here; by the square of the rows it would be hours


def test_absolute_paths_within_the_root_are_taken_however_they_are_spelt(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    for path in (folder / "train/cat/0.png", tmp_path / "link" / "train/cat/0.png", folder / "val/../train/cat/0.png"):
        source = manifest_of(tmp_path, f"path,label\n{path},cat\n", image_root=folder)["train"]
        assert source.paths == [folder / "train/cat/0.png"]
    with pytest.raises(UserError, match=r"lies outside .*; give as --image-root a folder that holds all images"):
        manifest_of(tmp_path, f"path,label\n{folder / 'train/cat/0.png'},cat\n", image_root=folder / "val")


def test_a_list_of_which_no_image_is_there_asks_for_the_root(folder, tmp_path, capsys):
    manifest = write_manifest(tmp_path / "x.csv", [("train/cat/0.png", "a"), ("b.png", "b")], ("path", "label"))
    with pytest.raises(SystemExit):
        make_betons.main(["manifest", "--data", str(manifest), "--out", str(tmp_path / "out"), "--skip-broken"])
    assert "none of the 2 images that are listed is there" in (message := capsys.readouterr().err)
    assert "give --image-root" in message


def test_a_label_that_is_not_a_class_is_named(tmp_path):
    manifest = write_manifest(tmp_path / "x.csv", [("a.png", "cat"), ("b.png", "zebra")], ("path", "label"))
    with pytest.raises(UserError, match="line 3: label is 'zebra', but must be one of cat, dog"):
        manifest_sources(manifest, class_names=["cat", "dog"])


def test_grouped_classes_keep_the_original_class_as_spurious(pixels):
    grouped = group_classes(pixels, [["a", "c"], ["b"]])
    assert grouped.labels[:6].tolist() == [0, 1, 0, 0, 1, 0]
    assert grouped.spurious[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert grouped.class_names == ["a+c", "b"]
    with pytest.raises(UserError, match="every class once; look at b"):
        group_classes(pixels, [["a", "c"]])


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """A miniature in torchvision's layout, with its checksums in place of the real ones."""
    import hashlib

    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(n):
        return {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": rng.integers(0, 10, n).tolist()}

    names = [f"class{i}" for i in range(10)]
    meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{i}", batch(20)) for i in (1, 2)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(10))])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path / "cifar"


def test_cifar_on_disk_becomes_betons(cifar_folder, tmp_path):
    make_betons.main(["cifar10", "--data", str(cifar_folder), "--out", str(tmp_path), "--workers", "1"])
    source = cifar_sources("cifar10", cifar_folder)["train"]
    beton = open_beton(tmp_path / "cifar10_train.beton")
    assert len(beton) == 40
    assert beton.column("label").tolist() == source.labels.tolist()
    assert len(open_beton(tmp_path / "cifar10_test.beton")) == 10


def test_cifar_that_is_damaged_or_missing_is_named(cifar_folder, tmp_path):
    path = cifar_folder / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1])
    for folder in (cifar_folder, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"cifar10 is not \(whole\) in .*--download"):
            cifar_sources("cifar10", folder)


def test_a_download_without_a_network_says_what_to_fetch(tmp_path, monkeypatch):
    import urllib.error

    from torchvision.datasets import CIFAR100

    def refuse(self):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(CIFAR100, "download", refuse)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route to host\); get http"):
        cifar_sources("cifar100", tmp_path, download=True)


def test_scenes_come_with_the_truth_beside_them(scenes_folder):
    with open(Path(scenes_folder) / "scenes_train.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    beton = open_beton(scenes_folder / "scenes_train.beton")
    assert [int(row["label"]) for row in rows] == beton.column("label").tolist()
    assert [int(row["subgroup"]) for row in rows] == beton.column("spurious").tolist()
    circles = [row for row in rows if row["class"] == "circle"]
    assert sum(row["colour"] == "red" for row in circles) == 54
    assert all(row["caption"].startswith("a photo of a") for row in rows)


# ---- the table beside a beton ---------------------------------------------------------------------------------------


def split_of(beton, indices):
    return Split("test", open_beton(beton), np.array(indices))


def test_a_beton_has_a_table_of_its_files_and_what_else_is_known(folder, tmp_path):
    paths = sorted((folder / "train" / "cat").iterdir())[:3]
    rows = [(str(path), label, spurious, "=ward 7") for path, label, spurious in zip(paths, "aba", "010", strict=True)]
    manifest = write_manifest(folder / "x.csv", rows, ("path", "label", "spurious", "ward"))
    write_splits(manifest_sources(manifest), tmp_path / "out", "mine", workers=1)
    with open(tmp_path / "out" / "mine_train.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [(row["index"], row["path"], row["label"], row["class"], row["spurious"]) for row in table] == [
        ("0", str(paths[0]), "0", "a", "0"),
        ("1", str(paths[1]), "1", "b", "1"),
        ("2", str(paths[2]), "0", "a", "0"),
    ]
    described = describe_split(split_of(tmp_path / "out" / "mine_train.beton", [2, 0]))
    assert described.paths == [str(paths[2]), str(paths[0])]
    assert described.metadata == {"ward": ["=ward 7"] * 2}


def test_a_table_of_another_beton_is_refused_and_one_of_an_earlier_beton_goes(folder, tmp_path, pixels):
    write_splits(folder_sources(folder), tmp_path, "mine", workers=1)
    beton = tmp_path / "mine_train.beton"
    assert describe_split(split_of(beton, [0])).paths
    shutil.copy(tmp_path / "mine_train.csv", tmp_path / "kept.csv")
    write_splits({"train": pixels}, tmp_path, "mine", workers=1)
    assert describe_split(split_of(beton, [0])).paths is None
    shutil.move(tmp_path / "kept.csv", tmp_path / "mine_train.csv")
    with pytest.raises(UserError, match=r"mine_train.csv lists other images than beton .*mine_train.beton holds"):
        describe_split(split_of(beton, [0]))


def test_a_misspelt_column_of_a_manifest_is_not_taken_for_metadata(tmp_path):
    with pytest.raises(UserError, match="has the column spurius: rename it to spurious"):
        manifest_sources(write_manifest(tmp_path / "x.csv", [("a.png", "a", "1")], ("path", "label", "spurius")))


def test_someone_s_own_file_is_not_replaced_by_the_table(folder, tmp_path):
    manifest = write_manifest(folder / "mine_train.csv", [("train/cat/0.png", "cat")], ("path", "label"))
    before = manifest.read_bytes()
    with pytest.raises(UserError, match=r"mine_train\.csv is in the way of the table beside the beton"):
        write_splits(manifest_sources(manifest), folder, "mine", workers=1)
    assert manifest.read_bytes() == before
    assert not (folder / "mine_train.beton").exists()


@pytest.mark.parametrize(("has_gpu", "arch", "side"), [(False, "resnet10thin", 64), (True, "resnet18", 224)])
def test_the_config_to_start_from_is_one_that_the_machine_can_train(folder, tmp_path, has_gpu, arch, side):
    for path in folder.rglob("*.png"):
        Image.open(path).resize((120, 90)).save(path)
    sources = folder_sources(folder)
    write_splits(sources, tmp_path, "mine", workers=1)
    config = load_dataset_config(write_starter_config(sources, tmp_path, "mine", has_gpu))
    assert (config.arch, config.imgsz) == (arch, side)
    splits = open_splits(config, tmp_path)
    batch = next(iter(make_loader(splits["train"], config, torch.device("cpu"), train=True)))
    logits = build_model(config.arch_type, config.arch, config.num_classes)(batch.image)
    assert logits.shape == (config.batch_size, 2)
