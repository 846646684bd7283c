"""The figure of a class's hardest and easiest images."""

import textwrap

from ..runtime.figures import RIGHT, WRONG, Figure, plain_text


def extremes_figure(title, galleries, columns, decision_values, confs, right):
    """Galleries of images over a scatter of confidence against decision value.

    Args:
        galleries: list of (heading, images uint8 (H, W, 3) each or texts, title of each, file name of each or "").
        columns: images in a row.
        decision_values, confs, right: (n,), the class's examples; `right` is 1 where the base model is.
    """
    rows = [max(1, -(-len(images) // columns)) for _, images, *_ in galleries]
    heights = [0.45, *(1.4 * count + 0.45 for count in rows), 4.2]  # inches: the title, the galleries, the scatter
    figure = Figure(figsize=(max(1.15 * columns, 6), sum(heights)), dpi=100)
    top, *parts, bottom = figure.subfigures(len(heights), 1, height_ratios=heights)
    top.suptitle(plain_text(title), fontsize=13, y=0.6, va="center")
    for part, count, height, (heading, images, titles, files) in zip(parts, rows, heights[1:], galleries, strict=False):
        part.suptitle(
            plain_text(heading), fontsize=10, x=0.02, y=1 - 0.12 / height, va="top", ha="left", fontweight="bold"
        )
        axes = list(part.subplots(count, columns, squeeze=False).flat)
        # Above each row of images there is room for two lines of title.
        part.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.65 / height, wspace=0.1, hspace=0.38)
        for ax in axes:
            ax.axis("off")
        for ax, image, words, file in zip(axes, images, titles, files, strict=False):
            if isinstance(image, str):
                ax.text(0.5, 0.5, plain_text(_folded(image)), fontsize=5, ha="center", va="center")
            else:
                ax.imshow(image, interpolation="nearest")
            ax.set_title(plain_text(words), fontsize=7, color=WRONG if "\n" in words else "black", pad=3)
            ax.text(0.5, -0.03, plain_text(file), transform=ax.transAxes, fontsize=5, ha="center", va="top")
    ax = bottom.subplots()
    bottom.subplots_adjust(0.1, 0.14, 0.97, 0.96)
    for is_right, colour, marker, label in ((1, RIGHT, "o", "right"), (0, WRONG, "x", "wrong")):
        chosen = right == is_right
        ax.scatter(
            decision_values[chosen],
            confs[chosen],
            s=14,
            c=colour,
            marker=marker,
            alpha=0.6,
            label=label,
            linewidths=0.8,
        )
    ax.axvline(0, color="grey", linewidth=0.8, zorder=0)
    ax.set(xlabel="decision value (flagged at or below 0)", ylabel="confidence in the true class", ylim=(-0.03, 1.03))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title="base model", frameon=False)
    return figure


def _folded(text, columns=22, most=150):
    """The beginning of a text in short lines."""
    return textwrap.fill(textwrap.shorten(text, most, placeholder=" ..."), columns)
