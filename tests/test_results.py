"""A result's files: written, read, and read as earlier versions wrote them."""

import csv
import warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SCENES_CONFIG
from failure_directions.captions.analyzer import ClipAnalyzer
from failure_directions.config_parsing import DatasetConfig, SVMConfig
from failure_directions.directions.analysis import analyse, with_minority
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.directions.results import (
    FORMAT,
    TABLES,
    AttributeRate,
    CaptionRow,
    DirectionRow,
    MinorityPrecision,
    OutputFiles,
    SliceRow,
    SplitResult,
    SubpopulationRow,
    WordRow,
    read_directions,
    read_result,
    read_table,
    write_analysis,
    write_table,
)
from failure_directions.report.page import write_report
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import save_pt
from failure_directions.svm_utils import SVMFitter
from failure_directions.training.evaluation import Predictions
from sklearn.metrics import balanced_accuracy_score

# Written by train_svms.py before files said their format: scenes as in conftest.py, --captions SCENES --unlabeled
# --spurious, without the CSVs of single images and what `environment` says of the machine.
FORMAT_1 = Path(__file__).parent / "fixtures" / "format_1" / "scenes.pt"


def stored():
    return torch.load(FORMAT_1, weights_only=True)


# ---- the first format -----------------------------------------------------------------------------------------------


def test_a_result_of_the_first_format_is_read_as_it_was_written(tmp_path):
    assert "format" not in stored()
    proc = SVMProcessor(FORMAT_1, get_unlabeled=True)
    assert proc.splits == ("train", "val", "test", "unlabeled")
    assert proc.class_names == SCENES_CONFIG["class_names"]
    fitter = read_directions(FORMAT_1)
    np.testing.assert_array_equal(fitter.cv_scores, proc.cv_scores)
    assert fitter.skipped == proc.skipped
    for split in proc.splits:
        metrics = proc.metrics(split)
        judged = ~np.isnan(metrics["decision_values"])
        expected = balanced_accuracy_score(metrics["ytrue"][judged], metrics["ypred"][judged])
        assert metrics["balanced_accuracy"] == pytest.approx(expected)
    page = write_report(FORMAT_1, tmp_path / "report.html").read_text()
    assert "a photo of a green circle on a brick background" in page


def test_the_objects_hold_what_the_file_holds():
    content = stored()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = read_result(FORMAT_1)
    assert result.dataset_config == DatasetConfig(**SCENES_CONFIG)
    assert result.svm_config == SVMConfig(clip_model="scenes")
    assert result.args == content["args"]
    assert result.environment == content["environment"]
    assert result.train_labels_digest == content["train_labels_digest"]
    assert result.extra_indices is result.bce_threshold is None
    assert list(result.splits) == ["train", "val", "test", "unlabeled"]
    for name, split in result.splits.items():
        entry = content[f"{name}_metrics"]
        for field in fields(SplitResult):
            value = getattr(split, field.name)
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, entry[field.name].numpy())
            else:
                assert value == entry.get(field.name)
        np.testing.assert_array_equal(split.flagged, content[f"predicted_{name}_errors"].numpy())


@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind not in (SliceRow, DirectionRow, WordRow)])
def test_the_tables_beside_it_are_read_and_written_byte_for_byte(kind, tmp_path):
    rows = read_table(FORMAT_1, kind)
    assert rows
    write_table(tmp_path / "again.csv", kind, rows)
    again = (tmp_path / "again.csv").read_bytes()
    if kind is CaptionRow:  # format 1 knew no slices
        again = again.replace(b"class,slice,", b"class,").replace(b",,", b",")
    assert again == OutputFiles(FORMAT_1).of(kind).read_bytes()


def test_the_analyzer_takes_the_clip_that_the_result_says():
    analyzer = ClipAnalyzer(SVMProcessor(FORMAT_1), FORMAT_1.with_name("scenes_model.pt"), "SCENES", device="cpu")
    top = analyzer.get_svm_style_top_K(target_c=0, K=10)
    rows = [row for row in read_table(FORMAT_1, CaptionRow) if (row.class_name, row.side) == ("circle", "hard")]
    assert top["neg_captions"][:3] == [row.caption for row in rows][:3]
    np.testing.assert_allclose(top["neg_vals"], [row.score for row in rows], atol=1e-4)  # another machine's CLIP


# ---- other versions -------------------------------------------------------------------------------------------------


def test_options_that_this_version_does_not_know_are_left_out_and_said(tmp_path):
    content = stored()
    content["dataset_config"]["training"]["lookahead"] = {"steps": 5}
    content["dataset_config"]["prompt"] = "a photo"
    content["svm_config"]["kernel"] = "linear"
    save_pt(content, tmp_path / "svm.pt")
    with pytest.warns(UserWarning, match=r"svm\.pt: .* does not know") as said:
        result = read_result(tmp_path / "svm.pt")
    assert [str(warning.message).partition("svm.pt: ")[2] for warning in said] == [
        "dataset_config has what this version does not know: training.lookahead, prompt",
        "svm_config has what this version does not know: kernel",
    ]
    assert result.dataset_config == DatasetConfig(**SCENES_CONFIG)
    with pytest.warns(UserWarning, match="does not know"):
        proc = SVMProcessor(tmp_path / "svm.pt")
    assert proc.dataset_config["prompt"] == proc.result["dataset_config"]["prompt"] == "a photo"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": FORMAT + 1}, rf"is of format {FORMAT + 1}, which takes a newer version than this"),
        ({"format": "2"}, "is damaged: format is not a number"),
        ({"format": True}, "is damaged: format is not a number"),
        ({"dataset_config": {"train_beton": "x"}}, "is damaged: dataset_config lacks the key"),
        ({"svm_config": {"embedding": "words"}}, "is damaged: svm_config: embedding is 'words'"),
        ({"environment": 3}, "is damaged: environment"),
        ({"bce_threshold": "high"}, "is damaged: bce_threshold"),
        ({"made_from": {"model": 3}}, "is damaged: made_from is not sentences"),
        ({"notes": "one"}, "is damaged: notes is not sentences"),
    ],
)
def test_what_is_of_a_newer_format_or_damaged_is_refused_in_a_sentence(changes, says, tmp_path):
    save_pt(stored() | changes, tmp_path / "svm.pt")
    with pytest.raises(
        UserError, match=rf"svm\.pt {says}.*; make it with failure-directions distil of this version"
    ) as refusal:
        read_result(tmp_path / "svm.pt")
    assert "\n" not in str(refusal.value)


# ---- an analysis ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    """Predictions, latents and `spurious` of three classes; in two of them the errors lie on one side, one has none."""
    rng = np.random.default_rng(0)
    predictions, latents, spurious = {}, {}, {}
    for name, n in (("train", 90), ("val", 300), ("test", 150)):
        labels = np.arange(n) % 3
        side = rng.normal(size=n)
        right = (side > -0.5) | (labels == 2)
        latents[name] = np.column_stack([side + 0.3 * rng.normal(size=n), rng.normal(size=(n, 5))]).astype(np.float32)
        preds, confs = np.where(right, labels, (labels + 1) % 3), rng.random(n).astype(np.float32)
        predictions[name] = Predictions(np.arange(n), labels, preds, confs)
        spurious[name] = (side < -1).astype(np.int64)
    return predictions, latents, spurious


CONFIGS = {
    "dataset_config": DatasetConfig(
        train_beton="a.beton", test_beton="b.beton", imgsz=32, arch="resnet18", arch_type="resnet", num_classes=3
    ),
    "svm_config": SVMConfig(embedding="latent"),
}


@pytest.fixture
def found(drawn):
    predictions, latents, spurious = drawn
    found = analyse(predictions, latents, ["cat", "dog", "owl"], CONFIGS["svm_config"], spurious=spurious, jobs=1)
    return replace(found, result=replace(found.result, dataset_config=CONFIGS["dataset_config"], args={"jobs": 1}))


def test_an_analysis_is_what_the_fitter_says_of_each_split(found, drawn, capsys):
    predictions, latents, _ = drawn
    fitter = SVMFitter()
    fitter.set_preprocess(latents["train"])
    val = predictions["val"]
    scores = fitter.fit(preds=val.preds, ys=val.labels, latents=latents["val"])
    np.testing.assert_array_equal(found.result.cv_scores, scores)
    assert found.result.skipped == fitter.skipped == {2: "no errors among 100 validation images"}
    for name, split in found.result.splits.items():
        mask, values = fitter.predict(predictions[name].labels, latents[name])
        np.testing.assert_array_equal(split.decision_values, values)
        np.testing.assert_array_equal(split.flagged, mask == 0)
    assert capsys.readouterr().out == ""


def test_its_stages_can_be_watched(drawn):
    predictions, latents, _ = drawn
    names = []

    class Stage:
        def __init__(self, name):
            names.append(name)

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    analyse(predictions, latents, ["cat", "dog", "owl"], SVMConfig(), jobs=1, stage=Stage)
    assert names == ["whitening", "SVMs", "decision values", "what train images look like"]


def test_what_is_written_is_read_again(found, tmp_path):
    found = with_minority(replace(found, result=replace(found.result, extra_indices=np.arange(4), bce_threshold=0.25)))
    files = OutputFiles.named(tmp_path / "out" / "svm")
    write_analysis(files, found)
    assert torch.load(files.result, weights_only=True)["format"] == FORMAT
    result = read_result(files.result)
    for field in fields(result):
        before, after = getattr(found.result, field.name), getattr(result, field.name)
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(after, before)
        elif field.name != "splits":
            assert after == before
    for name, split in result.splits.items():
        for field in fields(split):
            np.testing.assert_array_equal(getattr(split, field.name), getattr(found.result.splits[name], field.name))
    for kind in (AttributeRate, MinorityPrecision):
        assert repr(read_table(files.result, kind)) == repr(found.tables[kind])  # shares of nothing are NaN
    assert read_table(files.result, CaptionRow) == []
    with open(files.beside("test.csv"), newline="") as stream:
        assert [int(row["spurious"]) for row in csv.DictReader(stream)] == result.splits["test"].spuriouses.tolist()
    fitter = read_directions(files.result)
    np.testing.assert_array_equal(fitter.coef, found.fitter.coef)


def test_a_new_result_leaves_nothing_of_the_old_beside_it(found, tmp_path):
    files = OutputFiles.named(tmp_path / "svm.pt")
    write_analysis(files, with_minority(found))
    assert files.of(AttributeRate).exists()
    write_analysis(files, found)
    assert not files.of(AttributeRate).exists()
    assert not files.of(MinorityPrecision).exists()


def test_a_table_that_is_damaged_is_named(tmp_path):
    def says(text, kind=SubpopulationRow):
        OutputFiles(tmp_path / "svm.pt").of(kind).write_text(text)
        with pytest.raises(UserError) as refusal:
            read_table(tmp_path / "svm.pt", kind)
        return str(refusal.value)

    header = "split,class,side,k,accuracy,class_accuracy\n"
    assert "svm_subpopulations.csv lacks the column k; write it again" in says(header.replace("k,", ""))
    assert "(side is 'left')" in says(f"{header}val,cat,left,20,0.5,0.5\n")
    assert "(a line is too short)" in says(f"{header}val,cat,hard,20\n")
    assert "no longer what was written" in says(f"{header}val,cat,hard,many,0.5,0.5\n")
    assert "svm_captions.csv lacks the column caption" in says("class,side,rank,score,z\n", CaptionRow)
    # Early versions did not say the split.
    OutputFiles(tmp_path / "svm.pt").of(SubpopulationRow).write_text(
        "class,side,k,accuracy,class_accuracy\ncat,hard,20,.5,.75\n"
    )
    expected = SubpopulationRow(split="", class_name="cat", side="hard", k=20, accuracy=0.5, class_accuracy=0.75)
    assert read_table(tmp_path / "svm.pt", SubpopulationRow) == [expected]
