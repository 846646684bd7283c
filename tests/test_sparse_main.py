"""sparse_main.py from command line to files, on drawn text, image folders and betons."""

import csv
import os
import re

import numpy as np
import pytest
import torch
from failure_directions.commands import sparse as sparse_main
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.index_files import save_index_file
from failure_directions.data.splits import open_splits
from failure_directions.data.text_data import JIGSAW_LABELS
from failure_directions.loaders import make_loader
from failure_directions.models.build import build_model
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.models.features import replace_last_linear
from failure_directions.models.text_models import load_text_classifier
from failure_directions.sparse.deep_features import accuracy
from failure_directions.sparse.feature_chunks import FeatureChunks
from failure_directions.sparse.path import SparsePath
from failure_directions.sparse.tasks import PLACES_10, balanced_positions, held_out_positions
from failure_directions.training.evaluation import predict
from PIL import Image
from torchvision import models as torchvision_models

from scripts.train_text_demo import train_classifier

PLANTED = {"gardening": ["rose", "spade"], "sailing": ["mast", "harbour"], "cooking": ["oven", "pepper"]}
NEUTRAL = [f"word{i}" for i in range(20)]


def run(*words):
    sparse_main.main([str(word) for word in words])


def fails(*words, capsys):
    """Run with arguments that must be refused; return the one line that says why."""
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def drawn_texts(count, seed):
    """Texts of neutral words with one planted word, which says the class, and the classes' names."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = str(rng.choice(list(PLANTED)))
        words = [*rng.choice(NEUTRAL, rng.integers(3, 9)), rng.choice(PLANTED[label])]
        texts.append(" ".join(rng.permutation(words)))
        labels.append(label)
    return texts, labels


def write_table(path, header, rows, delimiter=","):
    with open(path, "w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows])


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """train.csv and test.csv of drawn texts, and a classifier that was trained on them: model/."""
    folder = tmp_path_factory.mktemp("text")
    for split, count, seed in (("train", 800, 0), ("test", 200, 1)):
        write_table(folder / f"{split}.csv", ["text", "label"], zip(*drawn_texts(count, seed), strict=True))
    texts, labels = drawn_texts(800, 0)
    names = list(PLANTED)  # not in the alphabetical order of the data set's classes
    numbers = [names.index(label) for label in labels]
    model, tokenizer = train_classifier(texts, numbers, names, words=100, width=32, layers=1, epochs=5, max_length=16)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def text_result(text_folder):
    out = text_folder / "sparse"
    run(
        "--dataset",
        "csv",
        "--dataset-path",
        text_folder,
        "--model-path",
        text_folder / "model",
        "--out-path",
        out,
        "-k",
        20,
        "--lr",
        0.1,
        "--max-epochs",
        100,
        "--verbose",
    )
    return out


def test_a_text_model_is_as_good_with_a_few_features(text_folder, text_result, capsys):
    path = SparsePath.load(text_result)
    with open(text_result / "path.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == len(path) == 21
    run_file = torch.load(text_result / "run.pt", weights_only=True)
    assert run_file["class_names"] == sorted(PLANTED)
    # A tenth of each class, rounded.
    assert [len(run_file["labels"][split]) for split in ("train", "val", "test")] == [719, 81, 200]
    dense = torch.nn.Linear(32, 3)
    dense.load_state_dict(run_file["dense"])
    test = FeatureChunks.open(text_result / "features" / "test"), run_file["labels"]["test"].numpy()
    assert accuracy(dense, *test) > 0.95  # outputs were matched to classes by their names
    for i in (path.best, 5):
        assert accuracy(path.to_linear(i), *test) == pytest.approx(float(table[i]["test_accuracy"]), abs=0.01)
    few = max(float(row["test_accuracy"]) for row in table if float(row["features_per_class"]) <= 4)
    assert few > accuracy(dense, *test) - 0.05
    assert (text_result / "path.png").stat().st_size > 5000


def test_the_planted_words_alone_decide_the_sparse_layer(text_folder, text_result):
    path = SparsePath.load(text_result)
    sparse = path.to_linear(min(i for i in range(1, len(path)) if path.accuracy[i] > path.accuracy[path.best] - 0.05))
    classifier = load_text_classifier(str(text_folder / "model"))
    names, rng = sorted(PLANTED), np.random.default_rng(2)
    for label, planted in PLANTED.items():
        for word in planted:
            texts = [" ".join([*rng.choice(NEUTRAL, 5), word]) for _ in range(10)]
            tokens = classifier.tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                features = classifier.model.bert(**tokens).pooler_output
                found = sparse(features).argmax(1)
            assert (found == names.index(label)).float().mean() >= 0.9


def test_a_second_run_reuses_the_features_and_says_what_is_not_used(text_folder, text_result, monkeypatch, capsys):
    monkeypatch.setattr("failure_directions.sparse.deep_features.feature_batches", None)  # nothing is computed again
    run(
        "--dataset",
        "csv",
        "--dataset-path",
        text_folder,
        "--model-path",
        text_folder / "model",
        "--dataset-type",
        "language",
        "--cache",
        text_result / "features",
        "--out-path",
        text_folder / "again",
        "-k",
        8,
        "--lookbehind",
        3,
        "--lr-decay-factor",
        1,
        "--arch",
        "bert",
        "--select",
        "percentile",
        "--group",
    )
    said = capsys.readouterr().out
    assert "Not used: --lr-decay-factor, --lookbehind, --arch." in said
    for row in ("the model's own head", "best of the path", "selected"):
        assert row in said
    path = SparsePath.load(text_folder / "again")
    assert ((path.weight != 0).all(1) == (path.weight != 0).any(1)).all()  # chosen for all classes together


def test_features_of_other_data_are_refused(text_folder, text_result, capsys):
    said = fails(
        "--dataset",
        "csv",
        "--dataset-path",
        text_folder,
        "--model-path",
        text_folder / "model",
        "--cache",
        text_result / "features",
        "--out-path",
        text_folder / "other",
        "--random-seed",
        1,
        capsys=capsys,
    )
    assert "give another folder or delete this one" in said
    assert not (text_folder / "other").exists()


@pytest.mark.parametrize("dataset", ["sst", "jigsaw-insult", "jigsaw-alt-insult"])
def test_the_published_text_data_sets_run_from_their_own_files(text_folder, tmp_path, dataset, capsys):
    rows = {}
    for split, count, seed in (("train", 300, 3), ("test", 150, 4)):
        texts, labels = drawn_texts(count, seed)
        rows[split] = [(text, int(label == "cooking")) for text, label in zip(texts, labels, strict=True)]
    rows["test"] += [("", 1), (" ".join(["oven"] * 50), 1)]
    if dataset == "sst":
        for split in rows:
            write_table(tmp_path / f"{split}.tsv", ["sentence", "label"], rows[split], "\t")
    else:
        train = [[str(i), text, *[label] * 6] for i, (text, label) in enumerate(rows["train"])]
        write_table(tmp_path / "train.csv", ["id", "comment_text", *JIGSAW_LABELS], train)
        test = [[str(i), text] for i, (text, _) in enumerate(rows["test"])]
        write_table(tmp_path / "test.csv", ["id", "comment_text"], test)
        scores = [[str(i), *[label if i % 7 else -1] * 6] for i, (_, label) in enumerate(rows["test"])]
        write_table(tmp_path / "test_labels.csv", ["id", *JIGSAW_LABELS], scores)
    run(
        "--dataset",
        dataset,
        "--dataset-path",
        tmp_path,
        "--model-path",
        text_folder / "model",
        "--balance",
        "--out-path",
        tmp_path / "out",
        "-k",
        8,
    )
    said = capsys.readouterr().out
    assert "Texts of more than 16 tokens: 1;" in said
    assert "Empty texts: 1;" in said
    assert "its outputs are not these classes" in said  # it has three
    labels = torch.load(tmp_path / "out" / "run.pt", weights_only=True)["labels"]
    assert labels["train"].float().mean() < 0.4
    assert labels["val"].float().mean() == labels["test"].float().mean() == 0.5
    path = SparsePath.load(tmp_path / "out")
    assert path.metrics[path.best]["acc_test"] > 0.9


def test_the_split_is_seeded_and_stratified_and_balance_takes_equally_many():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    held_out = held_out_positions(labels, 0.1, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [10, 5, 1])
    np.testing.assert_array_equal(held_out, held_out_positions(labels, 0.1, seed=0))
    assert not np.array_equal(held_out, held_out_positions(labels, 0.1, seed=1))
    balanced = balanced_positions(labels, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[balanced]), [10, 10, 10])


# Images


def draw_images(folder, splits=("train", "val"), classes=("dark", "light", "medium"), count=5):
    """Noisy images whose brightness is the class, `count` of each."""
    rng = np.random.default_rng(0)
    for split in splits:
        for k, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(30 + 20 * k, 10, (60, 50 + i, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Images, and the weights of a resnet18 with random numbers: resnet18.pt."""
    folder = draw_images(tmp_path_factory.mktemp("images"))
    torch.manual_seed(0)
    model = build_model("resnet", "resnet18", 3)
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, folder / "resnet18.pt")
    return folder


def test_a_folder_of_images_goes_through_imagenets_preprocessing(image_folder, tmp_path):
    run(
        "--dataset",
        "folder",
        "--dataset-path",
        image_folder,
        "--arch",
        "resnet18",
        "--model-path",
        image_folder / "resnet18.pt",
        "--out-path",
        tmp_path / "out",
        "-k",
        6,
        "--val-frac",
        0.2,
        "--num-workers",
        0,
        "--write-checkpoint",
        tmp_path / "sparse.pt",
        "--batch-size",
        7,
    )
    run_file = torch.load(tmp_path / "out" / "run.pt", weights_only=True)
    assert [len(run_file["labels"][split]) for split in ("train", "val", "test")] == [12, 3, 15]
    model = build_model("resnet", "resnet18", 3).eval()
    model.load_state_dict(
        {key[7:]: value for key, value in torch.load(image_folder / "resnet18.pt", weights_only=True).items()}
    )
    transform = torchvision_models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    paths = [image_folder / "val" / name / f"{i}.png" for name, i in (("dark", 0), ("light", 4), ("medium", 3))]
    images = torch.stack([transform(Image.open(path)) for path in paths])
    found = FeatureChunks.open(tmp_path / "out" / "features" / "test")
    rows = found[np.array([0, 9, 13])]
    with torch.no_grad():
        written = load_checkpoint(tmp_path / "sparse.pt").model.eval()
        logits = written(images)
        model.fc = torch.nn.Identity()
        np.testing.assert_allclose(rows, model(images), rtol=1e-3, atol=1e-4)
        path = SparsePath.load(tmp_path / "out")
        i = next(i for i in range(len(path)) if torch.allclose(path.to_linear(i).weight.float(), written.fc.weight))
        np.testing.assert_allclose(logits, path.to_linear(i)(torch.from_numpy(rows)).numpy(), rtol=1e-3, atol=1e-3)


def test_a_timm_model_is_made_sparse_for_places_that_are_not_its_own_classes(tmp_path, capsys):
    folder = draw_images(tmp_path / "places", classes=PLACES_10, count=3)
    torch.manual_seed(0)
    torch.save({"state_dict": build_model("timm", "test_resnet", 5).state_dict()}, tmp_path / "timm.pt")
    common = ("--dataset", "places-10", "--dataset-path", folder, "-k", 6, "--val-frac", 0.3)
    run(
        *common,
        "--arch",
        "timm:test_resnet",
        "--model-path",
        tmp_path / "timm.pt",
        "--out-path",
        tmp_path / "out",
        "--num-workers",
        1,
        "--write-checkpoint",
        tmp_path / "sparse.pt",
    )
    assert "its outputs are not these classes" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "sparse.pt").build_params["num_classes"] == 10
    run(*common, "--model-path", tmp_path / "sparse.pt", "--out-path", tmp_path / "again", "--num-workers", 0)
    assert "the model's own head" in capsys.readouterr().out


def test_a_broken_image_is_named_in_one_sentence_also_by_a_worker(tmp_path, image_folder, capsys):
    folder = draw_images(tmp_path / "images", count=3)
    (folder / "val" / "medium" / "1.png").write_bytes(b"nothing")
    said = fails(
        "--dataset",
        "folder",
        "--dataset-path",
        folder,
        "--arch",
        "resnet18",
        "--model-path",
        image_folder / "resnet18.pt",
        "--out-path",
        tmp_path / "out",
        "--num-workers",
        1,
        "--val-frac",
        0.4,
        capsys=capsys,
    )
    assert str(folder / "val" / "medium" / "1.png") in said


# Betons


def test_a_sparse_layer_drops_into_a_checkpoint_of_ours(scenes_folder, trained_run, tmp_path, capsys):
    checkpoint, config_file = trained_run / "checkpoints" / "checkpoint_last.pt", scenes_folder / "config.yaml"
    run(
        "--dataset",
        "beton",
        "-c",
        config_file,
        "--root",
        scenes_folder,
        "--model-path",
        checkpoint,
        "--out-path",
        tmp_path / "out",
        "-k",
        12,
        "--write-checkpoint",
        tmp_path / "sparse.pt",
        "--select",
        "sparsity",
        "--factor",
        8,
        "--batch-size",
        50,
    )
    said = capsys.readouterr().out
    config = load_dataset_config(config_file)
    test = open_splits(config, scenes_folder)["test"]
    sparse = load_checkpoint(tmp_path / "sparse.pt", config)
    weight = sparse.model.fc.weight
    assert 0 < (weight != 0).sum(1).float().mean() <= 8
    device = torch.device("cpu")
    found = predict(sparse.model, make_loader(test, config, device), device).metrics(8)["accuracy"]
    assert found == pytest.approx(sparse.run_metadata["sparse"]["acc_test"], abs=0.005)
    whole = torch.load(trained_run / "metrics.pt", weights_only=True)["test"]["accuracy"]
    own_head = next(line.split() for line in said.splitlines() if line.startswith("the model's own head"))
    assert float(own_head[-1]) == pytest.approx(whole, abs=0.002)


# What is refused


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--dataset", "jigsaw-rude"], "rude is no label of Jigsaw; give toxic, severe_toxic"),
        (["--dataset", "jigsaw-alt-rude"], "rude is no label of Jigsaw"),
        (["--dataset", "mnist"], "--dataset mnist is not known; give imagenet, places-10"),
        (["--dataset", "sst", "--dataset-type", "vision"], "--dataset sst is language; correct --dataset-type"),
        (["--dataset", "sst"], "--dataset sst needs --dataset-path"),
        (["--dataset", "csv", "--dataset-path", "."], "--dataset csv needs --model-path"),
        (["--dataset", "beton", "--model-path", "x.pt"], "--dataset beton needs --config"),
        (
            ["--dataset", "beton", "-c", "x", "--model-path", "y", "--arch", "z"],
            "--arch does not go with --dataset beton",
        ),
        (["--dataset", "sst", "--dataset-path", ".", "--indices-file", "x"], "--indices-file does not go with"),
        (["--dataset", "folder", "--dataset-path", "."], "--dataset folder needs a model"),
        (["--dataset", "sst", "--dataset-path", ".", "--write-checkpoint", "x.pt"], "is for vision models"),
        (["--dataset", "sst", "--dataset-path", ".", "--alpha", "1.5"], "--alpha 1.5 must be from 0 to 1"),
        (["--dataset", "sst", "--dataset-path", ".", "--lam-factor", "1"], "--lam-factor 1.0 must be between 0 and 1"),
        (["--dataset", "sst", "--dataset-path", ".", "--val-frac", "nan"], "--val-frac nan must be between 0 and 1"),
        (["--dataset", "sst", "--dataset-path", ".", "-k", "1"], "give 2 or more lambdas"),
        (["--dataset", "sst", "--dataset-path", "no"], "the folder of data no does not exist"),
        (["--dataset", "imagenet", "--dataset-path", "no"], "the folder of data no does not exist"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert re.search(complaint, fails(*words, "--out-path", "out", capsys=capsys))
    assert os.listdir(tmp_path) == []


def test_image_folders_that_do_not_fit_are_refused(tmp_path, image_folder, capsys):
    def said(folder, *words, dataset="folder", arch="resnet18"):
        return fails(
            "--dataset",
            dataset,
            "--dataset-path",
            folder,
            "--arch",
            arch,
            "--out-path",
            tmp_path / "out",
            "--model-path",
            image_folder / "resnet18.pt",
            *words,
            capsys=capsys,
        )

    assert "are not those of a resnet34; correct --arch" in said(image_folder, "--val-frac", 0.2, arch="resnet34")
    assert "must have the class folders airport_terminal" in said(image_folder, dataset="places-10")
    assert "no folder test/CLASS/ or val/CLASS/" in said(draw_images(tmp_path / "a", splits=["train"], count=1))
    folder = draw_images(tmp_path / "b", classes=["dark"], count=2)
    assert "one class only (dark)" in said(folder)
    draw_images(tmp_path / "c", splits=["train"], classes=["dark", "medium"], count=2)
    draw_images(tmp_path / "c", splits=["val"], count=2)
    assert "val/light is none of the classes" in said(tmp_path / "c")
    draw_images(tmp_path / "d", splits=["train"], count=2)
    draw_images(tmp_path / "d", splits=["val"], classes=["dark", "medium"], count=2)
    assert "--balance: test has no examples of class light" in said(tmp_path / "d", "--balance", "--val-frac", 0.5)
    assert "val has no examples; give a larger --val-frac" in said(tmp_path / "d")
    assert not (tmp_path / "out").exists()


def test_a_model_of_betons_is_not_run_on_a_folder_of_images(trained_run, image_folder, tmp_path, capsys):
    said = fails(
        "--dataset",
        "folder",
        "--dataset-path",
        image_folder,
        "--out-path",
        tmp_path / "out",
        "--model-path",
        trained_run / "checkpoints" / "checkpoint_last.pt",
        "--val-frac",
        0.2,
        capsys=capsys,
    )
    assert "give --dataset beton" in said


def test_a_class_without_training_images_is_named(scenes_folder, trained_run, tmp_path, capsys):
    config = load_dataset_config(scenes_folder / "config.yaml")
    labels = open_splits(config, scenes_folder)["train"].column("label")
    save_index_file(tmp_path / "index.pt", {"train_indices": np.flatnonzero(labels != 3), "val_indices": np.arange(40)})
    said = fails(
        "--dataset",
        "beton",
        "-c",
        scenes_folder / "config.yaml",
        "--root",
        scenes_folder,
        "--model-path",
        trained_run / "checkpoints" / "checkpoint_last.pt",
        "--indices-file",
        tmp_path / "index.pt",
        "--out-path",
        tmp_path / "out",
        capsys=capsys,
    )
    assert f"class {config.names[3]} has no training examples" in said


def test_a_layer_inside_a_model_can_be_replaced():
    model = torch.nn.Module()
    model.fc = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4, 2))
    replace_last_linear(model, torch.nn.Linear(4, 3))
    assert model.fc[1].out_features == 3
