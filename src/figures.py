"""Figures for people: matplotlib, from arrays. They need no display; a notebook shows them where they end a cell."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as _Figure

from .errors import UserError
from .files import atomic_path

FORMATS = (".png", ".pdf", ".svg")
RIGHT, WRONG = "#2f6f9f", "#b5482a"  # blue and rust: apart in grey and for the colour-blind, too


class Figure(_Figure):
    """A matplotlib figure that notebooks show without pyplot, its global state and its windows."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def save_figure(figure, filename):
    """Write a figure, atomically; the ending of the name chooses the format. Raises `UserError` for another ending."""
    ending = Path(filename).suffix.lower()
    if ending not in FORMATS:
        raise UserError(f"cannot save a figure as {filename}: the name must end in {', '.join(FORMATS)}")
    with atomic_path(filename) as temporary:
        figure.savefig(temporary, format=ending[1:])


def extremes_figure(title, galleries, columns, decision_values, confs, right):
    """Galleries of images over a scatter of confidence against decision value.

    Args:
        galleries: list of (heading, images uint8 (H, W, 3) each, title of each image).
        columns: images in a row.
        decision_values, confs, right: (n,), the class's examples; `right` is 1 where the base model is.
    """
    rows = [max(1, -(-len(images) // columns)) for _, images, _ in galleries]
    heights = [0.45, *(1.4 * count + 0.45 for count in rows), 4.2]  # inches: the title, the galleries, the scatter
    figure = Figure(figsize=(max(1.15 * columns, 6), sum(heights)), dpi=100)
    top, *parts, bottom = figure.subfigures(len(heights), 1, height_ratios=heights)
    top.suptitle(_plain(title), fontsize=13, y=0.6, va="center")
    for part, count, height, (heading, images, titles) in zip(parts, rows, heights[1:], galleries, strict=False):
        part.suptitle(_plain(heading), fontsize=10, x=0.02, y=1 - 0.12 / height, va="top", ha="left", fontweight="bold")
        axes = list(part.subplots(count, columns, squeeze=False).flat)
        # Above each row of images there is room for two lines of title.
        part.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.65 / height, wspace=0.1, hspace=0.38)
        for ax in axes:
            ax.axis("off")
        for ax, image, words in zip(axes, images, titles, strict=False):
            ax.imshow(image, interpolation="nearest")
            ax.set_title(_plain(words), fontsize=7, color=WRONG if "\n" in words else "black", pad=3)
    ax = bottom.subplots()
    bottom.subplots_adjust(0.1, 0.14, 0.97, 0.96)
    for is_right, colour, marker, label in ((1, RIGHT, "o", "right"), (0, WRONG, "x", "wrong")):
        chosen = right == is_right
        ax.scatter(decision_values[chosen], confs[chosen], s=14, c=colour, marker=marker, alpha=0.6, label=label,
                   linewidths=0.8)  # fmt: skip
    ax.axvline(0, color="grey", linewidth=0.8, zorder=0)
    ax.set(xlabel="decision value (flagged at or below 0)", ylabel="confidence in the true class", ylim=(-0.03, 1.03))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title="base model", frameon=False)
    return figure


def comparison_figure(rows):
    """Differences from the base with their intervals, and accuracy on hard and easy subpopulations of growing size.

    Args:
        rows: list of `comparison.Row`, the base's first.
    """
    names = list(dict.fromkeys(row.name for row in rows))
    base = names[0]
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    figure = Figure(figsize=(12, 4.6), dpi=100, layout="constrained")
    left, *sides = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])

    others = names[1:] or names
    main = [what for what in ("overall", "worst class", "minority") if any(row.measure == what for row in rows)]
    step = 0.8 / len(others)
    for i, name in enumerate(others):
        of_name = {row.measure: row for row in rows if row.name == name}
        for j, what in enumerate(main):
            row, height = of_name[what], j - 0.4 + (i + 0.5) * step
            left.plot([row.low, row.high], [height, height], color=colours[name], linewidth=2)
            left.plot(row.difference, height, "o", color=colours[name])
    left.axvline(0, color="grey", linewidth=0.8, zorder=0)
    left.set_yticks(range(len(main)), main)
    left.invert_yaxis()
    intervals = " (95 % interval over seeds)" if rows[0].seeds > 1 else ""
    left.set(xlabel=f"difference from {_plain(base)}{intervals}")

    for ax, side, word in zip(sides, ("hard", "easy"), ("hardest", "easiest"), strict=True):
        for name in names:
            curve = sorted(
                (int(row.measure.split()[1]), row.mean)
                for row in rows
                if row.name == name and row.measure.startswith(f"{side} ")
            )
            ax.plot(
                [k for k, _ in curve],
                [accuracy for _, accuracy in curve],
                "-",
                marker=".",
                color=colours[name],
                label=_plain(name),
            )
        ax.set(xlabel=f"K {word} test images of each class", ylabel="accuracy")
    figure.legend(*sides[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for ax in (left, *sides):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def sparsity_figure(nonzeros, accuracies, chosen=None, dense=None):
    """Accuracy against features per class, along a path of sparse layers.

    Args:
        nonzeros: (L,) features per class; layers without any are left out.
        accuracies: dict of split name -> (L,) shares of 1.
        chosen: index of the layer to mark.
        dense: dict of split name -> accuracy of the model's own last layer, drawn as a line.
    """
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    ax = figure.subplots()
    nonzeros = np.asarray(nonzeros, dtype=float)
    shown = nonzeros > 0
    for colour, marker, (split, values) in zip((RIGHT, WRONG), "ox", accuracies.items(), strict=False):
        values = np.asarray(values)
        ax.plot(nonzeros[shown], values[shown], marker=marker, markersize=3, linewidth=1, color=colour, label=split)
        if dense and split in dense:
            ax.axhline(dense[split], color=colour, linewidth=0.8, linestyle="--", label=f"{split}, dense head")
        if chosen is not None:
            ax.plot(nonzeros[chosen], values[chosen], marker="o", markersize=9, fillstyle="none", color=colour)
    ax.set(xscale="log", xlabel="features per class", ylabel="accuracy")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure


def _plain(text):
    """A class name may hold dollars, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
