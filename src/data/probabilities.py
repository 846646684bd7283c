"""Checks of predicted probabilities."""

import numpy as np

from ..runtime.errors import UserError

SUM_TOLERANCE = 0.02  # probabilities that were rounded to three digits, of some dozens of classes


def check_probabilities(probs, sum_to_one=True, name="probs", place=lambda i: f"row {i}"):
    """Raise `UserError` for the first row of (N, K) that holds no probabilities.

    Args:
        sum_to_one: of one label an image; conditions have one probability each.
        name, place: what the message calls the table, and its row i.
    """
    for start in range(0, len(probs), 65_536):
        rows = np.asarray(probs[start : start + 65_536], dtype=np.float64)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            i = start + int(bad.argmax())
            others = f" (as {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
            raise UserError(f"{name} {place(i)} holds a probability that is NaN or infinite{others}; leave it out")
        bad = ((rows < -1e-6) | (rows > 1 + 1e-6)).any(axis=1)
        if bad.any():
            i = start + int(bad.argmax())
            raise UserError(
                f"{name} {place(i)} has the probability {rows[bad][0].min():.4g} to {rows[bad][0].max():.4g}, outside "
                "0 to 1: give probabilities (after softmax or sigmoid), not logits"
            )
        off = np.abs(rows.sum(axis=1) - 1) > SUM_TOLERANCE
        if sum_to_one and off.any():
            i = start + int(off.argmax())
            raise UserError(
                f"the probabilities of {name} {place(i)} sum to {rows[off][0].sum():.4g}, not 1: give those of all "
                "classes, after softmax"
            )
