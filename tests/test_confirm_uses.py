"""How often confirm images have judged a model is counted, and forgotten rather than failed over."""

import numpy as np
from failure_directions.directions.confirm_uses import ConfirmUses

LABELS, PREDS = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])


def test_uses_are_counted_for_the_same_images_and_model_alone(tmp_path):
    uses = ConfirmUses(tmp_path, LABELS, PREDS)
    assert uses.so_far() == 0
    uses.count()
    uses.count()
    assert ConfirmUses(tmp_path, LABELS, PREDS).so_far() == 2
    assert ConfirmUses(tmp_path, LABELS, LABELS).so_far() == 0


def test_a_damaged_file_or_a_folder_that_is_none_forgets(tmp_path):
    (tmp_path / "confirm_uses.json").write_text("[1, 2")
    assert ConfirmUses(tmp_path, LABELS, PREDS).so_far() == 0
    (tmp_path / "file").touch()
    ConfirmUses(tmp_path / "file", LABELS, PREDS).count()
    assert ConfirmUses(tmp_path / "file", LABELS, PREDS).so_far() == 0
