"""Tables and plots of the slice benchmark, in Markdown and HTML.

    python -m benchmarks.slices.report results.csv --out FOLDER [--reference ours]

Writes FOLDER/slices.md, slices.html, quality.png and power.png. Seed 0, on which methods are tuned, is left out unless
it is all there is, or --seeds names it.
"""

import argparse
import base64
import html
from collections import defaultdict
from pathlib import Path

import numpy as np
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import atomic_path

from .confirming import LEVEL
from .metrics import bootstrap, paired_difference
from .plots import power_plot, quality_plot
from .run import read_rows

TUNING_SEED = 0
MAIN = "P@10 (best of 5)"
SECOND = "P@50 (best of 5)"


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="CSV that benchmarks.slices.run wrote")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--reference", default="ours", help="method to which the others are compared")
    parser.add_argument("--seeds", type=int, nargs="+")
    args = parser.parse_args(argv)
    rows = read_rows(args.results)
    if not rows:
        raise UserError(f"{args.results} has no rows; python -m benchmarks.slices.run writes them")
    tables = make_tables(rows, args.reference, args.seeds)
    real = planted_rows(rows, args.seeds)
    plots = {"quality.png": quality_plot(real, MAIN), "power.png": power_plot(real)}
    texts = {"slices.md": as_markdown(tables), "slices.html": as_html(tables, plots)}
    for name, content in (plots | {name: text.encode() for name, text in texts.items()}).items():
        with atomic_path(Path(args.out) / name) as temporary:
            temporary.write_bytes(content)
    print(as_markdown(tables))


def make_tables(rows, reference="ours", seeds=None):
    """All tables, a list of (title, remark, header, rows of text).

    Args:
        rows: dicts of strings, as `run.read_rows` gives them. reference: a method's name. seeds: ints, or None.
    """
    real, nulls = planted_rows(rows, seeds), [r for r in rows if r["null"]]
    places = sorted({(r["setting"], r["size"]) for r in real})
    titles = {r["method"]: r["title"] for r in rows}
    tables = [_overview(real, places, titles)]
    tables += [_of_setting(real, place, titles, reference) for place in places]
    if nulls:
        tables.append(_of_nulls(nulls, titles))
    failed = [r for r in rows if r["reason"]]
    if failed:
        header = ["method", "setting", "size", "seed", "reason"]
        cells = [[r["title"], r["setting"], r["size"], r["seed"], r["reason"]] for r in failed]
        tables.append(("Runs without a result", "", header, cells))
    return tables


def planted_rows(rows, seeds=None):
    """The rows of settings in which something is planted, of the seeds that count."""
    real = [row for row in rows if not row["null"]]
    present = {int(row["seed"]) for row in real}
    kept = seeds or present - {TUNING_SEED} or present
    return [row for row in real if int(row["seed"]) in kept]


def _overview(rows, places, titles):
    header = ["method", *(f"{setting}, {size}" for setting, size in places)]
    order = _ordered(rows, titles)
    cells = [[titles[m], *(_pair(_of(rows, place, m)) for place in places)] for m in order]
    bases = [["base rate", *(_number(_sums(_any_method(rows, place), "base")) for place in places)]]
    remark = "Mean P@10 / P@50 over fair slices, best of at most five guesses a class. " + _outputs_remark(rows, titles)
    return ("Overview", remark, header, bases + cells)


def _of_setting(rows, place, titles, reference):
    of_method = {m: _of(rows, place, m) for m in _ordered([r for r in rows if _place(r) == place], titles)}
    some = _any_method(rows, place)
    planted, fair = (sum(int(r[name]) for r in some) for name in ("planted", "fair"))
    remark = (
        f"{len(some)} base models, {fair} of {planted} planted slices fair; base rate {_number(_sums(some, 'base'))}."
    )
    header = ["method", "P@10", "P@50", "R-precision", "AP", "P@10, best of 2", "P@10, first"]
    header += [f"P@10 less that of {titles.get(reference, reference)}", "power", "false share of claims", "seconds"]
    cells = []
    for method, own in of_method.items():
        shown = [str(bootstrap(*_sums(own, name))) for name in (MAIN, SECOND)]
        more = ("R-precision (best of 5)", "AP (best of 5)", "P@10 (best of 2)", "P@10 (first)")
        shown += [_number(_sums(own, name)) for name in more]
        shown.append(_against(own, of_method.get(reference, []), method == reference))
        shown += _confirmed(own)
        shown.append(_median([r["seconds"] for r in own]))
        cells.append([titles[method], *shown])
    return (f"{place[0]}, {place[1]}", remark, header, cells)


def _of_nulls(rows, titles):
    groups = defaultdict(list)
    for row in rows:
        if not row["reason"]:
            groups[row["method"], row["null"], row["setting"], row["size"]].append(row)
    header = ["method", "null model", "setting", "runs", "runs with a claim, confirmed", "without confirmation"]
    cells = []
    for (method, null, setting, size), own in sorted(groups.items()):
        shares = [_share_with_interval([int(r[name]) > 0 for r in own]) for name in ("claims", "naive_claims")]
        cells.append([titles[method], null, f"{setting}, {size}", str(len(own)), *shares])
    return ("Nothing to find", f"Every claim is false; the nominal level is {LEVEL:g}.", header, cells)


def _place(row):
    return row["setting"], row["size"]


def _of(rows, place, method):
    return [r for r in rows if _place(r) == place and r["method"] == method and not r["reason"]]


def _any_method(rows, place):
    """One row a base model."""
    return list({r["seed"]: r for r in rows if _place(r) == place and not r["reason"]}.values())


def _sums(rows, name):
    """Sums over a base model's fair slices, and their numbers: `bootstrap`'s arguments."""
    counts = [int(r["fair"]) for r in rows]
    return [float(r[name] or 0) * count for r, count in zip(rows, counts, strict=True)], counts


def _number(sums_and_counts):
    sums, counts = sums_and_counts
    return f"{sum(sums) / sum(counts):.2f}" if sum(counts) else "-"


def _pair(rows):
    return f"{_number(_sums(rows, MAIN))} / {_number(_sums(rows, SECOND))}" if rows else "-"


def _against(rows, others, same):
    if same or not others:
        return "-"
    other = {r["seed"]: r for r in others}
    rows = [r for r in rows if r["seed"] in other]
    sums, counts = _sums(rows, MAIN)
    return str(paired_difference(sums, _sums([other[r["seed"]] for r in rows], MAIN)[0], counts))


def _confirmed(rows):
    rows = [r for r in rows if r["claims"]]
    if not rows:
        return ["n/a", "n/a"]
    found, fair, claims, false = (
        sum(int(r[n]) for r in rows) for n in ("fair_found", "fair", "claims", "false_claims")
    )
    # A guess that is no better than chance is as often a little worse as a little better than the rest.
    return [f"{found / fair:.2f}" if fair else "-", f"{2 * false / claims:.2f} of {claims}" if claims else "no claim"]


def _median(values):
    return f"{np.median([float(value) for value in values]):.1f}" if values else "-"


def _share_with_interval(outcomes):
    from scipy import stats

    interval = stats.binomtest(sum(outcomes), len(outcomes)).proportion_ci()
    return f"{np.mean(outcomes):.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _ordered(rows, titles):
    """Methods by their mean over all settings, those that score by the model's outputs last."""
    keys = {}
    for method in titles:
        own = [r for r in rows if r["method"] == method and not r["reason"]]
        if own:
            sums, counts = _sums(own, MAIN)
            keys[method] = (int(own[0]["uses_outputs"]), -sum(sums) / max(1, sum(counts)))
    return sorted(keys, key=keys.get)


def _outputs_remark(rows, titles):
    names = sorted({titles[r["method"]] for r in rows if r["uses_outputs"] == "1"})
    return f"{', '.join(names)} score by the model's outputs and are listed last." if names else ""


def as_markdown(tables):
    """The tables as one Markdown text."""
    parts = ["# Slice benchmark"]
    for title, remark, header, cells in tables:
        lines = [" | ".join(line) for line in (header, ["---"] * len(header), *cells)]
        parts += [f"## {title}", *([remark.strip()] if remark else []), "\n".join(f"| {line} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def as_html(tables, plots):
    """The tables and plots (name -> PNG bytes) as one page that needs no other file; a wide table scrolls by itself."""
    body = ["<h1>Slice benchmark</h1>"]
    for name, png in plots.items():
        body.append(f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">')
    for title, remark, header, cells in tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in cells]
        rows = "".join(f"<tr>{line}</tr>" for line in lines)
        body.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(remark)}</p>")
        body.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')
    return _PAGE.replace("BODY", "\n".join(body))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slice benchmark</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
img { background: white; display: block; margin: 1rem 0; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: 0.3rem 0.7rem; }
th { text-align: left; vertical-align: bottom; }
td { white-space: nowrap; }
</style>
BODY
</html>
"""


if __name__ == "__main__":
    main()
