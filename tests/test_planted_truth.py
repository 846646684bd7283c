"""What was found is held against what was planted: counts by hand, scipy's tests, and a model's own predictions."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PLANT
from failure_directions.commands import demo, planted_truth
from failure_directions.commands import distil as train_svms
from failure_directions.commands.planted_truth import plants_in_result, predict_drawn, unplanted_claims
from failure_directions.data.scenes import Plant, SceneSetting, make_split
from failure_directions.directions.analysis import slice_values
from failure_directions.directions.results import (
    CaptionRow,
    FoundSlices,
    Result,
    SplitResult,
    read_directions,
    read_result,
)
from failure_directions.runtime.devices import resolve_device
from scipy import stats

SETTING = SceneSetting(
    (Plant.parse("correlation:circle:colour=red:0.9"), Plant.parse("correlation:circle:background=brick:0.9"))
)
CIRCLE, CROSS = (SETTING.classes.index(name) for name in ("circle", "cross"))


def made_up_slice(shape, rank, members=(), direction=(1.0, 0.0), verdict="confirmed"):
    return SimpleNamespace(
        id=f"{shape}-{rank}",
        class_index=SETTING.classes.index(shape),
        class_name=shape,
        rank=rank,
        members=np.array(members, dtype=int),
        verdict=verdict,
        score=lambda x: x @ np.array(direction),
    )


def made_up_result(slices, split):
    found = FoundSlices(
        slices=slices, skipped={}, find="val", confirm="test", fdr=0.1, seed=0, near_duplicates=0, shared_groups=0
    )
    return Result(
        class_names=list(SETTING.classes), cv_scores=np.ones(8), skipped={}, splits={"test": split}, found=found
    )


@pytest.fixture
def circles():
    """Ten circles, of which the first three are of the first plant and the next two of the second, and two crosses."""
    right = np.array([0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    values = np.full((12, 2), np.nan, np.float32)
    values[:10, 0] = [-3, -2, -1, 4, 5, 6, 7, 8, 9, -4]
    values[:10, 1] = [1, 2, 3, -2, -1, 4, 5, 6, 7, 8]
    split = SplitResult(
        ytrue=right,
        ypred=right,
        decision_values=np.r_[np.arange(10.0), np.nan, np.nan],
        preds=np.zeros(12, int),
        classes=np.array([CIRCLE] * 10 + [CROSS] * 2),
        confs=np.r_[np.arange(10.0)[::-1], 0, 0],
        indices=np.arange(12),
        slice_values=values,
        spuriouses=np.array([1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 1, 2]),
    )
    slices = [made_up_slice("circle", 1, [9, 0, 1, 2]), made_up_slice("circle", 2, [3], verdict="not confirmed")]
    return plants_in_result(made_up_result(slices, split), SETTING)


def test_each_plant_of_a_class_is_counted_by_itself(circles):
    colour, background = circles
    assert (colour.base_rate, background.base_rate) == (0.3, 0.2)
    assert (colour.accuracy, background.accuracy) == (1 / 3, 1 / 2)
    assert (colour.minority_of_flagged, background.minority_of_flagged) == (2 / 3, 1 / 3)


def test_the_slice_that_holds_a_plant_is_that_with_the_best_f1(circles):
    colour, background = circles
    assert (colour.slice.id, background.slice.id) == ("circle-1", "circle-2")
    assert (colour.minority_of_members(colour.slice), colour.share_found(colour.slice)) == (3 / 4, 1)
    assert (background.minority_of_members(background.slice), background.share_found(background.slice)) == (1, 1 / 2)


def test_precision_is_of_the_first_images_of_the_class_alone(circles):
    colour, background = circles
    assert colour.precision_at(4, colour.split.decision_values) == 3 / 4
    assert colour.precision_at(4, colour.split.confs) == 0
    assert colour.slice_precision_at(2, colour.slice) == 1 / 2
    assert background.slice_precision_at(2, background.slice) == 1
    assert colour.precision_at(4, np.full(12, np.nan)) is None


def test_a_claim_holds_where_fresh_images_fail_more_often_inside_it(monkeypatch):
    """Three slices of one class without a plant: the second's images are those that the first has left."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((300, 2))
    wrong = np.where(latents[:, 0] <= 0, rng.random(300) < 0.5, rng.random(300) < 0.1)

    def predicted(result, split, rows, device):
        assert (split.shape[rows] == "cross").all()
        return np.where(wrong, CIRCLE, CROSS), latents

    monkeypatch.setattr(planted_truth, "predict_drawn", predicted)
    monkeypatch.setattr(planted_truth, "read_directions", lambda out: SimpleNamespace(preprocess=lambda x: x))
    slices = [
        made_up_slice("circle", 1),
        made_up_slice("cross", 1),
        made_up_slice("cross", 2, direction=(1, 1)),
        made_up_slice("cross", 3, direction=(-1, -1), verdict="not confirmed"),
    ]
    split = SimpleNamespace()
    claims = unplanted_claims("OUT.pt", made_up_result(slices, split), SETTING, device="cpu", images=300)
    first, second = latents[:, 0] <= 0, (latents[:, 0] > 0) & (latents.sum(1) <= 0)
    assert [claim.slice.id for claim in claims] == ["cross-1", "cross-2"]
    for claim, flagged, rest in ((claims[0], first, ~first), (claims[1], second, ~first & ~second)):
        table = [[wrong[rows].sum(), (~wrong[rows]).sum()] for rows in (flagged, rest)]
        assert claim.p_value == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    assert [claim.holds for claim in claims] == [True, False]
    assert demo.claims_in_words(claims).startswith("of 2 failures claimed in classes without a plant, 1 hold")


def test_no_image_is_drawn_where_nothing_is_claimed_without_a_plant(monkeypatch):
    monkeypatch.setattr(planted_truth, "make_split", None)
    result = made_up_result([made_up_slice("circle", 1)], SimpleNamespace())
    assert unplanted_claims("OUT.pt", result, SETTING) == []


def test_the_demo_shows_captions_of_the_slices_that_hold_a_plant(circles, monkeypatch):
    rows = [
        CaptionRow(class_name=name, slice=of, side=side, rank=rank, caption=f"{name} {of} {rank}", score=0.0, z=-1.0)
        for name, of in (("circle", ""), ("circle", "circle-2"), ("circle", "circle-3"), ("cross", ""))
        for side in ("hard", "easy")
        for rank in (1, 2, 3, 4)
    ]
    monkeypatch.setattr("failure_directions.directions.results.read_table", lambda path, kind: rows)
    monkeypatch.setattr(planted_truth, "plants_in_result", lambda result, setting: circles)
    _, table = demo.hardest_captions(Path("demo"), None, SETTING)
    assert [row[3] for row in table] == [f"circle {of} {rank}" for of in ("", "circle-2") for rank in (1, 2, 3)]
    assert {row[1] for row in table[:3]} == {"correlation, colour red and correlation, background brick"}
    assert {row[1] for row in table[3:]} == {"correlation, background brick"}


# ---- on betons ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_setting():
    return SceneSetting((PLANT,), train=60, val=40, test=40, unlabeled=20)


@pytest.fixture(scope="module")
def clip_result(scenes_folder, trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("planted") / "scenes_clip.pt"
    words = ["-c", scenes_folder / "config.yaml", "-s", "normalized_svm_scenes_config", "--root", scenes_folder]
    words += ["--out-file", out, "--model-path", trained_run / "checkpoints" / "checkpoint_last.pt", "--spurious"]
    train_svms.main([*map(str, words), "--captions", "SCENES", "--jobs", "1"])
    return out


def test_images_drawn_in_memory_are_what_the_betons_hold(clip_result, small_setting):
    """The betons' images, decoded and evaluated by the commands, against the same ones drawn again."""
    result = read_result(clip_result)
    test = result.splits["test"]
    preds, latents = predict_drawn(result, make_split(small_setting, "test"), np.arange(320), resolve_device("cpu"))
    assert np.array_equal(preds, test.preds)
    values = slice_values(result.found, read_directions(clip_result).preprocess, latents, test.classes)
    np.testing.assert_allclose(values, test.slice_values, atol=1e-3)


def test_the_demo_has_a_row_a_plant_and_captions_of_its_class(clip_result, small_setting):
    results = {"clip": read_result(clip_result)}
    header, rows = demo.planted_and_found(results, small_setting)
    assert len(header) == len(rows[0])
    assert rows[0][:3] == ["circle", "correlation, colour red", 0.2]
    _, rows = demo.planted_and_sliced(results, small_setting)
    assert [row[:3] for row in rows] == [["circle", "correlation, colour red", "clip"]]
    _, rows = demo.hardest_captions(clip_result.parent, results["clip"], small_setting)
    assert {row[0] for row in rows} <= {"circle"}
    assert [row[1] for row in rows if row[2] == "single direction"] in ([], ["correlation, colour red"] * 3)
