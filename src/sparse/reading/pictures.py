"""Figures of features: rows of images, be they photographs, attributions or word clouds; and probabilities."""

from itertools import zip_longest

import numpy as np

from ...runtime.figures import RIGHT, WRONG, Figure, plain_text


def image_rows_figure(rows, title="", side=1.6):
    """Rows of images, each under a heading.

    Args:
        rows: list of (heading, list of uint8 (H, W, 3), or None where a place stays empty).
        side: height of an image, inches.
    """
    columns = max(1, *(len(images) for _, images in rows))
    there = [image for _, images in rows for image in images if image is not None]
    shape = max((image.shape[1] / image.shape[0] for image in there), default=1)
    height = side + 0.45
    figure = Figure(figsize=(max(4, columns * side * shape), len(rows) * height + 0.4), dpi=100)
    figure.suptitle(plain_text(title), fontsize=11)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.65 / figure.get_figheight(), wspace=0.04, hspace=0.45 / side)
    for axes, (heading, images) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for ax, image in zip(axes, images, strict=False):
            if image is not None:
                ax.imshow(image, interpolation="nearest" if max(image.shape) <= 64 else None)
        for ax in axes:
            ax.axis("off")
        axes[0].set_title(plain_text(heading), fontsize=8, loc="left")
    return figure


def side_by_side(left, right, names):
    """Two lists of rows for `image_rows_figure` as one, the left one's images first; `names` of the two sides."""
    rows = []
    width = max((len(images) for _, images in left), default=0)
    for first, second in zip_longest(left, right, fillvalue=("none", [])):
        headings = (f"{name}: {heading}" for name, (heading, _) in zip(names, (first, second), strict=True))
        rows.append(("\n".join(headings), [*first[1], *[None] * (width - len(first[1])), *second[1]]))
    return rows


def before_after_figure(before, after, label):
    """Scatter of a class's probability before and after a change; those that it turned are marked.

    Args:
        before, after: (n, K).
        label: (number, name) of the class.
    """
    number, name = label
    flipped = before.argmax(1) != after.argmax(1)
    figure = Figure(figsize=(4.2, 4), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for chosen, colour, marker, what in ((~flipped, RIGHT, "o", "same prediction"), (flipped, WRONG, "x", "flipped")):
        ax.plot(
            before[chosen, number],
            after[chosen, number],
            marker,
            color=colour,
            markersize=4,
            label=f"{what} ({np.count_nonzero(chosen)})",
        )
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=f"probability of {plain_text(name)} before", ylabel="after")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
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
