"""The loop with one command, and what it leaves; small scenes, few epochs."""

import csv
from pathlib import Path

import pytest

from scripts import run_loop
from src.commands import ffcv_main
from src.files import load_pt

ROOT = Path(__file__).resolve().parents[1]
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
    assert commands == ["ffcv_main.py", "scripts/compare_runs.py", "visualization_utils.py"]
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
    assert commands == ["scripts/make_intervention.py", "ffcv_main.py", *commands[2:]]
    run = next((tmp_path / "runs" / "balanced_svm_finetune_last").rglob("checkpoint_last.pt"))
    metadata = load_pt(run, "checkpoint")["run_metadata"]
    assert metadata["arguments"]["freeze"] is True
    assert metadata["config"]["training"]["epochs"] == 15  # the published setting

    with pytest.raises(SystemExit) as stop:
        loop(tmp_path, "--override", "batch_size=32")
    assert stop.value.code == 2
    assert "was begun with --override" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--per-class", "0"], "--per-class 0 adds nothing"),
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
