"""The verdict on an intervention, and budgets by slice, on planted numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
from failure_directions.interventions.choosing import choose_by_slice, in_slices, shared_budget
from failure_directions.interventions.comparison import measure
from failure_directions.interventions.costs import Cost, load_costs, mean_costs, save_costs
from failure_directions.interventions.verdict import (
    AMBER,
    GREEN,
    RED,
    judge,
    judge_runs,
    load_verdicts,
    save_verdicts,
    seeds_needed,
)
from failure_directions.runtime.errors import UserError
from scipy import stats

BEFORE = {"failures": np.full(5, 0.5), "rest": np.full(5, 0.9), "overall": np.full(5, 0.85)}
NOISE = np.array([-0.006, 0.004, 0.0, 0.006, -0.004])


def moved(**by):
    return {name: BEFORE[name] + by.get(name, 0) + NOISE for name in BEFORE}


def test_better_where_it_failed():
    verdict = judge(moved(failures=0.039), BEFORE)
    assert verdict.colour == GREEN
    low, high = stats.t.interval(0.95, 4, 0.039, NOISE.std(ddof=1) / 5**0.5)
    assert f"(+.039 [{low:.3f}, {high:.3f}])".replace("0.", ".") in verdict.sentence
    assert verdict.sentence.startswith("better where it failed (+.039 [.03")
    assert "no worse elsewhere" in verdict.sentence


def test_worse_anywhere_is_worse():
    verdict = judge(moved(failures=0.1, rest=-0.02), BEFORE)
    assert verdict.colour == RED
    assert verdict.sentence.startswith("worse elsewhere (-.020")
    assert verdict.sentence.endswith("don't use it")


def test_what_random_images_do_as_well_is_not_green():
    verdict = judge(moved(failures=0.04), BEFORE, BEFORE | {"failures": BEFORE["failures"] + 0.04 - NOISE})
    assert verdict.colour == AMBER
    assert "no better than as many random images" in verdict.sentence
    assert judge(moved(failures=0.04), BEFORE, BEFORE).colour == GREEN


def test_no_gain_says_how_many_seeds_would_show_one():
    verdict = judge(moved(failures=0.003), BEFORE)
    assert verdict.colour == AMBER
    needed = seeds_needed(0.003, NOISE.std(ddof=1))
    assert verdict.sentence.startswith("no gain that these 5 seeds can show")
    assert verdict.sentence.endswith(f"about {needed} would")
    assert judge(moved(failures=-0.001), BEFORE).sentence.endswith("nor is one in sight")


def test_seeds_needed_is_the_least():
    needed = seeds_needed(0.01, 0.02)

    def half_width(n):
        return stats.t.ppf(0.975, n - 1) * 0.02 / n**0.5

    assert half_width(needed) < 0.01 <= half_width(needed - 1)
    assert seeds_needed(-0.1, 0.02) is None
    assert seeds_needed(1e-6, 0.02) is None


def test_one_seed_cannot_tell():
    one = {name: values[:1] for name, values in BEFORE.items()}
    verdict = judge({name: values + 0.1 for name, values in one.items()}, one)
    assert verdict.colour == AMBER
    assert "one seed" in verdict.sentence


def test_images_that_chose_judge_nothing_where_others_were_kept():
    # Half of the failure's images confirmed it, all wrong; of those kept, the model is right on two of three.
    classes = np.zeros(12, int)
    values = np.repeat([[-1.0], [1.0]], 6, axis=0)
    test = {
        "indices": np.arange(12),
        "classes": classes,
        "slice_values": values,
        "decision_values": values[:, 0],
    }
    one = SimpleNamespace(class_index=0, rank=1)
    found = SimpleNamespace(confirm="test", evaluate=np.array([3, 4, 5, 9, 10, 11]), confirmed=[one])
    proc = SimpleNamespace(
        metrics=lambda split: test,
        loaded=SimpleNamespace(found=found),
        num_classes=1,
        class_names=["a"],
        splits=("test",),
        path="a.pt",
    )
    preds = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    accuracies = measure(proc, {"indices": np.arange(12), "labels": classes, "preds": preds}, "it")
    assert accuracies["failures"] == accuracies["worst failure"] == pytest.approx(2 / 3)
    assert accuracies["rest"] == 1
    assert accuracies["overall"] == pytest.approx(5 / 6)


def runs(placebo=None):
    """Accuracies of runs that gain .1 where it failed, and of a placebo that gains this much, if any."""
    gains = {"base": (0, 0), "placebo": (placebo, 1), "add5_svm": (0.1, 1), "add5_random": (0.1, -1)}
    return {
        name: [{"failures": 0.5 + by + n, "rest": 0.9 + n, "overall": 0.8 + n} for n in NOISE * scale]
        for name, (by, scale) in gains.items()
        if by is not None
    }


def test_what_another_training_does_as_well_is_not_green():
    verdicts = judge_runs(runs(placebo=0.2))
    assert {verdict.colour for verdict in verdicts.values()} == {AMBER}
    assert "no better than the base trained anew with another seed" in verdicts["add5_random"].sentence
    # With nothing to compare with, nobody knows.
    verdict = judge_runs(runs())["add5_random"]
    assert verdict.colour == AMBER
    assert verdict.sentence.startswith("better where it failed (+.100 [")
    assert "any other training may do better there" in verdict.sentence


def test_runs_are_judged_beside_their_random_ones(tmp_path):
    verdicts = judge_runs(runs(placebo=0.0))
    assert {name: verdict.colour for name, verdict in verdicts.items()} == {"add5_svm": AMBER, "add5_random": GREEN}
    save_verdicts(tmp_path / "v.csv", verdicts)
    assert load_verdicts(tmp_path / "v.csv") == verdicts
    assert load_verdicts(tmp_path / "none.csv") == {}
    (tmp_path / "v.csv").write_text("name,colour,sentence\na,blue,b\n")
    with pytest.raises(UserError, match="holds no verdicts"):
        load_verdicts(tmp_path / "v.csv")


# ---- Budgets --------------------------------------------------------------------------------------------------------


def one_slice(name, c, rank, size, rate):
    return SimpleNamespace(id=name, class_index=c, rank=rank, size=size, error_rate=rate)


SLICES = [one_slice("a-1", 0, 1, 40, 0.75), one_slice("a-2", 0, 2, 20, 0.25), one_slice("b-1", 1, 1, 10, 0.5)]


def test_a_budget_is_shared_by_errors_or_equally():
    assert shared_budget(SLICES, 80) == {"a-1": 60, "a-2": 10, "b-1": 10}
    assert shared_budget(SLICES, 80, "equal") == {"a-1": 27, "a-2": 27, "b-1": 26}
    assert sum(shared_budget(SLICES, 7).values()) == 7
    assert shared_budget([], 7) == {}
    with pytest.raises(UserError, match="no share by"):
        shared_budget(SLICES, 7, "size")


def test_slices_choose_in_turn_and_no_image_twice():
    classes = np.array([0, 0, 0, 0, 1, 1])
    values = np.array([[-3, -3], [-2, -1], [-1, -2], [1, 1], [-1, np.nan], [2, np.nan]], float)
    chosen = choose_by_slice(SLICES, {"a-1": 2, "a-2": 2, "b-1": 5}, classes, values)
    assert {name: rows.tolist() for name, rows in chosen.items()} == {"a-1": [0, 1], "a-2": [2, 3], "b-1": [4, 5]}
    assert in_slices(SLICES, classes, values).tolist() == [True, True, True, False, True, False]
    none = choose_by_slice(SLICES, {"a-1": 0, "a-2": 0, "b-1": 0}, classes, values)
    assert [len(rows) for rows in none.values()] == [0, 0, 0]


# ---- costs ----------------------------------------------------------------------------------------------------------


def test_costs_are_kept_and_averaged_over_the_seeds_that_all_have(tmp_path):
    costs = [Cost("a", 0, 100, 5, 2.0), Cost("a", 1, 300, 7, 4.0), Cost("b", 0, 0, 5, 1.5)]
    save_costs(tmp_path / "costs.csv", costs)
    assert load_costs(tmp_path / "costs.csv") == costs
    means = mean_costs(costs, ["base", "a", "b"], [0, 1])
    assert list(means) == ["a"]
    assert str(means["a"]) == "200 images looked at, 6 labels used, 3 s"
    assert load_costs(tmp_path / "none.csv") == []


def test_another_file_in_the_place_of_costs_is_told(tmp_path):
    for text in ("name,seed\na,0\n", "name,seed,images,labels,seconds\na,zero,1,1,1\n"):
        (tmp_path / "costs.csv").write_text(text)
        with pytest.raises(UserError, match="holds no costs of repairs"):
            load_costs(tmp_path / "costs.csv")
