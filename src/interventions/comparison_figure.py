"""The figure of a comparison of interventions."""

from ..runtime.figures import Figure, plain_text


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
    left.set(xlabel=f"difference from {plain_text(base)}{intervals}")

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
                label=plain_text(name),
            )
        ax.set(xlabel=f"K {word} test images of each class", ylabel="accuracy")
    figure.legend(*sides[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for ax in (left, *sides):
        ax.spines[["top", "right"]].set_visible(False)
    return figure
