"""A linear SVM of a large class in the space of its features: time and memory grow with the examples alone.

The problem is libsvm's (hinge loss with weights, an intercept that costs nothing); the method is Newton's on a hinge
whose corner is rounded over a width h, which then shrinks (Chapelle, Neural Computation 2007, on training in the
primal). Where the loss is quadratic lie about as many examples as there are features, so that a step costs little more
than two products with the features. The multipliers that belong to a rounded solution are feasible for libsvm's dual,
so that the gap between the two objectives is known, and is what ends the shrinking.

Where the intercept is free within an interval, as it is at a small C, both ends are given.
"""

import numpy as np
from scipy import linalg

TOLERANCE = 3e-5
"""Of the gap between the objectives, relative to the primal one."""
WIDTHS = 10.0 ** -np.arange(1, 9)
MOST_STEPS = 60  # at each width
SETTLED = 1e-9  # of the gradient, relative to what cancels in it


def solve_primal(x, right, weights, start=None, tolerance=TOLERANCE):
    """Minimise |w|^2 / 2 + sum of weight * max(0, 1 - y (x w + b)), y = 1 where right and -1 where wrong.

    Args:
        x: float64 (n, d), C-contiguous.
        right: bool (n,), both kinds present.
        weights: float64 (n,), above 0: C times the class weight.
        start: a direction (d,) and an intercept to begin with.
        tolerance: relative gap at which to stop.

    Returns:
        The direction float64 (d,), the ends of the interval of intercepts that are best with it (mostly the same
        number), and the relative gap that was reached.
    """
    y = np.where(right, 1.0, -1.0)
    w, b = (np.zeros(x.shape[1]), 0.0) if start is None else start
    values = x @ w
    for width in WIDTHS:
        w, b, values = _newton(x, y, weights, w, b, values, width)
        gap = _relative_gap(x, y, weights, w, b, values, width)
        if gap <= tolerance:
            break
    return w, best_intercepts(values, right, weights), gap


def _newton(x, y, weights, w, b, values, width):
    """Minimise the rounded objective; also gives the values x w of the last point."""
    total = weights.sum()
    for _ in range(MOST_STEPS):
        share = np.clip((1 - y * (values + b)) / width, 0, 1)
        pull = weights * y * share
        gradient = w - x.T @ pull
        slope = -pull.sum()
        if np.abs(gradient).max() <= SETTLED * np.abs(w).max() and abs(slope) <= SETTLED * np.abs(pull).sum():
            break
        curved = np.flatnonzero((share > 0) & (share < 1))
        step, step_b = _newton_step(x[curved], weights[curved] / width, gradient, slope, total)
        along = x @ step
        length = _line_search(y, weights, w, b, values, step, step_b, along, width)
        w, b, values = w + length * step, b + length * step_b, values + length * along
        if length * max(np.abs(step).max(), abs(step_b)) <= 1e-14 * max(np.abs(w).max(), abs(b), 1e-300):
            break
    return w, b, values


def _newton_step(x, curvature, gradient, slope, total):
    """The step (d,) and that of the intercept, from the examples at which the loss is curved."""
    d = len(gradient)
    matrix = np.zeros((d + 1, d + 1))
    scaled = x * curvature[:, None]
    matrix[:d, :d] = x.T @ scaled
    matrix[:d, d] = matrix[d, :d] = scaled.sum(axis=0)
    matrix[np.arange(d), np.arange(d)] += 1
    # Without curved examples the intercept has no curvature; a little keeps its step finite.
    matrix[d, d] = curvature.sum() + 1e-8 * total
    solved = linalg.solve(matrix, -np.append(gradient, slope), assume_a="pos", check_finite=False)
    return solved[:d], solved[d]


def _line_search(y, weights, w, b, values, step, step_b, along, width, halvings=60):
    """The length at which the slope of the rounded objective, which rises along the step, is 0."""
    margins, rate = y * (values + b), y * (along + step_b)
    square, product = step @ step, w @ step

    def slope(t):
        share = np.clip((1 - margins - t * rate) / width, 0, 1)
        return product + t * square - (weights * share) @ rate

    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 1e6:
        low, high = high, 2 * high
    at_low, at_high = slope(low), slope(high)
    for _ in range(halvings):
        if high - low <= 1e-12 * high or at_high == at_low:
            break
        # The secant where it falls well inside, else the middle: between two kinks the slope is straight.
        middle = low - at_low * (high - low) / (at_high - at_low)
        if not low + 0.01 * (high - low) < middle < high - 0.01 * (high - low):
            middle = (low + high) / 2
        at_middle = slope(middle)
        if abs(at_middle) <= 1e-3 * abs(slope(0.0)):
            return middle
        if at_middle < 0:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return high if at_high <= 0 else (low + high) / 2


def _relative_gap(x, y, weights, w, b, values, width):
    """How far the primal objective lies above the dual one, at the multipliers of the rounded solution."""
    share = np.clip((1 - y * (values + b)) / width, 0, 1)
    multipliers = weights * share
    b, _ = best_intercepts(values, y > 0, weights)
    primal = w @ w / 2 + weights @ np.clip(1 - y * (values + b), 0, None)
    direction = x.T @ (multipliers * y)
    dual = multipliers.sum() - direction @ direction / 2
    return (primal - dual) / primal


def best_intercepts(values, right, weights):
    """The interval of intercepts that cost least for given values x w: its lower and its upper end.

    The loss, as a function of the intercept, is straight between the places at which an example's hinge begins; left of
    all of them every right example pulls it down, and each place that is passed adds its example's weight to the slope.

    Args:
        values: float64 (n,).
        right: bool (n,).
        weights: float64 (n,), above 0.
    """
    places = np.where(right, 1.0, -1.0) - values
    order = np.argsort(places, kind="stable")
    slopes = np.cumsum(weights[order]) - weights[right].sum()
    flat = 1e-9 * weights.sum()
    low, high = np.searchsorted(slopes, [-flat, flat], side="left")
    return places[order[low]], places[order[min(high, len(places) - 1)]]
