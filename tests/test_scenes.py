import csv
import doctest
import hashlib
import multiprocessing
import pickle
from collections import Counter

import numpy as np
import pytest
from failure_directions.data import scene_drawing, scenes
from failure_directions.data.scene_drawing import BACKGROUNDS, COLOURS, PALETTE, SHAPES, caption, draw
from failure_directions.data.scenes import (
    KINDS,
    SPLITS,
    TRUTH_COLUMNS,
    Plant,
    SceneSetting,
    make_split,
    planted_setting,
    several_setting,
    truth_rows,
)
from failure_directions.runtime.errors import UserError
from PIL import ImageColor

CORRELATION = Plant("correlation", "circle", "colour", "red", 0.95)
RARE = Plant("rare", "square", "background", "brick", 0.97)
NOISE = Plant("noise", "star", "colour", "blue", 0.6, "cross")
CORRELATIONS = (CORRELATION, Plant("correlation", "circle", "background", "brick", 0.9))
SEVERAL = (
    CORRELATION,
    Plant("rare", "circle", "background", "brick", 0.97),
    Plant("noise", "circle", "background", "grid", 0.6, "cross"),
)
SIZES = {"train": 200, "val": 40, "test": 60, "unlabeled": 70}


def setting(**options):
    return SceneSetting(**{"plants": (CORRELATION, RARE, NOISE), **SIZES, **options})


def of_class(split, shape):
    return split.shape == shape


def images(split, indices):
    return np.stack([split.image(i) for i in indices])


def first_images(split):
    return images(split, range(8))


# Drawing


def digest(setting):
    """Of all tables of a setting and the first images of each."""
    total = hashlib.sha256()
    for split in (make_split(setting, name) for name in SPLITS):
        for column in (split.label, split.true_label, split.subgroup, split.mislabelled):
            total.update(column.astype("<i8").tobytes())
        for column in (split.shape, split.colour, split.background):
            total.update(" ".join(column).encode())
        total.update(images(split, range(3)).tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize(
    ("kind", "validation", "attribute", "expected"),
    [
        ("correlation", "natural", "colour", "a165ab5f93220e1a"),
        ("correlation", "skewed", "background", "10dace6e52baedd2"),
        ("rare", "natural", "colour", "365ebdc47874f530"),
        ("rare", "balanced", "colour", "0effa9b3e27aef2f"),
        ("noise", "natural", "colour", "2c56899589784860"),
        ("noise", "skewed", "background", "c8f8941007f096cd"),
    ],
)
def test_a_setting_of_an_earlier_version_is_drawn_as_it_was(kind, validation, attribute, expected):
    """Measured results name settings by their seed."""
    made = planted_setting(kind, seed=5, validation=validation, attribute=attribute, **SIZES)
    assert digest(made) == expected


def test_an_image_is_the_same_in_any_order():
    split = make_split(setting(), "train")
    again = make_split(setting(), "train")
    assert np.array_equal(images(split, range(20)), images(again, range(19, -1, -1))[::-1])


def test_an_image_is_the_same_in_another_process():
    split = make_split(setting(), "train")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(first_images, (split,)), first_images(split))


def test_another_seed_gives_another_table_and_other_images():
    one, other = make_split(setting(seed=1), "train"), make_split(setting(seed=2), "train")
    assert not np.array_equal(one.label, other.label)
    rngs = [np.random.default_rng(seed) for seed in (1, 2)]
    assert not np.array_equal(*[draw(32, "star", "red", "plain", rng) for rng in rngs])


def test_no_image_is_drawn_twice_in_the_same_split_or_in_two_splits():
    drawn = [split.image(i).tobytes() for split in (make_split(setting(), name) for name in SPLITS) for i in range(40)]
    assert len(set(drawn)) == len(drawn)


def test_images_from_the_same_random_state_differ_only_where_their_colours_do():
    red, blue = (draw(32, "circle", colour, "grid", np.random.default_rng(3)) for colour in ("red", "blue"))
    changed = (red != blue).any(-1).mean()
    # A disc of .88 x (.45 .. .8) of the half side, give or take its stretched and warped outline.
    assert 0.08 < changed < 0.5


@pytest.mark.parametrize("size", [32, 64, 65])
def test_an_image_is_a_square_of_the_size_asked_for(size):
    split = make_split(setting(size=size), "test")
    image, label, subgroup = split[5]
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert (type(label), type(subgroup)) == (int, int)
    assert (label, subgroup) == (split.label[5], split.subgroup[5])


def test_a_split_ends_after_its_last_image():
    split = make_split(setting(test=1), "test")
    assert [label for _, label, _ in split] == split.label.tolist()
    assert np.array_equal(split[-1][0], split[7][0])


def test_a_larger_image_looks_like_the_smaller_one():
    small, large = make_split(setting(), "test"), make_split(setting(size=64), "test")
    for i in range(20):
        reduced = large.image(i).reshape(32, 2, 32, 2, 3).mean((1, 3))
        # Their pixel noise is not the same.
        assert np.corrcoef(reduced.ravel(), small.image(i).ravel())[0, 1] > 0.6


def nearest(colour, palette):
    return min(palette, key=lambda name: np.abs(np.subtract(palette[name], colour)).sum())


def test_the_palette_is_what_the_web_calls_these_colours():
    web_colours = {name: ImageColor.getrgb(name) for name in COLOURS}
    assert all(nearest(colour, web_colours) == name for name, colour in PALETTE.items())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_median_colour_inside_the_shape_is_the_one_in_the_caption(shape):
    for k, colour in enumerate(COLOURS):
        for j, background in enumerate(BACKGROUNDS):
            # Two colours that share the random state show where the shape is.
            image, other = (
                draw(32, shape, c, background, np.random.default_rng([k, j])).astype(int)
                for c in (colour, COLOURS[k - 1])
            )
            inside = np.abs(image - other).sum(-1) > 100
            median = np.median(image[inside], axis=0)
            assert nearest(median, PALETTE) == colour


def test_every_shape_and_background_can_be_told_from_every_other():
    """Under one random state, so that only the name differs."""
    for names, drawn in [
        (SHAPES, [draw(32, shape, "red", "plain", np.random.default_rng(4)) for shape in SHAPES]),
        (BACKGROUNDS, [draw(32, "star", "red", background, np.random.default_rng(4)) for background in BACKGROUNDS]),
    ]:
        for a in range(len(names)):
            for b in range(a):
                assert np.abs(drawn[a].astype(int) - drawn[b]).mean() > 4, (names[a], names[b])


def test_captions_say_a_or_an_as_english_wants():
    assert caption("circle", "red", "striped") == "a photo of a red circle on a striped background"
    assert caption("star", "orange", "brick") == "a photo of an orange star on a brick background"


# What is planted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_default_settings_are_even_outside_the_planted_classes(kind, split):
    made = planted_setting(kind, seed=5, **SIZES)
    table = make_split(made, split)
    assert len(table) == 8 * SIZES[split]
    planted = {plant.shape for plant in made.plants}
    assert [plant.kind for plant in made.plants[:3]] == [kind] * 3
    for shape in set(SHAPES) - planted:
        for column in (table.colour, table.background):
            counts = Counter(column[of_class(table, shape)].tolist())
            assert max(counts.values()) - min(counts.values()) <= 1
        assert not table.subgroup[of_class(table, shape)].any()


def test_train_has_exactly_the_planted_shares():
    table = make_split(setting(), "train")
    circle, square, star = (of_class(table, shape) for shape in ("circle", "square", "star"))
    assert (table.colour[circle] == "red").sum() == 190
    assert np.array_equal(table.subgroup[circle] == 1, table.colour[circle] != "red")
    assert (table.background[square] == "brick").sum() == 6
    assert np.array_equal(table.subgroup[square] == 1, table.background[square] == "brick")
    assert (table.colour[star] == "blue").sum() == 40
    assert np.array_equal(table.subgroup[star] == 1, table.colour[star] == "blue")


def test_the_rest_of_a_planted_class_is_spread_evenly_over_the_other_values():
    table = make_split(setting(train=1400), "train")
    minority = of_class(table, "circle") & (table.subgroup == 1)
    assert set(Counter(table.colour[minority].tolist()).values()) == {10}
    majority = of_class(table, "square") & (table.subgroup == 0)
    assert set(Counter(table.background[majority].tolist()).values()) == {194}


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        ("natural", {"circle": 8, "square": 8, "star": 8}),
        ("balanced", {"circle": 20, "square": 20, "star": 20}),
        ("skewed", {"circle": 2, "square": 1, "star": 8}),
    ],
)
def test_validation_has_the_minority_asked_for_and_the_other_splits_keep_theirs(validation, expected):
    made = setting(validation=validation)
    for split, counts in [
        ("val", expected),
        ("test", dict.fromkeys(expected, 12)),
        ("unlabeled", dict.fromkeys(expected, 14)),
    ]:
        table = make_split(made, split)
        assert {shape: int(table.subgroup[of_class(table, shape)].sum()) for shape in expected} == counts
        assert table.subgroup.sum() == sum(counts.values())


def test_wrong_labels_are_in_train_in_the_subgroup_only_and_name_the_class_asked_for():
    train = make_split(setting(), "train")
    assert train.mislabelled.sum() == 24
    assert np.array_equal(train.mislabelled, train.label != train.true_label)
    assert (train.subgroup[train.mislabelled] == 1).all()
    assert (train.shape[train.mislabelled] == "star").all()
    assert (train.label[train.mislabelled] == SHAPES.index("cross")).all()
    for split in ("val", "test", "unlabeled"):
        table = make_split(setting(), split)
        assert not table.mislabelled.any()
        assert np.array_equal(table.label, table.true_label)


def test_several_plants_of_a_class_have_subgroups_of_their_own():
    table = make_split(setting(plants=SEVERAL), "train")
    circle = of_class(table, "circle")
    assert np.bincount(table.subgroup[circle]).tolist() == [200 - 10 - 6 - 40, 10, 6, 40]
    assert not table.subgroup[~circle].any()
    red, brick, grid = table.colour == "red", table.background == "brick", table.background == "grid"
    for number, (is_red, is_brick, is_grid) in enumerate([(1, 0, 0), (0, 0, 0), (1, 1, 0), (1, 0, 1)]):
        rows = circle & (table.subgroup == number)
        assert (red[rows] == is_red).all()
        assert (brick[rows] == is_brick).all()
        assert (grid[rows] == is_grid).all()
    assert np.array_equal(np.flatnonzero(table.mislabelled), np.flatnonzero(table.label != table.true_label))
    assert table.mislabelled.sum() == 24
    assert (table.subgroup[table.mislabelled] == 3).all()


def test_a_class_with_two_correlations_lacks_one_in_each_subgroup_and_has_both_elsewhere():
    table = make_split(setting(plants=CORRELATIONS), "test")
    circle = of_class(table, "circle")
    red, brick = table.colour == "red", table.background == "brick"
    for number, (is_red, is_brick) in enumerate([(1, 1), (0, 1), (1, 0)]):
        rows = circle & (table.subgroup == number)
        assert (red[rows] == is_red).all()
        assert (brick[rows] == is_brick).all()
    assert np.bincount(table.subgroup[circle]).tolist() == [36, 12, 12]


@pytest.mark.parametrize(
    ("validation", "expected"), [("natural", [8, 8, 8]), ("balanced", [7, 6, 7]), ("skewed", [2, 1, 8])]
)
def test_several_plants_of_a_class_share_what_validation_asks_for(validation, expected):
    table = make_split(setting(plants=SEVERAL, validation=validation), "val")
    assert np.bincount(table.subgroup)[1:].tolist() == expected


def test_subgroups_of_a_few_images_never_take_more_than_there_are():
    for images in range(12):
        made = setting(plants=SEVERAL, minority_share=0.33, test=images)
        subgroup = make_split(made, "test").subgroup[of_class(make_split(made, "test"), "circle")]
        assert len(subgroup) == images
        for number in (1, 2, 3):
            assert abs((subgroup == number).sum() - 0.33 * images) <= 1


def test_uniform_wrong_labels_are_spread_over_all_the_other_classes():
    noise = Plant("noise", "star", "colour", "blue", 0.7, "uniform")
    table = make_split(setting(plants=(noise,)), "train")
    counts = Counter(table.label[table.mislabelled].tolist())
    assert counts == {label: 4 for label in range(8) if label != SHAPES.index("star")}


def test_a_label_is_a_position_in_the_classes_of_the_setting():
    classes = ("star", "heart", "square", "circle", "cross", "triangle")
    table = make_split(setting(classes=classes), "test")
    assert np.array_equal(np.array(classes)[table.true_label], table.shape)
    assert np.bincount(table.label).tolist() == [60] * 6


def test_the_classes_are_interleaved():
    label = make_split(setting(), "train").label
    assert all(len(set(label[k : k + 100])) == 8 for k in range(0, 1600, 100))


def test_an_empty_split_can_be_made():
    assert len(make_split(setting(unlabeled=0), "unlabeled")) == 0


def test_the_planted_setting_follows_the_seed():
    assert planted_setting("noise", 3) == planted_setting("noise", 3)
    assert len({planted_setting("noise", seed).plants for seed in range(10)}) == 10


def test_each_rare_value_of_the_planted_setting_is_common_in_another_class():
    for seed in range(10):
        plants = planted_setting("rare", seed).plants
        for rare, common in zip(plants[:3], plants[3:], strict=True):
            assert (rare.kind, common.kind) == ("rare", "correlation")
            assert rare.value == common.value


def test_wrong_labels_of_the_planted_setting_name_classes_without_a_plant():
    for seed in range(10):
        plants = planted_setting("noise", seed).plants
        assert not {plant.noise_label for plant in plants} & {plant.shape for plant in plants}


@pytest.mark.parametrize("n_plants", [2, 3])
def test_a_setting_with_several_failures_has_them_in_one_class(n_plants):
    drawn = set()
    for seed in range(10):
        made = several_setting(seed, n_plants=n_plants, **SIZES)
        shape = made.plants[0].shape
        assert made.plants_of(shape) == list(made.plants[:n_plants])
        test = make_split(made, "test")
        assert np.bincount(test.subgroup[of_class(test, shape)]).tolist() == [60 - 12 * n_plants] + [12] * n_plants
        for plant in made.plants:
            if plant.kind == "rare":
                assert [other.value for other in made.plants_of(made.plants[-1].shape)] == [plant.value]
        drawn.add(made.plants)
    assert len(drawn) == 10
    assert several_setting(3, n_plants=n_plants) == several_setting(3, n_plants=n_plants)


def test_the_truth_can_be_written_as_csv_and_read_back(tmp_path):
    split = make_split(setting(), "train")
    with open(tmp_path / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([TRUTH_COLUMNS, *truth_rows(split)])
    with open(tmp_path / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(len(split)))
    assert [int(row["label"]) for row in rows] == split.label.tolist()
    assert all(row["class"] == SHAPES[int(row["label"])] for row in rows)
    assert all(row["caption"] == caption(row["shape"], row["colour"], row["background"]) for row in rows)
    assert sum(int(row["mislabelled"]) for row in rows) == 24
    assert all((row["class"] != row["true_class"]) == (row["mislabelled"] == "1") for row in rows)


def test_a_split_can_be_sent_to_a_worker():
    split = make_split(setting(), "test")
    assert np.array_equal(pickle.loads(pickle.dumps(split)).label, split.label)


@pytest.mark.parametrize("plant", [CORRELATION, RARE, NOISE])
def test_a_plant_is_read_back_from_what_it_is_written_as(plant):
    assert Plant.parse(str(plant)) == plant


def test_the_written_form_of_a_plant_is_the_documented_one():
    assert Plant.parse("correlation:circle:colour=red:0.95") == CORRELATION
    assert Plant.parse("noise:star:colour=blue:0.6:cross") == NOISE


# Refusals


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("correlation:circle:colour=red", "KIND:CLASS:ATTRIBUTE=VALUE:STRENGTH"),
        ("correlation:circle:red:0.9", "KIND:CLASS:ATTRIBUTE=VALUE:STRENGTH"),
        ("correlation:circle:colour=red:lots", "KIND:CLASS:ATTRIBUTE=VALUE:STRENGTH"),
        ("correlation:circle:colour=red:0.9:star:heart", "KIND:CLASS:ATTRIBUTE=VALUE:STRENGTH"),
        ("common:circle:colour=red:0.9", "common"),
        ("correlation:cat:colour=red:0.9", "cat"),
        ("correlation:circle:size=red:0.9", "size"),
        ("correlation:circle:colour=pink:0.9", "pink"),
        ("correlation:circle:background=red:0.9", "red"),
        ("correlation:circle:colour=red:1.2", "1.2"),
        ("correlation:circle:colour=red:0", "strength 0"),
        ("correlation:circle:colour=red:nan", "strength nan"),
        ("correlation:circle:colour=red:0.9:star", "only noise"),
        ("noise:circle:colour=red:0.9", "wrong label"),
        ("noise:circle:colour=red:0.9:circle", "circle"),
        ("noise:circle:colour=red:0.9:cat", "cat"),
    ],
)
def test_a_bad_plant_is_refused_by_name(text, culprit):
    with pytest.raises(UserError, match=culprit):
        Plant.parse(text)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"classes": (*SHAPES[:6], "cat")}, "cat"),
        ({"classes": SHAPES[:5], "plants": ()}, "5 classes"),
        ({"classes": (*SHAPES, "circle")}, "twice"),
        ({"classes": tuple(s for s in SHAPES if s != "circle")}, "circle"),
        ({"classes": tuple(s for s in SHAPES if s != "cross")}, "cross"),
        ({"plants": (CORRELATION, CORRELATION)}, "red:0.95 leave no colour to some images"),
        ({"plants": (CORRELATION, Plant("correlation", "circle", "colour", "blue", 0.9))}, "leave no colour"),
        ({"plants": (CORRELATION, Plant("rare", "circle", "colour", "blue", 0.9))}, "leave no colour"),
        ({"plants": (RARE, Plant("rare", "square", "background", "brick", 0.9))}, "leave no background"),
        ({"plants": SEVERAL, "minority_share": 0.34}, "take all of circle in val"),
        ({"plants": CORRELATIONS, "minority_share": 0.5}, "take all of circle in val"),
        ({"train": -1}, "in train cannot be -1"),
        ({"val": 2.5}, "in val cannot be 2.5"),
        ({"size": 31}, "size in pixels cannot be 31"),
        ({"size": (32, 48)}, r"\(32, 48\)"),
        ({"seed": -3}, "seed cannot be -3"),
        ({"minority_share": 0}, "minority share is 0"),
        ({"validation": "even"}, "even"),
    ],
)
def test_a_bad_setting_is_refused_by_name(options, culprit):
    with pytest.raises(UserError, match=culprit):
        setting(**options)


def test_an_unknown_split_or_kind_or_too_many_plants_are_refused_by_name():
    with pytest.raises(UserError, match="pool"):
        make_split(setting(), "pool")
    with pytest.raises(UserError, match="common"):
        planted_setting("common")
    with pytest.raises(UserError, match="5 plants"):
        planted_setting("rare", n_plants=5)
    with pytest.raises(UserError, match="4 plants in one class"):
        several_setting(n_plants=4)
    with pytest.raises(UserError, match="circle, triangle, star"):
        several_setting(classes=("circle", "triangle", "star", "semicircle"))


@pytest.mark.parametrize("module", [scenes, scene_drawing])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
