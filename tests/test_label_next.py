"""Which images to label next: the list of a pool without labels, and the list read back."""

import csv
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from failure_directions.api import find_failures
from failure_directions.commands import find, intervene
from failure_directions.directions.confirmation import Slice
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.directions.results import read_directions
from failure_directions.interventions.label_next import choose_to_label, read_labelled, write_to_label
from failure_directions.report.next_steps import next_steps
from failure_directions.report.slices import summarise_slices
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import save_pt
from PIL import Image

ARCH = "test_resnet"
CLASSES = ("cat", "dog", "hen")


def planted(class_index, rank, direction, intercept=0.0, errors=10):
    """A confirmed failure."""
    name = CLASSES[class_index]
    return Slice(
        id=f"{name}-{rank}",
        rank=rank,
        class_index=class_index,
        class_name=name,
        size=2 * errors,
        rest=10,
        error_rate=0.5,
        rest_error_rate=0.1,
        difference=0.4,
        p_value=0.001,
        beyond_confidence_p=0.5,
        verdict="confirmed",
        wrong_as=1,
        rest_wrong_as=1,
        direction=np.asarray(direction, float),
        intercept=intercept,
        members=np.array([0]),
        found_members=np.array([0]),
        stability=0.5,
    )


def plant(path, slices):
    """Give a result these failures in place of its own."""
    content = torch.load(path, weights_only=True)
    arrays = ("direction", "members", "found_members")
    content["found"]["slices"] = [
        vars(one) | {name: torch.from_numpy(getattr(one, name)) for name in arrays} for one in slices
    ]
    save_pt(content, path)
    return path


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


# ---- the list -------------------------------------------------------------------------------------------------------

VALUES = np.array([[3, 1], [1, np.nan], [2, -2], [-1, np.nan], [0, 5], [5, 0.5]])
GUESSES = np.array([0, 1, 0, 1, 0, 0])


def test_failures_take_the_hardest_images_of_the_class_that_is_guessed():
    """cat-1 has thrice the errors of cat-2: of four images it takes the lowest that are guessed to be cats."""
    slices = [planted(0, 1, [1.0], errors=30), planted(0, 2, [1.0], errors=10)]
    chosen = choose_to_label(list("abcdef"), GUESSES, VALUES, slices, 4)
    assert [(str(one.path), one.guess, one.slice, one.score) for one in chosen] == [
        ("e", "cat", "cat-1", 0),
        ("a", "cat", "cat-1", 3),
        ("f", "cat", "cat-1", 5),
        ("c", "cat", "cat-2", -2),
    ]
    chosen = choose_to_label(list("abcdef"), GUESSES, VALUES, [*slices, planted(1, 1, [1.0])], 4, "equal")
    assert [one.slice for one in chosen].count("dog-1") == 1
    assert str(chosen[-1].path) == "d"


def test_a_pool_that_is_smaller_than_the_budget_is_told():
    with pytest.raises(UserError, match="the pool has 6 images, fewer than the budget of 7"):
        choose_to_label(list("abcdef"), GUESSES, VALUES, [planted(0, 1, [1.0])], 7)


def test_the_list_is_read_back_with_its_labels(tmp_path):
    """With names that a spreadsheet would run, and a pool that lies elsewhere."""
    pool = tmp_path / "lists" / "pool"
    pool.mkdir(parents=True)
    for name in ("=1.png", "b.png", "c.png"):
        (pool / name).touch()
    (tmp_path / "far.png").touch()
    paths = [pool / "=1.png", pool / "b.png", tmp_path / "far.png", pool / "c.png"]
    slices = [planted(0, 1, [1.0])]
    chosen = choose_to_label(paths, np.zeros(4, int), np.arange(4.0)[:, None], slices, 4)
    chosen[0] = replace(chosen[0], path=(pool / "=1.png").relative_to(tmp_path / "lists"))
    write_to_label(tmp_path / "lists" / "l.csv", [replace(one, path=paths[i]) for i, one in enumerate(chosen)])
    rows = table(tmp_path / "lists" / "l.csv")
    assert list(rows[0]) == ["path", "label", "class", "slice", "score"]
    assert [row["path"] for row in rows] == ["pool/=1.png", "pool/b.png", str(tmp_path / "far.png"), "pool/c.png"]
    assert {row["label"] for row in rows} == {""}
    with pytest.raises(UserError, match="has no label yet: fill the column label with cat, dog, hen"):
        read_labelled(tmp_path / "lists" / "l.csv", CLASSES)

    text = (tmp_path / "lists" / "l.csv").read_text().replace("png,,", "png, dog ,", 3)
    (tmp_path / "lists" / "l.csv").write_text(text)
    labelled = read_labelled(tmp_path / "lists" / "l.csv", CLASSES)
    assert labelled.paths == paths[:3]
    assert labelled.labels.tolist() == [1, 1, 1]
    assert (labelled.guesses, labelled.slices, labelled.without) == (["cat"] * 3, ["cat-1"] * 3, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\na.png,cta\n", r"line 2: label is 'cta', which is no class; did you mean cat\?"),
        ("path,label\na.png,cat\n\nno.png,cat\n", "line 4: the image .*no.png does not exist"),
        ("path,label\na.png,cat\na.png,dog\n", "line 3: .*a.png is there twice"),
        ("path,class\na.png,cat\n", "has the columns path, class, but must have path and label"),
    ],
)
def test_a_list_that_cannot_be_read_is_told_with_its_line(tmp_path, text, says):
    (tmp_path / "a.png").touch()
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        read_labelled(tmp_path / "l.csv", CLASSES)


# ---- a result of find -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Images, a model whose outputs differ, and what find makes of them, with failures of cat and dog planted."""
    monkeypatch.setenv("FAILURE_DIRECTIONS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split in ("val", "test"):
        for c, name in enumerate(CLASSES):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 200, (24, 24, 3))
                pixels[..., (c + (i == 0)) % 3] += 50
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    torch.manual_seed(0)
    network = timm.create_model(ARCH, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    features = find.prepare(find.parse_arguments(command(tmp_path))).embeddings
    with torch.no_grad():  # so that no output is the highest for all
        network.fc.bias.copy_(-network.fc.weight @ torch.from_numpy(np.array(features)).mean(0))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    return tmp_path


def command(place, *more, embedding="model"):
    words = ["--images", place / "images", "--model", place / "w.pt", "--arch", f"timm:{ARCH}", *more]
    return [str(word) for word in [*words, "--embedding", embedding, "--device", "cpu"]]


def call(*words):
    intervene.main(["add", *map(str, words)])


@pytest.mark.parametrize("embedding", ["model", "clip:scenes"])
def test_a_pool_is_seen_as_the_images_of_find_were(place, tmp_path, capsys, embedding):
    """Of the test images in one folder, guesses and scores are those of find's own predictions and embeddings."""
    inputs = find.prepare(find.parse_arguments(command(place, embedding=embedding)))
    counts = np.bincount(inputs.preds, minlength=3)
    c, d = np.argsort(-counts)[:2]  # the classes that the network, which is not trained, says most
    assert counts[d] > 4
    svm = place / "o.pt"
    find.main(command(place, "--out", svm, embedding=embedding))
    fitter = read_directions(svm)
    seen = fitter.preprocess(inputs.embeddings)
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(2, seen.shape[1]))
    plant(svm, [planted(int(c), 1, directions[0], 0.1, errors=30), planted(int(d), 1, directions[1], errors=10)])

    pool = tmp_path / "pool"
    (pool / "deeper").mkdir(parents=True)
    test = np.flatnonzero(inputs.split == "test")
    name_of = {}
    for i in test:
        path = pool / ("deeper" if i % 2 else "") / f"{i}.png"
        path.write_bytes(Path(inputs.images[i]).read_bytes())
        name_of[str(path.relative_to(tmp_path))] = i
    (pool / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    capsys.readouterr()
    call("--svm", svm, "--pool", pool, "--budget", 4, "--out", tmp_path / "l.csv", "--device", "cpu")
    told = capsys.readouterr().out
    assert "1 image(s)" in told
    rows = table(tmp_path / "l.csv")
    expected = []
    for k, of, count in ((c, directions[0], 3), (d, directions[1], 1)):
        members = test[inputs.preds[test] == k]
        scores = seen[members] @ of + (0.1 if k == c else 0)
        order = np.argsort(scores)[:count]
        expected += [(members[i], CLASSES[k], f"{CLASSES[k]}-1", scores[i]) for i in order]
    assert [(name_of[row["path"]], row["class"], row["slice"]) for row in rows] == [one[:3] for one in expected]
    np.testing.assert_allclose([float(row["score"]) for row in rows], [one[3] for one in expected], atol=1e-4)

    # Read back, with labels for three of four.
    text = (tmp_path / "l.csv").read_text().replace("png,,", "png,hen,", 3)
    (tmp_path / "done.csv").write_text(text)
    call("--svm", svm, "--labelled", tmp_path / "done.csv", "--out", tmp_path / "more.csv")
    more = table(tmp_path / "more.csv")
    assert [(row["path"], row["label"]) for row in more] == [(row["path"], "hen") for row in rows[:3]]
    assert "3 images with their labels; 1 have none" in capsys.readouterr().out


def test_what_a_pool_cannot_be_seen_with_is_told(place, tmp_path, capsys):
    svm = place / "o.pt"
    find.main(command(place, "--out", svm))
    d = read_directions(svm).coef.shape[1]
    (tmp_path / "empty").mkdir()
    call("--svm", plant(svm, []), "--pool", place / "images", "--budget", 2, "--out", tmp_path / "l.csv")
    assert "is confirmed, so that there is nothing to mend" in capsys.readouterr().out
    plant(svm, [planted(c, 1, np.ones(d)) for c in range(3)])
    content = torch.load(svm, weights_only=True)
    save_pt(content | {"made_from": {}}, place / "arrays.pt")
    other = content["made_from"] | {"command": "failure-directions find --predictions t.csv --embeddings e.npy"}
    save_pt(content | {"made_from": other}, place / "table.pt")
    for name in ("arrays", "table"):
        (place / f"{name}_model.pt").write_bytes((place / "o_model.pt").read_bytes())
    out, images = tmp_path / "l.csv", place / "images"
    common = ["--budget", 2, "--out", out]
    for words, says in (
        (["--svm", svm, "--pool", tmp_path / "nowhere", *common], "is no folder"),
        (["--svm", svm, "--pool", tmp_path / "empty", *common], "holds no images that can be read"),
        (
            ["--svm", svm, "--pool", images, "--budget", 100, "--out", out],
            "fewer than the bud",
        ),
        (["--svm", place / "arrays.pt", "--pool", images, *common], "does not say by which model"),
        (["--svm", place / "table.pt", "--pool", images, *common], "was made from predictions"),
        (["--svm", svm, "--pool", images, "--by", "random", *common], "--by random does not go with --pool"),
        (
            ["--svm", svm, "--labelled", tmp_path / "no.csv", "--out", out],
            "does not exist; give the CSV",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            call(*words)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert not (tmp_path / "l.csv").exists()


def test_a_pool_is_offered_where_a_result_says_how_to_see_it():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(600, 4)), np.repeat([0, 1], 300)
    found = find_failures(labels, np.where((labels == 0) & (x[:, 0] > 0.8), 1, labels), x, jobs=1)
    assert found.confirmed
    result = found.analysis.result
    tested = summarise_slices(SVMProcessor.of(result))

    def offered(command):
        made = replace(result, made_from={"command": command})
        lines = [line for step in next_steps(made, Path("out.pt"), tested) for line in step.commands]
        return [shlex.split(line)[2:] for line in lines if "--pool" in line]

    (words,) = offered("failure-directions find --images my --model timm:resnet18 --out out.pt")
    parsed = intervene.parse_arguments(words)
    assert (parsed.svm, parsed.budget, parsed.out) == ("out.pt", 200, "to_label.csv")
    assert offered("failure-directions find --predictions t.csv --embeddings e.npy") == []
