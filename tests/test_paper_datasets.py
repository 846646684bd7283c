"""The papers' data sets: from miniatures, laid out as the official files are, to the splits of the shipped configs."""

import gzip
import hashlib
import pickle
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.captions.vocabulary import get_caption_set
from failure_directions.commands import betons as make_betons
from failure_directions.commands import index as make_index_files
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.beton_writer import write_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.index_files import load_index_file, skew
from failure_directions.data.official.celeba import celeba_age_sources, celeba_gender_sources
from failure_directions.data.official.chestxray import CONDITIONS, chestxray_sources
from failure_directions.data.official.colored_mnist import colored_mnist_sources
from failure_directions.data.official.imagenet import imagenet_sources, imagenetc_sources
from failure_directions.data.official.supercifar100 import to_superclasses
from failure_directions.data.official.waterbirds import waterbirds_sources
from failure_directions.data.splits import open_splits
from failure_directions.loaders import make_loader
from failure_directions.runtime.errors import UserError
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def write_betons(*words):
    make_betons.main([*map(str, words), "--workers", "1"])


def write_index_file(*words):
    make_index_files.main([str(word) for word in words])


def shipped_splits(name, root, indices_file=None, **kwargs):
    config = load_dataset_config(ROOT / "dataset_configs" / f"{name}.yaml")
    return config, open_splits(config, root, indices_file, **kwargs)


def columns(splits, name="label"):
    return {split: part.column(name).tolist() for split, part in splits.items()}


def draw(path, size=(24, 24), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# ---- CelebA ---------------------------------------------------------------------------------------------------------

# (young, male) and (black hair, blond hair) of the images, in each split shuffled. In train the reference groups are 5
# old women beside 23 old men, and 2 blond men beside 15 black-haired ones.
AGES = {
    "train": {(0, 0): 5, (0, 1): 23, (1, 0): 25, (1, 1): 7},
    "val": {(0, 0): 3, (0, 1): 4, (1, 0): 6, (1, 1): 5},
    "test": {(0, 0): 1, (0, 1): 2, (1, 0): 2, (1, 1): 1},
}
HAIR = {  # by gender
    "train": {0: [(1, 0)] * 4 + [(0, 1)] * 17 + [(1, 1)] * 2, 1: [(0, 1)] * 2 + [(1, 0)] * 15},
    "val": {0: [(1, 0)] * 3 + [(0, 1)] * 4, 1: [(0, 1)] * 2 + [(1, 0)] * 5},
    "test": {0: [(1, 0)], 1: [(0, 1)]},
}
ATTRIBUTES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry
Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young
"""


@pytest.fixture
def celeba(tmp_path):
    """The folder, and the truth: a dict split -> rows (young, male, black, blond) in the data set's order."""
    rng, folder, truth, attributes, partition = np.random.default_rng(0), tmp_path / "celeba", {}, [], []
    for number, split in enumerate(("train", "val", "test")):
        people = [group for group, count in AGES[split].items() for _ in range(count)]
        people = [people[i] for i in rng.permutation(len(people))]
        hair = {gender: list(colours) for gender, colours in HAIR[split].items()}
        truth[split] = [(*person, *(hair[person[1]].pop() if hair[person[1]] else (0, 0))) for person in people]
        for young, male, black, blond in truth[split]:
            name = f"{len(attributes) + 1:06d}.jpg"
            values = dict.fromkeys(ATTRIBUTES.split(), 0) | {
                "Young": young,
                "Male": male,
                "Black_Hair": black,
                "Blond_Hair": blond,
            }
            attributes.append(f"{name} " + " ".join(f"{2 * value - 1:2d}" for value in values.values()))
            partition.append(f"{name} {number}")
            draw(folder / "img_align_celeba" / name, (54, 44), seed=len(attributes))
    header = [str(len(attributes)), " ".join(ATTRIBUTES.split()) + " "]
    (folder / "list_attr_celeba.txt").write_text("\n".join([*header, *attributes]) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return folder, truth


def first_come(groups, quotas):
    """Positions that are taken when a line passes by and every group has its quota."""
    taken, room = [], Counter(quotas)
    for position, group in enumerate(groups):
        if room[group]:
            room[group] -= 1
            taken.append(position)
    return taken


def test_celeba_ages_have_a_minority_of_women_among_the_old_and_of_men_among_the_young(celeba, tmp_path):
    folder, truth = celeba
    write_betons("celeba_age", "--data", folder, "--out", tmp_path)
    betons = ["--beton", tmp_path / "celeba_age_train.beton", "--val-beton", tmp_path / "celeba_age_val.beton"]
    write_index_file(*betons, "--subgroups", "0:0:1,1:1:0", "--majority", 4, "--out", tmp_path / "celeba_age.pt")
    config, splits = shipped_splits("celeba_age", tmp_path, tmp_path / "celeba_age.pt")
    groups = {split: [row[:2] for row in rows] for split, rows in truth.items()}
    expected = {
        "train": first_come(groups["train"], {(0, 0): 5, (0, 1): 20, (1, 1): 5, (1, 0): 20}),
        "val": first_come(groups["val"], dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 3)),
        "test": list(range(6)),
    }
    assert {split: part.indices.tolist() for split, part in splits.items()} == expected
    assert columns(splits) == {s: [groups[s][i][0] for i in expected[s]] for s in expected}
    assert columns(splits, "spurious") == {s: [groups[s][i][1] for i in expected[s]] for s in expected}
    batch = next(iter(make_loader(splits["test"], config, torch.device("cpu"))))
    assert batch.image.shape == (6, 3, 75, 75)


def test_celeba_genders_have_a_minority_of_blond_men_and_black_haired_women(celeba, tmp_path):
    folder, truth = celeba
    write_betons("celeba_gender", "--data", folder, "--out", tmp_path)
    betons = ["--beton", tmp_path / "celeba_gender_train.beton", "--val-beton", tmp_path / "celeba_gender_val.beton"]
    write_index_file(*betons, "--subgroups", "1:1:0,0:0:1", "--majority", 7, "--out", tmp_path / "celeba_gender.pt")
    _, splits = shipped_splits("celeba_gender", tmp_path, tmp_path / "celeba_gender.pt")
    hair = {(1, 0): 0, (0, 1): 1, (0, 0): 2, (1, 1): 2}
    groups = {split: [(row[1], hair[row[2:]]) for row in rows] for split, rows in truth.items()}
    expected = {
        "train": first_come(groups["train"], {(1, 1): 2, (1, 0): 14, (0, 0): 2, (0, 1): 14}),
        "val": first_come(groups["val"], dict.fromkeys([(1, 1), (1, 0), (0, 0), (0, 1)], 2)),
        "test": list(range(6)),
    }
    assert {split: part.indices.tolist() for split, part in splits.items()} == expected
    assert columns(splits) == {s: [groups[s][i][0] for i in expected[s]] for s in expected}
    assert columns(splits, "spurious") == {s: [groups[s][i][1] for i in expected[s]] for s in expected}


def test_celeba_is_read_as_offered_too_in_three_folders(celeba):
    folder, _ = celeba
    together = celeba_age_sources(folder)["train"]
    for name, place in (
        ("list_attr_celeba.txt", "Anno"),
        ("list_eval_partition.txt", "Eval"),
        ("img_align_celeba", "Img"),
    ):
        (folder / place).mkdir()
        (folder / name).rename(folder / place / name)
    apart = celeba_age_sources(folder)["train"]
    assert np.array_equal(apart.labels, together.labels)
    assert np.array_equal(
        apart[3][0], np.asarray(Image.open(folder / "Img" / "img_align_celeba" / apart.paths[3].name))
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "list_attr_celeba.txt").unlink(), "no list_attr_celeba.txt; get it from https"),
        (lambda f: (f / "list_eval_partition.txt").unlink(), "no list_eval_partition.txt"),
        (lambda f: (f / "list_attr_celeba.txt").write_text(""), "lists no images"),
        (lambda f: (f / "list_attr_celeba.txt").write_bytes(b"\xff\xfe"), "is not a text file"),
        (lambda f: edit(f / "list_attr_celeba.txt", "84\n", "85\n"), "announces 85 images, but lists 84"),
        (lambda f: edit(f / "list_attr_celeba.txt", "Male", "Mal"), "no attribute Male"),
        (lambda f: edit(f / "list_attr_celeba.txt", "000001.jpg -1", "000001.jpg"), "line 3 has 39 attributes, not 40"),
        (lambda f: edit(f / "list_attr_celeba.txt", "1\n000002", "3\n000002"), "Young is '-?3' .* one of -1, 1"),
        (lambda f: edit(f / "list_attr_celeba.txt", "000002.jpg", "000001.jpg"), "does not list the 84 images"),
        (lambda f: edit(f / "list_eval_partition.txt", "000003.jpg 0", "000003.jpg 3"), "partition is '3'"),
        (lambda f: edit(f / "list_eval_partition.txt", "000003.jpg 0\n", ""), "does not list the 84 images"),
        (lambda f: (f / "img_align_celeba" / "000007.jpg").unlink(), "1 of the images .* are not there, .*000007.jpg"),
    ],
)
def test_celeba_files_that_are_not_whole_are_named(celeba, damage, words):
    folder, _ = celeba
    damage(folder)
    with pytest.raises(UserError, match=words):
        celeba_age_sources(folder)


def test_a_list_may_not_lead_out_of_its_folder_or_repeat_itself(celeba):
    folder, _ = celeba
    for name, words in (("../000001.jpg", "lies outside"), ("000002.jpg", "an image twice")):
        for file in ("list_attr_celeba.txt", "list_eval_partition.txt"):
            edit(folder / file, "000001.jpg" if name[0] == "." else "../000001.jpg", name)
        with pytest.raises(UserError, match=words):
            celeba_gender_sources(folder)


def test_a_partition_without_a_class_is_named(celeba):
    folder, truth = celeba
    text = (folder / "list_eval_partition.txt").read_text().splitlines()
    ages = [row[0] for rows in truth.values() for row in rows]
    moved = [
        line[:-1] + "0" if line.endswith("1") and not young else line for line, young in zip(text, ages, strict=True)
    ]
    (folder / "list_eval_partition.txt").write_text("\n".join(moved))
    with pytest.raises(UserError, match="val has no image of old"):
        celeba_age_sources(folder)


# ---- the majority rule ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ages(tmp_path_factory):
    """Betons with the labels and genders of `AGES`, and blank images."""
    folder = tmp_path_factory.mktemp("ages")
    for split in ("train", "val"):
        rows = np.array([group for group, count in AGES[split].items() for _ in range(count)])
        blank = np.zeros((len(rows), 2, 2, 3), np.uint8)
        write_beton(folder / f"{split}.beton", ImageArrays(blank, rows[:, 0], ["old", "young"], rows[:, 1]), workers=1)
    return folder


def test_a_majority_that_is_too_small_for_its_minority_sets_the_size():
    labels, spurious = np.zeros(20, int), np.array([0] * 6 + [1] * 14)
    assert skew(labels, spurious, [(0, 0, 1)], 4).tolist() == [0, 1, 2, *range(6, 18)]  # 14 // 4 = 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--subgroups", "0:0:1,1:1:0", "--majority", "40"],
            "class 0 has 23 examples with spurious 1, but a majority of 40",
        ),
        (["--subgroups", "0:5:1"], "class 0 has 0 examples with spurious 5"),
        (["--subgroups", "1:1:0,0:0:1", "--majority", "2"], "class 0 has 5 examples with spurious 0"),
        (["--subgroups", "0:0"], "is not a list of CLASS:MINORITY:MAJORITY"),
        (["--subgroups", "0:0:1", "--majority", "0"], "--majority 0 is not 1 or more"),
        (["--subgroups", "0:0:1", "--thin", "1"], "neither --set-apart-every nor --thin"),
        ([], "--val-beton goes with --subgroups"),
    ],
)
def test_a_majority_that_cannot_be_had_is_refused(ages, tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        write_index_file(
            "--beton", ages / "train.beton", "--val-beton", ages / "val.beton", *words, "--out", tmp_path / "x.pt"
        )
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


# ---- ChestX-ray14 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def chestxray(tmp_path):
    """The folder, and the truth: image name -> (findings, view). 24 patients of 3 images each."""
    rng, folder, truth = np.random.default_rng(1), tmp_path / "chestxray", {}
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    rows = []
    for i in range(72):
        name = f"{i // 3 + 1:08d}_{i % 3:03d}.png"
        # The first image of a patient shows every condition, so that any split has them all.
        findings = {c for c in CONDITIONS if i % 3 == 0 or rng.random() < 0.1}
        truth[name] = findings, ["PA", "AP"][int(rng.integers(2))]
        text = "|".join(sorted(findings)) or "No Finding"
        rows.append(f"{name},{text},{i % 3},{i // 3 + 1},58,M,{truth[name][1]},2682,2749,0.143,0.143,")
        draw(folder / f"images_{1 + i // 36:03d}" / "images" / name, seed=i, mode="L" if i % 5 else "RGBA")
    (folder / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder, truth


def write_lists(folder, **names):
    for split, of_split in names.items():
        (folder / f"{split}_list.txt").write_text("\n".join(of_split) + "\n")


def test_chest_x_rays_are_split_by_the_lists_with_14_conditions_and_the_view(chestxray, tmp_path):
    folder, truth = chestxray
    names = sorted(truth)
    lists = {"train": names[24:48], "val": names[48:], "test": names[:24]}
    # As they come with CheXNet: labels behind the names.
    write_lists(folder, **{split: [f"{name} 0 1 0" for name in of_split] for split, of_split in lists.items()})
    write_betons("chestxray", "--data", folder, "--out", tmp_path, "--max-resolution", "16", "--image-format", "jpg")
    config, splits = shipped_splits("chestxray", tmp_path)
    for split, of_split in lists.items():
        labels = splits[split].column("label")
        found = [{config.names[c] for c in np.flatnonzero(row)} for row in labels]
        assert found == [truth[name][0] for name in of_split]
        views = splits[split].column("spurious").tolist()
        assert [["PA", "AP"][view] for view in views] == [truth[name][1] for name in of_split]


def test_of_the_official_lists_every_eighth_patient_is_validation(chestxray):
    folder, truth = chestxray
    names = sorted(truth)
    (folder / "Data_Entry_2017.csv").rename(folder / "Data_Entry_2017_v2020.csv")
    for path in sorted(folder.glob("images_*/images/*")):
        (folder / "images").mkdir(exist_ok=True)
        path.rename(folder / "images" / path.name)
    write_lists(folder, train_val=names[24:], test=names[:24])
    sources = chestxray_sources(folder)
    assert [path.name for path in sources["val"].paths] == [*names[24:27], *names[48:51]]
    assert [path.name for path in sources["train"].paths] == [*names[27:48], *names[51:]]
    assert [path.name for path in sources["test"].paths] == names[:24]
    assert sources["val"].labels[3].tolist() == [1] * 14
    assert sources["test"][1][0].shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f, n: (f / "Data_Entry_2017.csv").unlink(), "no Data_Entry_2017.csv; get it from https"),
        (lambda f, n: (f / "val_list.txt").unlink(), "no val_list.txt"),
        (lambda f, n: [(f / f"{s}_list.txt").unlink() for s in ("train", "val")], "no train_val_list.txt"),
        (lambda f, n: write_lists(f, val=[*n[48:], n[0]]), "000.png is in val_list.txt and in test_list.txt"),
        (lambda f, n: write_lists(f, val=[*n[48:], "9.png"]), "val_list.txt names 9.png, which is not in Data_Entry"),
        (lambda f, n: edit(f / "Data_Entry_2017.csv", "View Position", "View"), "no column 'View Position'"),
        (lambda f, n: edit(f / "Data_Entry_2017.csv", ",AP,", ",LL,"), "View Position is 'LL' .*one of PA, AP"),
        (lambda f, n: edit(f / "Data_Entry_2017.csv", "No Finding", "Cough"), "'Cough' in 'Cough' is none of the 14"),
        (lambda f, n: edit(f / "Data_Entry_2017.csv", "No Finding", "Mass|No Finding"), "'No Finding' in 'Mass"),
        (lambda f, n: next(f.glob("images_002/images/*_001.png")).unlink(), "1 of the images .* are not there"),
    ],
)
def test_chest_x_ray_files_that_are_not_whole_are_named(chestxray, damage, words):
    folder, truth = chestxray
    names = sorted(truth)
    write_lists(folder, train=names[24:48], val=names[48:], test=names[:24])
    damage(folder, names)
    with pytest.raises(UserError, match=words):
        chestxray_sources(folder)


# ---- ImageNet and ImageNet-C ----------------------------------------------------------------------------------------

WNIDS = {"n01440764": 0, "n02123045": 281, "n15075141": 999}  # tench, tabby, toilet tissue


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet with 10 train and 20 val photographs of three classes, and ImageNet-C with two corruptions."""
    for wnid in WNIDS:
        for i in range(10):
            draw(tmp_path / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG", (40, 60), seed=i)
        for i in range(20):
            name = f"ILSVRC2012_val_{i:08d}.JPEG"
            draw(tmp_path / "imagenet" / "val" / wnid / name, (40, 60), seed=i)
            for corruption in ("snow", "fog"):
                for severity in "35":
                    path = tmp_path / "imagenet-c" / corruption / severity / wnid / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    colour = (255, 0, 0) if corruption == "fog" else (0, 0, int(severity) * 50)
                    Image.new("RGB", (224, 224), colour).save(path)
    return tmp_path / "imagenet"


def test_imagenet_keeps_its_numbers_and_its_val_is_test(imagenet, tmp_path):
    write_betons("imagenet", "--data", imagenet, "--out", tmp_path)
    index = ["--beton", tmp_path / "imagenet_train.beton", "--set-apart-every", 2, "--out", tmp_path / "imagenet.pt"]
    write_index_file(*index)
    config, splits = shipped_splits("imagenet", tmp_path, tmp_path / "imagenet.pt", unlabeled=True)
    classes = list(WNIDS.values())
    assert columns(splits)["test"] == np.repeat(classes, 20).tolist()
    assert {split: Counter(labels) for split, labels in columns(splits).items()} == {
        split: Counter(dict.fromkeys(classes, count))
        for split, count in (("train", 4), ("val", 2), ("test", 20), ("unlabeled", 4))
    }
    assert [config.names[c] for c in classes] == ["tench", "tabby", "toilet tissue"]


def test_imagenet_c_is_a_minority_of_val_and_test_and_absent_from_train(imagenet, tmp_path):
    write_betons("imagenetc", "--data", imagenet, "--distorted", tmp_path / "imagenet-c", "--out", tmp_path)
    config, splits = shipped_splits("imagenetc", tmp_path)
    assert set(columns(splits, "spurious")["train"]) == {0}
    for split in ("val", "test"):
        # 10 of each class; the 1st and the 6th are distorted, by fog (1) and snow (2) in turn.
        assert columns(splits)[split] == np.repeat(list(WNIDS.values()), 10).tolist()
        assert columns(splits, "spurious")[split] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0] * 3
    source = imagenetc_sources(imagenet, tmp_path / "imagenet-c", severity=5)["val"]
    images = [source[i][0] for i in range(6)]
    assert all(image.shape == (224, 224, 3) for image in images)
    assert [tuple(images[i].mean((0, 1)).round(-1)) for i in (0, 5)] == [(250, 0, 0), (0, 0, 250)]
    expected = Image.open(imagenet / "val" / "n01440764" / "ILSVRC2012_val_00000002.JPEG").resize((384, 256), 2)
    assert np.abs(np.asarray(expected.crop((80, 16, 304, 240))) - images[1].astype(int)).max() <= 1
    assert config.names == load_dataset_config(ROOT / "dataset_configs" / "imagenet.yaml").names


def test_no_photograph_is_in_val_and_in_test(imagenet, tmp_path):
    sources = imagenetc_sources(imagenet, tmp_path / "imagenet-c", ["fog"])
    seen = {split: {(p.parent.name, p.name) for p in sources[split].paths} for split in ("val", "test")}
    assert not seen["val"] & seen["test"]
    assert len(seen["val"] | seen["test"]) == 60
    distorted = [path.parts[-4:-2] for path in sources["test"].paths if "imagenet-c" in path.parts]
    assert distorted == [("fog", "3")] * 6


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "val").rename(f / "validation"), "no val; get it from https://image-net.org"),
        (lambda f: (f / "train" / "cats").mkdir(), "cats is not named by one of ImageNet's 1,000"),
        (lambda f: (f / "train" / "n01443537").mkdir(), "n01443537 holds no images"),
        (
            lambda f: (
                [p.rename(f / "val" / p.name) for p in (f / "val").glob("*/*")]
                and [p.rmdir() for p in (f / "val").iterdir() if p.is_dir()]
            ),
            "has no folders WNID/",
        ),
    ],
)
def test_imagenet_folders_that_are_not_whole_are_named(imagenet, damage, words):
    damage(imagenet)
    with pytest.raises(UserError, match=words):
        imagenet_sources(imagenet)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"severity": 6}, "--severity 6"),
        ({"severity": 4}, "no folder fog/4; get it from https"),
        ({"corruptions": ["fgo"]}, "no folder fgo/3"),
        ({"corruptions": [".."]}, "no folder ../3"),
        ({"distorted": "nowhere"}, "nowhere has no folders CORRUPTION/3/WNID"),
    ],
)
def test_imagenet_c_folders_that_are_not_there_are_named(imagenet, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        imagenetc_sources(imagenet, **{"distorted": tmp_path / "imagenet-c", **options})


def test_a_photograph_that_imagenet_c_lacks_is_named(imagenet, tmp_path):
    (tmp_path / "imagenet-c" / "fog" / "3" / "n01440764" / "ILSVRC2012_val_00000000.JPEG").unlink()
    with pytest.raises(UserError, match=r"1 of the images that .*val names .* such as .*fog/3/n01440764"):
        imagenetc_sources(imagenet, tmp_path / "imagenet-c")


# ---- CIFAR-100's superclasses ---------------------------------------------------------------------------------------

# The coarse label of each fine label, as CIFAR-100's own files have them.
COARSE = [
    4,
    1,
    14,
    8,
    0,
    6,
    7,
    7,
    18,
    3,
    3,
    14,
    9,
    18,
    7,
    11,
    3,
    9,
    7,
    11,
    6,
    11,
    5,
    10,
    7,
    6,
    13,
    15,
    3,
    15,
    0,
    11,
    1,
    10,
    12,
    14,
    16,
    9,
    11,
    5,
    5,
    19,
    8,
    8,
    15,
    13,
    14,
    17,
    18,
    10,
    16,
    4,
    17,
    4,
    2,
    0,
    17,
    4,
    18,
    17,
    10,
    3,
    2,
    12,
    12,
    16,
    12,
    1,
    9,
    19,
    2,
    10,
    0,
    1,
    16,
    12,
    9,
    13,
    15,
    13,
    16,
    19,
    2,
    4,
    6,
    19,
    5,
    5,
    8,
    19,
    18,
    1,
    2,
    15,
    6,
    0,
    17,
    8,
    14,
    13,
]
FINE = load_dataset_config(ROOT / "dataset_configs" / "cifar100.yaml").names
RARE = "baby bear beaver bowl bridge bus caterpillar forest kangaroo lamp lizard lobster mushroom orchid possum shark"
RARE = [*RARE.split(), "squirrel", "streetcar", "table", "willow_tree"]


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """CIFAR-100 with 20 training and 2 test images a class, as torchvision unpacks it; its fine training labels."""
    from torchvision.datasets import CIFAR100

    rng, folder = np.random.default_rng(2), tmp_path / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    sums, labels = {}, {}
    for split, count in (("train", 20), ("test", 2)):
        labels[split] = rng.permutation(np.repeat(np.arange(100), count))
        content = {
            "data": rng.integers(0, 256, (len(labels[split]), 3072), dtype=np.uint8),
            "fine_labels": labels[split].tolist(),
            "coarse_labels": [COARSE[label] for label in labels[split]],
        }
        (folder / split).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": FINE}))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return tmp_path / "cifar", labels


def test_superclasses_are_the_official_ones_and_one_class_of_each_becomes_rare_in_train(cifar100, tmp_path):
    folder, fine = cifar100
    write_betons("supercifar100", "--data", folder, "--out", tmp_path)
    beton = ["--beton", tmp_path / "supercifar100_train.beton", "--set-apart-every", 2]
    rare = [FINE.index(name) for name in RARE]
    write_index_file(*beton, "--out", tmp_path / "super.pt")
    write_index_file(*beton, "--thin", ",".join(map(str, rare)), "--keep-train", 4, "--out", tmp_path / "spurious.pt")
    _, whole = shipped_splits("supercifar100", tmp_path, tmp_path / "super.pt", unlabeled=True)
    config, thinned = shipped_splits("spurious_cifar100", tmp_path, tmp_path / "spurious.pt", unlabeled=True)
    for splits in (whole, thinned):
        for split, part in splits.items():
            truth = fine["test" if split == "test" else "train"][part.indices]
            assert part.column("spurious").tolist() == truth.tolist()
            assert part.column("label").tolist() == [COARSE[label] for label in truth]
    for split in ("val", "test", "unlabeled"):
        assert thinned[split].indices.tolist() == whole[split].indices.tolist()
    kept, of_class = [], Counter()
    for i in whole["train"].indices.tolist():
        label = fine["train"][i]
        if label not in rare or of_class[label] % 4 == 0:
            kept.append(i)
        of_class[label] += 1
    assert thinned["train"].indices.tolist() == kept
    # The config calls the thinned classes the minority, each in its superclass.
    assert config.minority == {config.names[COARSE[label]]: label for label in rare}


def test_the_shipped_index_files_of_the_superclasses_have_the_papers_sizes():
    sizes = {
        name: [len(part) for part in load_index_file(ROOT / "index_files" / f"{name}.pt").values()]
        for name in (f"{start}cifar100{end}" for start in ("super", "spurious_") for end in ("", "_with_unlabeled"))
    }
    assert sizes == {
        "supercifar100": [40_000, 10_000],
        "supercifar100_with_unlabeled": [20_000, 10_000, 20_000],
        "spurious_cifar100": [33_995, 10_000],
        "spurious_cifar100_with_unlabeled": [17_016, 10_000, 20_000],
    }


@pytest.mark.parametrize("label", [-1, 100])
def test_a_fine_label_that_cifar100_does_not_have_is_named(label):
    source = ImageArrays(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, label]), FINE)
    with pytest.raises(UserError, match=f"fine label {label}, outside 0..99"):
        to_superclasses(source)


# ---- Colored MNIST --------------------------------------------------------------------------------------------------


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as stream:
        stream.write(header + array.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """The four files, compressed as they are offered; and the training images and digits, 1,000, and 200 for test."""
    rng, folder, truth = np.random.default_rng(3), tmp_path / "mnist", {}
    for part, count in (("train", 1000), ("t10k", 200)):
        truth[part] = (
            rng.integers(1, 256, (count, 28, 28), dtype=np.uint8),
            (rng.permutation(count) % 10).astype(np.uint8),
        )
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", truth[part][0])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", truth[part][1])
    return folder, truth


def test_colored_digits_have_the_chosen_tints_and_labels(mnist, tmp_path):
    folder, truth = mnist
    words = ["--train-corr", 0.9, "--label-noise", 0.25, "--unlabeled"]
    write_betons("colored_mnist", "--data", folder, "--out", tmp_path, *words)
    pool = ["unlabeled_beton=colored_mnist_unlabeled.beton"]
    config = load_dataset_config(ROOT / "dataset_configs" / "colored_mnist.yaml", pool)
    splits = open_splits(config, tmp_path, unlabeled=True)
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 400,
        "val": 200,
        "test": 200,
        "unlabeled": 400,
    }
    truths = {"train": truth["train"], "val": truth["train"], "unlabeled": truth["train"], "test": truth["t10k"]}
    sources = colored_mnist_sources(folder, 0.9, unlabeled=True)
    for split, part in splits.items():
        labels, tints = part.column("label"), part.column("spurious")
        # What the tint leaves is the digit of MNIST that the image was, which no other equals.
        greys = sources[split].images.max(-1)
        digit_of = {image.tobytes(): digit for image, digit in zip(*truths[split], strict=True)}
        digits = np.array([digit_of[grey.tobytes()] for grey in greys])
        assert (sources[split].images[..., 0].any((1, 2)) == (tints == 0)).all()
        assert (sources[split].images[..., 1].any((1, 2)) == (tints == 1)).all()
        assert not sources[split].images[..., 2].any()
        noise, share = (0.25, 0.9) if split == "train" else (0, 0.5)
        for c in (0, 1):
            assert (labels[(digits >= 5) == c] != c).mean() == pytest.approx(noise, abs=0.005)
            assert (tints[labels == c] == c).mean() == pytest.approx(share, abs=0.005)
    batch = next(iter(make_loader(splits["test"], config, torch.device("cpu"))))
    assert batch.image.shape == (200, 3, 32, 32)


def test_colored_mnist_is_drawn_by_its_seed_and_read_as_torchvision_does(mnist, tmp_path):
    from torchvision.datasets import MNIST

    folder, _ = mnist
    raw = tmp_path / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in folder.iterdir():
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    one, other = colored_mnist_sources(folder), colored_mnist_sources(tmp_path / "torchvision")
    for split in one:
        assert np.array_equal(one[split].images, other[split].images)
        assert np.array_equal(one[split].labels, other[split].labels)
    expected = MNIST(tmp_path / "torchvision", train=False)
    assert np.array_equal(one["test"].images.max(-1), expected.data.numpy())
    assert np.array_equal(one["test"].labels, expected.targets.numpy() >= 5)
    assert not np.array_equal(one["train"].labels, colored_mnist_sources(folder, seed=11)["train"].labels)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte.gz").unlink(), "no t10k-labels-idx1-ubyte; get it from https"),
        (lambda f: cut(f / "train-images-idx3-ubyte.gz", 5000), "train-images-idx3-ubyte.gz is truncated"),
        (lambda f: cut(f / "train-images-idx3-ubyte.gz", 0), "is truncated"),
        (lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02\1"), "is truncated"),
        (lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0"), "is truncated"),
        (lambda f: (f / "train-labels-idx1-ubyte").write_bytes(b"not an IDX file"), "no IDX file of 1 dimensions"),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte", np.ones(999, np.uint8)), "1000 train images but 999"),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte", np.full(1000, 10, np.uint8)), "the train label 10"),
        (lambda f: write_idx(f / "t10k-labels-idx1-ubyte", np.full(200, 3, np.uint8)), "test has no image of five and"),
    ],
)
def test_idx_files_that_are_not_whole_are_named(mnist, damage, words):
    damage(mnist[0])
    with pytest.raises(UserError, match=words):
        colored_mnist_sources(mnist[0])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--label-noise", "1"], "--label-noise 1.0 is not a share"),
        (["--label-noise", "-0.1"], "--label-noise -0.1 is not a share"),
        (["--label-noise", "nan"], "--label-noise nan is not a share"),
        (["--train-corr", "1.1"], "--train-corr 1.1 is not a share"),
        (["--val-corr", "-1"], "--val-corr -1.0 is not a share"),
        (["--seed", "-1"], "--seed -1"),
        (["--data", "nowhere"], "nowhere has no train-images-idx3-ubyte"),
    ],
)
def test_colored_mnist_refuses_and_leaves_nothing(mnist, tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        write_betons("colored_mnist", "--data", mnist[0], "--out", tmp_path / "out", *words)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mnist_without_a_network_says_what_to_fetch(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def refuse(self):
        raise RuntimeError("Error downloading\nTried it, got:\n<urlopen error no route to host>\n")

    monkeypatch.setattr(MNIST, "download", refuse)
    with pytest.raises(UserError, match=r"could not be downloaded \(<urlopen error no route to host>\); get its four"):
        colored_mnist_sources(tmp_path, download=True)


# ---- Waterbirds -----------------------------------------------------------------------------------------------------


@pytest.fixture
def waterbirds(tmp_path):
    """The folder, and the truth: rows (y, split, place)."""
    rng, folder = np.random.default_rng(4), tmp_path / "waterbird_complete95_forest2water2"
    truth = [(i % 2, i % 3, int(rng.integers(2))) for i in range(36)]
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for i, (y, split, place) in enumerate(truth, start=1):
        name = f"{i % 4 + 1:03d}.Black_footed_Albatross/Black_Footed_Albatross_{i:04d}.jpg"
        draw(folder / name, seed=i)
        lines.append(f"{i},{name},{y},{split},{place},/b/bamboo_forest/{i:08d}.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder, truth


def test_waterbirds_are_split_and_placed_as_the_metadata_say(waterbirds, tmp_path):
    folder, truth = waterbirds
    write_betons("waterbirds", "--data", tmp_path, "--out", tmp_path)
    config, splits = shipped_splits("waterbirds", tmp_path)
    for number, split in enumerate(("train", "val", "test")):
        rows = [row for row in truth if row[1] == number]
        assert splits[split].column("label").tolist() == [row[0] for row in rows]
        assert splits[split].column("spurious").tolist() == [row[2] for row in rows]
    assert config.minority == {"landbird": 1, "waterbird": 0}
    image = waterbirds_sources(folder)["val"][0][0]
    assert np.array_equal(image, np.asarray(Image.open(next(folder.glob("*/*_0002.jpg")))))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "metadata.csv").unlink(), "no metadata.csv; get it from https"),
        (lambda f: edit(f / "metadata.csv", "place,", "where,"), "no column 'place'"),
        (lambda f: edit(f / "metadata.csv", ",1,0,", ",2,0,"), "y is '2' .* one of 0, 1"),
        (lambda f: edit(f / "metadata.csv", "0036.jpg,", "0036.jpg\n"), "line 37 is cut off"),
        (lambda f: edit(f / "metadata.csv", "002.Black", "/002.Black"), "lies outside"),
        (lambda f: edit(f / "metadata.csv", "_0005.jpg", "_0001.jpg"), "names an image twice"),
        (lambda f: next(f.glob("*/*_0005.jpg")).unlink(), "1 of the images .* are not there, .*_0005.jpg"),
        (lambda f: (f / "metadata.csv").write_text("img_filename,y,split,place\n"), "lists no images"),
        (lambda f: (f / "metadata.csv").write_bytes(b"\xff\xfe\x00"), "is not a CSV in UTF-8"),
    ],
)
def test_waterbirds_metadata_with_a_mistake_is_refused(waterbirds, damage, words):
    damage(waterbirds[0])
    with pytest.raises(UserError, match=words):
        waterbirds_sources(waterbirds[0])


# ---- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "caption_set"),
    [
        ("celeba_age", "CELEBA"),
        ("celeba_gender", "CELEBA"),
        ("chestxray", "CHESTXRAY"),
        ("imagenet", "IMAGENET"),
        ("supercifar100", "CIFAR100"),
        ("spurious_cifar100", "CIFAR100"),
        ("colored_mnist", "COLORED_MNIST"),
        ("waterbirds", "WATERBIRDS"),
    ],
)
def test_every_class_has_captions(config, caption_set):
    classes = load_dataset_config(ROOT / "dataset_configs" / f"{config}.yaml").names
    for generator in get_caption_set(caption_set).for_classes(classes):
        assert len(generator.captions()) > 1
        assert generator.reference.startswith("a photo of a")


def test_the_papers_settings_are_in_the_configs():
    settings = {}
    for path in (ROOT / "dataset_configs").glob("*.yaml"):
        config = load_dataset_config(path)
        training = config.training
        settings[path.stem] = (
            config.imgsz,
            config.batch_size,
            training.epochs,
            training.lr,
            training.lr_scheduler.lr_peak_epoch,
        )
        if path.stem not in ("scenes", "waterbirds"):
            assert (training.optimizer.momentum, training.optimizer.weight_decay) == (0.9, 5e-4)
    assert settings["supercifar100"] == settings["spurious_cifar100"] == (32, 512, 35, 0.5, 5)
    assert settings["celeba_age"] == (75, 512, 30, 0.02, 2)
    assert settings["celeba_gender"] == (64, 512, 10, 0.1, 2)
    assert settings["imagenet"] == settings["imagenetc"] == settings["chestxray"] == (224, 1024, 16, 0.5, 2)
    assert settings["colored_mnist"] == (32, 512, 15, 0.1, 2)
