"""Did an intervention help? Compare runs of ffcv_main.py with a base run, paired by seed.

    failure-directions compare runs/base runs/svm runs/random --svm "results/svm_{seed}.pt" --out results/compared

A run is a folder with versions that differ in their seed. The first is the base, unless --base names another. The
result of train_svms.py on the base model tells which test images are the minority, and which are hard and easy; {seed}
stands for the seed where each base model has a result of its own. Leaves OUT.md, OUT.csv (every measure) and OUT.png.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from ..runtime.errors import UserError, entry_point
from ..runtime.figure_files import save_figure
from ..runtime.files import atomic_path, check_writable, existing_file, written_together
from ..runtime.tables import format_table
from ..training.run_folders import finished_versions


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of its runs with several seeds")
    parser.add_argument("--svm", required=True, metavar="OUT.pt", help="result on the base model; {seed} is replaced")
    parser.add_argument("--base", metavar="NAME", help="run that differences are taken from (default: the first)")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds to compare (default: those that all runs have)")
    parser.add_argument("--out", required=True, help="write OUT.md, OUT.csv and OUT.png")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    out = Path(args.out)
    for ending in ("csv", "md", "png"):
        check_writable(beside(out, ending))
    if "{seed}" not in args.svm:
        existing_file(args.svm, "SVM result")
    check_runs(args.runs)
    from ..directions.galleries import SVMProcessor
    from ..interventions.comparison import compare, load_run, measure, save_rows
    from ..interventions.comparison_figure import comparison_figure

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
    rows = compare(accuracies)
    by_caption = any("hard_similarity" in proc.metrics("test") for proc in processors.values())
    # The CSV is written last: where it is, everything beside it is.
    with written_together(old=[beside(out, "csv")]):
        with atomic_path(beside(out, "md")) as temporary:
            temporary.write_text(markdown(rows, seeds, by_caption), encoding="utf-8")
        save_figure(comparison_figure(rows), beside(out, "png"))
        save_rows(beside(out, "csv"), rows)
    if left_out:
        print(f"left out, because some run lacks them: seeds {', '.join(map(str, left_out))}")
    print(format_table(*text_table(rows)))
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


if __name__ == "__main__":
    main()
