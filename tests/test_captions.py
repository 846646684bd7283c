"""Captions: the grammar, the shipped vocabularies, a user's own; their scores, and the images they describe."""

import doctest
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from failure_directions.captions import ranking as scores_module
from failure_directions.captions import vocabulary as captions_module
from failure_directions.captions.analyzer import ClipAnalyzer
from failure_directions.captions.ranking import describe_directions, rank_captions, z_scores
from failure_directions.captions.subpopulations import caption_similarity, extreme_latents, subpopulation_accuracy
from failure_directions.captions.vocabulary import CAPTION_SETS, MAX_CANDIDATES, CaptionGenerator, get_caption_set
from failure_directions.config_parsing import SVMConfig, load_dataset_config
from failure_directions.data.scene_drawing import BACKGROUNDS, COLOURS, SHAPES, caption
from failure_directions.runtime.english import with_article
from failure_directions.runtime.errors import UserError
from failure_directions.svm_utils import SVMFitter
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from torchvision.models._meta import _IMAGENET_CATEGORIES as IMAGENET_NAMES

ROOT = Path(__file__).resolve().parents[1]


# ---- the grammar ----------------------------------------------------------------------------------------------------


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(captions_module).failed == 0
    assert doctest.testmod(scores_module).failed == 0


@pytest.mark.parametrize(
    "phrase",
    [
        "an apple",
        "an hourglass",
        "an heirloom",
        "a horse",
        "a unicorn",
        "a used car",
        "an umbrella",
        "an uninjured cat",
        "a one-eyed cat",
        "an onion",
        "a European hare",
        "a ewe",
        "an x-ray",
        "a T-shirt",
        "an F-16",
        "an SUV",
        "a UFO",
        "an 8-ball",
        "an 18-wheeler",
        "a 180-degree view",
        "an éclair",
        "a U-boat",
        "an urn",
        "a ukulele",
        'an "old" cat',
    ],
)
def test_the_article_follows_the_sound_of_the_next_word(phrase):
    assert with_article(phrase.split(" ", 1)[1]) == phrase


def test_all_captions_are_every_combination_and_the_other_kinds_vary_one_slot():
    cat = CaptionGenerator("cat", ["cat", "ocelot"], ["", "white", "orange"], ["", "inside", "on the grass"])
    expected = {
        " ".join(f"a photo of {with_article(f'{adjective} {noun}'.strip())} {place}".split())
        for noun, adjective, place in product(cat.nouns, cat.adjectives, cat.prepositions)
    }
    assert set(cat.captions("all")) == expected
    assert len(cat.captions("all")) == 2 * 3 * 3
    assert cat.captions("noun") == ["a photo of a cat", "a photo of an ocelot"]
    assert cat.captions("adj") == ["a photo of a cat", "a photo of a white cat", "a photo of an orange cat"]
    assert cat.captions("prep") == ["a photo of a cat", "a photo of a cat inside", "a photo of a cat on the grass"]
    assert cat.reference == "a photo of a cat"
    with pytest.raises(UserError, match="'verb'; choose one of all, noun, adj, prep"):
        cat.captions("verb")


def test_a_template_of_ones_own_keeps_no_traces_of_empty_slots():
    generator = CaptionGenerator("orange", template="An {adjective} {noun}, {preposition}", adjectives=["", "red"])
    assert generator.captions() == ["An orange", "A red orange"]


def test_excluded_words_are_whole_words_across_slots_and_case():
    generator = CaptionGenerator(
        "person", ["person", "woman"], ["", "Young", "youngish"], excludes=["young woman", "youngish person"]
    )
    assert generator.captions() == [
        "a photo of a person",
        "a photo of a Young person",
        "a photo of a woman",
        "a photo of a youngish woman",
    ]


# ---- the shipped vocabularies ---------------------------------------------------------------------------------------


def size(name, class_name, kind="all"):
    return len(get_caption_set(name).for_class(class_name).captions(kind))


def test_the_shipped_sets_are_the_nine():
    cifar, others = {"CIFAR", "CIFARSIMPLE", "CIFAR100"}, {"COLORED_MNIST", "WATERBIRDS", "SCENES"}
    assert set(CAPTION_SETS) == cifar | others | {"CELEBA", "IMAGENET", "CHESTXRAY"}


@pytest.mark.parametrize("config", ["cifar", "cifar100", "scenes"])
def test_the_sets_cover_the_classes_of_the_configs(config):
    classes = load_dataset_config(ROOT / "dataset_configs" / f"{config}.yaml").names
    for name in [config.upper()] + ["CIFARSIMPLE"] * (config == "cifar"):
        for generator in get_caption_set(name).for_classes(classes):
            assert len(generator.captions()) > 1
            assert generator.reference.startswith("a photo of a")


def test_the_simple_set_has_90_or_108_captions_and_differs_by_place():
    sizes = {name: size("CIFARSIMPLE", name) for name in get_caption_set("CIFARSIMPLE").grammar.classes}
    assert {name for name, n in sizes.items() if n == 90} == {"airplane", "automobile", "truck"}
    assert set(sizes.values()) == {90, 108}
    assert "a photo of a white cat on the grass" in get_caption_set("cifarsimple").for_class("cat").captions()
    assert "a photo of a bird flying" in get_caption_set("CIFARSIMPLE").for_class("bird").captions("prep")


def test_the_cifar_set_names_the_hyponyms_of_its_classes():
    assert 60_000 < size("CIFAR", "bird") <= 66_560
    assert size("CIFAR", "truck") <= 2_048
    car = get_caption_set("CIFAR").for_class("automobile")
    assert {"ambulance", "sedan", "sports car"} <= set(car.nouns)
    assert "a photo of a black sedan" in car.captions()
    # Everything that the simple grammar says is there too.
    assert set(get_caption_set("CIFARSIMPLE").for_class("ship").captions()) <= set(
        get_caption_set("CIFAR").for_class("ship").captions()
    )


def test_cifar100_has_five_nouns_a_superclass_and_every_class_once():
    grammar = get_caption_set("CIFAR100").grammar
    superclasses = [entry for name, entry in grammar.classes.items() if name != "medium-sized mammals"]
    assert [len(entry.nouns) for entry in superclasses] == [5] * 20
    assert size("CIFAR100", "large_man-made_outdoor_things") == size("CIFAR100", "medium-sized mammals") == 5
    fine = {name.replace("_", " ") for name in load_dataset_config(ROOT / "dataset_configs" / "cifar100.yaml").names}
    nouns = {noun for entry in superclasses for noun in entry.nouns}
    assert nouns - fine == {"computer keyboard", "cow"}  # plainer words for "keyboard" and "cattle"
    assert fine - nouns == {"keyboard", "cattle"}


def test_no_caption_of_an_age_contradicts_it():
    ages = get_caption_set("CELEBA")
    for class_name, opposite in (("old", "young"), ("young", "old")):
        generator = ages.for_class(class_name)
        assert len(generator.nouns) * len(generator.adjectives) * len(generator.prepositions) == 288
        for kind in ("all", "noun", "adj", "prep"):
            assert not [text for text in generator.captions(kind) if opposite in text.split()]
        assert len(generator.captions()) == 288 * 2 / 3
    assert "a photo of an old woman wearing a hat" in ages.for_class("old").captions()
    assert ages.for_class("old").reference == "a photo of an old person"


def test_chest_x_rays_have_15_captions_whatever_the_condition():
    for generator in get_caption_set("CHESTXRAY").for_classes(["no Effusion", "Effusion"]):
        assert len(generator.captions()) == 15
        assert generator.reference == "a photo of a chest x-ray"


def test_imagenet_knows_every_class_by_name_and_by_number():
    by_name = get_caption_set("IMAGENET").for_classes(IMAGENET_NAMES)
    sizes = [len(generator.captions()) for generator in by_name]
    assert min(sizes) == 104
    assert max(sizes) == 182
    numbers = [name for name in get_caption_set("IMAGENET").grammar.classes if name[0] == "n" and name[1:].isdigit()]
    assert len(numbers) == 1000
    by_number = get_caption_set("IMAGENET").for_classes(numbers)
    assert [g.captions() for g in by_name[:50]] == [g.captions() for g in by_number[:50]]
    assert [g.reference for g in by_name] == [g.reference for g in by_number]
    assert get_caption_set("IMAGENET").for_class("Chihuahua").name == "dog"


def test_the_scenes_set_holds_every_caption_of_the_drawn_scenes():
    scenes = get_caption_set("SCENES")
    assert set(scenes.grammar.classes) == set(SHAPES)
    assert scenes.grammar.adjectives == list(COLOURS)
    for shape in SHAPES:
        captions = set(scenes.for_class(shape).captions())
        assert {caption(shape, colour, ground) for colour, ground in product(COLOURS, BACKGROUNDS)} <= captions
        assert len(captions) == (len(COLOURS) + 1) * (len(BACKGROUNDS) + 1)


@pytest.mark.parametrize("name", ["cifar.yaml", "imagenet.yaml"])
def test_what_comes_from_wordnet_says_so_and_stays_small(name):
    path = ROOT / "src" / "captions" / "configs" / name
    text = path.read_text()
    assert "# WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in text
    assert "# Permission to use, copy, modify and distribute this software and" in text
    assert path.stat().st_size < 200_000


# ---- a file of one's own --------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "my.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True))
        return path

    return write


def test_a_file_needs_little(write):
    mine = get_caption_set(write("prepositions: [outside]\nclasses:\n  my_dog:\n  5:\n    adjectives: [old]\n"))
    dog, five = mine.for_classes(["my_dog", "5"])
    assert dog.captions() == ["a photo of a my dog", "a photo of a my dog outside"]
    assert "a photo of an old 5 outside" in five.captions()


def test_class_names_may_hold_anything(write):
    names = ["<b>dog</b>", "cat/kitten", "Žabka 🐸", "{x}", "a & b", "", "%s"]
    mine = get_caption_set(write({"adjectives": ["big"], "classes": {name: {} for name in names[:-2]}, "default": {}}))
    for name, generator in zip(names, mine.for_classes(names), strict=True):
        assert generator.captions()[-1] == f"a photo of a big {name}".strip()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"adjectivs": []}, "unknown key adjectivs; did you mean adjectives"),
        ({"classes": {"cat": {"noun": ["x"]}}}, "unknown key noun in classes.cat; did you mean nouns"),
        ({"cat": {}}, "unknown key cat; the keys are template, adjectives"),
        ({"adjectives": ["white"]}, "the grammar is empty"),
        ({"classes": {"cat": {"nouns": []}}}, "classes.cat.nouns is \\[\\]"),
        ({"classes": {"cat": {"nouns": [7]}}}, "classes.cat.nouns.0 is 7, but .* in quotes"),
        ("classes:\n  no: {}\n", "reads a class name as False; put it in quotes"),
        ("classes:\n  cat: {}\n  cat: {}\n", "the key cat is given twice"),
        ("- cat", "is not a mapping"),
        ({"template": "a photo", "classes": {"cat": {}}}, "must hold {noun}"),
        ({"template": "{noun} {noun}", "classes": {"cat": {}}}, "no slot twice"),
        ({"template": "{noun.__class__}", "classes": {"cat": {}}}, "may hold {adjective}, {noun} and {preposition}"),
        ({"template": "{noun", "classes": {"cat": {}}}, "is not one"),
        ({"template": "a {noun}", "adjectives": ["x"], "classes": {"cat": {}}}, "has no {adjective}"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(write, content, message):
    path = write(content)
    with pytest.raises(UserError, match=message) as error:
        get_caption_set(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_ten_million_candidates_are_counted_and_not_built(write):
    words = [f"w{i}" for i in range(9_999)]
    path = write({"adjectives": words, "classes": {"cat": {"nouns": words[:10], "prepositions": words[:99]}}})
    with pytest.raises(UserError, match=r"cat has 10,000,000 candidate captions .*more than 1,000,000"):
        get_caption_set(path)
    exactly = write({"adjectives": words, "classes": {"cat": {"prepositions": words[:99]}}})
    assert get_caption_set(exactly).for_class("cat").reference == "a photo of a cat"
    assert MAX_CANDIDATES == 10_000 * 100


def test_a_file_must_fit_the_classes_of_the_data_set(write):
    mine = get_caption_set(write({"adjectives": ["big"], "classes": {"cat": {}, "dgo": {}}}))
    with pytest.raises(UserError, match="describes dgo, which is no class of the data set; did you mean dog"):
        mine.for_classes(["cat", "dog"])
    mine = get_caption_set(write({"adjectives": ["big"], "classes": {"cat": {}}}))
    with pytest.raises(UserError, match="no entry for the class dog, only cat; add it"):
        mine.for_classes(["cat", "dog"])
    with pytest.raises(UserError, match="caption set CIFAR has no entry for the class okapi"):
        get_caption_set("CIFAR").for_classes(["cat", "okapi"])
    assert len(get_caption_set("IMAGENET").for_classes(["tench", "goldfish"])) == 2


@pytest.mark.parametrize(("entry", "count"), [({}, "one caption"), ({"excludes": ["cat"]}, "no caption")])
def test_a_class_with_nothing_to_choose_from_is_an_empty_grammar(write, entry, count):
    with pytest.raises(UserError, match=f"leaves {count} of the class cat, .*; give it adjectives"):
        get_caption_set(write({"classes": {"cat": entry}})).for_classes(["cat"])


def test_a_name_that_is_nothing_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="no caption set or file CIFAR10; did you mean CIFAR"):
        get_caption_set("CIFAR10")
    with pytest.raises(UserError, match=r"mine.yaml; give a YAML file or one of CELEBA"):
        get_caption_set(tmp_path / "mine.yaml")


# ---- scores ---------------------------------------------------------------------------------------------------------

WORDS = ["white", "black", "red", "outside", "inside"]
D = 8


class FakeCLIP:
    """Texts as sums of planted directions, one a word: text(candidate) - text(reference) has a closed form."""

    def __init__(self, seed=0):
        self.directions = np.random.default_rng(seed).normal(size=(len(WORDS), D))
        self.base = np.random.default_rng(seed + 1).normal(size=D)

    def evaluate_clip_captions(self, captions):
        has = np.array([[word in caption.split() for word in WORDS] for caption in captions], dtype=float)
        return (self.base + has @ self.directions).astype(np.float32)


GRAMMAR = {"adjectives": WORDS[:3], "prepositions": WORDS[3:], "classes": {"cat": {}, "dog": {}, "cow": {}}}
CLASSES = ["cat", "dog", "cow"]


def images(rng, n=240):
    """Images of three classes; wrong where "white" in cats and "inside" in dogs is strong, and never in cows."""
    clip = FakeCLIP()
    labels = np.arange(n) % 3
    latents = rng.normal(size=(n, D))
    planted = np.where(labels == 0, latents @ clip.directions[0], latents @ clip.directions[4])
    correct = (planted < 1) | (labels == 2)
    return latents.astype(np.float32), labels, correct


@pytest.fixture(params=["SVM", "MLP"])
def fitter(request):
    latents, labels, correct = images(np.random.default_rng(2))
    fitter = SVMFitter(method=request.param)
    fitter.set_preprocess(latents)
    fitter.fit(preds=np.where(correct, labels, (labels + 1) % 3), ys=labels, latents=latents)
    return fitter


@pytest.fixture
def mine(write):
    return get_caption_set(write(GRAMMAR))


def test_scores_are_those_of_scikit_learn():
    latents, labels, correct = images(np.random.default_rng(2))
    fitter = SVMFitter(split_and_search=False)
    fitter.set_preprocess(latents)
    fitter.fit(preds=np.where(correct, labels, (labels + 1) % 3), ys=labels, latents=latents)
    scaler = StandardScaler().fit(latents)
    scaler.scale_ = scaler.scale_ * np.sqrt(len(latents) / (len(latents) - 1))  # the sample deviation
    svc = SVC(kernel="linear", class_weight="balanced", C=1.0)
    svc.fit(normalize(scaler.transform(latents[labels == 0])), correct[labels == 0])
    texts = np.random.default_rng(3).normal(size=(40_000, D)).astype(np.float32)  # more than one chunk
    expected = svc.decision_function(normalize(scaler.transform(texts - texts[7])))
    np.testing.assert_allclose(fitter.caption_scores(0, texts, texts[7]), expected, atol=1e-3)


def test_scores_without_whitening_and_norm_are_the_planted_directions_in_closed_form(mine):
    clip, latents, labels, correct = FakeCLIP(), *images(np.random.default_rng(2))
    fitter = SVMFitter(do_normalize=False)
    fitter.set_preprocess()
    fitter.fit(preds=np.where(correct, labels, (labels + 1) % 3), ys=labels, latents=latents)
    ranked = rank_captions(fitter, clip, mine.for_class("cat"), 0)
    along = dict(zip(WORDS, clip.directions @ fitter.coef[0], strict=True))
    expected = [
        fitter.intercept[0] + sum(along[word] for word in WORDS if word in text.split()) for text in ranked.captions
    ]
    np.testing.assert_allclose(ranked.scores, expected, rtol=1e-5)
    assert (np.diff(ranked.scores) >= 0).all()
    assert len(set(ranked.captions)) == 12


def test_the_hardest_captions_name_the_planted_failure(fitter, mine):
    rows = describe_directions(fitter, FakeCLIP(), mine, CLASSES, top_k=3)
    of = {
        (c, side): [r for r in rows if (r["class_name"], r["side"]) == (c, side)]
        for c in CLASSES
        for side in ("hard", "easy")
    }
    assert [row["rank"] for row in of["cat", "hard"]] == [1, 2, 3]
    assert any("white" in row["caption"] for row in of["cat", "hard"])
    assert any("inside" in row["caption"] for row in of["dog", "hard"])
    assert not any("white" in row["caption"] for row in of["cat", "easy"])
    assert of["cat", "hard"][0]["score"] < of["cat", "hard"][2]["score"] < of["cat", "easy"][2]["score"]
    assert of["cat", "hard"][0]["z"] < 0 < of["cat", "easy"][0]["z"]


def test_slices_are_described_beside_the_directions(fitter, mine):
    """By their own scores of the captions' differences from the reference; of a class that was skipped, too."""
    slices = [
        SimpleNamespace(id="cat-1", class_index=0, score=lambda x: x[:, 1]),
        SimpleNamespace(id="cow-1", class_index=2, score=lambda x: -x[:, 0]),
    ]
    rows = describe_directions(fitter, FakeCLIP(), mine, CLASSES, top_k=3, slices=slices)
    assert [row for row in rows if not row["slice"]] == describe_directions(fitter, FakeCLIP(), mine, CLASSES, top_k=3)
    for one, name in zip(slices, ("cat", "cow"), strict=True):
        texts, clip = mine.for_class(name).captions("all"), FakeCLIP()
        latents = np.asarray(clip.evaluate_clip_captions([mine.for_class(name).reference, *texts]))
        scores = one.score(fitter.preprocess(latents[1:] - latents[0]))
        of_slice = [row for row in rows if row["slice"] == one.id]
        assert [(row["class_name"], row["side"], row["rank"]) for row in of_slice] == [
            (name, side, rank) for side in ("hard", "easy") for rank in (1, 2, 3)
        ]
        expected = np.sort(scores)[[0, 1, 2, -1, -2, -3]]
        np.testing.assert_allclose([row["score"] for row in of_slice], expected)
        assert of_slice[0]["caption"] == texts[int(scores.argmin())]


def test_a_skipped_class_has_no_captions_but_a_reason(fitter, mine):
    rows = describe_directions(fitter, FakeCLIP(), mine, CLASSES)
    assert {row["class"] for row in rows} == {0, 1}
    with pytest.raises(UserError, match="class 2 has no direction to describe: no errors among 80 validation images"):
        rank_captions(fitter, FakeCLIP(), mine.for_class("cow"), 2)


def test_top_k_is_at_most_what_there_is(fitter, mine):
    rows = describe_directions(fitter, FakeCLIP(), mine, CLASSES, top_k=50, kind="prep")
    assert len(rows) == 2 * 2 * 3
    with pytest.raises(UserError, match="top_k = 0"):
        describe_directions(fitter, FakeCLIP(), mine, CLASSES, top_k=0)


def test_z_scores_have_mean_zero_and_deviation_one():
    z = z_scores(np.array([-2.2, -1.7, -1.9, -2.0]))
    assert abs(z.mean()) < 1e-12
    assert z.std() == pytest.approx(1)
    assert (z_scores([3.0, 3.0]) == 0).all()


# ---- subpopulations -------------------------------------------------------------------------------------------------


def test_images_are_compared_with_the_captions_of_their_class_by_cosine():
    rng = np.random.default_rng(4)
    latents, texts = rng.normal(size=(100, D)) * rng.uniform(0.1, 10, (100, 1)), rng.normal(size=(2, D))
    labels = np.arange(100) % 2
    similarity = caption_similarity(latents, labels, {1: texts})
    expected = cosine_similarity(latents, texts)
    for side, column in zip(("hard", "easy"), expected.T, strict=True):
        np.testing.assert_allclose(similarity[side][labels == 1], column[labels == 1])
        assert np.isnan(similarity[side][labels == 0]).all()


def test_accuracy_falls_on_the_hard_subpopulation_and_rises_on_the_easy():
    text, labels = np.eye(D)[0], np.repeat([0, 1], [100, 50])
    angles = np.concatenate([np.linspace(np.pi, 0, 100), np.linspace(0, 1, 50)])
    latents = np.zeros((150, D))
    latents[:, 0], latents[:, 1] = np.cos(angles), np.sin(angles)
    correct = np.ones(150, bool)
    correct[60:100] = False  # the 40 of class 0 that point most along the text
    similarity = caption_similarity(latents, labels, {0: (text, -text), 1: (text, -text)})
    rows = subpopulation_accuracy(similarity, labels, correct)
    of_0 = [row for row in rows if row["class"] == 0]
    assert [row["k"] for row in of_0] == [20, 40, 60, 80, 100]
    assert [row["hard"] for row in of_0] == pytest.approx([0, 0, 20 / 60, 40 / 80, 0.6])
    assert [row["easy"] for row in of_0] == pytest.approx([1, 1, 1, 60 / 80, 0.6])
    assert {row["class_mean"] for row in of_0} == {0.6}
    assert [row["k"] for row in rows if row["class"] == 1] == [20, 40]


def test_the_extremes_of_the_rows_are_embedded_for_the_subpopulations(fitter, mine):
    clip = FakeCLIP()
    rows = describe_directions(fitter, clip, mine, CLASSES, top_k=2)
    latents = extreme_latents(clip, rows)
    assert set(latents) == {0, 1}
    hardest = next(row["caption"] for row in rows if row["class"] == 1 and row["side"] == "hard")
    np.testing.assert_array_equal(latents[1][0], clip.evaluate_clip_captions([hardest])[0])
    assert extreme_latents(clip, []) == {}


# ---- ClipAnalyzer ---------------------------------------------------------------------------------------------------


def result(embedding="clip"):
    return SimpleNamespace(
        loaded=SimpleNamespace(svm_config=SVMConfig(embedding=embedding), dataset_config=None, class_names=CLASSES)
    )


def test_the_analyzer_gives_the_top_captions_of_a_result(fitter, write, tmp_path):
    fitter.export(tmp_path / "svm_model.pt")
    analyzer = ClipAnalyzer(result(), tmp_path / "svm_model.pt", str(write(GRAMMAR)), CLASSES, clip=FakeCLIP())
    top = analyzer.get_svm_style_top_K(target_c=0, caption_type="adj", K=2)
    assert set(top) == {f"{sign}_{what}" for sign in ("neg", "pos") for what in ("captions", "vals", "latents")}
    assert "a photo of a white cat" in top["neg_captions"]
    assert top["neg_vals"][0] <= top["neg_vals"][1] <= top["pos_vals"][1] <= top["pos_vals"][0]
    np.testing.assert_array_equal(top["pos_latents"], FakeCLIP().evaluate_clip_captions(top["pos_captions"]))
    with pytest.raises(UserError, match="class 2 has no direction"):
        analyzer.get_svm_style_top_K(2)
    with pytest.raises(UserError, match="target_c 3 is no class"):
        analyzer.get_svm_style_top_K(3)


def test_the_analyzer_refuses_directions_that_are_not_in_clips_space(fitter, mine):
    with pytest.raises(UserError, match=r"these are in 'latent'; run failure-directions distil with embedding: clip"):
        ClipAnalyzer(result("latent"), fitter, mine, clip=FakeCLIP())


# ---- what comes from WordNet ----------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_caption_configs

    return make_caption_configs


def tiny_wordnet(folder):
    """animal > (dog > (pug, bottom), bird > (Struthio camelus = ostrich, dodo)), in WordNet's format."""
    data = [
        ("00000001", ["animal"], "~ 00000002 n 0000 ~ 00000003 n 0000", "living"),
        ("00000002", ["dog", "Canis_canis"], "@ 00000001 n 0000 ~ 00000004 n 0000 ~ 00000005 n 0000", "barks"),
        ("00000003", ["bird"], "@ 00000001 n 0000 ~ 00000006 n 0000 ~ 00000007 n 0000", "flies"),
        ("00000004", ["pug", "pug-dog"], "@ 00000002 n 0000", "small"),
        ("00000005", ["bottom", "sea_bottom_dog"], "@ 00000002 n 0000", "named badly"),
        ("00000006", ["Struthio_camelus", "ostrich"], "@ 00000003 n 0000", "runs"),
        ("00000007", ["dodo"], "@ 00000003 n 0000", "extinct"),
        ("00000008", ["Struthio", "genus_Struthio"], "", "a genus"),
        ("00000009", ["bottom", "ostrich"], "", "something else"),
    ]
    lines = ["  1 The licence.  "]
    senses = {}
    for offset, lemmas, pointers, gloss in sorted(data, reverse=True):  # the last of these come first as senses
        words = " ".join(f"{lemma} 0" for lemma in lemmas)
        count = len(pointers.split()) // 4
        lines.insert(1, f"{offset} 05 n {len(lemmas):02x} {words} {count:03d} {pointers} | {gloss}")
        for lemma in lemmas:
            senses.setdefault(lemma.lower(), []).append(offset)
    folder.mkdir()
    (folder / "data.noun").write_text("\n".join(lines) + "\n")
    tagged = {"bottom": 1}
    index = [f"{lemma} n {len(of)} 1 @ {len(of)} {tagged.get(lemma, 0)} {' '.join(of)}" for lemma, of in senses.items()]
    (folder / "index.noun").write_text("\n".join(["  1 The licence.  ", *index]) + "\n")
    return folder


def test_nouns_are_living_hyponyms_by_their_common_names(script, tmp_path):
    wordnet = script.WordNet(tiny_wordnet(tmp_path / "wordnet"))
    nouns = script.cifar_nouns(wordnet, {"dog": "dog.1", "bird": "bird.1"})
    assert nouns == {"dog": ["dog", "pug", "sea bottom dog"], "bird": ["bird", "ostrich"]}
    assert wordnet.licence == ["The licence."]


def test_a_synset_is_called_by_its_nearest_ancestor(script, tmp_path):
    wordnet = script.WordNet(tiny_wordnet(tmp_path / "wordnet"))
    assert script.nearest_ancestor(wordnet, "00000004", ("[animal.1]", "dog.1")) == "dog.1"
    assert script.nearest_ancestor(wordnet, "00000006", ("[animal.1]", "dog.1")) == "[animal.1]"
    assert script.nearest_ancestor(wordnet, "00000008", ("[animal.1]", "dog.1")) is None


def test_without_wordnet_the_script_says_what_to_install(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--wordnet", str(tmp_path), "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "apt-get install wordnet-base" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/usr/share/wordnet/data.noun").is_file(), reason="WordNet is not installed")
def test_the_kept_vocabularies_are_what_the_script_writes(script, tmp_path, capsys):
    script.main(["--out", str(tmp_path)])
    for name in ("cifar.yaml", "imagenet.yaml", "kinds/imagenet.yaml"):
        assert (tmp_path / name).read_text() == (ROOT / "src" / "captions" / "configs" / name).read_text()
