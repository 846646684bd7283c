"""Comparing runs: measures on planted predictions, intervals against scipy's textbook, and the command."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from failure_directions.commands import compare as compare_runs
from failure_directions.interventions.comparison import compare, load_rows, load_run, paired_interval
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import save_pt
from failure_directions.training.evaluation import Predictions, save_predictions
from scipy import stats

CLASSES = np.repeat([0, 1], 40)
# In both classes, the first 20 images are hard, the last ones easy; every fourth is of the minority.
VALUES = np.tile(np.linspace(-1, 1, 40), 2)
SPURIOUS = (np.arange(80) % 4 == 0).astype(np.int64)


CONFIG = {
    "train_beton": "t.beton",
    "test_beton": "t.beton",
    "imgsz": 32,
    "arch": "resnet18",
    "arch_type": "resnet",
    "num_classes": 2,
    "minority": 1,
}


def write_result(path, **changes):
    entry = {
        "preds": torch.from_numpy(CLASSES),
        "classes": torch.from_numpy(CLASSES),
        "confs": torch.full((80,), 0.9),
        "ytrue": torch.ones(80, dtype=torch.int64),
        "ypred": torch.from_numpy((VALUES > 0).astype(np.int64)),
        "decision_values": torch.from_numpy(VALUES),
        "indices": torch.arange(80),
        "spuriouses": torch.from_numpy(SPURIOUS),
        "skipped_classes": {},
        **changes,
    }
    content = {
        "args": {"root": "."},
        "dataset_config": CONFIG,
        "svm_config": {"embedding": "latent"},
        "class_names": ["cat", "dog"],
        "cv_scores": torch.tensor([0.8, 0.7]),
        "train_metrics": entry,
        "test_metrics": entry,
    }
    save_pt(content, path)


def write_run(folder, seed, correct, labels=CLASSES, version=0):
    preds = np.where(correct, labels, 1 - labels)
    found = Predictions(np.arange(len(labels)), labels, preds, np.full(len(labels), 0.5, np.float32))
    save_predictions(folder / f"version_{version}" / "predictions.pt", {"test": found}, seed, ["cat", "dog"])


def table(out):
    with open(out.with_name(f"{out.name}.csv"), newline="") as stream:
        return {(row["name"], row["measure"]): row for row in csv.DictReader(stream)}


@pytest.fixture
def compared(tmp_path):
    """A base that is wrong on the minority of class 0, and a run that is right there, in three seeds."""
    write_result(tmp_path / "svm.pt")
    for seed in range(3):
        wrong = (SPURIOUS == 1) & (CLASSES == 0)
        wrong[40 + seed] = True  # something differs between seeds
        write_run(tmp_path / "base" / f"seed_{seed}", seed, ~wrong)
        write_run(tmp_path / "mended" / f"seed_{seed}", seed, ~wrong | (SPURIOUS == 1))
    out = tmp_path / "out" / "compared"
    runs = [str(tmp_path / name) for name in ("base", "mended")]
    compare_runs.main([*runs, "--svm", str(tmp_path / "svm.pt"), "--out", str(out)])
    return out


def test_every_measure_is_what_was_planted(compared):
    rows = table(compared)
    base = {what: float(row["mean"]) for (name, what), row in rows.items() if name == "base"}
    # 10 of class 0 are wrong, and one more of class 1, which in one seed of three is of the minority.
    assert base["overall"] == pytest.approx(69 / 80)
    assert base["worst class"] == base["class cat"] == pytest.approx(30 / 40)
    assert base["class dog"] == pytest.approx(39 / 40)
    assert base["minority"] == pytest.approx((10 - 1 / 3) / 20)
    assert base["majority"] == pytest.approx((60 - 2 / 3) / 60)
    assert base["hard 20"] == pytest.approx((15 / 20 + 19 / 20) / 2)
    assert base["easy 20"] == pytest.approx((15 / 20 + 20 / 20) / 2)
    assert base["hard 40"] == base["easy 40"]
    assert ("base", "hard 60") not in rows  # a class has 40 images
    assert float(rows["mended", "minority"]["mean"]) == 1


def test_the_files_hold_the_differences_and_a_picture(compared):
    text = compared.with_name("compared.md").read_text()
    assert re.search(
        r"\| minority +\| 0\.483 ±0\.029 +\| \*\*1\.000 ±0\.000; \+0\.517 \[\+0\.445, \+0\.588\]\*\*", text
    )
    assert compared.with_name("compared.png").read_bytes()[:4] == b"\x89PNG"
    rows = load_rows(compared.with_name("compared.csv"))
    assert rows[0].name == "base"
    assert rows[0].seeds == 3


def test_the_interval_is_students_on_the_paired_differences():
    rng = np.random.default_rng(0)
    values, reference = rng.normal(size=6), rng.normal(size=6)
    differences = values - reference
    half = stats.t.ppf(0.975, 5) * differences.std(ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(
        paired_interval(values, reference), [differences.mean() - half, differences.mean() + half]
    )
    assert paired_interval(values, values) == (0, 0)
    assert np.isnan(paired_interval(values, values - 0.25)).all()  # equal by chance, not for certain
    assert np.isnan(paired_interval(values[:1], reference[:1])).all()


def test_pairing_removes_what_seeds_share():
    by_seed = [{"overall": accuracy} for accuracy in (0.5, 0.6, 0.7)]
    better = [{"overall": found["overall"] + 0.01 + 0.001 * i} for i, found in enumerate(by_seed)]
    row = compare({"base": by_seed, "better": better})[1]
    assert row.deviation == pytest.approx(0.101, abs=1e-3)
    assert 0.008 < row.low < row.difference < row.high < 0.014
    assert row.is_clear
    worse = compare({"base": better, "worse": by_seed})[1]
    assert worse.high < 0
    assert worse.is_clear
    assert not replace(worse, high=0.0).is_clear
    assert not replace(row, low=0.0).is_clear
    assert not replace(row, low=-0.01).is_clear


def test_equal_differences_show_no_interval(tmp_path):
    write_result(tmp_path / "svm.pt")
    for seed in range(2):
        write_run(tmp_path / "base" / f"{seed}", seed, np.arange(80) >= 8)
        write_run(tmp_path / "better" / f"{seed}", seed, np.arange(80) >= 4)
    runs = [str(tmp_path / name) for name in ("base", "better")]
    compare_runs.main([*runs, "--svm", str(tmp_path / "svm.pt"), "--out", str(tmp_path / "c")])
    text = (tmp_path / "c.md").read_text()
    assert re.search(r"\| overall +\| 0\.900 ±0\.000 +\| 0\.950 ±0\.000; \+0\.050 +\|", text)
    assert "nan" not in text


def test_images_near_a_caption_are_the_hard_ones_where_a_result_has_captions(tmp_path):
    similarity = torch.from_numpy(
        np.tile(np.arange(40.0), 2)
    )  # the last images of each class are near the hard caption
    write_result(tmp_path / "svm.pt", hard_similarity=similarity, easy_similarity=-similarity)
    write_run(tmp_path / "base", 0, np.arange(80) % 40 < 20)
    compare_runs.main([str(tmp_path / "base"), "--svm", str(tmp_path / "svm.pt"), "--out", str(tmp_path / "c")])
    rows = table(tmp_path / "c")
    assert (rows["base", "hard 20"]["mean"], rows["base", "easy 20"]["mean"]) == ("0.0", "1.0")
    assert "nearest to the class's hardest and easiest caption" in (tmp_path / "c.md").read_text()


def test_of_two_versions_with_one_seed_the_later_counts(tmp_path):
    write_run(tmp_path, 0, CLASSES == 0)
    write_run(tmp_path, 0, CLASSES == 1, version=1)
    assert (load_run(tmp_path)[0]["preds"] == 1).all()


def test_another_base_and_chosen_seeds(tmp_path, compared):
    runs = [str(tmp_path / name) for name in ("base", "mended")]
    words = ["--svm", str(tmp_path / "svm.pt"), "--out", str(tmp_path / "c"), "--base", "mended", "--seeds", "2"]
    compare_runs.main([*runs, *words])
    rows = table(tmp_path / "c")
    assert next(iter(rows))[0] == "mended"
    assert float(rows["base", "minority"]["difference"]) < 0
    assert rows["base", "minority"]["seeds"] == "1"


def fails(words, capsys):
    with pytest.raises(SystemExit) as stop:
        compare_runs.main([str(word) for word in words])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_compared_is_told_in_a_sentence(tmp_path, compared, capsys):
    svm, out = ["--svm", tmp_path / "svm.pt"], ["--out", tmp_path / "other"]
    base = tmp_path / "base"
    assert "nowhere holds no finished run" in fails([tmp_path / "nowhere", *svm, *out], capsys)
    assert "two runs are called base" in fails([base, base, *svm, *out], capsys)
    assert "run base has no seed 7, only 0, 1, 2" in fails([base, *svm, *out, "--seeds", "7"], capsys)
    assert "--base x is none of the runs base" in fails([base, *svm, *out, "--base", "x"], capsys)
    write_run(tmp_path / "other_data", 0, CLASSES == 0, labels=1 - CLASSES)
    assert "was tested on other images than" in fails([tmp_path / "other_data", *svm, *out], capsys)
    write_run(tmp_path / "other_seed", 9, CLASSES == 0)
    assert "no seed is in all runs (base: 0, 1, 2; other_seed: 9)" in fails(
        [base, tmp_path / "other_seed", *svm, *out], capsys
    )
    save_pt({"seed": 0, "test": {}}, tmp_path / "odd" / "predictions.pt")
    assert "does not hold the predictions of a run" in fails([tmp_path / "odd", *svm, *out], capsys)
    assert not (tmp_path / "other.csv").exists()


def test_a_file_that_is_no_comparison_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("name,measure\nbase,overall\n")
    with pytest.raises(UserError, match="is no comparison of runs"):
        load_rows(tmp_path / "x.csv")


def test_a_comparison_that_lacks_a_measure_is_refused(compared):
    path = compared.with_name("compared.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("mended,overall")))
    with pytest.raises(UserError, match="is no comparison of runs"):
        load_rows(path)
