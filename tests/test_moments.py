"""Streamed moments against NumPy's on all rows at once."""

import numpy as np
import pytest
from failure_directions.runtime.moments import Moments


def streamed(rows, sizes, weights=None):
    moments, start = Moments(), 0
    for size in sizes:
        part = slice(start, start + size)
        moments.update(rows[part], None if weights is None else weights[part])
        start += size
    assert start == len(rows)
    return moments


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_batches_of_any_size_add_up_to_the_moments_of_all_rows(dtype):
    rows = (np.random.default_rng(0).random((100, 5)) * [1, 10, 100, 200, 250]).astype(dtype)
    moments = streamed(rows, [1, 0, 36, 60, 3])
    assert moments.weight == 100
    np.testing.assert_allclose(moments.mean, rows.astype(float).mean(0), rtol=1e-12)
    for ddof in (0, 1):
        np.testing.assert_allclose(moments.std(ddof), rows.astype(float).std(0, ddof=ddof), rtol=1e-12)


def test_a_weight_of_two_is_the_row_twice_and_of_none_no_row():
    rng = np.random.default_rng(1)
    rows, weights = rng.standard_normal((60, 4)), rng.integers(0, 4, 60)
    weights[:10] = 0
    weighted, repeated = streamed(rows, [5, 30, 25], weights), np.repeat(rows, weights, axis=0)
    np.testing.assert_allclose(weighted.mean, repeated.mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(weighted.std(), repeated.std(0), rtol=1e-12)


def test_a_large_mean_does_not_swallow_a_small_deviation_and_a_constant_has_none():
    rows = np.stack([1e9 + np.tile([0.0, 0.25], 50), np.full(100, 0.1)], axis=1)
    moments = streamed(rows, [7, 93])
    np.testing.assert_allclose(moments.std(), [0.125, 0], rtol=1e-9, atol=0)
    assert moments.std()[1] == 0
    assert moments.mean[1] == 0.1


def test_the_rows_are_left_as_they_are():
    rows = np.arange(6.0).reshape(3, 2)
    before = rows.copy()
    streamed(rows, [3])
    np.testing.assert_array_equal(rows, before)
