"""Words are learned where a slice was found and tested where it was confirmed."""

import csv
from dataclasses import replace

import failure_directions as fd
import numpy as np
import pytest
import torch
from failure_directions.captions import columns, describing, labels, qualities
from failure_directions.captions.describing import in_words
from failure_directions.captions.statements import (
    GOES_WITH,
    NAMES,
    SHOWN,
    auroc_interval,
    best_cut,
    held_statements,
    separations,
)
from failure_directions.commands import find as find_command
from failure_directions.data.scene_drawing import COLOURS
from failure_directions.data.scenes import make_split, planted_setting
from failure_directions.directions.results import WordRow
from failure_directions.models.own_models import from_module
from failure_directions.runtime.english import with_article
from failure_directions.runtime.errors import UserError
from PIL import Image
from sklearn.metrics import roc_auc_score


@pytest.fixture(scope="module")
def planted():
    """2,000 images of one class, of which the dark ones, a fifth, fail; and what else is known of them."""
    rng = np.random.default_rng(0)
    n = 2000
    x, dark = rng.normal(size=(n, 8)), rng.random(n) < 0.2
    x[dark, 0] += 5
    wrong = rng.random(n) < np.where(dark, 0.7, 0.05)
    images = rng.integers(60, 200, (n, 8, 8, 3), dtype=np.uint8)
    images[dark] //= 3
    metadata = {f"random {k}": rng.choice(list("abc"), n).tolist() for k in range(100)}
    first = dark | (rng.random(n) < 0.3)
    second = dark | (rng.random(n) < 0.3)
    metadata |= {"site": np.where(first, "A", "B").tolist(), "camera": np.where(second, "old", "new").tolist()}
    metadata |= {"copy": wrong.tolist(), "empty": [""] * n, "name": [f"image {i}" for i in range(n)]}
    return {"x": x, "wrong": wrong, "images": images, "metadata": metadata}


def find(planted, **more):
    return fd.find_failures(np.zeros(2000, int), planted["wrong"].astype(int), planted["x"], jobs=1, **more)


def test_the_planted_quality_comes_first_and_is_kept(planted, tmp_path):
    found = find(planted, images=planted["images"])
    assert found.confirmed
    assert not found.words
    described = found.describe()
    first = described.words[0]
    assert (first.source, first.statement, first.verdict) == ("qualities", "darker", NAMES)
    described.save(tmp_path / "OUT.pt")
    assert (tmp_path / "OUT_words.csv").is_file()
    assert [row.statement for row in fd.load(tmp_path / "OUT.pt").words] == [row.statement for row in described.words]
    fd.load(tmp_path / "OUT.pt").save(tmp_path / "again.pt")
    assert (tmp_path / "again_words.csv").read_bytes() == (tmp_path / "OUT_words.csv").read_bytes()
    assert in_words(described.words).startswith("these images are darker (AUROC")
    assert in_words([]) == "no words found"


def test_the_planted_pair_is_named_and_no_random_column_is(planted):
    described = find(planted, metadata=planted["metadata"]).describe("metadata")
    first = described.words[0]
    assert first.verdict == NAMES
    assert "site is A" in first.statement
    assert "camera is old" in first.statement
    assert not [row for row in described.words if row.verdict == NAMES and "random" in row.statement]
    assert {"copy", "empty", "name"} == {note.split()[1] for note in described.notes if note.startswith("column ")}


def test_permuted_metadata_gives_no_word(planted):
    rng = np.random.default_rng(1)
    shuffled = {name: rng.permutation(planted["metadata"][name]).tolist() for name in ("site", "camera")}
    described = find(planted, metadata=shuffled).describe()
    assert described.confirmed
    assert not [row for row in described.words if row.verdict == NAMES]


def test_aurocs_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    scores, members = rng.integers(0, 9, (80, 3)).astype(float), rng.random(80) < 0.3
    expected = [roc_auc_score(members, column) for column in scores.T]
    assert np.allclose(separations(scores, members), expected)
    auroc, low, high = auroc_interval(scores[:, 0], members)
    assert auroc == pytest.approx(expected[0])
    assert low < auroc < high
    assert auroc_interval(np.arange(6.0), np.arange(6) > 2)[1] < 1
    assert best_cut(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])) == 3


def test_numbers_and_dates_say_their_cut():
    values = {"age": ["30", "", "62", "70"], "day": ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]}
    told, _ = columns.read_columns(values, np.array([0, 1, 1, 0]), np.array([True, True, False, False]))
    texts, scores, _ = columns.statements(told, np.arange(4), np.arange(4), lambda scores: scores.mean(0))
    assert columns.said(texts[0], 62) == "age >= 62"
    assert columns.said(texts[1], -62) == "age <= 62"
    assert columns.said(texts[3], scores[0, 3]) == "day <= 2024-01-01"


def test_qualities_tell_what_was_done_to_an_image():
    image = np.random.default_rng(3).integers(80, 176, (16, 16, 3), dtype=np.uint8)
    framed = np.zeros_like(image)
    framed[2:-2, 2:-2] = image[2:-2, 2:-2]
    grey = np.repeat(image[:, :, :1], 3, axis=2)
    plain, dark, bordered, drained = qualities.measure([image, image // 2, framed, grey])
    at = {name: i for i, (name, _, _) in enumerate(qualities.QUALITIES)}
    assert dark[at["brightness"]] < plain[at["brightness"]]
    assert bordered[at["border"]] > plain[at["border"]]
    assert drained[at["saturation"]] < plain[at["saturation"]]


def test_unknown_sources_are_told(planted):
    found = find(planted)
    with pytest.raises(UserError, match="no source of words 'smell'"):
        found.describe(["smell"])
    with pytest.raises(UserError, match="metadata says nothing"):
        found.describe("metadata")
    with pytest.raises(UserError, match="images"):
        found.describe("qualities")
    assert not found.describe().words


def brightness_labels(labels):
    """A classifier that sees how bright an image is: dark, bright, and a label that says nothing."""

    class Brightness(torch.nn.Module):
        def forward(self, images):
            light = images.mean((1, 2, 3))
            return torch.stack([-light, light, torch.zeros_like(light)], dim=1)

    def preprocess(image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1) / 25

    return from_module(Brightness(), preprocess, labels)


def test_the_label_of_a_classifier_names_the_slice(planted):
    model = brightness_labels(["night, darkness", "day", "wallpaper"])
    described = find(planted, images=planted["images"]).describe("labels", classifier=model)
    first = described.words[0]
    assert (first.source, first.statement, first.verdict) == ("labels", "looks like a night", NAMES)


def test_a_classifier_without_names_is_refused(planted):
    found = find(planted, images=planted["images"])
    with pytest.raises(UserError, match="has no label names"):
        found.describe("labels", classifier=brightness_labels(None))
    with pytest.raises(UserError, match="has no label names"):  # names of other outputs are none
        found.describe("labels", classifier=brightness_labels(["night", "day"]))


def test_a_kind_is_said_only_where_it_tells_more_than_each_of_its_labels_and_is_seen():
    texts = ["cat", "dog", "car", "animal", "thing"]
    statements = labels.Labels(None, texts, (np.array([0, 1]), np.array([0, 2])))
    separation, members = np.array([0.7, 0.6, 0.9, 0.8, 0.85]), np.array([True, True, False])
    seen = np.log([[0.5, 0.1, 0.4, 0.6, 0.9]] * 2 + [[1e-6] * 5])
    assert statements.worth_saying(separation, seen, members).tolist() == [True, True, True, True, False]
    seen[:, 2] = np.log(1e-4)
    assert statements.worth_saying(separation, seen, members).tolist() == [True, True, False, True, False]


def test_kinds_are_of_imagenets_labels():
    from timm.data import ImageNetInfo

    info, kinds = ImageNetInfo(), labels.read_kinds()
    dogs = {info.index_to_description(i).split(",")[0] for i in kinds["dog"]}
    assert {"beagle", "pug"} <= dogs
    assert "tabby" not in dogs
    assert all(2 <= len(of) <= 500 and len(set(of.tolist())) == len(of) for of in kinds.values())
    assert max(of.max() for of in kinds.values()) < 1000


def test_captions_of_the_embedded_clip_name_the_planted_colour(tmp_path):
    scene = planted_setting("noise", 1, n_plants=1, train=0, val=300, test=300, unlabeled=0)
    plant = scene.plants[0]
    parts = [make_split(scene, name) for name in ("val", "test")]
    images = [split.image(i) for split in parts for i in range(len(split))]
    labels_, shapes, colours = (np.concatenate([getattr(p, n) for p in parts]) for n in ("label", "shape", "colour"))
    split = np.repeat(["val", "test"], [len(part) for part in parts])
    hit = (shapes == plant.shape) & (colours == plant.value)
    preds = np.where(hit, (labels_ + 1) % len(scene.classes), labels_)
    of_class = np.flatnonzero(shapes == plant.shape)
    x = fd.embed([images[i] for i in of_class], "clip:scenes", cache=False, quiet=True)
    found = fd.find_failures(
        labels_[of_class],
        preds[of_class],
        x,
        split=split[of_class],
        images=[images[i] for i in of_class],
        class_names=list(scene.classes),
        jobs=1,
    )
    assert found.confirmed
    listed = tmp_path / "captions.txt"
    listed.write_text("\n".join(f"a photo of {with_article(f'{colour} {plant.shape}')}" for colour in COLOURS))
    described = found.describe("captions", captions=listed, clip="scenes")
    assert described.words[0].source == "captions"
    assert plant.value in described.words[0].statement


def test_a_statement_that_names_another_class_is_a_direction_towards_it():
    assert describing._towards("a young woman", "old", ["young"]) == "towards the class young: a young woman"
    assert describing._towards("a younger woman", "old", ["young"]) == "a younger woman"
    assert describing._towards("an old and a young woman", "old", ["young"]) == "an old and a young woman"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("captions.txt", "do not exist"), ("NOSET", "no caption set or file"), ([" "], "hold no text")],
)
def test_captions_that_are_none_are_told(planted, text, reason):
    with pytest.raises(UserError, match=reason):
        find(planted, images=planted["images"]).describe("captions", captions=text, clip="scenes")


def test_the_command_says_the_words(planted, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    rows = ["path,label,split,pred,site"]
    for i in range(800):
        Image.fromarray(planted["images"][i]).save(folder / f"{i}.png")
        pred = "wrong" if planted["wrong"][i] else "cat"
        rows.append(f"images/{i}.png,cat,{'val' if i % 2 else 'test'},{pred},{planted['metadata']['site'][i]}")
    rows.append("images/0.png,wrong,val,wrong,A")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    np.save(tmp_path / "e.npy", np.concatenate([planted["x"][:800], planted["x"][:1]]))
    words = ["--predictions", str(tmp_path / "table.csv"), "--embeddings", str(tmp_path / "e.npy")]
    words += ["--out", str(tmp_path / "OUT.pt"), "--describe", "qualities,metadata"]
    find_command.main([*words, "--skip-broken"])
    assert "darker (AUROC" in capsys.readouterr().out
    assert (tmp_path / "OUT_words.csv").is_file()
    for wrong, reason in ((["--describe", "smells"], "no source of words 'smells'"), (["--captions", "x.txt"], "")):
        with pytest.raises(SystemExit) as ended:
            find_command.main([*words[:-2], *wrong])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err


def test_the_report_says_the_words_and_escapes_them(planted, tmp_path):
    metadata = {"<b>site</b>": planted["metadata"]["site"]}
    found = find(planted, images=planted["images"], metadata=metadata)
    plain = found.report(tmp_path / "plain.html").read_text()
    assert "In words:" not in plain
    described = found.describe(["qualities", "metadata"])
    page = described.report(tmp_path / "described.html").read_text()
    assert "In words: these images are darker (AUROC" in page
    assert "<b>site" not in page
    described.save(tmp_path / "OUT.pt")
    again = fd.load(tmp_path / "OUT.pt").report(tmp_path / "again.html").read_text()
    assert "In words: these images are darker (AUROC" in again
    found.save(tmp_path / "OUT.pt")
    assert "In words:" not in fd.load(tmp_path / "OUT.pt").report(tmp_path / "again.html").read_text()


def test_what_speaks_against_a_statement_is_kept_and_shown(planted, tmp_path):
    """Images that are dark and not of the slice, and bright ones of it."""
    rng = np.random.default_rng(3)
    images = planted["images"].copy()
    swapped = rng.random(len(images)) < 0.05
    images[swapped] = np.where(images[swapped] < 67, images[swapped] * 2 + 60, images[swapped] // 3)
    described = find(planted, images=images).describe("qualities")
    row, one = described.words[0], described.analysis.result.found.confirmed[0]
    assert row.verdict == NAMES
    split = described.analysis.result.splits[described.analysis.result.found.confirm]
    brightness = images.mean(axis=(1, 2, 3))[split.indices]
    elsewhere, inside = ([int(i) for i in side.split()] for side in (row.holds_elsewhere, row.fails_inside))
    assert 0 < len(elsewhere) <= SHOWN
    assert 0 < len(inside) <= SHOWN
    assert not set(elsewhere) & set(one.members.tolist())
    assert set(inside) <= set(one.members.tolist())
    assert brightness[elsewhere].max() < brightness[inside].min()

    page = described.report(tmp_path / "page.html").read_text()
    assert "holds of these, which are not of the slice" in page
    names = {}
    for word in described.words:
        if word.verdict == NAMES:
            names.setdefault(word.slice, word)
    assert page.count('alt="Fails inside') == sum(len(word.fails_inside.split()) for word in names.values())
    # A table from before these columns.
    described.save(tmp_path / "OUT.pt")
    with open(tmp_path / "OUT_words.csv", newline="") as stream:
        rows = [line[:-2] for line in csv.reader(stream)]
    with open(tmp_path / "OUT_words.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert fd.load(tmp_path / "OUT.pt").words[0] == replace(row, holds_elsewhere="", fails_inside="")


def test_the_images_that_speak_against_a_statement_are_those_of_its_cut():
    rng = np.random.default_rng(0)
    members = rng.random((2, 400)) < 0.3
    find_scores, scores = (rng.normal(size=(400, 1)) + 1.5 * of[:, None] for of in members)
    (held,) = held_statements(find_scores, members[0], scores, members[1], rng.random(400) < 0.3, ["a"], 0.1)
    outside = [i for i in np.argsort(-scores[:, 0]) if scores[i, 0] >= held.cut and not members[1, i]]
    inside = [i for i in np.argsort(scores[:, 0]) if scores[i, 0] < held.cut and members[1, i]]
    assert list(held.holds_elsewhere) == outside[:SHOWN]
    assert list(held.fails_inside) == inside[:SHOWN]


def test_statements_of_a_source_share_a_verb():
    row = WordRow(
        **{"class_name": "a", "slice": "a-1", "source": "labels", "statement": "looks like a truck", "verdict": NAMES},
        **{"separation": 0.9, "auroc": 0.9, "low": 0.8, "high": 1.0, "holds": 9, "error_rate": 0.5},
        **{"rest_error_rate": 0.1, "p_value": 0.001},
    )
    rows = [row, replace(row, statement="looks like a van"), replace(row, source="qualities", statement="darker")]
    named = "these images look like a truck (AUROC 0.90), a van (AUROC 0.90) and are darker (AUROC 0.90)"
    assert in_words(rows) == named
    goes = replace(row, source="captions", statement="a photo at night", verdict=GOES_WITH)
    assert in_words([row, goes]).endswith("; they fit “a photo at night” (AUROC 0.90), without errors of its own")
