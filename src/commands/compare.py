"""Did an intervention help? Compare runs of `failure-directions train` with a base run, paired by seed.

    failure-directions compare runs/base runs/svm runs/random --svm "results/svm_{seed}.pt" --out results/compared

A run is a folder with versions that differ in their seed. The first is the base, unless --base names another. The base
model's result (`failure-directions distil`) tells which test images are confirmed failures, the minority, hard and
easy; {seed} stands for the seed where each base model has a result of its own. With a result that has kept images from
all choices (--keep-half) all is measured on these. Leaves OUT.md, OUT.csv (every measure), OUT_verdicts.csv and
OUT.png.

Is the next model better where the last one failed?

    failure-directions compare --svm old.pt --predictions new_model.csv --out results/next [--fail-if-worse]
    failure-directions compare --predictions old.csv new.csv --out results/next

Both models on the same images: on each confirmed failure of old.pt, on the rest, and on all. What --predictions names
is a table with predictions, a result of the new model (whose own failures are then compared, too), or a folder of a
run. Of two tables without a result, the first names failures in a column `slice`. Leaves OUT.md and OUT.csv.
"""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from ..runtime.errors import UserError, entry_point
from ..runtime.figure_files import save_figure
from ..runtime.files import atomic_path, check_writable, existing_file, written_together
from ..runtime.tables import format_table
from ..training.run_folders import finished_versions


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folder of a run, or of its runs with several seeds")
    parser.add_argument("--svm", metavar="OUT.pt", help="result on the base model; {seed} is replaced")
    parser.add_argument(
        "--predictions",
        nargs="+",
        metavar="NEW",
        help="compare models by their predictions: those of the new one, or of the old and the new one",
    )
    parser.add_argument(
        "--image-root", metavar="FOLDER", help="what the tables' paths are relative to (default: their folders)"
    )
    parser.add_argument("--fdr", type=float, default=0.1, help="of --predictions: share of false claims (default: 0.1)")
    parser.add_argument(
        "--fail-if-worse",
        action="store_true",
        help="of --predictions: end with 1 where the new model is clearly worse on a failure, the rest or all",
    )
    parser.add_argument("--base", metavar="NAME", help="run that differences are taken from (default: the first)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds to compare (default: those that all runs have)")
    parser.add_argument("--out", required=True, help="write OUT.md, OUT.csv and OUT.png")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    if args.predictions:
        compare_predictions(args)
    else:
        compare_runs(args)


def check_arguments(args):
    """Raise `UserError` where the options do not say what is to be compared."""
    if bool(args.runs) == bool(args.predictions):
        raise UserError("give runs to compare, or --predictions of one or two models")
    if args.runs:
        for option in ("fail_if_worse", "image_root"):
            if getattr(args, option):
                raise UserError(f"--{option.replace('_', '-')} goes with --predictions; give these, or leave it out")
        if args.svm is None:
            raise UserError("--svm is missing: give the result on the base model, OUT.pt of failure-directions distil")
        return
    if len(args.predictions) > 2:
        raise UserError(
            f"--predictions names {len(args.predictions)} models; give the new one's, or the old and the new"
        )
    if len(args.predictions) == 1 and args.svm is None:
        raise UserError("one model's predictions alone have nothing to be compared with: give --svm, or those of two")
    if not 0 < args.fdr < 1:
        raise UserError(f"--fdr is {args.fdr}; give a share between 0 and 1, such as 0.1")
    for path in args.predictions:
        if not Path(path).exists():
            raise UserError(f"predictions {path} do not exist; check the path")


def compare_runs(args):
    """Runs of failure-directions train against a base run."""
    out = Path(args.out)
    for ending in ("csv", "md", "png"):
        check_writable(beside(out, ending))
    if "{seed}" not in args.svm:
        existing_file(args.svm, "SVM result")
    check_runs(args.runs)
    from ..directions.galleries import SVMProcessor
    from ..interventions.comparison import compare, load_run, measure, save_rows
    from ..interventions.comparison_figure import comparison_figure
    from ..interventions.verdict import judge_runs, save_verdicts

    runs = {Path(path).resolve().name: load_run(path) for path in args.runs}
    if args.base not in (None, *runs):
        raise UserError(f"--base {args.base} is none of the runs {', '.join(runs)}")
    if args.base:
        runs = {args.base: runs[args.base], **runs}
    seeds, left_out = common_seeds(runs, args.seeds)
    processors = {seed: SVMProcessor(args.svm.replace("{seed}", str(seed))) for seed in seeds}
    accuracies = {
        name: [measure(processors[seed], run[seed], f"run {name} with seed {seed}") for seed in seeds]
        for name, run in runs.items()
    }
    rows, verdicts = compare(accuracies), judge_runs(accuracies)
    by_caption = any("hard_similarity" in proc.metrics("test") for proc in processors.values())
    # The CSV is written last: where it is, everything beside it is.
    judged = out.with_name(f"{out.name}_verdicts.csv")
    with written_together(old=[beside(out, "csv"), judged]):
        with atomic_path(beside(out, "md")) as temporary:
            said = "".join(f"**{name}**: {verdict.sentence}.\n\n" for name, verdict in verdicts.items())
            temporary.write_text(said + markdown(rows, seeds, by_caption), encoding="utf-8")
        if verdicts:
            save_verdicts(judged, verdicts)
        save_figure(comparison_figure(rows), beside(out, "png"))
        save_rows(beside(out, "csv"), rows)
    if left_out:
        print(f"left out, because some run lacks them: seeds {', '.join(map(str, left_out))}")
    print(format_table(*text_table(rows)))
    for name, verdict in verdicts.items():
        print(f"{name} ({verdict.colour}): {verdict.sentence}")
    print(f"mean over {len(seeds)} seed(s) {', '.join(map(str, seeds))}; all measures: {beside(out, 'csv')}")


def beside(out, ending):
    return out.with_name(f"{out.name}.{ending}")


def check_runs(paths):
    """Raise `UserError` where a run has no predictions, or two folders have one name."""
    for path in paths:
        finished_versions(path)
    names = [Path(path).resolve().name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs are called {name}; rename a folder, so that the table can tell them apart")


def common_seeds(runs, wanted):
    """The seeds to compare: those `wanted`, or all that every run has; and those that only some have."""
    for name, run in runs.items():
        missing = sorted(set(wanted or ()) - set(run))
        if missing:
            raise UserError(f"run {name} has no seed {missing[0]}, only {', '.join(map(str, sorted(run)))}; train it")
    seeds = sorted(set.intersection(*(set(run) for run in runs.values()))) if wanted is None else sorted(set(wanted))
    if not seeds:
        described = "; ".join(f"{name}: {', '.join(map(str, sorted(run)))}" for name, run in runs.items())
        raise UserError(f"no seed is in all runs ({described}); train them with the same --seed")
    left_out = sorted(set.union(*(set(run) for run in runs.values())) - set(seeds)) if wanted is None else []
    return seeds, left_out


def text_table(rows, bold="", minus="-"):
    """Header and lines of the main measures: accuracy and, beside the base's, the difference with its interval."""
    from ..interventions.comparison import main_table

    names, measures = main_table(rows)
    lines = []
    for what, of_runs in measures:
        line = [what]
        for row in of_runs:
            text = f"{row.mean:.3f}" + (f" ±{row.deviation:.3f}" if row.seeds > 1 else "")
            if row.name != names[0]:
                interval = f" [{row.low:+.3f}, {row.high:+.3f}]" if row.has_interval else ""
                text += f"; {row.difference:+.3f}{interval}".replace("-", minus)
                text = f"{bold}{text}{bold}" if row.is_clear else text
            line.append(text)
        lines.append(line)
    return ["", *names], lines


def markdown(rows, seeds, by_caption):
    """The main measures as a Markdown table, with a sentence on how to read it."""
    header, lines = text_table(rows, bold="**", minus="\N{MINUS SIGN}")
    spread = f"with seed {seeds[0]}; then the difference from {header[1]}, which with one seed may be chance"
    if len(seeds) > 1:
        spread = (
            f"mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))}); then the difference "
            f"from {header[1]}, paired by seed, with its 95 % confidence interval, bold where that excludes 0 (chance "
            "alone makes one in twenty do so)"
        )
    how = "nearest to the class's hardest and easiest caption."
    if not by_caption:
        how = (
            "of lowest and highest decision value. Where that is read off the base model's own features, these are "
            "little else than its errors, on which any other training does better: compare with a random choice."
        )
    return (
        tabulate(lines, header, tablefmt="github", disable_numparse=True)
        + f"\n\nTest accuracy: {spread}. hard K and easy K: the K test images of each class {how}\n"
    )


# ---- the next model -------------------------------------------------------------------------------------------------


def compare_predictions(args):
    """Two models on the same images, by their predictions."""
    out = Path(args.out)
    for ending in ("csv", "md"):
        check_writable(beside(out, ending))
    from ..interventions.next_model import ALL, WORSE, save_rows

    rows, said = (by_result if args.svm else by_tables)(args)
    header, lines = models_table(rows)
    with written_together(old=[beside(out, "csv")]):
        with atomic_path(beside(out, "md")) as temporary:
            text = tabulate(lines, header, tablefmt="github", disable_numparse=True)
            temporary.write_text("\n\n".join([text, *said, HOW_TO_READ]) + "\n", encoding="utf-8")
        save_rows(beside(out, "csv"), rows)
    print(format_table(header, lines))
    for sentence in said:
        print(sentence)
    worse = [row.name for row in rows if row.verdict == WORSE]
    count = next(row.images for row in rows if row.name == ALL)
    print(f"{count:,} images that both models have seen; {beside(out, 'csv')}, {beside(out, 'md')}")
    if worse and args.fail_if_worse:
        print(f"worse: {', '.join(worse)}", file=sys.stderr)
        sys.exit(1)


HOW_TO_READ = (
    "Error rates of both models on the same images, the difference with Newcombe's 95 % interval for pairs, McNemar's "
    "exact test, and q after Benjamini and Hochberg over the table. Fixed: clearly fewer errors, and no longer more "
    "than the rest of the class has. The failures were confirmed by the old model's errors on these images, so that "
    "any other training does a little better there; images that chose nothing don't have that."
)


def by_result(args):
    """Rows for the confirmed failures of a result, and sentences on them."""
    existing_file(args.svm, "SVM result")
    import numpy as np

    from ..directions.results import read_result
    from ..interventions.model_predictions import match_predictions
    from ..interventions.next_model import compare_models, new_failures

    result = read_result(args.svm)
    if result.found is None:
        raise UserError(f"{args.svm} is of an earlier version, which sought no slices; make it again")
    entry = result.splits[result.found.confirm]
    models = [match_predictions(path, result, result.found.confirm, args.image_root) for path in args.predictions]
    positions = models[0].positions
    for model in models:
        positions = np.intersect1d(positions, model.positions)
    if not len(positions):
        raise UserError("the two models have no image in common; give predictions for the same images")

    def taken(model, values):
        return values[np.searchsorted(model.positions, positions)]

    labels = entry.classes[positions]
    before = entry.preds[positions] if len(models) == 1 else taken(models[0], models[0].preds)
    after, groups = taken(models[-1], models[-1].preds), models[-1].groups
    before, after = before != labels, after != labels

    def places(members):
        return np.searchsorted(positions, np.intersect1d(members, positions))

    known = {one.id: places(one.members) for one in result.found.confirmed}
    said = [
        f"{name}: none of its images has a prediction, so that nothing is said of it"
        for name in known
        if not len(known[name])
    ]
    known = {name: members for name, members in known.items() if len(members)}
    if not result.found.confirmed:
        said.append(f"no failure in {args.svm} is confirmed: the models are compared on all images alone")
    if len(positions) < len(entry):
        said.append(f"{len(entry) - len(positions):,} of the {len(entry):,} images have no prediction and are left out")
    rows = compare_models(known, labels, before, after, None if groups is None else taken(models[-1], groups), args.fdr)
    found = models[-1].found
    if found is None:
        said.append(
            "failures that only the new model has are sought where --predictions is a result on it (find --out)"
        )
    else:
        found = {name: members for name, members in ((n, places(m)) for n, m in found.items()) if len(members)}
        rows += new_failures(found, list(known.values()), before, after)
    return rows, said


def by_tables(args):
    """Rows for the failures that the first of two tables names in its column `slice`."""
    import numpy as np

    from ..data.image_tables import read_table
    from ..interventions.model_predictions import match_tables, read_slices
    from ..interventions.next_model import compare_models

    old, slices = read_slices(args.predictions[0], args.image_root)
    new = read_table(args.predictions[1], args.image_root)
    rows, after = match_tables(old, new)
    place = {row: i for i, row in enumerate(rows.tolist())}
    known = {name: np.array([place[i] for i in members if i in place], int) for name, members in slices.items()}
    known = {name: members for name, members in known.items() if len(members)}
    labels = old.labels[rows]
    groups = None if old.group is None else old.group[rows]
    said = [] if len(rows) == len(old) else [f"{len(old) - len(rows):,} images are in {old.name} alone and left out"]
    return compare_models(known, labels, old.preds[rows] != labels, after != labels, groups, args.fdr), said


def models_table(rows):
    """Header and lines for people."""

    def shown(value, form):
        return "-" if value != value else format(value, form)

    lines = [
        [
            row.name,
            f"{row.images:,}",
            shown(row.error_before, ".1%"),
            shown(row.error_after, ".1%"),
            shown(row.difference, "+.3f") + ("" if row.low != row.low else f" [{row.low:+.3f}, {row.high:+.3f}]"),
            shown(row.p_value, ".2g"),
            shown(row.q_value, ".2g"),
            row.verdict,
        ]
        for row in rows
    ]
    return ["", "images", "wrong before", "wrong after", "difference", "p", "q", "verdict"], lines


if __name__ == "__main__":
    main()
