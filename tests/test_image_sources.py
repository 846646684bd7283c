import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.commands import betons as make_betons
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import cifar_sources, folder_sources, group_classes, manifest_sources
from failure_directions.data.images import read_image
from failure_directions.data.splits import Split
from failure_directions.loaders import make_loader
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


def test_numbers_are_class_indices_and_spurious_is_read(folder, tmp_path):
    rows = [("train/cat/0.png", "2", "red"), ("train/cat/1.png", "0", "blue")]
    source = manifest_sources(write_manifest(tmp_path / "x.csv", rows, ("path", "label", "spurious")), folder)["train"]
    assert (source.labels.tolist(), source.class_names) == ([2, 0], ["0", "1", "2"])
    assert source.spurious.tolist() == [1, 0]


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 255)).save(tmp_path / "solid.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    assert (read_image(tmp_path / "solid.png") == [255, 0, 0]).all()


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
        ([("a.png",)], ("path", "label"), "line 2 does not have 2 values"),
        ([("a.png", "a"), ("a.png", "b")], ("path", "label"), "a.png twice"),
        ([("a.png", "a", "b")], ("path", "label", "label"), "columns path,label,label"),
    ],
)
def test_a_wrong_manifest_is_named_with_its_line(tmp_path, rows, header, words):
    with pytest.raises(UserError, match=words):
        manifest_sources(write_manifest(tmp_path / "x.csv", rows, header))


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
