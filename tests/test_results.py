"""A result's files: written, read, and read as earlier versions wrote them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SCENES_CONFIG
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.report.page import write_report
from failure_directions.svm_utils import SVMFitter
from sklearn.metrics import balanced_accuracy_score

# Written by train_svms.py before files said their format: scenes as in conftest.py, --captions SCENES --unlabeled
# --spurious, without the CSVs of single images and what `environment` says of the machine.
FORMAT_1 = Path(__file__).parent / "fixtures" / "format_1" / "scenes.pt"


def test_a_result_of_the_first_format_is_read_as_it_was_written(tmp_path):
    proc = SVMProcessor(FORMAT_1, get_unlabeled=True)
    assert proc.splits == ("train", "val", "test", "unlabeled")
    assert proc.class_names == SCENES_CONFIG["class_names"]
    fitter = SVMFitter.load(FORMAT_1.with_name("scenes_model.pt"))
    np.testing.assert_array_equal(fitter.cv_scores, proc.cv_scores)
    assert fitter.skipped == proc.skipped
    for split in proc.splits:
        metrics = proc.metrics(split)
        judged = ~np.isnan(metrics["decision_values"])
        expected = balanced_accuracy_score(metrics["ytrue"][judged], metrics["ypred"][judged])
        assert metrics["balanced_accuracy"] == pytest.approx(expected)
    page = write_report(FORMAT_1, tmp_path / "report.html").read_text()
    assert "a photo of a green circle on a brick background" in page
