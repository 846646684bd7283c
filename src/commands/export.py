"""A result's images for other tools: predictions, decision values, failures and files, one row an image.

    failure-directions export --to fiftyone --svm results/cifar_svm.pt results/cifar_fiftyone
    failure-directions export --to csv --svm results/cifar_svm.pt results/cifar_images.csv

fiftyone, spotlight and datasets make a new folder, csv and parquet a file. Images that are in betons are written into
the folder. datasets and parquet are written by their own libraries; the others need none.
"""

import argparse
from pathlib import Path

from ..data import SPLITS
from ..directions.exports import FORMATS, export
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_apart, existing_file


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", help="file or new folder")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the tool")
    parser.add_argument("--svm", required=True, metavar="OUT.pt", help="result of find --out or distil")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, help="whose images (default: val and test, which find and confirm)"
    )
    parser.add_argument("--root", help="folder of the betons (default: the one that the result was made with)")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    existing_file(args.svm, "SVM result")
    from ..directions.galleries import SVMProcessor
    from ..directions.results import OutputFiles

    check_apart([args.out], OutputFiles(Path(args.svm)).all())

    proc = SVMProcessor(args.svm, args.root, "unlabeled" in (args.splits or ()))
    splits = list(dict.fromkeys(args.splits)) if args.splits else [s for s in ("val", "test") if s in proc.splits]
    if not splits:
        raise UserError(f"{args.svm} has neither val nor test images; name its splits with --splits")
    for split in splits:
        proc.metrics(split)
    opened = export(proc, args.to, args.out, splits)
    count = sum(len(proc.metrics(split)["classes"]) for split in splits)
    print(f"{args.out}: {count:,} images; open it with: {opened}")


if __name__ == "__main__":
    main()
