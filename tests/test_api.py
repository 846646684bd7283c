"""`import failure_directions as fd`: from plain arrays to confirmed failures, their files and their report."""

import inspect

import failure_directions as fd
import numpy as np
import pytest
import torch
from failure_directions.directions.results import DirectionRow, SliceRow, read_result, read_table
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import load_pt, save_pt
from scipy import stats

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def world():
    """Three classes of which the first two fail in two ways each: labels, predictions, embeddings, true subgroups."""
    rng = np.random.default_rng(0)
    labels, x = rng.integers(0, 3, 3000), rng.normal(size=(3000, 24))
    wrong, subgroup = rng.random(3000) < 0.08, np.zeros(3000, int)
    for c, axes in ((0, (0, 1)), (1, (2, 3))):
        for number, axis in enumerate(axes, start=1):
            rows = (labels == c) & (rng.random(3000) < 0.1) & (subgroup == 0)
            x[rows, axis] += 5
            subgroup[rows] = number
            wrong[rows] = rng.random(rows.sum()) < 0.6
    return labels, np.where(wrong, (labels + 1) % 3, labels), x, subgroup


@pytest.fixture(scope="module")
def found(world):
    labels, preds, x, _ = world
    images = np.random.default_rng(1).integers(0, 256, (3000, 8, 8, 3), dtype=np.uint8)
    return fd.find_failures(labels, preds, x, images=images, class_names=NAMES, jobs=1)


def test_both_failures_of_a_class_are_confirmed_and_told_apart(world, found):
    labels, preds, _, subgroup = world
    for c in (0, 1):
        for number in (1, 2):
            pure = [
                one.id
                for one in found.confirmed
                if one.class_index == c and (subgroup[one.members] == number).mean() > 0.7 and one.size > 10
            ]
            assert pure, (c, number)
    for one in found.slices:
        assert (labels[one.members] == one.class_index).all()
        assert one.error_rate == pytest.approx((preds != labels)[one.members].mean())
        assert not set(one.members) & set(one.found_members)


def test_names_tensors_lists_and_probabilities_say_the_same_as_numbers(world, found):
    labels, preds, x, _ = world
    probs = np.full((3000, 3), 0.1)
    probs[np.arange(3000), preds] = 0.8
    names = np.array(NAMES)
    others = (
        fd.find_failures(names[labels], names[preds].tolist(), torch.from_numpy(x), jobs=1),
        fd.find_failures(labels.tolist(), probs, x, class_names=NAMES, jobs=1),
    )
    for other in others:
        assert other.class_names == NAMES
        assert [(one.id, one.p_value) for one in other.slices] == [(one.id, one.p_value) for one in found.slices]
    assert np.isfinite([one.beyond_confidence_q for one in others[1].confirmed]).all()
    assert np.isnan([one.beyond_confidence_q for one in found.confirmed]).all()


def test_the_single_directions_are_a_second_family(found):
    directions = found.analysis.result.found.directions
    assert [one.class_name for one in directions] == NAMES
    assert [one.verdict == "confirmed" for one in directions] == [True, True, False]
    assert found.analysis.result.found.confirmed_directions == {0, 1}
    assert "of the single directions, tested as a family of their own: 2 of 3 (cat, dog)" in str(found)


def test_new_images_are_given_the_failures_whose_cut_they_lie_beyond(world, found):
    labels, _, x, _ = world
    ids, values = found.score(x, labels)
    for one in found.confirmed:
        rows = np.flatnonzero([one.id in of_image for of_image in ids])
        assert set(one.members) <= set(rows)
        assert (values[rows, one.rank - 1] <= 0).all()
        assert (labels[rows] == one.class_index).all()
    by_name, _ = found.score(x[:50], np.array(NAMES)[labels[:50]])
    assert by_name == ids[:50]
    confirmed = {one.id for one in found.confirmed}
    assert {name for of_image in ids for name in of_image} <= confirmed


def test_what_is_saved_is_loaded(found, tmp_path):
    path = found.save(tmp_path / "mine")
    again = fd.load(path)
    for one, other in zip(found.slices, again.slices, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
    rows = read_table(path, SliceRow)
    assert [row.id for row in rows] == [one.id for one in found.slices]
    assert [row.verdict for row in rows] == [one.verdict for one in found.slices]
    assert {file.name for file in tmp_path.iterdir()} == {
        *("mine.pt", "mine_model.pt", "mine_slices.csv", "mine_directions.csv", "mine_val.csv", "mine_test.csv")
    }
    for one, other in zip(found.analysis.result.found.directions, again.analysis.result.found.directions, strict=True):
        np.testing.assert_equal(vars(one), vars(other))
    assert [(row.class_name, row.q_value) for row in read_table(path, DirectionRow)] == [
        (one.class_name, one.q_value) for one in again.analysis.result.found.directions
    ]
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.csv")}
    again.save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.csv")} == before
    content = load_pt(path, "SVM result")
    found_there = content["found"]
    directions = found_there["directions"]
    for damage, says in (
        ({"directions": 5}, "found directions are no list"),
        ({"directions": [{"verdict": "confirmed"}]}, "found directions lack what they should say"),
        ({"directions": [{**directions[0], "verdict": "sure"}]}, "found directions have a class or a verdict that"),
        ({"directions": [{**directions[0], "size": "all"}]}, "found directions have a size that is none"),
        ({"directions": [{**directions[0], "interval": 0.5}]}, "found directions have an interval that is none"),
    ):
        save_pt({**content, "found": found_there | damage}, path)
        with pytest.raises(UserError, match=says):
            read_result(path)
    content["found"]["slices"][0]["members"][0] = 10**6
    save_pt(content, path)
    with pytest.raises(UserError, match="found slices have members that are none of test"):
        read_result(path)
    del found_there["directions"]
    found_there["slices"].clear()
    save_pt(content, path)
    assert read_result(path).found.directions == []


def test_splits_that_are_named_find_and_confirm(world):
    labels, preds, x, _ = world
    split = np.array(["train", "Find", "confirm"])[np.arange(3000) % 3]
    found = fd.find_failures(labels, preds, x, split=split, jobs=1)
    for one in found.slices:
        assert set(split[one.members]) <= {"confirm"}
        assert set(split[one.found_members]) <= {"Find"}


def test_groups_are_never_on_both_sides(world):
    labels, preds, x, _ = world
    groups = [f"patient {i // 5}" for i in range(3000)]
    result = fd.find_failures(labels, preds, x, groups=groups, jobs=1).analysis.result
    sides = [{groups[i] for i in result.splits[name].indices} for name in ("val", "test")]
    assert not sides[0] & sides[1]
    assert result.found.shared_groups == 0


def test_permuted_errors_are_hardly_ever_called_a_failure(world):
    labels, preds, x, _ = world
    rng = np.random.default_rng(3)
    claims = 0
    for _ in range(12):
        order = np.arange(len(labels))
        for c in range(3):
            rows = np.flatnonzero(labels == c)
            order[rows] = rng.permutation(rows)
        claims += bool(fd.find_failures(labels, preds[order], x, jobs=1).confirmed)
    assert claims <= stats.binom.ppf(0.999, 12, 0.1)


def test_the_report_is_one_page_with_the_images_given(found, tmp_path):
    page = found.report(tmp_path / "report.html").read_text()
    assert "data:image/webp;base64," in page
    assert found.confirmed[0].class_name in page
    loaded = fd.load(found.save(tmp_path / "mine"))
    assert "data:image/webp" not in loaded.report(tmp_path / "again.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preds": [0, 1]}, "numbers of rows differ"),
        ({"preds": ["cat"] * 6}, "names and numbers mixed"),
        ({"embeddings": np.zeros((6, 2, 2))}, "shape"),
        (
            {"embeddings": np.array([[np.nan, 1.0]] + [[0.0, 1.0]] * 5)},
            r"row\(s\) of the embeddings hold NaN or infinity: 0",
        ),
        ({"split": ["train"] * 6}, "all rows are train"),
        ({"split": ["val", "tset"] * 3}, "'tset'"),
        ({"class_names": ["a", "a"]}, "not all different"),
        ({"labels": [0, 0, 0, 7, 0, 0], "class_names": ["a", "b"]}, "row 3 is 7"),
        ({"probs": np.ones((6, 5)) / 5, "class_names": ["a", "b"]}, "a column for each of 2 classes"),
        *(({"fdr": fdr}, "fdr is .*: give a share") for fdr in (0, 1, 1.5, -0.1, float("nan"), "0.1", None, True)),
        *(({"directions": value}, "directions is .*: give auto") for value in (0, -1, 1.5, "two", True, None)),
        *(({"seed": seed}, "seed is .*: give a whole number") for seed in (-1, 1.5, "a", None)),
        ({"embeddings": np.zeros((6, 0))}, r"shape \(6, 0\); give numbers"),
        ({"embeddings": np.eye(6) * 1e300}, "so large that their squares overflow"),
        ({"labels": [], "preds": [], "embeddings": np.zeros((0, 2))}, "there are no images"),
        ({"probs": np.full((6, 2), 4.0)}, "outside 0 to 1: give probabilities"),
        ({"labels": [0] * 6, "groups": ["a"] * 6, "split": ["val"] * 6}, "all images are of one group"),
        ({"groups": ["one"] * 6}, "no image is left|group"),
    ],
)
def test_what_does_not_fit_is_told(change, said):
    rng = np.random.default_rng(0)
    arrays = {"labels": [0, 1] * 3, "preds": [0, 1, 1, 1, 0, 0], "embeddings": rng.normal(size=(6, 2)), "jobs": 1}
    with pytest.raises(UserError, match=said):
        fd.find_failures(**arrays | change)


def degenerate_worlds():
    """Arrays in which little or nothing can be found, and what is said of class 0."""
    rng = np.random.default_rng(0)
    labels, x = np.arange(240) % 2, rng.normal(size=(240, 8))
    preds = np.where(rng.random(240) < 0.3, 1 - labels, labels)
    zero, test = labels == 0, np.arange(240) % 4 > 1
    halves = np.where(test, "test", "val")
    few = preds.copy()
    few[zero] = 0
    few[np.flatnonzero(zero)[:8]] = 1
    alike, doubled = x.copy(), x.copy()
    alike[zero] = x[0]
    doubled[test] = x[~test]
    yield "fewer errors than a cluster", {"preds": few}, None
    yield "all wrong", {"preds": np.where(zero, 1, preds)}, "wrong on all"
    yield "all right", {"preds": np.where(zero, 0, preds)}, "right on all"
    yield "identical images", {"embeddings": alike}, "all the same"
    yield "duplicates across parts", {"embeddings": doubled, "split": halves}, None
    yield "more coordinates than images", {"embeddings": rng.normal(size=(240, 300))}, None
    yield (
        "one image in find",
        {"split": np.where(zero & (np.arange(240) > 0), "test", halves)},
        "right on all of its images",
    )
    yield "none in find", {"split": np.where(zero, "test", halves)}, "no images to find on"
    yield "none in confirm", {"split": np.where(zero, "val", halves)}, None
    yield "no errors in confirm", {"preds": np.where(test, labels, preds), "split": halves}, None
    yield "no errors in find", {"preds": np.where(test, preds, labels), "split": halves}, "right on all"
    yield "a group that is the whole class", {"groups": labels}, None
    base = {"labels": labels, "preds": preds, "embeddings": x}
    yield "nothing wrong with it", base, None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("change", "reason"), [pytest.param(*rest, id=name) for name, *rest in degenerate_worlds()])
def test_where_little_can_be_found_nothing_is_claimed_and_the_reason_is_told(change, reason, tmp_path):
    *_, (_, base, _) = degenerate_worlds()
    found = fd.find_failures(**base | change, jobs=1)
    result = found.analysis.result
    if reason:
        assert reason in result.found.skipped[0]
        assert not [one for one in found.slices if one.class_index == 0]
    claims = [*found.slices, *result.found.directions]
    assert all(one.p_value == 1 for one in claims if one.size == 0 or one.rest == 0)
    assert not [one for one in found.confirmed if one.class_index == 0]
    # All that a result is taken for goes through with it.
    loaded = fd.load(found.save(tmp_path / "mine"))
    assert str(loaded) == str(found)
    assert "confirmed" in loaded.report(tmp_path / "report.html").read_text()
    loaded.score(base["embeddings"][:3] if "embeddings" not in change else change["embeddings"][:3], [0, 1, 0])


def test_a_result_of_an_earlier_version_is_told(tmp_path):
    from pathlib import Path

    old = next((Path(__file__).parent / "fixtures" / "format_1").glob("*[!l].pt"))
    with pytest.raises(UserError, match="no slices"):
        fd.load(old)


def test_what_the_package_offers_says_the_types_of_all_it_takes_and_gives():
    for name in fd.__all__:
        offered = getattr(fd, name)
        functions = [offered]
        if inspect.isclass(offered):
            public = [value for key, value in vars(offered).items() if key == "__init__" or not key.startswith("_")]
            public = [
                value.fget if isinstance(value, property) else getattr(value, "__func__", value) for value in public
            ]
            functions = [value for value in public if inspect.isfunction(value)]
        for function in functions:
            signature = inspect.signature(function)
            taken = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
            assert all(one.annotation is not one.empty for one in taken), f"{name}.{function.__name__}"
            assert signature.return_annotation is not signature.empty, f"{name}.{function.__name__}"
