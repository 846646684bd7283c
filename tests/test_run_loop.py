"""The loop with one command, and what it leaves; small scenes, few epochs."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.api import find_failures
from failure_directions.commands import loop as run_loop
from failure_directions.commands import train as ffcv_main
from failure_directions.commands.generate import Sampling
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.index_files import load_index_file
from failure_directions.directions.results import read_result
from failure_directions.interventions.costs import load_costs
from failure_directions.interventions.synthetic import accuracy_on_images
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import load_pt

from scripts.train_scenes_diffusion import new_pipeline

ROOT = Path(__file__).resolve().parents[1]
SCENES = ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml"
BASE = ROOT / "svm_configs" / "normalized_svm_base_config.yaml"
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
    # Titled by its data, with the verdict and what it has cost: the pool, and five images in each class that changed.
    assert '<h1><span class="name">config</span></h1>' in page
    (cost,) = load_costs(tmp_path / "compared_add5_costs.csv")
    found = read_result(tmp_path / "svm" / "seed_0.pt").found
    changed = {one.class_name for one in found.confirmed}
    pool = len(load_pt(tmp_path / "svm" / "seed_0.pt", "result")["unlabeled_metrics"]["indices"])
    assert changed
    assert (cost.name, cost.seed, cost.images, cost.labels) == ("add5_svm", 0, pool, 5 * len(changed))
    assert str(cost) in page
    assert "No placebo was trained" in page

    # A placebo is the base with another seed, and is paired with the base's.
    loop(tmp_path, "--per-class", "5", "--by", "svm", "--placebo")
    with open(tmp_path / "compared_add5.csv", newline="") as stream:
        placebo = [row for row in csv.DictReader(stream) if row["name"] == "placebo"]
    assert {row["seeds"] for row in placebo} == {"1"}
    assert load_pt(next((tmp_path / "runs" / "placebo").rglob("predictions.pt")), "predictions")["seed"] == 10**6
    assert "No placebo was trained" not in (tmp_path / "report.html").read_text()
    kept = load_pt(tmp_path / "svm" / "seed_0.pt", "result")["found"]["evaluate"]
    tested = len(load_pt(tmp_path / "svm" / "seed_0.pt", "result")["test_metrics"]["indices"])
    assert len(kept) == tested // 2
    capsys.readouterr()

    # A budget is shared by the confirmed failures, and as many images are chosen at random in the same classes.
    loop(tmp_path, "--budget", "6", "--by", "slices", "random")
    costs = {one.name: one for one in load_costs(tmp_path / "compared_budget6_costs.csv")}
    assert {name: (one.images, one.labels) for name, one in costs.items()} == {
        "budget6_slices": (pool, 6),
        "budget6_random": (0, 6),
    }
    chosen = [load_index_file(tmp_path / "interventions" / f"budget6_{by}_seed_0.pt") for by in ("slices", "random")]
    entry = read_result(tmp_path / "svm" / "seed_0.pt").splits["unlabeled"]
    class_of = dict(zip(entry.indices.tolist(), entry.classes.tolist(), strict=True))
    of_classes = [sorted(class_of[i] for i in index["extra_indices"].tolist()) for index in chosen]
    assert of_classes[0] == of_classes[1]
    assert {read_result(tmp_path / "svm" / "seed_0.pt").class_names[c] for c in of_classes[0]} <= changed
    capsys.readouterr()

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
    with pytest.raises(SystemExit):
        loop(tmp_path, "--unconfirmed")
    assert "was begun with --unconfirmed False, not True" in capsys.readouterr().err


def test_where_nothing_is_confirmed_nothing_is_retrained(loop, tmp_path, monkeypatch, capsys):
    """With predictions that have nothing to do with the embedding in place of the base's."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    preds = np.where(rng.random(200) < 0.2, 1 - labels, labels)
    noise = find_failures(labels, preds, rng.normal(size=(200, 4)), jobs=1)
    assert noise.confirmed == []
    trained = []
    monkeypatch.setattr(run_loop, "train", lambda out, name, seed, *rest: trained.append((name, seed)))
    monkeypatch.setattr(run_loop, "distil", lambda out, *rest: noise.save(tmp_path / "noise.pt"))
    loop(tmp_path / "out", "--by", "svm", "random", "--seeds", "0", "1", "--placebo")
    assert trained == [("base", 0), ("base", 1)]
    told = capsys.readouterr().out
    assert "no slice of the base of seed 1 is confirmed" in told
    assert "nothing is retrained: find failures in more images, or change all classes with --unconfirmed" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["loop.yaml"]


@pytest.mark.check
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
        patch.setattr("failure_directions.commands.sampling.USUAL_SAMPLING", Sampling(8, 2, 2.0))
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

    # Confirmed failures have images of their own captions, a class's as many as it has of its own caption.
    call_slices = [str(word) for word in [*words, "--by", "slices"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("failure_directions.commands.sampling.USUAL_SAMPLING", Sampling(8, 2, 2.0))
        run_loop.main(call_slices)
    for seed in (0, 1):
        made = []
        for by in ("slices2", "hard2"):
            with open(tmp_path / "loop" / "generated" / by / f"seed_{seed}" / "manifest.csv", newline="") as stream:
                made.append([row["label"] for row in csv.DictReader(stream)])
        assert sorted(made[0]) == sorted(made[1])

    # Images decoded along the same classes' directions, beside those of captions.
    from_directions = ["--from", "directions", "--by", "hard", "decoded_hard", "--alpha", 0.4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("failure_directions.commands.sampling.USUAL_SAMPLING", Sampling(8, 2, 2.0))
        run_loop.main([str(word) for word in [*words, *from_directions]])
    for seed in (0, 1):
        labels = []
        for images in ("hard2", "decoded_hard_0.4_2"):
            folder = tmp_path / "loop" / "generated" / images / f"seed_{seed}"
            with open(folder / ("decoded.csv" if "decoded" in images else "manifest.csv"), newline="") as stream:
                labels.append([row["label"] for row in csv.DictReader(stream)])
        assert set(labels[0]) == set(labels[1])
        assert len(labels[1]) == 2 * len(set(labels[1]))
    with open(tmp_path / "loop" / "compared_synthetic2_finetune_last.csv", newline="") as stream:
        assert "synthetic2_decoded_hard_0.4_finetune_last" in {row["name"] for row in csv.DictReader(stream)}

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
        (["--from", "directions"], "--from directions does not go with add"),
        (["--alpha", "0"], "--alpha is 0; give a share of the way"),
        (
            ["--intervention", "synthetic", "--by", "decoded_hard", "--filter", "--captions", "SCENES", "-s", SCENES],
            "--filter is of images of captions",
        ),
        (
            ["--intervention", "synthetic", "--from", "directions", "--captions", "CIFAR", "-s", BASE],
            "images are decoded by a model for the CLIP ViT-B-32-quickgelu; name it with --decoder",
        ),
        (["--budget", "0"], "--budget 0 adds nothing"),
        (["--intervention", "weights", "--budget", "5"], "--budget does not go with weights"),
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


def test_files_that_say_something_else_now_are_told(scenes_folder, tmp_path):
    config, svm = (tmp_path / name for name in ("config.yaml", "svm.yaml"))
    config.write_text((scenes_folder / "config.yaml").read_text())
    svm.write_text(LATENT.read_text())
    args = run_loop.parse_arguments(["-c", str(config), "-s", str(svm), "--out", str(tmp_path / "out")])
    run_loop.check_settings(tmp_path / "out", args)
    config.write_text("# only a comment more\n" + config.read_text())
    run_loop.check_settings(tmp_path / "out", args)
    svm.write_text(svm.read_text() + "\nfdr: 0.05\n")
    with pytest.raises(UserError, match=r"--svm-config .* has changed"):
        run_loop.check_settings(tmp_path / "out", args)
