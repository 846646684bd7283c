"""Plots of the slice benchmark: how well methods find slices, and which they can claim."""

import io

import numpy as np
from failure_directions.runtime.figures import RIGHT, WRONG, Figure

from .metrics import bootstrap

SHOWN = {
    "ours": WRONG,
    "domino:per_class": RIGHT,
    "kmeans_errors": "#5f8f3f",
    "one_svm": "#8c6bb1",
    "confidence": "black",
}


def quality_plot(rows, measure):
    """PNG bytes: a line a setting and size, a dot a method, with intervals for `SHOWN`; the others are grey.

    Args:
        rows: dicts of strings as `run.read_rows` gives them, of settings in which something is planted.
        measure: a column of quality, such as "P@10 (best of 5)".
    """
    places = sorted({(row["setting"], row["size"]) for row in rows})
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(places)), layout="constrained")
    axes = figure.subplots()
    drawn = set()
    for y, place in enumerate(places):
        here = [row for row in rows if (row["setting"], row["size"]) == place and not row["reason"]]
        for method in sorted({row["method"] for row in here}, key=lambda name: name in SHOWN):
            own = [row for row in here if row["method"] == method]
            counts = [int(row["fair"]) for row in own]
            estimate = bootstrap([float(row[measure] or 0) * n for row, n in zip(own, counts, strict=True)], counts)
            colour = SHOWN.get(method)
            label = own[0]["title"] if colour and method not in drawn else None
            drawn.add(method)
            if colour:
                axes.hlines(y, estimate.low, estimate.high, colour, linewidth=2, alpha=0.5)
            axes.plot(estimate.mean, y, "o", color=colour or "0.75", markersize=7 if colour else 4, label=label)
    axes.set_yticks(range(len(places)), [f"{setting}, {size}" for setting, size in places])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel=f"{measure} (grey: the other methods)")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return _png(figure)


def power_plot(rows):
    """PNG bytes: share of fair slices that a claimed guess finds, by how many of its images are there to find it."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for method, colour in SHOWN.items():
        own = [row for row in rows if row["method"] == method and row["claims"] and int(row["fair"])]
        images = [round(float(row["images"])) for row in own]
        values = []
        for count in sorted(set(images)):
            these = [row for row, n in zip(own, images, strict=True) if n == count]
            found, fair = (sum(int(row[name]) for row in these) for name in ("fair_found", "fair"))
            values.append((count, found / fair))
        if values:
            axes.plot(*np.transpose(values), "o-", color=colour, label=own[0]["title"])
    axes.set(xscale="log", ylim=(0, 1.05), ylabel="found and claimed")
    axes.set(xlabel="images of the planted slice in find, and as many in confirm")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False)
    return _png(figure)


def _png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
