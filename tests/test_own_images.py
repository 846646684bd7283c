"""One's own image files, trained on here: the way from a file to whatever names it, and back."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.commands import betons, distil, export, find, intervene, report, train
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.extra_images import extra_images_split
from failure_directions.directions.exports import image_columns
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.directions.results import read_directions, read_result
from failure_directions.runtime.errors import UserError
from PIL import Image

from tests.test_label_next import plant, planted

SVM_CONFIG = str(Path(__file__).parents[1] / "svm_configs" / "normalized_svm_latent_config.yaml")
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """my_images/ as betons with a pool, a run of one epoch, and its result, all made by the commands."""
    place = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    rows = ["path,label,split,ward"]
    for split, count in (("train", 48), ("val", 30), ("test", 30), ("unlabeled", 20)):
        for c, name in enumerate(CLASSES):
            for i in range(count):
                path = place / "my_images" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (20, 20, 3))
                pixels[..., c if i % 4 else 1 - c] //= 2  # every fourth looks like the other class
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                rows.append(f"{path.relative_to(place)},{name},{split},w{i % 3}")
    (place / "list.csv").write_text("\n".join(rows))
    out = place / "data"
    betons.main(["manifest", "--data", str(place / "list.csv"), "--out", str(out), "--name", "mine", "--workers", "1"])
    config = ["-c", str(out / "mine.yaml"), "--root", str(out)]
    fast = ["--override", "training.epochs=4", "--override", "training.lr_scheduler.lr_peak_epoch=1"]
    fast += ["--override", "batch_size=16"]
    train.main([*config, *fast, "--runs", str(place / "runs"), "--exp-name", "mine"])
    call = [*config, *fast, "-s", SVM_CONFIG, "--unlabeled", "--out-file", str(place / "OUT.pt")]
    distil.main([*call, "--model-path", str(place / "runs" / "mine"), "--jobs", "1"])
    return place


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_result_on_betons_names_the_files_in_all_that_it_leaves(place, tmp_path, capsys):
    result = read_result(place / "OUT.pt")
    for split, metrics in result.splits.items():
        for path, c in zip(metrics.paths, metrics.classes, strict=True):
            assert Path(path).is_file()
            assert Path(path).parts[-3:-1] == (split, CLASSES[c])
    rows = table(place / "OUT_test.csv")
    assert [row["path"] for row in rows] == result.splits["test"].paths
    assert {row["ward"] for row in rows} == {"w0", "w1", "w2"}
    page = tmp_path / "report.html"
    report.main(["--svm", str(place / "OUT.pt"), "--report", str(page)])
    assert f'data-path="{place}' in page.read_text()
    assert result.args["model_path"].endswith("version_0/checkpoints/checkpoint_last.pt")


def test_the_stored_pixels_are_shown_and_the_files_where_the_beton_is_gone(place, tmp_path):
    proc = SVMProcessor(place / "OUT.pt")
    stored = list(proc.images("test", [3, 5]))
    gone = SVMProcessor(place / "OUT.pt", root=tmp_path)
    for image, other in zip(stored, gone.images("test", [3, 5]), strict=True):
        np.testing.assert_array_equal(image, other)


def test_chosen_images_are_listed_by_their_files(place, tmp_path, capsys):
    out = tmp_path / "add.pt"
    intervene.main(["add", "--svm", str(place / "OUT.pt"), "--per-class", "3", "--unconfirmed", "--out", str(out)])
    rows = table(tmp_path / "add.csv")
    pool = SVMProcessor(place / "OUT.pt", get_unlabeled=True).metrics("unlabeled")
    file_of = dict(zip(pool["indices"].tolist(), pool["paths"], strict=True))
    assert rows
    assert [row["path"] for row in rows] == [file_of[int(row["index"])] for row in rows]
    assert str(tmp_path / "add.csv") in capsys.readouterr().out


def test_a_pool_without_labels_is_seen_as_the_images_of_the_betons_were(place, tmp_path, capsys):
    """With the single directions as slices, images that were tested have the decision values that the result has."""
    for ending in ("", "_model"):
        (tmp_path / f"OUT{ending}.pt").write_bytes((place / f"OUT{ending}.pt").read_bytes())
    fitter = read_directions(place / "OUT.pt")
    classes = [c for c in range(2) if c not in fitter.skipped]
    slices = [planted(c, 1, fitter.coef[c], float(fitter.intercept[c])) for c in classes]
    assert slices
    svm = plant(tmp_path / "OUT.pt", slices)
    test = read_result(svm).splits["test"]
    pool, known = tmp_path / "pool", {}
    pool.mkdir()
    for i in np.flatnonzero((test.preds == test.classes) & np.isin(test.classes, classes)):
        (pool / f"{i}.png").write_bytes(Path(test.paths[i]).read_bytes())
        known[f"pool/{i}.png"] = (CLASSES[test.classes[i]], test.decision_values[i])
    (pool / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    budget = min(len([1 for name, _ in known.values() if name == CLASSES[c]]) for c in classes)
    words = ["add", "--svm", str(svm), "--budget", str(budget), "--pool", str(pool), "--out", str(tmp_path / "l.csv")]
    intervene.main([*words, "--device", "cpu"])
    assert "1 image(s)" in capsys.readouterr().out
    rows = table(tmp_path / "l.csv")
    assert len(rows) == budget
    assert [row["class"] for row in rows] == [known[row["path"]][0] for row in rows]
    np.testing.assert_allclose(
        [float(row["score"]) for row in rows], [known[row["path"]][1] for row in rows], atol=1e-3
    )

    # Labelled, they are trained on.
    text = (tmp_path / "l.csv").read_text().replace("png,,", "png,dog,")
    (tmp_path / "l.csv").write_text(text)
    more = ["add", "--svm", str(svm), "--labelled", str(tmp_path / "l.csv"), "--out"]
    with pytest.raises(SystemExit):
        intervene.main([*more, str(place / "data" / "more.csv")])
    assert "training takes a table from above its images" in capsys.readouterr().err
    intervene.main([*more, str(tmp_path / "more.csv")])
    config = load_dataset_config(place / "data" / "mine.yaml")
    split = extra_images_split(tmp_path / "more.csv", config, tmp_path / "extra.beton")
    assert split.column("label").tolist() == [1] * budget


@pytest.mark.parametrize(
    ("epoch", "said"),
    [(0, "is of 0 finished epochs, a network that is not trained"), (2, "interrupted run: 2 of 4 epochs")],
)
def test_a_model_that_is_untrained_or_interrupted_is_named_as_such(place, tmp_path, epoch, said, capsys):
    content = torch.load(
        place / "runs" / "mine" / "version_0" / "checkpoints" / "checkpoint_last.pt", weights_only=True
    )
    content["run_metadata"]["epoch"] = epoch
    torch.save(content, tmp_path / "checkpoint_last.pt")
    config = ["-c", str(place / "data" / "mine.yaml"), "-s", SVM_CONFIG, "--root", str(place / "data"), "--jobs", "1"]
    call = [*config, "--model-path", str(tmp_path / "checkpoint_last.pt"), "--out-file", str(tmp_path / "OUT.pt")]
    if epoch == 0:
        with pytest.raises(SystemExit):
            distil.main(call)
    else:
        distil.main(call)
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert (tmp_path / "OUT.pt").exists() == (epoch > 0)


# ---- exports --------------------------------------------------------------------------------------------------------


def exported(place, form, out, *words):
    export.main([str(out), "--to", form, "--svm", str(place / "OUT.pt"), *words])
    return out


def test_a_csv_has_a_row_an_image_and_is_read_by_find(place, tmp_path, capsys):
    path = exported(place, "csv", tmp_path / "images.csv", "--splits", "val", "test")
    result = read_result(place / "OUT.pt")
    rows = table(path)
    assert len(rows) == 120
    np.testing.assert_allclose(
        [float(row["decision_value"] or "nan") for row in rows[60:]], result.splits["test"].decision_values
    )
    assert [row["pred"] for row in rows[:60]] == [CLASSES[c] for c in result.splits["val"].preds]
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(120, 4)))
    arguments = find.parse_arguments(["--predictions", str(path), "--embeddings", str(tmp_path / "e.npy")])
    inputs = find.prepare(arguments)
    assert inputs.labels.tolist() == [*result.splits["val"].classes, *result.splits["test"].classes]
    assert inputs.metadata["ward"][:4] == ["w0", "w1", "w2", "w0"]


def test_failures_are_named_on_the_images_that_lie_in_them(place):
    import failure_directions as fd

    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(600, 6))
    labels, preds = np.zeros(600, int), (embeddings[:, 0] > 1).astype(int)
    images = [np.full((4, 4, 3), i % 256, np.uint8) for i in range(600)]
    found = fd.find_failures(labels, preds, embeddings, images=images, class_names=["a", "b"], jobs=1)
    columns = image_columns(SVMProcessor.of(found.analysis.result, images=images), ["val", "test"])
    (one,) = found.confirmed
    named = [index for index, name in zip(columns["index"], columns["failure"], strict=True) if name == one.id]
    assert sorted(named) == sorted([*one.members, *one.found_members])
    assert "conf" not in columns  # no probabilities were given


@pytest.mark.parametrize("form", ["fiftyone", "spotlight"])
def test_tools_that_show_files_are_given_pngs_of_images_in_betons(place, form, tmp_path):
    """Of a result that knows no files, as those of betons of earlier versions."""
    whole = read_result(place / "OUT.pt")
    for split in whole.splits.values():
        object.__setattr__(split, "paths", None)
    proc, out = SVMProcessor.of(whole), tmp_path / "out"
    from failure_directions.directions.exports import export as write

    write(proc, form, out, ["test"])
    if form == "fiftyone":
        samples = json.loads((out / "samples.json").read_text())["samples"]
        files = [sample["filepath"] for sample in samples]
        assert [sample["ground_truth"]["label"] for sample in samples] == [
            CLASSES[c] for c in whole.splits["test"].classes
        ]
        kinds = json.loads((out / "metadata.json").read_text())["sample_fields"]
        assert set(samples[0]) - {"_media_type"} == set(kinds) - {"id"}
    else:
        files = [row["image"] for row in table(out / "table.csv")]
    for file, image in zip(files, proc.images("test", range(60)), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
    with pytest.raises(UserError, match="is there already; name a new folder"):
        write(proc, form, out, ["test"])


def test_parquet_and_datasets_hold_the_same_rows(place, tmp_path):
    parquet, datasets = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("datasets")
    wanted = image_columns(SVMProcessor(place / "OUT.pt"), ["test"])
    found = parquet.read_table(exported(place, "parquet", tmp_path / "x.parquet", "--splits", "test"))
    assert found.to_pydict() == wanted
    saved = datasets.load_from_disk(str(exported(place, "datasets", tmp_path / "saved", "--splits", "test")))["test"]
    assert saved["path"][:] == wanted["path"]
    assert saved.features["label"].names == list(CLASSES)
    np.testing.assert_array_equal(np.asarray(saved[7]["image"]), np.asarray(Image.open(wanted["path"][7])))


@pytest.mark.parametrize(("form", "package"), [("parquet", "pyarrow"), ("datasets", "datasets")])
def test_a_library_that_is_absent_is_told_with_pip_s_line_and_nothing_is_left(
    place, form, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        exported(place, form, tmp_path / "x")
    assert (
        f'this needs {package}, which is not installed: pip install "failure-directions[hf]"' in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
