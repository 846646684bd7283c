"""The slice benchmark: its measures against closed forms, its settings against what they promise."""

import dataclasses
import itertools
import time

import numpy as np
import pytest
from failure_directions.runtime.errors import UserError
from PIL import Image
from scipy import stats
from sklearn.metrics import average_precision_score

from benchmarks.slices import confirming, metrics, planted, report, run
from benchmarks.slices.methods import Find, Method, Slice, load_methods, spotlight
from benchmarks.slices.photographs import read_photographs, with_look

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SUBCLASSES = np.repeat(np.arange(10), 6000)
PHOTOGRAPHED = [name for name in planted.setting_names() if name not in planted.setting_names(photographs=False)]


# ---- Measures -------------------------------------------------------------------------------------------------------


def mean_over_orders(measure, scores, members):
    """`measure` of members in order, over all orders that the scores allow."""
    values = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            values.append(measure(members[list(order)]))
    return np.mean(values)


@pytest.mark.parametrize("seed", range(5))
def test_precision_with_ties_is_the_mean_over_all_orders_of_the_tied_images(seed):
    rng = np.random.default_rng(seed)
    scores, members = rng.integers(0, 3, 7).astype(float), rng.permutation(np.arange(7) < 3)
    for k in range(1, 8):
        expected = mean_over_orders(lambda ordered, k=k: ordered[:k].mean(), scores, members)
        assert metrics.expected_precision(scores, members, k) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_with_ties_is_the_mean_over_all_orders_of_the_tied_images(seed):
    rng = np.random.default_rng(seed)
    scores, members = rng.integers(0, 3, 7).astype(float), rng.permutation(np.arange(7) < 3)

    def average_precision(ordered):
        return np.mean([ordered[: place + 1].mean() for place in np.flatnonzero(ordered)])

    expected = mean_over_orders(average_precision, scores, members)
    assert metrics.expected_average_precision(scores, members) == pytest.approx(expected)


def test_average_precision_without_ties_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, members = rng.random(200), rng.random(200) < 0.2
    expected = average_precision_score(members, scores)
    assert metrics.expected_average_precision(scores, members) == pytest.approx(expected)


def test_more_images_than_there_are_give_the_base_rate():
    members = np.array([True, False, False, False])
    assert metrics.expected_precision(np.arange(4.0), members, 50) == 0.25


def test_the_best_of_the_guesses_that_count_counts():
    members = np.arange(100) < 10
    wrong_way, right_way = np.arange(100.0), -np.arange(100.0)
    best = metrics.best_guesses([wrong_way, right_way], members)
    assert [best[protocol, "P@10"] for protocol in metrics.PROTOCOLS] == [1, 1, 0]
    assert metrics.best_guesses([wrong_way] * 5 + [right_way], members)["best of 5", "P@10"] == 0


def test_a_class_without_guesses_is_in_random_order():
    best = metrics.best_guesses([], np.arange(100) < 10)
    assert best["best of 5", "P@10"] == best["first", "P@50"] == best["first", "R-precision"] == pytest.approx(0.1)


def test_the_interval_resamples_base_models_and_not_slices():
    # Two models: both samples of one model, a quarter each, are beyond the ends of a 95 % interval.
    estimate = metrics.bootstrap([0.0, 10.0], [10, 10])
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0, 1)
    # Three slices of a model weigh three times as much as the one of another.
    assert metrics.bootstrap([3.0, 0.0], [3, 1]).mean == 0.75


def test_the_interval_has_the_width_of_the_normal_one_for_many_models():
    values = np.random.default_rng(1).normal(size=400)
    estimate = metrics.bootstrap(values, np.ones(400))
    half = 1.96 * values.std() / 20
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.05)


def test_a_method_differs_from_itself_by_nothing_and_a_constant_gain_has_no_width():
    sums, counts = np.array([1.0, 2.5, 0.5]), np.array([2, 3, 1])
    same = metrics.paired_difference(sums, sums, counts)
    gain = metrics.paired_difference(sums + 0.1 * counts, sums, counts)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    np.testing.assert_allclose([gain.mean, gain.low, gain.high], 0.1)


def test_one_base_model_has_no_interval_and_no_slice_no_mean():
    assert np.isnan(metrics.bootstrap([1.0], [2]).low)
    assert str(metrics.bootstrap([1.0], [2])) == "0.50"
    assert np.isnan(metrics.bootstrap([0.0], [0]).mean)


# ---- Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHOTOGRAPHED)
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_share_no_image_and_slices_have_their_share(name, seed):
    setting = planted.read_setting(name)
    training, looked_at = planted.draw(setting, SUBCLASSES, NAMES, seed)
    everything = np.concatenate([training.rows, looked_at.rows])
    assert len(np.unique(everything)) == len(everything)
    find, confirm = looked_at.part == "find", looked_at.part == "confirm"
    sizes = [find.sum(), confirm.sum(), (find & looked_at.lean).sum(), (confirm & looked_at.lean).sum()]
    assert sizes == [setting.find, setting.find, setting.lean, setting.lean]
    assert (looked_at.part == "pool").sum() == setting.pool
    assert not looked_at.lean[looked_at.part == "pool"].any()
    for part in (find, confirm, find & looked_at.lean, looked_at.part == "pool"):
        for number in range(len(looked_at.slice_names)):
            members = part & (looked_at.slices == number)
            (label,) = np.unique(looked_at.labels[members])
            share = members.sum() / (part & (looked_at.labels == label)).sum()
            assert share == pytest.approx(setting.slice_share, abs=0.002)


@pytest.mark.parametrize("name", PHOTOGRAPHED)
def test_the_same_seed_draws_the_same_images_and_another_seed_others(name):
    setting = planted.read_setting(name)
    first, again, other = (planted.draw(setting, SUBCLASSES, NAMES, seed)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.slices, again.slices)
    assert len(first.rows) == len(other.rows)
    assert (first.rows != other.rows).mean() > 0.9


def test_planted_subclasses_are_rare_in_train_by_the_factor_in_their_name():
    training, looked_at = planted.draw(planted.read_setting("several"), SUBCLASSES, NAMES, 0)
    counts = np.bincount(SUBCLASSES[training.rows], minlength=10)
    for name in looked_at.slice_names:
        subclass, factor = name.split()[0], int(name.split("/")[1].split()[0])
        assert counts[NAMES.index(subclass)] == 2000 // factor
    assert (counts == 2000).sum() == 10 - len(looked_at.slice_names)
    assert all(2 <= n <= 3 for n in [len(np.unique(looked_at.slices[looked_at.labels == c])) - 1 for c in (0, 1)])


def test_both_classes_get_half_of_each_family():
    setting = planted.read_setting("several")
    training, _ = planted.draw(setting, SUBCLASSES, NAMES, 5)
    for family in setting.families:
        members = [{*np.unique(training.labels[SUBCLASSES[training.rows] == NAMES.index(name)])} for name in family]
        labels = [label for (label,) in members]
        assert labels.count(0) == labels.count(1)


def test_rare_trains_on_the_very_images_of_several():
    several, rare = (planted.draw(planted.read_setting(n), SUBCLASSES, NAMES, 2)[0] for n in ("several", "rare"))
    np.testing.assert_array_equal(several.rows, rare.rows)
    np.testing.assert_array_equal(several.labels, rare.labels)


def test_noise_mislabels_its_share_of_the_planted_subclasses_in_train_alone():
    setting = planted.read_setting("noise")
    training, looked_at = planted.draw(setting, SUBCLASSES, NAMES, 0)
    shown = SUBCLASSES[training.rows]
    for label, pair in enumerate(setting.superclasses):
        common, noisy = (training.labels[shown == NAMES.index(name)] for name in pair)
        assert (common == label).all()
        assert (noisy != label).mean() == setting.mislabeled
        own = np.isin(SUBCLASSES[looked_at.rows], [NAMES.index(name) for name in pair])
        assert (looked_at.labels[own] == label).all()


def test_looks_agree_with_the_class_as_often_as_the_setting_says():
    setting = planted.read_setting("cues")
    training, looked_at = planted.draw(setting, SUBCLASSES, NAMES, 0)
    assert (training.looks == training.labels).mean() == pytest.approx(setting.agreement, abs=1e-3)
    assert (looked_at.looks == looked_at.labels).mean() == pytest.approx(1 - 2 * setting.slice_share, abs=2e-3)
    assert ((looked_at.slices < 0) == (looked_at.looks == looked_at.labels)).all()


def test_too_few_photographs_and_missing_classes_are_told():
    setting = planted.read_setting("pairs")
    with pytest.raises(UserError, match="photographs of"):
        planted.draw(setting, SUBCLASSES[::10], NAMES, 0)
    with pytest.raises(UserError, match="needs photographs of"):
        planted.draw(setting, SUBCLASSES, [*NAMES[:-1], "lorry"], 0)


def test_an_unknown_setting_key_or_kind_is_told(tmp_path, monkeypatch):
    text = (planted.FOLDER / "pairs.yaml").read_text()
    monkeypatch.setattr(planted, "FOLDER", tmp_path)
    (tmp_path / "key.yaml").write_text(text + "slice_shore: 0.1\n")
    (tmp_path / "kind.yaml").write_text(text.replace("kind: rare", "kind: odd"))
    for name, reason in (("key", "slice_shore"), ("kind", "'odd'"), ("none", "choose from key, kind")):
        with pytest.raises(UserError, match=reason):
            planted.read_setting(name)


def test_the_digest_changes_with_the_content_and_not_with_the_name():
    setting = planted.read_setting("pairs")
    assert dataclasses.replace(setting, name="other").digest == setting.digest
    assert dataclasses.replace(setting, slice_share=0.1).digest != setting.digest


def test_a_slice_is_fair_from_a_tenth_below_its_class_on_the_scored_images():
    labels = np.repeat([0, 1], 100)
    slices = np.full(200, -1)
    slices[:10], slices[100:110] = 0, 1
    right = np.ones(200, bool)
    right[:2], right[100:101] = False, False  # slice 0: .80 against .98; slice 1: .90 against .99
    pool = np.ones(200, bool)
    assert planted.fair_slices(slices, labels, right, pool) == [0]
    pool[:2] = False  # its errors are not scored
    assert planted.fair_slices(slices, labels, right, pool) == []


def test_the_permuted_null_keeps_what_is_together_within_class_and_part():
    rng = np.random.default_rng(0)
    labels, parts = rng.integers(0, 3, 600), rng.choice(["find", "pool"], 600)
    order = planted.permuted(labels, parts, seed=0)
    assert sorted(order) == list(range(600))
    assert (labels[order] == labels).all()
    assert (parts[order] == parts).all()
    assert (order != np.arange(600)).mean() > 0.9


def test_looks_do_what_they_are_called():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(with_look(images, "dark"), np.rint(images * np.float32(0.55)).astype(np.uint8))
    border = with_look(images, "border") != images
    assert not border[:, 2:-2, 2:-2].any()
    assert border[:, 0].mean() > 0.9
    tinted = with_look(images, "tint")
    np.testing.assert_array_equal(tinted[..., 1], np.rint(images[..., 1] * np.float32(0.95)).astype(np.uint8))
    assert (tinted[..., 2] <= images[..., 2]).all()
    assert (tinted[..., 0] >= images[..., 0]).all()
    assert with_look(images, "blur").std() < 0.7 * images.std()
    plain = np.full_like(images, 77)
    np.testing.assert_array_equal(with_look(plain, "blur"), plain)
    with pytest.raises(UserError, match="unknown look"):
        with_look(images, "sepia")


def test_photographs_are_read_from_class_folders_or_with_a_list_of_labels(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    classes = np.array([0, 0, 1, 0, 1, 1])
    splits = ["train"] * 4 + ["test"] * 2
    for layout in ("folders", "listed"):
        for i, (image, split) in enumerate(zip(images, splits, strict=True)):
            name = f"{i % 4:05d}.{'png' if layout == 'folders' else 'jpg'}"
            folder = tmp_path / layout / split
            folder = folder / ("cat", "dog")[classes[i]] if layout == "folders" else folder
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name, quality=100)
    np.savez(tmp_path / "listed" / "labels.npz", names=np.array(["cat", "dog"]), train=classes[:4], test=classes[4:])
    for layout in ("folders", "listed"):
        read, what, names = read_photographs(tmp_path / layout)
        assert names == ["cat", "dog"]
        assert sorted(what) == sorted(classes)
        assert read.shape == images.shape
    np.testing.assert_array_equal(what, classes)
    with pytest.raises(UserError, match="does not exist"):
        read_photographs(tmp_path / "nowhere")


def test_a_made_file_holds_what_its_setting_promises(tmp_path, monkeypatch):
    import timm
    from failure_directions.runtime.pt_files import save_pt

    from benchmarks.slices import base_model, make

    rng = np.random.default_rng(0)
    small = {"train_images": 20, "find": 40, "lean": 20, "pool": 80}
    settings = [dataclasses.replace(planted.read_setting(name), **small) for name in ("cues", "several")]
    for label, name in enumerate(NAMES):
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for i in range(60):
            noise = rng.integers(0, 100, (32, 32, 3)) + 15 * label
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{i}.png")
    save_pt(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(base_model.train, "__defaults__", (1, *base_model.train.__defaults__[1:]))  # one epoch
    arguments = (settings, [0], tmp_path / "data", tmp_path / "weights.pt", tmp_path / "out")
    make.make(*arguments)
    for setting in settings:
        path = tmp_path / "out" / f"{setting.name}-seed0.npz"
        with np.load(path, allow_pickle=False) as stored:
            made = dict(stored)
        assert made["embeddings"].shape == (160, 1280)
        assert np.isfinite(made["embeddings"]).all()
        np.testing.assert_array_equal(made["probs"].argmax(1), made["preds"])
        np.testing.assert_allclose(made["probs"].sum(1), 1, rtol=1e-5)
        assert (made["looks"] >= 0).all() == (setting.kind == "cues")
        assert [*made["setting"]] == [setting.name, setting.digest]
    written = path.stat().st_mtime_ns
    make.make(*arguments)
    assert path.stat().st_mtime_ns == written


def test_scenes_are_drawn_where_there_are_no_photographs(tmp_path, monkeypatch, capsys):
    from benchmarks.slices import base_model, make

    small = {"train_images": 20, "find": 160, "lean": 80, "pool": 240}
    setting = dataclasses.replace(planted.read_setting("scenes"), **small)
    monkeypatch.setattr(make, "read_setting", lambda name: setting)
    monkeypatch.setattr(base_model.train, "__defaults__", (1, *base_model.train.__defaults__[1:]))  # one epoch
    make.main(["--out", str(tmp_path), "--seeds", "3"])
    assert "drawn scenes alone" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.npz")
    with np.load(path, allow_pickle=False) as stored:
        made = dict(stored)
    assert {part: (made["part"] == part).sum() for part in planted.PARTS} == {"find": 160, "confirm": 160, "pool": 240}
    assert made["lean"].sum() == 160
    assert np.isfinite(made["embeddings"]).all()
    for number, plant in enumerate(made["slice_names"]):
        members = made["slice"] == number
        (label,) = np.unique(made["labels"][members])
        assert made["class_names"][label] == plant.split(":")[1]
        assert members.sum() / (made["labels"] == label).sum() == pytest.approx(0.2, abs=0.01)
    assert len(made["slice_names"]) in (3, 4)


def test_photographs_are_asked_for_by_name(tmp_path, capsys):
    from benchmarks.slices import make

    with pytest.raises(SystemExit) as ended:
        make.main(["--out", str(tmp_path), "--settings", "pairs"])
    assert ended.value.code == 2
    assert "pairs is of photographs; give their folder with --data" in capsys.readouterr().err


# ---- Claims ---------------------------------------------------------------------------------------------------------


def test_a_guess_is_tested_as_fishers_exact_test_does():
    rng = np.random.default_rng(0)
    score, wrong = rng.random(200), rng.random(200) < 0.2
    result = confirming.tested([score], wrong)
    flagged = np.argsort(-score) < 0
    flagged[np.argsort(-score)[:20]] = True
    table = [[(flagged & wrong).sum(), (flagged & ~wrong).sum()], [(~flagged & wrong).sum(), (~flagged & ~wrong).sum()]]
    assert result.p[0] == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    assert (score >= result.cuts[0]).sum() == 20


def test_images_of_an_earlier_guess_are_left_out():
    score = np.arange(100.0)
    wrong = score >= 90  # the ten images that the guess flags
    first, second = confirming.tested([score, score], wrong).p
    assert first < 1e-9
    assert second == 1


def test_claims_follow_benjamini_and_hochberg():
    p = np.array([0.001, 0.03, 0.06, 0.5])
    # .1 x rank / 4: .025, .05, .075, .1; the third is the last below its line.
    assert confirming.claimed(p).tolist() == [True, True, True, False]
    assert confirming.claimed([]).tolist() == []


def test_a_claim_is_false_where_new_images_are_no_worse_than_the_rest():
    score = np.arange(10.0)
    wrong = np.arange(10) >= 7
    worse = confirming.worse_than_rest([score, -score, score], [8, -1, 99], wrong)
    assert worse.tolist() == [True, False, False]


def test_a_slice_is_found_where_it_is_at_least_thrice_its_share_of_the_first():
    score = -np.arange(1000.0)
    members = np.zeros(1000, bool)
    members[np.r_[:15, 900:985]] = True  # a tenth in all, 15 of the first 50
    assert confirming.finds(score, members)
    members[14] = False
    members[990] = True
    assert not confirming.finds(score, members)


# ---- Methods --------------------------------------------------------------------------------------------------------


def planted_find(n=600, d=12, seed=0):
    """Two classes; in each two clouds of a tenth, in which the model errs by 9 in 10, and else by 1 in 20."""
    rng = np.random.default_rng(seed)
    labels, slices = rng.integers(0, 2, n), np.full(n, -1)
    embeddings = rng.normal(size=(n, d)).astype(np.float32)
    cloud = rng.choice(2, n)
    inside = rng.random(n) < 0.2
    slices[inside] = (2 * labels + cloud)[inside]
    embeddings[inside, slices[inside]] += 6
    wrong = rng.random(n) < np.where(inside, 0.9, 0.05)
    preds = np.where(wrong, 1 - labels, labels)
    sure = rng.uniform(0.6, 0.95, n)
    probs = np.where(np.arange(2) == preds[:, None], sure[:, None], 1 - sure[:, None]).astype(np.float32)
    features = np.column_stack([probs, rng.normal(size=(n, 3))]).astype(np.float32)
    return Find(embeddings, labels, preds, probs, features, seed=seed), slices


METHODS = load_methods()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_new_images_of_its_classes(name, monkeypatch):
    monkeypatch.setattr(spotlight, "STEPS", 50)
    if name == "ours":
        pytest.importorskip("failure_directions.directions.slices")
    method = METHODS[name]
    find, slices = planted_find()
    new, _ = planted_find(seed=1)
    guesses = method.fit(find, slices) if method.knows_slices else method.fit(find)
    assert {guess.label for guess in guesses} <= {0, 1}
    assert guesses
    for guess in guesses[:5]:
        extra = {"probs": new.probs, "features": new.features} if method.uses_outputs else {}
        scores = guess.score(new.embeddings, **extra)
        assert scores.shape == (600,)
        assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    "name", ["kmeans_errors", "kmeans_all", "domino:per_class", "domino:mixed", "cosi", "prototype", "probe", "mcsd"]
)
def test_methods_for_several_slices_find_clouds_of_errors(name):
    method = METHODS[name]
    find, slices = planted_find(n=3000)
    new, truth = planted_find(n=3000, seed=1)
    guesses = method.fit(find, slices) if method.knows_slices else method.fit(find)
    for number in range(4):
        of_class = new.labels == number // 2
        scores = [guess.score(new.embeddings[of_class]) for guess in guesses if guess.label == number // 2]
        assert metrics.best_guesses(scores, truth[of_class] == number)["best of 5", "P@10"] >= 0.8


def test_an_unknown_method_is_told():
    with pytest.raises(UserError, match="there is no method 'dominos'"):
        load_methods(["dominos"])


# ---- Runs and tables ------------------------------------------------------------------------------------------------


def data_of(find, slices):
    """A made file's arrays: the same images as find, confirm and pool."""
    parts = np.repeat(["find", "confirm", "pool"], len(slices))
    arrays = {name: np.concatenate([getattr(find, name)] * 3) for name in ("embeddings", "labels", "preds", "probs")}
    arrays["features"] = np.concatenate([find.features] * 3)
    lean = np.concatenate([np.arange(len(slices)) % 2 == 0] * 2 + [np.zeros(len(slices), bool)])
    return arrays | {"slice": np.tile(slices, 3), "part": parts, "lean": lean, "setting": np.array(["tiny", "0"])}


def method_of(fit):
    return Method("custom", "custom", uses_outputs=False, knows_slices=False, fit=fit)


def scoring(function):
    return method_of(lambda find: [Slice(0, function)])


def sleep(_):
    time.sleep(60)


def test_a_method_that_fails_is_a_row_with_a_reason():
    data = data_of(*planted_find())
    reasons = {
        "ZeroDivisionError": method_of(lambda find: 1 / 0),
        "NaN": scoring(lambda z: np.full(len(z), np.nan)),
        "shape (3,)": scoring(lambda z: np.zeros(3)),
        "longer than 1 s": method_of(sleep),
    }
    for reason, method in reasons.items():
        limit = 1 if method.fit is sleep else 60
        assert reason in run.measure(method, data, "full", 0, limit)["reason"]


def test_a_method_is_never_given_more_than_the_part_to_find_in():
    find, slices = planted_find()
    seen = {}

    def fit(given):
        seen[len(given.labels)] = given
        return []

    data = data_of(find, slices)
    run.evaluated(method_of(fit), data, "full", 0)
    run.evaluated(method_of(fit), data, "lean", 0)
    assert sorted(seen) == [300, 600]
    np.testing.assert_array_equal(seen[600].embeddings, find.embeddings)


def test_a_score_by_the_truth_reaches_one_and_holds_in_confirmation():
    find, slices = planted_find()
    data = data_of(find, slices)
    # The clouds are what is far out on the first four axes.
    method = method_of(lambda find: [Slice(n // 2, lambda z, n=n: z[:, n].astype(float)) for n in range(4)])
    row = run.evaluated(method, data, "full", 0)
    assert row["fair"] == row["planted"] == row["guesses"] == 4
    assert row["P@10 (best of 5)"] == row["P@10 (best of 2)"] == 1
    assert row["P@10 (first)"] == pytest.approx(0.5, abs=0.1)
    assert (row["claims"], row["false_claims"], row["fair_found"]) == (4, 0, 4)


def test_runs_are_resumed_and_tables_made(tmp_path, capsys):
    find, slices = planted_find()
    for seed in (1, 2):
        np.savez(tmp_path / f"tiny-seed{seed}.npz", **data_of(find, slices))
    out = tmp_path / "results.csv"
    arguments = ["--data", str(tmp_path), "--out", str(out), "--methods", "random_guesses", "confidence"]
    run.main([*arguments, "--sizes", "full", "--nulls", "2"])
    rows = run.read_rows(out)
    assert len(rows) == 2 * 2 + 2 * 2 * 2  # confidence makes no claims, and has no null runs
    run.main([*arguments, "--sizes", "full", "--nulls", "2"])
    assert len(run.read_rows(out)) == len(rows)
    with open(out, "a") as stream:
        stream.write(out.read_text().splitlines()[-1] + "\ntiny,,full")  # a row again, and one cut short
    assert run.read_rows(out) == rows
    report.main([str(out), "--out", str(tmp_path / "report"), "--reference", "confidence"])
    text = (tmp_path / "report" / "slices.md").read_text()
    assert "2 base models, 8 of 8 planted slices fair" in text
    assert "confidence score by the model's outputs and are listed last" in text
    page = (tmp_path / "report" / "slices.html").read_text()
    assert page.count("<table>") == text.count("\n## ")
    for name in ("quality.png", "power.png"):
        assert Image.open(tmp_path / "report" / name).size[0] > 600
        assert f'alt="{name}"' in page
    assert capsys.readouterr().out.strip() == text.strip()


def test_a_folder_without_files_is_told(tmp_path):
    with pytest.raises(UserError, match=r"benchmarks\.slices\.make"):
        run.find_files(tmp_path)


def test_a_word_is_right_where_it_names_the_planted_subclass_and_no_other_of_its_class():
    from benchmarks.slices.words import is_right

    assert is_right("a trailer truck", "truck (1/10 in train)", "automobile+truck")
    assert is_right("a bird", "bird (1/20 in train)", "airplane+bird")
    assert not is_right("a motor vehicle", "truck (1/10 in train)", "automobile+truck")
    assert is_right("a motor vehicle", "truck (1/10 in train)", "dog+truck")
    assert not is_right("a vehicle", "truck (1/10 in train)", "dog+truck")
    assert not is_right("a wombat that is none", "truck (1/10 in train)", "dog+truck")
    assert is_right("darker", "cat+dog with dark", "cat+dog")
    assert not is_right("redder", "cat+dog with dark", "cat+dog")
