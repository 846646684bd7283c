"""Figures of decoded images: a strip from hard to easy, and the base model's accuracy on the way."""

import numpy as np

from ..runtime.figures import Figure, plain_text
from .decoding import NEUTRAL

COLOURS = {"hard": "#b3261e", "easy": "#1f6feb"}
MOST_ROWS = 6


def in_order(points):
    """The points of one direction from the hardest by way of alpha 0 to the easiest."""
    return sorted(points, key=lambda point: {"hard": -1, NEUTRAL: 0, "easy": 1}[point.side] * point.alpha)


def strip_figure(title, points, images, rows=MOST_ROWS):
    """A column a point, the same seeds in each row.

    Args:
        title: a string.
        points: list of `CurvePoint`, of one direction.
        images: dict (side, alpha) -> list of PIL images.
        rows: at most.

    Returns:
        A matplotlib `Figure`.
    """
    points = in_order(points)
    rows = min(rows, *(len(images[point.side, point.alpha]) for point in points))
    figure = Figure(figsize=(1.05 * len(points) + 0.3, 1.0 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, len(points), squeeze=False)
    for column, point in zip(axes.T, points, strict=True):
        for axis, image in zip(column, images[point.side, point.alpha], strict=False):
            axis.imshow(np.asarray(image), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        name = NEUTRAL if point.side == NEUTRAL else f"{point.side} {point.alpha:g}"
        share = "" if np.isnan(point.accuracy) else f"\nright {point.accuracy:.2f}"
        column[0].set_title(f"{name}{share}" + ("\nleft the class" if point.left else ""), fontsize=7)
    figure.suptitle(plain_text(title), fontsize=9)
    return figure


def curve_figure(curves):
    """The base model's accuracy against alpha, an axis for each direction; where the class is left, the curve ends.

    Args:
        curves: dict title -> list of `CurvePoint`, of one direction each, with accuracies.

    Returns:
        A matplotlib `Figure`.
    """
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    for axis, (title, points) in zip(axes, curves.items(), strict=False):
        for side, colour in COLOURS.items():
            kept = [one for one in in_order(points) if one.side in (side, NEUTRAL) and not one.left]
            kept.sort(key=lambda point: point.alpha)
            alphas, accuracy, low, high = (
                [getattr(one, name) for one in kept] for name in ("alpha", "accuracy", "low", "high")
            )
            axis.plot(alphas, accuracy, "o-", color=colour, label=f"towards {side}", markersize=3)
            axis.fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=plain_text(title), xlabel="alpha", ylim=(-0.03, 1.03))
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy of the base model")
    axes[0].legend(fontsize=7, loc="lower left")
    return figure
