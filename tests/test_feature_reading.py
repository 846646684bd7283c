"""Reading sparse features: planted words, corners and weights are found again, by function, by command, by notebook."""

import csv
import re

import numpy as np
import pytest
import torch
from failure_directions.commands import read_sparse
from failure_directions.commands import sparse as sparse_main
from failure_directions.models.build import build_model
from failure_directions.runtime.files import write_csv
from failure_directions.sparse.reading.debugging import (
    counterfactual,
    find_biases,
    misclassifications_by_feature,
    replace_words,
    separating_features,
    without_feature,
)
from failure_directions.sparse.reading.language import (
    KERNEL_WIDTH,
    average_influence,
    cached_influence,
    masked_texts,
    ridge_influence,
    word_cloud,
    word_influence,
)
from failure_directions.sparse.reading.pictures import before_after_figure, image_rows_figure, side_by_side
from failure_directions.sparse.reading.results import Layer, SparseResult, top_positions
from failure_directions.sparse.reading.vision import (
    DeepFeatures,
    attribute_feature,
    collect_inputs,
    highlight,
    to_pixels,
    visualise_features,
)
from torch import nn

from scripts.train_text_demo import train_classifier

CPU = torch.device("cpu")


# ---- words


def test_masked_texts_lose_whole_words_wherever_they_occur():
    text = "The cat, the hat; don't stop! cat"
    texts, masks = masked_texts(text, samples=50, seed=3)
    words = ["the", "cat", "hat", "don't", "stop"]
    assert texts[0] == text
    assert masks.shape == (50, 5)
    assert masks[0].all()
    assert not masks[1:].all(axis=1).any()
    for masked, mask in zip(texts, masks, strict=True):
        assert re.findall(r"[a-z']+", masked.lower()) == [
            word for word in ["the", "cat", "the", "hat", "don't", "stop", "cat"] if mask[words.index(word)]
        ]
    assert set(np.unique(masks[1:].sum(axis=1))) == {0, 1, 2, 3, 4}
    assert masked_texts(text, 50, seed=3)[0] == texts
    assert masked_texts(text, 50, seed=4)[0] != texts
    assert masked_texts(" ...", 50) == ([" ..."], pytest.approx(np.ones((1, 0))))


def test_influence_is_the_weighted_ridge_regression_in_closed_form():
    rng = np.random.default_rng(0)
    masks = (rng.random((40, 6)) < 0.6).astype(np.float32)
    masks[0] = 1
    targets = rng.normal(size=(40, 3))
    kernel = np.exp(-(((1 - np.sqrt(masks.mean(1))) / KERNEL_WIDTH) ** 2) / 2)
    design = np.hstack([masks, np.ones((40, 1))])
    penalty = np.diag([1.0] * 6 + [0.0])  # the intercept is free
    solved = np.linalg.solve(design.T @ (kernel[:, None] * design) + penalty, design.T @ (kernel[:, None] * targets))
    np.testing.assert_allclose(ridge_influence(masks, targets), solved[:6], atol=1e-5)


def linear_features(texts):
    """Two features of a made-up model: "good" adds 3 to the first, "bad" takes 2 away; "rain" adds 1 to the second."""
    count = lambda word: np.array([text.lower().split().count(word) for text in texts])  # noqa: E731
    return np.stack([3.0 * count("good") - 2.0 * count("bad"), 1.0 * count("rain")], axis=1)


def test_the_words_that_a_feature_responds_to_are_its_top_words():
    rng = np.random.default_rng(0)
    neutral = [f"n{i}" for i in range(30)]
    sentences = [" ".join([*rng.choice(neutral, 6), *rng.choice(["good", "bad", "rain"], 2)]) for _ in range(40)]
    found = average_influence(word_influence(sentence, linear_features, 100, 0) for sentence in sentences)
    first = {word: found.influence[found.words.index(word), 0] for word in ("good", "bad", "rain", "n3")}
    # A word that is there twice goes as a whole.
    assert 2 < first["good"] < 4.5
    assert -3 < first["bad"] < -1.3
    assert abs(first["rain"]) < 0.3
    assert abs(first["n3"]) < 0.3
    most, least = found.driving(0, percent=3)
    assert list(most) == ["good"]
    assert list(least) == ["bad"]
    assert found.driving(0, percent=3, weight=-2.0) == (least, most)
    assert next(iter(found.driving(1, percent=3)[0])) == "rain"
    assert list(found.effects(np.array([[1.0, 0.0], [-1.0, 5.0]]))[1].argsort()[[0, -1]]) == [
        found.words.index(word) for word in ("good", "rain")
    ]


def test_averages_are_over_the_sentences_that_hold_the_word():
    influence = [np.array([[1.0], [4.0]], np.float32), np.array([[3.0]], np.float32), np.zeros((0, 1), np.float32)]
    found = average_influence(zip([["b", "a"], ["b"], []], influence, strict=True))
    assert (found.words, found.influence.tolist(), found.counts.tolist()) == (["a", "b"], [[4.0], [2.0]], [1, 2])
    assert average_influence(zip([["b", "a"], ["b"]], influence[:2], strict=True), least=2).words == ["b"]
    np.testing.assert_allclose(found.scaled(np.array([4.0])).influence[:, 0], [1, 0.5])
    assert not found.scaled(np.array([0.0])).influence.any()


def test_a_sentence_is_computed_once_and_whatever_comes_before_it(tmp_path):
    calls = []

    def features_of(texts):
        calls.append(texts[0])
        return linear_features(texts)

    sentences = ["good rain today", "bad day", ""]
    first = list(cached_influence(sentences, features_of, tmp_path, "model", samples=20))
    again = list(cached_influence(sentences[::-1], features_of, tmp_path, "model", samples=20))[::-1]
    assert calls == sentences
    for (words, influence), (words_again, influence_again) in zip(first, again, strict=True):
        assert words == words_again
        np.testing.assert_array_equal(influence, influence_again)
    list(cached_influence(sentences[:1], features_of, tmp_path, "another model", samples=20))
    list(cached_influence(sentences[:1], features_of, tmp_path, "model", samples=20, seed=1))
    assert len(calls) == 5


def test_word_clouds_are_the_same_each_time_and_may_be_empty():
    cloud = word_cloud({"good": 3.0, "fine": 1.0})
    assert cloud.shape == (240, 360, 3)
    assert (cloud < 200).any()
    np.testing.assert_array_equal(cloud, word_cloud({"good": 3.0, "fine": 1.0}))
    assert (word_cloud({}) == 255).all()


# ---- biases, counterfactuals, misclassifications


def test_an_outsized_weight_is_found():
    weight = np.zeros((3, 20))
    weight[0, [2, 5, 7, 11]] = [0.1, -0.9, 0.2, 0.1]
    weight[1, [1, 2, 3]] = [0.5, 0.4, -0.6]
    weight[2, 4] = -0.01
    first, only = find_biases(weight, factor=3)
    assert (first.class_number, first.number, first.weight) == (0, 5, -0.9)
    assert first.ratio == pytest.approx(9)
    assert first.share == pytest.approx(0.9 / 1.3)
    assert (only.class_number, only.number, only.ratio, only.share) == (2, 4, np.inf, 1)


@pytest.mark.parametrize(
    ("replacements", "expected"),
    [
        ({"cat": "dog"}, "The dog sat. DOGMA, concat; dog's"),
        ({"cat": ""}, "The sat. DOGMA, concat; 's"),
        ({"cat": "dog", "the": "a", "dogma": "x.y\\1"}, "a dog sat. x.y\\1, concat; dog's"),
        ({}, "The Cat sat. DOGMA, concat; cat's"),
    ],
)
def test_whole_words_are_replaced_whatever_their_case(replacements, expected):
    assert replace_words("The Cat sat. DOGMA, concat; cat's", replacements) == expected


def test_replacing_the_words_behind_a_feature_flips_the_prediction():
    def probabilities(texts):
        positive = 1 / (1 + np.exp(-linear_features(texts)[:, 0]))
        return np.stack([1 - positive, positive], axis=1)

    texts = ["a good film", "rain all day", "good good but bad", "a bad film"]
    found = counterfactual(texts, {"good": "bad"}, probabilities)
    assert found.positions.tolist() == [0, 2]
    assert found.changed == ["a bad film", "bad bad but bad"]
    np.testing.assert_allclose(found.before[:, 1], [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-4))])
    np.testing.assert_allclose(found.after[:, 1], [1 / (1 + np.exp(2)), 1 / (1 + np.exp(6))])
    assert found.flipped.tolist() == [True, True]
    assert len(counterfactual(texts, {"absent": "bad"}, probabilities).flipped) == 0


def test_errors_are_grouped_by_the_feature_that_was_planted_as_their_cause():
    rng = np.random.default_rng(0)
    weight = np.zeros((3, 10), np.float32)
    weight[range(3), range(3)] = 2  # feature c speaks for class c
    weight[1, 7], weight[2, 8] = 3, 1.5  # and two misleading ones
    layer = Layer(weight, np.zeros(3, np.float32))
    labels = rng.integers(0, 3, 300)
    features = rng.normal(0, 0.1, (300, 10)).astype(np.float32)
    features[np.arange(300), labels] += 1
    led = {7: np.flatnonzero(labels == 0)[:20], 8: np.flatnonzero(labels == 1)[:9]}
    for feature, rows in led.items():
        features[rows, feature] += 3
    features[np.flatnonzero(labels == 2)[:5], 9] += 50  # large, but of no class
    groups = misclassifications_by_feature(features, labels, layer)
    assert [group.feature for group in groups] == [7, 8]
    for group, wrong_class in zip(groups, (1, 2), strict=True):
        assert sorted(group.members) == led[group.feature].tolist()
        assert group.confusion == (labels[group.members[0]], wrong_class)
        assert group.confused == group.repaired == len(group.members)
        assert (np.diff(group.contributions) <= 0).all()
    largest = groups[0].members[0]
    assert groups[0].contributions[0] == pytest.approx(3 * features[largest, 7], rel=1e-5)
    changed = without_feature(features[groups[0].members], layer, 7)
    assert changed.flipped.all()
    np.testing.assert_allclose(changed.before.sum(1), 1, rtol=1e-5)
    assert misclassifications_by_feature(features[:0], labels[:0], layer) == []


def test_features_that_separate_hard_from_easy_are_ranked_by_their_standardised_difference():
    rng = np.random.default_rng(0)
    values = rng.permutation(np.linspace(-1, 1, 200))
    features = rng.normal(size=(200, 6)).astype(np.float32)
    features[:, 2] -= 2 * values
    features[:, 4] += values
    features[:, 5] += 9 * values  # not in the support
    weight = np.array([0.5, 0.1, -1.0, 0.2, 0.2, 0.0])
    found = separating_features(features, values, weight)
    assert [feature.feature for feature in found][:2] == [2, 4]
    assert sorted(feature.feature for feature in found) == [0, 1, 2, 3, 4]
    hard, easy = features[np.argsort(values)[:50], 2], features[np.argsort(values)[-50:], 2]
    pooled = np.sqrt((hard.var(ddof=1) + easy.var(ddof=1)) / 2)
    assert found[0].difference == pytest.approx((hard.mean() - easy.mean()) / pooled, rel=1e-5)
    assert found[0].effect == pytest.approx(-(hard.mean() - easy.mean()), rel=1e-5)
    assert (found[0].weight, found[0].share) == (-1.0, pytest.approx(0.5))
    assert separating_features(features[:3], values[:3], weight) == []


# ---- images


class Corner(nn.Module):
    """Its features are the brightness of the top left and the bottom right quarter of the image."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, images):
        half = images.shape[-1] // 2
        return self.fc(
            torch.stack([images[..., :half, :half].mean((1, 2, 3)), images[..., half:, half:].mean((1, 2, 3))], 1)
        )


def test_attribution_lies_where_the_model_looks():
    images = torch.rand(2, 3, 32, 32) + 0.5
    maps = attribute_feature(Corner(), images, [0, 1])
    assert maps.shape == (2, 32, 32)
    assert maps[0, :16, :16].sum() / maps[0].sum() > 0.8
    assert maps[1, 16:, 16:].sum() / maps[1].sum() > 0.8
    assert np.abs(maps[0, 20:, 20:]).max() == 0
    shown = highlight(np.full((32, 32, 3), 250, np.uint8), maps[0])
    assert shown[4, 4].mean() > 210
    assert (shown[28, 28] < 170).all()


def test_maximised_images_raise_their_feature_above_random_images_and_minimised_ones_lower_it():
    torch.manual_seed(0)
    model = build_model("cifar_resnet", "resnet10thin", 3).eval()
    mean, std = np.array([0.5, 0.5, 0.5]), np.array([0.25, 0.25, 0.25])
    features = [3, 11, 3]
    made = visualise_features(model, features, 32, mean, std, signs=[1, 1, -1], steps=40, lr=0.1, seed=1)
    assert made.shape == (3, 32, 32, 3)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(
        made, visualise_features(model, features, 32, mean, std, signs=[1, 1, -1], steps=40, lr=0.1, seed=1)
    )

    def activations(images):
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            return DeepFeatures(model)((inputs - 0.5) / 0.25).numpy()

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (64, 4, 4, 3), dtype=np.uint8), 8, 1), 8, 2)
    chance = activations(np.concatenate([noise, smooth]))
    reached = activations(made)
    assert reached[0, 3] > chance[:, 3].max()
    assert reached[1, 11] > chance[:, 11].max()
    assert reached[2, 3] < np.median(chance[:, 3])
    assert model.fc.weight.grad is None


def test_any_library_s_model_can_be_visualised():
    for names in (("timm", "test_vit", 4), ("resnet", "resnet18", 4)):
        model = build_model(*names).eval()
        side = 160 if names[0] == "timm" else 48
        made = visualise_features(model, [0], side, (0.5,) * 3, (0.5,) * 3, steps=2)
        assert made.shape == (1, side, side, 3)


def test_top_images_are_those_with_the_largest_feature():
    columns = np.array([[1.0, 9.0], [5.0, 8.0], [3.0, 7.0], [4.0, 6.0]])
    assert top_positions(columns, 2).tolist() == [[1, 3], [0, 1]]
    assert top_positions(columns, 9, among=[0, 2]).tolist() == [[2, 0], [0, 2]]


def test_inputs_are_found_in_one_pass_in_whatever_order_they_come():
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    order = np.array([3, 1, 0, 2, 7, 5, 4, 6, 9, 8])
    batches = ((images[rows], rows) for rows in np.split(order, 5))
    found = collect_inputs(batches, np.array([[4, 0], [4, 2]]))
    assert found[:, 0, 0, 0].tolist() == [4, 0, 4, 2]
    assert next(batches)[1].tolist() == [9, 8]  # the rest was not read


def test_pixels_are_the_inputs_with_their_normalisation_taken_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.1])
    inputs = torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(to_pixels(inputs, mean, std), pixels)


def test_two_sides_keep_their_columns_where_one_has_fewer_rows():
    images = [np.full((4, 4, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    rows = side_by_side([("a", images[:2])], [("b", images[2:]), ("c", images[2:])], ("left", "right"))
    assert [heading for heading, _ in rows] == ["left: a\nright: b", "left: none\nright: c"]
    figure = image_rows_figure(rows)
    shown = [
        [int(ax.images[0].get_array()[0, 0, 0]) if ax.images else None for ax in figure.axes[i : i + 3]] for i in (0, 3)
    ]
    assert shown == [[10, 20, 30], [None, None, 30]]


def test_figures_hold_every_image_whatever_the_names():
    image = np.zeros((8, 12, 3), np.uint8)
    figure = image_rows_figure([("a $row$", [image] * 3), ("", [])], "$\\bad{tex$")
    assert sum(bool(ax.images) for ax in figure.axes) == 3
    assert figure._repr_png_().startswith(b"\x89PNG")
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4]])
    figure = before_after_figure(probabilities, probabilities[:, ::-1], (0, "$"))
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["same prediction (0)", "flipped (2)"]
    assert figure._repr_png_().startswith(b"\x89PNG")


# ---- the commands, on drawn text and on scenes

PLANTED = {"cooking": ["oven", "pepper"], "gardening": ["rose", "spade"], "sailing": ["mast", "harbour"]}
NEUTRAL = [f"word{i}" for i in range(20)]


def write_texts(path, count, seed, misleading=0.0):
    """Texts with a planted word of their class; a share of them has a second one, of another class."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = str(rng.choice(list(PLANTED)))
        words = [*rng.choice(NEUTRAL, rng.integers(3, 8)), rng.choice(PLANTED[label])]
        if rng.random() < misleading:
            words += list(rng.choice(PLANTED["sailing"], 2))
        rows.append([" ".join(rng.permutation(words)), label])
    write_csv(path, ["text", "label"], rows)
    return rows


def run(*words):
    read_sparse.main([str(word) for word in words])


def fails(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def read_rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def text_result(tmp_path_factory):
    """A folder of sparse_main.py on drawn texts, some of the test's with words of another class."""
    folder = tmp_path_factory.mktemp("planted")
    rows = write_texts(folder / "train.csv", 800, seed=0)
    write_texts(folder / "test.csv", 150, seed=1, misleading=0.2)
    names = list(PLANTED)
    model, tokenizer = train_classifier(
        [text for text, _ in rows],
        [names.index(label) for _, label in rows],
        names,
        words=100,
        width=32,
        layers=1,
        epochs=7,
        max_length=16,
    )
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    words = [
        "--dataset",
        "csv",
        "--dataset-path",
        folder,
        "--model-path",
        folder / "model",
        "--out-path",
        folder / "sparse",
        "-k",
        20,
    ]
    sparse_main.main([str(word) for word in words])
    return folder / "sparse"


@pytest.fixture(scope="module")
def sampling():
    return "--sentences", 60, "--samples", 40


def test_the_planted_words_are_found_through_the_sparse_layer(text_result, sampling, tmp_path, capsys):
    run("biases", "--sparse", text_result, "--out", tmp_path, "--factor", 2, *sampling)
    assert "Words with an outsized effect" in capsys.readouterr().out
    by_class = {name: [] for name in PLANTED}
    for row in read_rows(tmp_path / "bias_words.csv"):
        by_class[row["class"]].append((float(row["effect"]), row["word"]))
    for name, planted in PLANTED.items():
        assert {word for _, word in sorted(by_class[name])[-2:]} == set(planted)

    # And feature by feature: on those of each class no word has more influence than planted ones.
    reader = read_sparse.open_reader(text_result)
    reader.read_words(60, 40)
    planted = {word for words in PLANTED.values() for word in words}
    for c in range(len(PLANTED)):
        for feature in reader.layer.strongest(c, 2):
            strongest = np.argsort(-np.abs(reader.words.influence[:, feature]))[:2]
            assert {reader.words.words[i] for i in strongest} <= planted
            assert next(iter(reader.words.driving(feature, weight=reader.layer.weight[c, feature])[0])) in planted
    figure = image_rows_figure(reader.describe(0, reader.layer.strongest(0, 2)))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_dense_head_is_read_in_the_same_coordinates(text_result):
    result = SparseResult.load(text_result)
    weight, bias = result.own_head
    features = np.asarray(result.features("test")[:20], np.float64)
    np.testing.assert_allclose(
        result.dense.scores(result.standardise(features)), features @ weight.T + bias, rtol=1e-4, atol=1e-4
    )
    linear = result.path.to_linear(result.selected)
    sparse = linear(torch.from_numpy(features).to(linear.weight.dtype)).detach().numpy()
    np.testing.assert_allclose(result.layer().scores(result.standardise(features)), sparse, rtol=1e-3, atol=1e-3)


def test_replacing_planted_words_turns_the_sparse_model(text_result, sampling, tmp_path, capsys):
    run(
        "counterfactual",
        "--sparse",
        text_result,
        "--out",
        tmp_path,
        "--class",
        "cooking",
        "--words",
        "oven",
        "pepper",
        "--replace-with",
        "rose",
        *sampling,
    )
    rows = read_rows(tmp_path / "counterfactual.csv")
    assert len(rows) > 20
    flipped = [row for row in rows if row["predicted after"] != "cooking"]
    assert len(flipped) > 0.9 * len(rows)
    assert sum(row["predicted after"] == "gardening" for row in rows) > 0.6 * len(rows)
    for row in rows:
        assert re.sub("oven|pepper", "rose", row["text"]) == row["changed"]
        assert float(row["cooking before"]) > 1 / 3
    said = capsys.readouterr().out
    assert f"flipped: {len(flipped)} of {len(rows)}" in said
    run("counterfactual", "--sparse", text_result, "--out", tmp_path, "--class", "cooking", *sampling)
    assert re.search(r"replaced: (oven|pepper) -> ", capsys.readouterr().out)
    assert (tmp_path / "counterfactual.png").stat().st_size > 5000


def test_errors_of_a_text_model_come_with_the_words_that_misled_it(text_result, sampling, tmp_path, capsys):
    run("misclassified", "--sparse", text_result, "--out", tmp_path, *sampling)
    said = capsys.readouterr().out
    groups, examples = (read_rows(tmp_path / f"misclassified{part}.csv") for part in ("", "_examples"))
    result = SparseResult.load(text_result)
    wrong = np.flatnonzero(result.predictions("test", result.layer()) != result.labels["test"])
    assert f"{len(wrong)} of 150 are misclassified" in said
    assert sorted(int(row["example"]) for row in examples) == wrong.tolist()
    assert sum(int(row["errors"]) for row in groups) == len(wrong)
    assert groups[0]["most often"].endswith("taken for sailing")
    assert set(groups[0]["words for what it is taken for"].split()) & set(PLANTED["sailing"])
    texts = read_rows(text_result.parent / "test.csv")
    assert all(texts[int(row["example"])]["text"] == row["text"] for row in examples)


@pytest.fixture(scope="module")
def scenes_result(scenes_folder, trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes_sparse")
    words = [
        "--dataset",
        "beton",
        "-c",
        scenes_folder / "config.yaml",
        "--root",
        scenes_folder,
        "--model-path",
        trained_run / "checkpoints" / "checkpoint_last.pt",
        "--out-path",
        out,
        "-k",
        12,
    ]
    sparse_main.main([str(word) for word in words])
    return out


def test_features_of_an_image_model_are_shown_with_its_own_images(scenes_result):
    reader = read_sparse.open_reader(scenes_result)
    features = reader.layer.strongest(0, 2)
    rows = reader.describe(0, features, count=3, steps=2)
    assert [len(images) for _, images in rows] == [7, 7]
    top = reader.result.columns("test", features)[:, 0] * np.sign(reader.layer.weight[0, features[0]])
    shown = reader.pixels(reader.images(np.argsort(-top, kind="stable")[:3]))
    np.testing.assert_array_equal(np.stack(rows[0][1][1:4]), shown)
    inputs = reader.images(range(5))
    with torch.no_grad():
        features = DeepFeatures(reader.task.model)(inputs).numpy()
    np.testing.assert_allclose(reader.rows(range(5)), reader.result.standardise(features), atol=1e-3)


def test_the_three_uses_run_on_images(scenes_result, tmp_path, capsys):
    name = SparseResult.load(scenes_result).class_names[0]
    run("misclassified", "--sparse", scenes_result, "--out", tmp_path, "--groups", 3)
    run("counterfactual", "--sparse", scenes_result, "--out", tmp_path, "--class", name)
    run("biases", "--sparse", scenes_result, "--out", tmp_path, "--factor", 6)
    said = capsys.readouterr().out
    assert "the feature is set to its mean" in said
    assert "right without it" in said
    for row in read_rows(tmp_path / "counterfactual.csv"):
        assert float(row[f"{name} before"]) > 1 / 8
    for picture in ("misclassified.png", "counterfactual.png"):
        assert (tmp_path / picture).stat().st_size > 5000


# ---- what is refused


def test_what_does_not_fit_is_refused_in_a_sentence(text_result, scenes_result, sampling, tmp_path, capsys):
    def said(use, *words, sparse=text_result):
        return fails(use, "--sparse", sparse, "--out", tmp_path / "out", *words, *sampling, capsys=capsys)

    assert "sparse result" in said("biases", sparse=tmp_path)
    assert "layer 99 is not on the path" in said("biases", "--layer", 99)
    assert "--factor 0.5 must be 1 or more" in said("biases", "--factor", 0.5)
    assert "--samples 1 must be 2 or more" in fails(
        "biases", "--sparse", text_result, "--out", tmp_path, "--samples", 1, capsys=capsys
    )
    assert "has no class 'knitting'; it has cooking" in said("counterfactual", "--class", "knitting")
    assert "there is no feature 99" in said("counterfactual", "--class", "cooking", "--feature", 99)
    assert "has any of the words to replace" in said("counterfactual", "--class", "cooking", "--words", "zebra")
    assert "no feature speaks for class cooking" in said("counterfactual", "--class", "cooking", "--layer", 0)
    assert "--groups 0 must be 1 or more" in said("misclassified", "--groups", 0)
    assert "does not exist; check --dataset-path" in said("biases", "--dataset-path", tmp_path / "moved")
    name = SparseResult.load(scenes_result).class_names[0]
    assert "are for text" in said("counterfactual", "--class", name, "--words", "x", sparse=scenes_result)
    assert not (tmp_path / "out").exists()


def test_data_that_have_changed_since_are_refused(text_result, sampling, tmp_path, capsys):
    write_texts(tmp_path / "train.csv", 800, seed=0)
    write_texts(tmp_path / "test.csv", 150, seed=9)
    said = fails(
        "biases",
        "--sparse",
        text_result,
        "--out",
        tmp_path / "out",
        "--dataset-path",
        tmp_path,
        *sampling,
        capsys=capsys,
    )
    assert "the test data have changed since" in said


# ---- the notebooks


@pytest.mark.check
def test_the_vision_notebook_shows_each_class_s_features(scenes_result):
    from test_notebooks import execute

    printed = execute(
        "analysis_nbs/inspect_vision_models.ipynb", SPARSE=str(scenes_result), CLASSES=1, FEATURES=2, IMAGES=3, STEPS=2
    )
    result = SparseResult.load(scenes_result)
    assert "selected" in printed
    assert f"{result.class_names[0]} rests on" in printed
    assert "errors by feature" in printed


@pytest.mark.check
def test_the_language_notebook_finds_the_planted_words(text_result, sampling):
    from test_notebooks import execute

    printed = execute(
        "analysis_nbs/inspect_language_models.ipynb",
        SPARSE=str(text_result),
        FEATURES=1,
        SENTENCES=int(sampling[1]),
        SAMPLES=int(sampling[3]),
    )
    for name, planted in PLANTED.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(f"words for {name}: ")]
        assert set(line.removeprefix(f"words for {name}: ").split()[:2]) == set(planted)
