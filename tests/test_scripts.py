"""The two entry scripts, from command line to files."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from failure_directions.commands import distil as train_svms
from failure_directions.commands import train as ffcv_main
from failure_directions.data.beton_writer import write_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.scenes import SceneSetting, make_split
from failure_directions.svm_utils import SVMFitter
from sklearn.metrics import balanced_accuracy_score

ROOT = Path(__file__).resolve().parents[1]
LATENT = str(ROOT / "svm_configs" / "normalized_svm_latent_config.yaml")


def fails(main, words, capsys):
    """Run an entry script that must stop with exit code 2; return what it says."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def load(path):
    return torch.load(path, weights_only=True)


def test_training_leaves_checkpoints_metrics_and_logs(trained_run):
    names = {str(path.relative_to(trained_run)) for path in trained_run.rglob("*") if path.is_file()}
    assert {"checkpoints/checkpoint_last.pt", "checkpoints/checkpoint_best.pt", "metrics.pt", "metrics.csv"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    checkpoint = load(trained_run / "checkpoints" / "checkpoint_last.pt")
    assert checkpoint["build_params"] == {"arch_type": "cifar_resnet", "arch": "resnet10thin", "num_classes": 8}
    assert checkpoint["run_metadata"]["epoch"] == 8
    metrics = load(trained_run / "metrics.pt")
    assert metrics["test"]["per_class_accuracy"].mean().item() == pytest.approx(metrics["test"]["accuracy"], abs=1e-6)
    assert metrics["test"]["accuracy"] > 2 / 8  # chance is 1 / 8


@pytest.fixture(scope="module")
def result(scenes_folder, trained_run):
    out = scenes_folder / "results" / "small"
    train_svms.main(
        [
            "-c",
            str(scenes_folder / "config.yaml"),
            "-s",
            LATENT,
            "--root",
            str(scenes_folder),
            "--out-file",
            str(out),
            "--model-path",
            str(trained_run / "checkpoints" / "checkpoint_last.pt"),
            "--unlabeled",
            "--spurious",
            "--jobs",
            "1",
            "--cache",
            str(scenes_folder / "results" / "cache"),
        ]
    )
    return out


def test_every_split_of_a_result_has_what_the_format_says(result):
    content = load(f"{result}.pt")
    assert content["stats"]["mean"].shape == content["stats"]["std"].shape == (128,)
    assert content["cv_scores"].shape == (8,)
    for split, size in (("train", 480), ("val", 320), ("test", 320), ("unlabeled", 160)):
        metrics = content[f"{split}_metrics"]
        for key in ("preds", "classes", "confs", "ytrue", "ypred", "decision_values", "indices", "spuriouses"):
            assert metrics[key].shape == (size,)
        assert (metrics["ytrue"] == (metrics["preds"] == metrics["classes"])).all()
        flagged = metrics["decision_values"] <= 0
        assert torch.equal(metrics["ypred"] == 0, flagged)
        assert torch.equal(content[f"predicted_{split}_errors"], flagged)
        judged = ~metrics["decision_values"].isnan()
        expected = balanced_accuracy_score(metrics["ytrue"][judged], metrics["ypred"][judged])
        assert metrics["balanced_accuracy"] == pytest.approx(expected)


def test_the_exported_directions_give_the_decision_values_again(result):
    content, fitter = load(f"{result}.pt"), SVMFitter.load(f"{result}_model.pt")
    latents = np.load(next((result.parent / "cache").rglob("test_*.npy")))
    metrics = content["test_metrics"]
    _, values = fitter.predict(ys=metrics["classes"], latents=latents)
    np.testing.assert_allclose(values, metrics["decision_values"], atol=1e-9)


def test_the_csv_has_a_row_for_every_image(result):
    content = load(f"{result}.pt")["test_metrics"]
    with open(f"{result}_test.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["index"]) for row in rows] == list(range(320))
    assert [int(row["correct"]) for row in rows] == content["ytrue"].tolist()
    assert [int(row["flagged"]) for row in rows] == (1 - content["ypred"]).tolist()
    assert {row["class_name"] for row in rows} == set(SceneSetting().classes)


def test_the_minority_is_reported_for_the_planted_class_alone(result):
    with open(f"{result}_precision.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["class"] for row in rows} == {"circle"}
    assert {row["k"] for row in rows if row["split"] == "test"} == {"10", "20"}  # 40 images a class
    assert {float(row["base_rate"]) for row in rows if row["split"] == "test"} == {0.2}


def test_a_second_run_reads_the_embeddings_and_agrees(result, scenes_folder, trained_run, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "failure_directions.embeddings.cache.predict", lambda *_, **__: pytest.fail("the model ran again")
    )
    train_svms.main(
        [
            "-c",
            str(scenes_folder / "config.yaml"),
            "-s",
            LATENT,
            "--root",
            str(scenes_folder),
            "--model-path",
            str(trained_run / "checkpoints" / "checkpoint_last.pt"),
            "--out-file",
            str(tmp_path / "again.pt"),
            "--override",
            "svm_args.cv=3",
            "--jobs",
            "1",
            "--cache",
            str(result.parent / "cache"),
        ]
    )
    again, first = load(tmp_path / "again.pt"), load(f"{result}.pt")
    assert torch.equal(again["test_metrics"]["preds"], first["test_metrics"]["preds"])
    assert load(tmp_path / "again_model.pt")["cv"] == 3


def test_directions_in_clip_space_are_named_by_captions(scenes_folder, trained_run, tmp_path, capsys):
    svm_config = ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml"
    words = [
        "-c",
        scenes_folder / "config.yaml",
        "-s",
        svm_config,
        "--root",
        scenes_folder,
        "--jobs",
        "1",
        "--model-path",
        trained_run / "checkpoints" / "checkpoint_last.pt",
        "--out-file",
        tmp_path / "clip.pt",
    ]
    train_svms.main([str(word) for word in [*words, "--captions", "SCENES", "--top-k", 4]])
    assert "hardest and easiest captions" in capsys.readouterr().out
    with open(tmp_path / "clip_captions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["slice"] for row in rows} > {""}  # of single directions, and of confirmed failures
    for name, of in {(row["class"], row["slice"]) for row in rows}:
        for side, sign in (("hard", 1), ("easy", -1)):
            of_side = [row for row in rows if (row["class"], row["slice"], row["side"]) == (name, of, side)]
            assert [int(row["rank"]) for row in of_side] == [1, 2, 3, 4]
            scores = [sign * float(row["score"]) for row in of_side]
            assert scores == sorted(scores)
            assert all(name in row["caption"] for row in of_side)
    with open(tmp_path / "clip_subpopulations.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["split"] for row in rows} == {"val", "test"}
    assert {int(row["k"]) for row in rows} == {20, 40}  # 40 images a class
    out = ["--out-file", tmp_path / "no.pt"]
    assert "did you mean SCENES?" in fails(train_svms.main, [*words, *out, "--captions", "SCENE"], capsys)
    assert "embedding: latent" in fails(train_svms.main, [*words, *out, "-s", LATENT, "--captions", "SCENES"], capsys)
    assert "no entry for the class circle" in fails(train_svms.main, [*words, *out, "--captions", "CIFAR"], capsys)
    assert not (tmp_path / "no.pt").exists()
    train_svms.main([str(word) for word in words])
    assert not (tmp_path / "clip_captions.csv").exists()  # of the earlier run with the same name


def test_an_mlp_writes_the_same_files(result, scenes_folder, trained_run, tmp_path):
    mlp = str(ROOT / "svm_configs" / "normalized_mlp_base_config.yaml")
    train_svms.main(
        [
            "-c",
            str(scenes_folder / "config.yaml"),
            "-s",
            mlp,
            "--override",
            "embedding=latent",
            "--mlp-size",
            "7",
            "--root",
            str(scenes_folder),
            "--out-file",
            str(tmp_path / "mlp"),
            "--jobs",
            "1",
            "--model-path",
            str(trained_run / "checkpoints" / "checkpoint_last.pt"),
        ]
    )
    model = load(tmp_path / "mlp_model.pt")
    fitted = [weights for weights in model["weights"] if weights]
    assert fitted
    assert all(weights[0].shape == (128, 7) for weights in fitted)
    values = load(tmp_path / "mlp.pt")["val_metrics"]
    right = values["ytrue"] == 1
    assert values["decision_values"][right].nanmean() > 0 > values["decision_values"][~right].nanmean()


@pytest.fixture(scope="module")
def conditions(tmp_path_factory):
    """A BCE task on scenes: is it red, is it a circle, is the background dotted; and a config for it."""
    folder = tmp_path_factory.mktemp("conditions")
    setting = SceneSetting(train=40, val=20, test=20, unlabeled=0)

    class Source(ImageArrays):
        def __getitem__(self, i):
            return self.images[i], self.labels[i], None

    for name in ("train", "val", "test"):
        split = make_split(setting, name)
        labels = np.stack([split.colour == "red", split.shape == "circle", split.background == "dotted"], 1)
        images = np.stack([split[i][0] for i in range(len(split))])
        write_beton(folder / f"{name}.beton", Source(images, labels.astype(np.float32), []), workers=1)
    config = {
        "train_beton": "train.beton",
        "val_beton": "val.beton",
        "test_beton": "test.beton",
        "imgsz": 32,
        "bce": True,
        "arch": "resnet10thin",
        "arch_type": "cifar_resnet",
        "num_classes": 3,
        "batch_size": 40,
        "class_names": ["red", "circle", "dotted"],
        "training": {"epochs": 4, "lr": 0.1, "lr_scheduler": {"type": "constant"}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_conditions_are_trained_and_analysed_one_by_one(conditions, capsys):
    common = ["-c", str(conditions / "config.yaml"), "--root", str(conditions)]
    ffcv_main.main([*common, "--runs", str(conditions / "runs"), "--exp-name", "bce", "--disable-logging"])
    assert "test auroc" in capsys.readouterr().out
    run = conditions / "runs" / "bce" / "version_0"
    metrics = load(run / "metrics.pt")
    assert metrics["test"]["per_class_auroc"][0] > 0.8  # red is easy to see
    assert not list(run.glob("events*"))
    svm = [*common, "-s", LATENT, "--model-path", str(run / "checkpoints" / "checkpoint_last.pt"), "--jobs", "1"]
    train_svms.main([*svm, "--out-file", str(conditions / "red.pt"), "--bce", "--bce-class", "0"])
    content = load(conditions / "red.pt")
    assert content["class_names"] == ["no red", "red"]
    assert 0 < content["bce_threshold"] < 1
    test = content["test_metrics"]
    present = torch.where(test["classes"] == 1, test["confs"], 1 - test["confs"])
    assert torch.equal(test["preds"] == 1, present > content["bce_threshold"])
    out = str(conditions / "none.pt")
    assert "--bce --bce-class N" in fails(train_svms.main, [*svm, "--out-file", out], capsys)
    assert "give 0 to 2" in fails(train_svms.main, [*svm, "--out-file", out, "--bce", "--bce-class", 3], capsys)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_wrong_option_ends_a_real_process_with_code_2_and_no_run_folder(scenes_folder, tmp_path):
    words = ["ffcv_main.py", "-c", scenes_folder / "config.yaml", "--root", scenes_folder, "--exp-name", "x"]
    run = subprocess.run(
        [sys.executable, *map(str, words), "--runs", str(tmp_path / "runs"), "--override", "training.epoch=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "did you mean training.epochs?" in run.stderr
    assert "Traceback" not in run.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--device", "cuda:99"], "CUDA"),
        (["--device", "tpu"], "the device tpu is not supported"),
        (["--root", "/nowhere"], "does not exist"),
        (["--indices-file", "/nowhere.pt"], "index file /nowhere.pt does not exist"),
        (["--loss-vec-file", "/nowhere.pt"], "loss vector /nowhere.pt does not exist"),
        (["--exp-name", "../../x"], "leaves"),
        (["--exp-name", "x" * 300], "name too long"),
        (["--seed", "-1"], "--seed -1"),
        (["--resume", "--exp-name", "never"], "no run in"),
        (["--override", "batch_size=1000"], "fewer than one batch of 1000"),
        (["--override", "imgsz=48"], "imgsz is 48"),
        (["--override", "num_classes=5", "--override", "class_names=null"], "num_classes is 5"),
        (["--override", "arch=resnet19"], "did you mean resnet18"),
        (["--runs", "/proc/x"], "cannot write"),
    ],
)
def test_ffcv_main_refuses_and_leaves_nothing(scenes_folder, tmp_path, capsys, words, sentence):
    common = ["-c", scenes_folder / "config.yaml", "--root", scenes_folder, "--exp-name", "x"]
    assert sentence in fails(ffcv_main.main, [*common, "--runs", tmp_path / "runs", *words], capsys)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def svm_words(scenes_folder, trained_run, tmp_path):
    return [
        "-c",
        scenes_folder / "config.yaml",
        "-s",
        LATENT,
        "--root",
        scenes_folder,
        "--jobs",
        "1",
        "--model-path",
        trained_run / "checkpoints" / "checkpoint_last.pt",
        "--out-file",
        tmp_path / "x.pt",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model-path", "/nowhere.pt"], "checkpoint /nowhere.pt does not exist"),
        (["-s", "/nowhere.yaml"], "config /nowhere.yaml does not exist"),
        (["--override", "embeding=latent"], "did you mean"),
        (["--override", "svm_args.cv=1"], "svm_args.cv is 1"),
        (["--override", "arch=resnet18"], "asks for a cifar_resnet resnet18"),
        (["--bce"], "does not say bce: true"),
        (["--out-file", "/proc/x.pt"], "cannot write"),
        (["--out-file", "/tmp"], "names no file"),
        (["--out-file", "x_model.pt"], "another result's directions"),
    ],
)
def test_train_svms_refuses_and_leaves_nothing(svm_words, tmp_path, capsys, words, sentence):
    assert sentence in fails(train_svms.main, [*svm_words, *words], capsys)
    assert os.listdir(tmp_path) == []


def test_a_beton_without_the_attribute_is_named(svm_words, scenes_folder, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    write_beton(tmp_path / "plain.beton", ImageArrays(images, np.arange(400) % 8, list("abcdefgh")), workers=1)
    words = [*svm_words, "--spurious", "--override", f"test_beton={tmp_path / 'plain.beton'}"]
    assert "plain.beton has no field 'spurious'" in fails(train_svms.main, words, capsys)


def test_damaged_weights_are_found_before_any_svm(svm_words, trained_run, tmp_path, capsys):
    content = load(trained_run / "checkpoints" / "checkpoint_last.pt")
    content["state_dict"]["fc.weight"][0, 0] = torch.nan
    torch.save(content, tmp_path / "nan.pt")
    words = [*svm_words, "--model-path", tmp_path / "nan.pt"]
    assert "gives NaN or infinity for 480 of 480 train images" in fails(train_svms.main, words, capsys)
    assert os.listdir(tmp_path) == ["nan.pt"] or os.listdir(tmp_path / "embeddings") == []


def test_classes_without_errors_are_skipped_with_a_reason(scenes_folder, trained_run, tmp_path, capsys):
    """A model that calls everything a circle is never wrong on circles and always on the rest."""
    content = load(trained_run / "checkpoints" / "checkpoint_last.pt")
    content["state_dict"]["fc.bias"][0] = 1000.0
    torch.save(content, tmp_path / "circles.pt")
    train_svms.main(
        [
            "-c",
            str(scenes_folder / "config.yaml"),
            "-s",
            LATENT,
            "--root",
            str(scenes_folder),
            "--jobs",
            "1",
            "--model-path",
            str(tmp_path / "circles.pt"),
            "--out-file",
            str(tmp_path / "x.pt"),
        ]
    )
    printed = capsys.readouterr().out
    assert "skipped: no errors among 40 validation images" in printed
    assert printed.count("skipped: only errors among 40 validation images") == 7
    metrics = load(tmp_path / "x.pt")["test_metrics"]
    assert set(metrics["skipped_classes"]) == {str(c) for c in range(8)}
    assert metrics["decision_values"].isnan().all()
    assert (metrics["ypred"] == 1).all()
    assert np.isnan(metrics["balanced_accuracy"])
