"""Look at a result: the report as one HTML file, and figures of each class's hardest and easiest images.

failure-directions report --svm results/cifar_svm.pt --report results/cifar_report.html
"""

import argparse
from pathlib import Path

from ..data import SPLITS
from ..runtime.errors import UserError, entry_point
from ..runtime.figure_files import FORMATS
from ..runtime.files import check_apart, check_writable, existing_file


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svm", required=True, help="OUT.pt of failure-directions distil")
    parser.add_argument("--report", help="write the report to this HTML file")
    parser.add_argument(
        "--compared", metavar="OUT", help="show in the report what failure-directions compare --out OUT found"
    )
    parser.add_argument(
        "--sparse",
        metavar="OUT",
        help="show in the report the features that failure-directions sparse --out-path OUT chose",
    )
    parser.add_argument(
        "--decoded", metavar="DIR", help="show in the report the images that failure-directions decode --out DIR made"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the report (default: the result's name)")
    parser.add_argument("--figures", metavar="DIR", help="write the hardest and easiest images of each class to DIR")
    parser.add_argument("--format", default="png", choices=[name[1:] for name in FORMATS], help="of the figures")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="figures of these classes only, by name")
    parser.add_argument("--root", help="folder of the betons (default: the one that the result was made with)")
    parser.add_argument("--split", default="test", choices=SPLITS, help="whose images are shown (default: test)")
    parser.add_argument("--rows", type=int, default=2, help="of each gallery in the figures (default: 2)")
    parser.add_argument("--columns", type=int, default=8, help="of each gallery in the figures (default: 8)")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    if args.report is None and args.figures is None:
        raise UserError("nothing to make: give --report FILE.html, --figures DIR, or both")
    existing_file(args.svm, "SVM result")
    from ..directions.results import OutputFiles

    check_apart([args.report], OutputFiles(Path(args.svm)).all())
    made = []
    if args.report is not None:
        check_writable(args.report)
        from ..report.page import write_report

        path = write_report(
            args.svm, args.report, args.root, args.split, args.compared, args.sparse, args.decoded, args.title
        )
        made.append(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if args.figures is not None:
        made += write_figures(args)
    print("\n".join(made))


def write_figures(args):
    """One figure a class that has a direction, named by its number (names may hold anything); a line to say of each."""
    made = []
    folder = Path(args.figures)
    check_writable(folder / "extremes")
    from ..directions.galleries import SVMProcessor

    proc = SVMProcessor(args.svm, args.root, get_unlabeled=args.split == "unlabeled")
    chosen = [proc.class_number(name) for name in args.classes] if args.classes else range(proc.num_classes)
    for c in chosen:
        if c in proc.skipped and not args.classes:
            made.append(f"no figure of {proc.class_names[c]}: {proc.skipped[c]}")
            continue
        path = folder / f"extremes_{c}.{args.format}"
        proc.display_extremes(c, args.split, args.rows, args.columns, path)
        made.append(f"{proc.class_names[c]}: {path}")
    return made
