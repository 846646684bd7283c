"""The loop with one command, and what it leaves; small scenes, few epochs."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.commands import loop as run_loop
from failure_directions.commands import train as ffcv_main
from failure_directions.commands.generate import Sampling
from failure_directions.config_parsing import load_dataset_config
from failure_directions.interventions.synthetic import accuracy_on_images
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.runtime.pt_files import load_pt

from scripts.train_scenes_diffusion import new_pipeline

ROOT = Path(__file__).resolve().parents[1]
SCENES = ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml"
LATENT = ROOT / "svm_configs" / "normalized_svm_latent_config.yaml"


@pytest.fixture
def loop(scenes_folder):
    def call(out, *words):
        common = ["-c", scenes_folder / "config.yaml", "-s", LATENT, "--root", scenes_folder, "--out", out]
        run_loop.main([str(word) for word in (*common, *words, "--override", "training.epochs=3")])

    return call


def test_the_loop_leads_from_betons_to_a_report_and_goes_on_where_it_stopped(loop, tmp_path, monkeypatch, capsys):
    real, calls = ffcv_main.main, []

    def interrupted(words):
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(words)

    with monkeypatch.context() as patch:
        patch.setattr(ffcv_main, "main", interrupted)
        with pytest.raises(SystemExit):
            loop(tmp_path, "--per-class", "5", "--by", "svm")
    assert [call[call.index("--exp-name") + 1] for call in calls] == ["seed_0", "seed_0"]
    capsys.readouterr()

    loop(tmp_path, "--per-class", "5", "--by", "svm")
    commands = [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    # The base model, its directions and the index file were there.
    assert commands == ["train", "compare", "report"]
    with open(tmp_path / "compared_add5.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["name"] for row in rows} == {"base", "add5_svm"}
    page = (tmp_path / "report.html").read_text()
    assert "Before and after" in page
    assert "add5_svm" in page

    # Another intervention uses what is there; the last layer alone is retrained from the base model.
    loop(tmp_path, "--intervention", "weights", "--scheme", "balanced", "--finetune", "last")
    text = capsys.readouterr().out
    commands = [line.split()[2] for line in text.splitlines() if line.startswith("$ ")]
    assert commands == ["intervene", "train", *commands[2:]]
    run = next((tmp_path / "runs" / "balanced_svm_finetune_last").rglob("checkpoint_last.pt"))
    metadata = load_pt(run, "checkpoint")["run_metadata"]
    assert metadata["arguments"]["freeze"] is True
    assert metadata["config"]["training"]["epochs"] == 15  # the published setting

    with pytest.raises(SystemExit) as stop:
        loop(tmp_path, "--override", "batch_size=32")
    assert stop.value.code == 2
    assert "was begun with --override" in capsys.readouterr().err


def test_generated_images_are_made_trained_on_and_measured(scenes_folder, tmp_path, capsys):
    """In miniature, with a diffusion model of random weights."""
    torch.manual_seed(0)
    new_pipeline().save_pretrained(tmp_path / "model")
    words = [
        "-c",
        scenes_folder / "config.yaml",
        "-s",
        SCENES,
        "--captions",
        "SCENES",
        "--root",
        scenes_folder,
        "--out",
        tmp_path / "loop",
        "--intervention",
        "synthetic",
        "--per-class",
        2,
        "--seeds",
        0,
        1,
        "--model",
        tmp_path / "model",
        "--device",
        "cpu",
        "--override",
        "training.epochs=6",
    ]
    call = partial(run_loop.main, [str(word) for word in words])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("failure_directions.commands.generate.USUAL", Sampling(8, 2, 2.0))
        call()
    printed = capsys.readouterr().out
    assert "accuracy of the base models on the generated images" in printed
    with open(tmp_path / "loop" / "compared_synthetic2_finetune_last.csv", newline="") as stream:
        rows = {(row["name"], row["measure"]): row for row in csv.DictReader(stream)}
    runs = [f"synthetic2_{by}_finetune_last" for by in ("none", "neutral", "easy", "hard")]
    assert list(dict.fromkeys(name for name, _ in rows)) == ["base", *runs]
    assert {"minority", "hard 20", "overall"} <= {measure for _, measure in rows}
    assert {row["seeds"] for row in rows.values()} == {"2"}

    # What the table says of the images is what the base models' accuracies on them are.
    with open(tmp_path / "loop" / "generated2.csv", newline="") as stream:
        found = {(row["name"], row["measure"]): float(row["mean"]) for row in csv.DictReader(stream)}
    config = load_dataset_config(scenes_folder / "config.yaml")
    for by in ("neutral", "easy", "hard"):
        accuracies = []
        for seed in (0, 1):
            images = tmp_path / "loop" / "generated" / f"{by}2" / f"seed_{seed}" / "manifest.csv"
            (base,) = (tmp_path / "loop" / "runs" / "base" / f"seed_{seed}").rglob("checkpoint_last.pt")
            accuracies.append(accuracy_on_images(load_checkpoint(base).model, images, config, torch.device("cpu")))
        assert found[by, "overall"] == pytest.approx(np.mean([accuracy["overall"] for accuracy in accuracies]))

    # No two seeds share noise, and no run but that of "none" is without extra images.
    seeds = [path.name for path in (tmp_path / "loop" / "generated" / "hard2").rglob("*.png")]
    assert {name[:-6] for name in seeds} == {"000000", "010000"}
    for name in runs:
        extra = list((tmp_path / "loop" / "runs" / name).rglob("extra_images.beton"))
        assert len(extra) == (0 if "none" in name else 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--per-class", "0"], "--per-class 0 adds nothing"),
        (["--by", "svm", "hard"], "--by hard does not go with add; give some of svm, confidence, random, minority"),
        (["--intervention", "synthetic"], "--intervention synthetic makes images of captions; give --captions"),
        (["--intervention", "synthetic", "--by", "svm"], "--by svm does not go with synthetic; give some of none, neu"),
        (["--captions", "SCENES"], "--captions needs embedding: clip"),
        (["--intervention", "filter", "--by", "random"], "--by random does not go with filter"),
        (["--intervention", "weights", "--scheme", "soft", "--by", "minority"], "does not go with --scheme soft"),
        (["--intervention", "weights", "--factor", "nan"], "--factor nan is no weight"),
        (["--seeds", "-1"], "--seeds -1 is below 0"),
        (["--override", "unlabeled_beton=null"], "there is no extra pool to add from"),
        (["--override", "trainin.epochs=3"], "has an unknown key trainin"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_trained(loop, tmp_path, capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        loop(tmp_path / "out", *words)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
