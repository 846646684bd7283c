"""The next model against the last: the tests against counting by hand, the command on planted predictions."""

import csv
import math
import os
from itertools import product

import failure_directions as fd
import numpy as np
import pytest
from failure_directions.commands import compare, report
from failure_directions.interventions.next_model import (
    FIXED,
    NEW,
    PERSISTS,
    WORSE,
    compare_models,
    load_rows,
    mcnemar_p,
    new_failures,
    paired_newcombe_interval,
)
from failure_directions.report.summaries import read_comparison
from failure_directions.runtime.errors import UserError


@pytest.mark.parametrize(("one", "other"), [(0, 0), (5, 0), (3, 9), (7, 7), (40, 61)])
def test_mcnemar_counts_the_tosses_of_a_coin(one, other):
    n, k = one + other, min(one, other)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    assert mcnemar_p(one, other) == pytest.approx(min(1.0, 2 * tail / 2**n))
    assert mcnemar_p(other, one) == mcnemar_p(one, other)


def test_the_interval_covers_its_difference_in_every_small_sample():
    # The exact coverage: all tables of 20 pairs, by their multinomial chance.
    n, level = 20, 0.95
    tables = [t for t in product(range(n + 1), repeat=3) if sum(t) <= n]
    intervals = np.array([paired_newcombe_interval(*t, n - sum(t), level) for t in tables])
    counts = np.array([(*t, n - sum(t)) for t in tables])
    ways = np.array([math.factorial(n) / math.prod(map(math.factorial, row)) for row in counts.tolist()])
    for chances in ([0.3, 0.2, 0.1, 0.4], [0.1, 0.25, 0.05, 0.6], [0.4, 0.1, 0.1, 0.4]):
        weight = ways * np.prod(np.array(chances) ** counts, axis=1)
        truth = chances[2] - chances[1]
        covered = weight[(intervals[:, 0] <= truth) & (truth <= intervals[:, 1])].sum()
        assert weight.sum() == pytest.approx(1)
        assert 0.92 < covered < 0.99


def test_the_interval_is_newcombes_where_pairs_are_independent():
    # Without correlation it is the interval of two independent proportions (method 10 of the companion paper).
    from failure_directions.directions.confirmation import newcombe_interval

    low, high = paired_newcombe_interval(20, 20, 30, 30)  # 20 x 30 = 20 x 30: phi is 0
    assert (low, high) == pytest.approx(newcombe_interval(0.5, 100, 0.4, 100))
    mirrored = paired_newcombe_interval(20, 30, 20, 30)
    assert mirrored == pytest.approx((-high, -low))
    assert all(np.isnan(paired_newcombe_interval(0, 0, 0, 0)))


def planted(n=400):
    """Two classes, a slice of a quarter in each, whose images the old model has wrong."""
    labels = np.repeat([0, 1], n // 2)
    slices = {"a-1": np.arange(n // 8), "b-1": n // 2 + np.arange(n // 8)}
    before = np.zeros(n, bool)
    for members in slices.values():
        before[members[::2]] = True
    return labels, slices, before


def test_fixed_persists_worse():
    labels, slices, before = planted()
    after = before.copy()
    after[slices["a-1"]] = False
    after[300:340] = True  # of the rest
    rows = {row.name: row for row in compare_models(slices, labels, before, after)}
    assert {name: row.verdict for name, row in rows.items()} == {
        "a-1": FIXED,
        "b-1": PERSISTS,
        "rest": WORSE,
        "all": "no clear change",
    }
    assert rows["a-1"].became_right == 25
    assert rows["a-1"].p_value == pytest.approx(2 / 2**25)
    assert rows["a-1"].difference == -0.5
    assert rows["a-1"].high < 0
    assert rows["b-1"].p_value == 1


def test_fewer_errors_that_are_still_more_than_the_rest_has_persist():
    labels, slices, before = planted()
    before[slices["a-1"]] = True
    after = before.copy()
    after[slices["a-1"][:20]] = False
    row = compare_models(slices, labels, before, after)[0]
    assert row.q_value < 0.01
    assert row.verdict == PERSISTS


def test_images_of_one_group_count_once():
    labels, slices, before = planted()
    after = before.copy()
    after[slices["a-1"]] = False
    groups = np.arange(400).astype(str)
    alone = compare_models(slices, labels, before, after)[0]
    assert compare_models(slices, labels, before, after, groups)[0] == alone
    groups[slices["a-1"]] = "one patient"
    row = compare_models(slices, labels, before, after, groups)[0]
    assert row.p_value == 1
    assert row.verdict == PERSISTS
    assert row.low < -0.5 < 0 < row.high


def test_equal_models_are_rarely_called_different():
    rng, called = np.random.default_rng(0), 0
    labels, slices, _ = planted()
    for _ in range(200):
        hard = rng.random(400) < 0.3
        before, after = (np.where(hard, rng.random(400) < 0.6, rng.random(400) < 0.1) for _ in range(2))
        called += any(row.verdict in (WORSE, FIXED) for row in compare_models(slices, labels, before, after)[:2])
    assert called / 200 < 0.1


def test_new_failures_lie_mostly_outside_the_old():
    _, slices, before = planted()
    after = np.zeros(400, bool)
    after[100:140] = True
    candidates = {"a-1": np.arange(40, 80), "a-2": np.arange(100, 140), "a-3": np.arange(20, 60)}
    rows = new_failures(candidates, list(slices.values()), before, after)
    assert [(row.name, row.verdict, row.error_before, row.error_after) for row in rows] == [
        ("a-1", NEW, 0.125, 0.0),
        ("a-2", NEW, 0.0, 1.0),
    ]
    assert np.isnan(rows[0].p_value)


# ---- The command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A result of a model that has one corner of class a wrong; folder, labels, wrong."""
    folder = tmp_path_factory.mktemp("next")
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(1200, 6)), np.repeat([0, 1], 600)
    wrong = np.where((x[:, 0] > 0.8) & (labels == 0), rng.random(1200) < 0.8, rng.random(1200) < 0.05)
    found = fd.find_failures(
        labels,
        np.where(wrong, 1 - labels, labels),
        x,
        images=[str(folder / "images" / f"{i}.png") for i in range(1200)],
        class_names=["a", "b"],
    )
    assert {one.class_name for one in found.confirmed} == {"a"}
    found.save(folder / "old.pt")
    return folder, labels, wrong, x


def write_predictions(path, labels, wrong, rows=None, **columns):
    rows = range(len(labels)) if rows is None else rows
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "pred", *columns])
        for i in rows:
            pred = 1 - labels[i] if wrong[i] else labels[i]
            row = [f"images/{i}.png", "ab"[labels[i]], "ab"[pred], *(values[i] for values in columns.values())]
            writer.writerow(row)
    return str(path)


def test_a_table_of_a_better_model(old, capsys, tmp_path):
    folder, labels, wrong, x = old
    table = write_predictions(folder / "better.csv", labels, wrong & (x[:, 0] <= 0.8))
    out = tmp_path / "next"
    compare.main(["--svm", str(folder / "old.pt"), "--predictions", table, "--out", str(out), "--fail-if-worse"])
    rows = {row.name: row for row in load_rows(f"{out}.csv")}
    assert rows["a-1"].verdict == FIXED
    assert rows["all"].verdict == "better"
    assert rows["all"].images == 600
    assert sum(row.images for name, row in rows.items() if name != "all") == 600
    assert "fixed" in capsys.readouterr().out
    assert "| a-1" in (tmp_path / "next.md").read_text()
    page = tmp_path / "report.html"
    report.main(["--svm", str(folder / "old.pt"), "--report", str(page), "--compared", str(out)])
    assert "The next model" in page.read_text()
    assert "fixed" in page.read_text()


def test_a_worse_model_fails_a_pipeline(old, capsys, tmp_path):
    folder, labels, wrong, _ = old
    table = write_predictions(folder / "worse.csv", labels, wrong | (labels == 1))
    words = ["--svm", str(folder / "old.pt"), "--predictions", table, "--out", str(tmp_path / "next")]
    compare.main(words)
    with pytest.raises(SystemExit) as ended:
        compare.main([*words, "--fail-if-worse"])
    assert ended.value.code == 1
    assert "worse: rest, all" in capsys.readouterr().err
    assert (tmp_path / "next.csv").is_file()


def test_a_result_of_the_new_model_tells_its_own_failures(old, tmp_path):
    folder, labels, wrong, x = old
    after = np.where((x[:, 1] > 0.8) & (labels == 1), True, wrong & (x[:, 0] <= 0.8))
    images = [str(folder / "images" / f"{i}.png") for i in range(1200)]
    found = fd.find_failures(labels, np.where(after, 1 - labels, labels), x, images=images, class_names=["a", "b"])
    found.save(tmp_path / "new.pt")
    words = ["--svm", str(folder / "old.pt"), "--predictions", str(tmp_path / "new.pt")]
    compare.main([*words, "--out", str(tmp_path / "next")])
    rows = {row.name: row for row in load_rows(tmp_path / "next.csv")}
    assert rows["a-1"].verdict == FIXED
    assert rows["b-1"].verdict == NEW
    assert rows["b-1"].error_before < 0.2
    compare.main([*words[:2], "--predictions", str(folder / "old.pt"), "--out", str(tmp_path / "same")])
    rows = load_rows(tmp_path / "same.csv")
    assert {row.difference for row in rows} == {0.0}
    assert NEW not in {row.verdict for row in rows}


def test_two_tables_name_failures_in_a_column(old, capsys, tmp_path):
    _, labels, wrong, x = old
    names = np.where((x[:, 0] > 0.8) & (labels == 0), "corner", "")
    first = write_predictions(tmp_path / "old.csv", labels, wrong, slice=names)
    second = write_predictions(tmp_path / "new.csv", labels, wrong & (x[:, 0] <= 0.8), rows=range(50, 1200))
    compare.main(["--predictions", first, second, "--out", str(tmp_path / "next")])
    rows = {row.name: row for row in load_rows(tmp_path / "next.csv")}
    assert rows["corner"].images == (names[50:] == "corner").sum()
    assert rows["corner"].verdict == FIXED
    assert "50 images are in" in capsys.readouterr().out


def test_bad_input_is_one_sentence(old, capsys, tmp_path):
    folder, labels, wrong, _ = old
    svm, out = ["--svm", str(folder / "old.pt")], ["--out", str(tmp_path / "next")]
    good = write_predictions(folder / "good.csv", labels, wrong)
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("path,label,pred\nq.png,a,b\nr.png,b,b\n")
    unpredicted = tmp_path / "unpredicted.csv"
    unpredicted.write_text("path,label\nq.png,a\nr.png,b\n")
    relabelled = write_predictions(folder / "relabelled.csv", 1 - labels, wrong)
    twice = write_predictions(folder / "twice.csv", labels, wrong, rows=[*range(1200), *range(1200)])
    for words, sentence in [
        ([*svm], "give runs to compare, or --predictions"),
        ([*svm, "run", "--predictions", good], "give runs to compare, or --predictions"),
        (["run"], "--svm is missing"),
        ([*svm, "run", "--fail-if-worse"], "--fail-if-worse goes with --predictions"),
        (["--predictions", good], "nothing to be compared with"),
        (["--predictions", good, good, good], "names 3 models"),
        (["--predictions", good, good], "no column slice"),
        ([*svm, "--predictions", good, "--fdr", "2"], "--fdr is 2.0"),
        ([*svm, "--predictions", "missing.csv"], "do not exist"),
        ([*svm, "--predictions", str(elsewhere)], "has none of the images"),
        ([*svm, "--predictions", str(unpredicted)], "neither pred nor prob_"),
        ([*svm, "--predictions", relabelled], "labels 600 of the images otherwise"),
        ([*svm, "--predictions", twice], "more than once"),
        ([*svm, "--predictions", str(tmp_path)], "failure-directions train"),
    ]:
        with pytest.raises(SystemExit) as ended:
            compare.main([*words, *out])
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert sentence in said
        assert said.count("\n") == 1
        assert not list(tmp_path.glob("next*"))


def test_no_confirmed_failure_is_said(tmp_path, capsys):
    rng = np.random.default_rng(1)
    labels, wrong = np.repeat([0, 1], 200), rng.random(400) < 0.1
    images = [str(tmp_path / "images" / f"{i}.png") for i in range(400)]
    preds = np.where(wrong, 1 - labels, labels)
    found = fd.find_failures(labels, preds, rng.normal(size=(400, 4)), images=images, class_names=["a", "b"])
    assert not found.confirmed
    found.save(tmp_path / "none.pt")
    table = write_predictions(tmp_path / "new.csv", labels, wrong)
    compare.main(["--svm", str(tmp_path / "none.pt"), "--predictions", table, "--out", str(tmp_path / "next")])
    assert "no failure in" in capsys.readouterr().out
    with pytest.raises(UserError, match="no comparison of two models"):
        load_rows(table)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_comparison_that_never_ends_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "next.csv"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="does not exist"):
        read_comparison(tmp_path / "next")
