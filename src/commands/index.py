"""Write an index file: which examples of a beton are validation, train and the unlabeled pool.

    failure-directions index --beton data/cifar10_train.beton --out index_files/cifar.pt
    failure-directions index --beton data/cifar10_train.beton --set-apart-every 2 \\
        --out index_files/cifar_with_unlabeled.pt
    failure-directions index --beton data/cifar10_train.beton --set-apart-every 4 --set-apart-as train \\
        --out index_files/cifar_0.25_with_unlabeled.pt
    failure-directions index --beton data/supercifar100_train.beton --keep-train 4 \\
        --thin 2,3,4,10,12,13,18,33,38,40,44,45,51,54,64,73,80,81,84,96 --out index_files/spurious_cifar100.pt
    failure-directions index --beton data/celeba_age_train.beton --val-beton data/celeba_age_val.beton \\
        --subgroups 0:0:1,1:1:0 --majority 4 --out index_files/celeba_age.pt

The rule: of each class, in data-set order, every 5th example (the 1st, 6th, ...) is validation; of what remains, again
per class, every n-th is set apart. A set-apart part is listed class by class; what is left over in ascending order.

With --subgroups instead: of each class n examples of a minority and m x n of a majority, those that come first, n being
as large as the first class allows; the same of a validation beton of its own, with its own m.
"""

import argparse

import numpy as np

from ..data.run_files import existing_beton
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_apart, check_writable, open_npy


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--beton", help="beton with the labels")
    labels.add_argument("--labels", help="labels in data-set order instead (.npy, ints)")
    parser.add_argument("--out", required=True, help="index file (.pt)")
    parser.add_argument("--val-every", type=int, default=5, metavar="n", help="step of validation (default: 5)")
    parser.add_argument("--set-apart-every", type=int, metavar="n", help="default: nothing but validation is set apart")
    parser.add_argument(
        "--set-apart-as",
        choices=["unlabeled", "train"],
        default="unlabeled",
        help="what the set-apart part is; the rest is the other",
    )
    parser.add_argument(
        "--split-by",
        choices=["label", "spurious"],
        default="label",
        help="count every n-th within each class, or within each value of spurious",
    )
    parser.add_argument("--thin", metavar="V,V,...", help="values of spurious that are made rare")
    parser.add_argument("--keep-train", type=int, default=1, metavar="n", help="keep every n-th of them in train")
    parser.add_argument("--keep-rest", type=int, default=1, metavar="n", help="and every n-th in the other splits")
    parser.add_argument(
        "--subgroups",
        metavar="C:V:W,...",
        help="in class C, spurious V is the minority and W the majority; the rest is out",
    )
    parser.add_argument("--majority", type=int, default=1, metavar="m", help="m x the minority in train (default: 1)")
    parser.add_argument("--val-majority", type=int, default=1, metavar="m", help="and in --val-beton (default: 1)")
    parser.add_argument("--val-beton", help="with --subgroups: beton that validation is chosen from")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    for option in ("val_every", "set_apart_every", "keep_train", "keep_rest", "majority", "val_majority"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} {getattr(args, option)} is not 1 or more")
    if args.val_beton and not args.subgroups:
        raise UserError("--val-beton goes with --subgroups alone; without, validation is set apart of --beton")
    for path in filter(None, (args.beton, args.val_beton)):
        existing_beton(path)
    check_writable(args.out)
    check_apart([args.out], [args.beton, args.val_beton, args.labels])
    from ..data.index_files import KEYS, save_index_file

    splits = skewed_splits(args) if args.subgroups else counted_splits(args)
    empty = [key for key, indices in splits.items() if len(indices) == 0]
    if empty:
        raise UserError(f"{empty[0]} would be empty; choose a larger --val-every or --set-apart-every")
    save_index_file(args.out, splits)
    print(f"{args.out}: " + ", ".join(f"{key} {len(splits[key]):,}" for key in KEYS if key in splits))


def counted_splits(args):
    """Every n-th example of each class, and subgroups thinned."""
    from ..data.index_files import split_indices, thin

    column = read_column(args, args.split_by)
    splits = split_indices(column, args.val_every, args.set_apart_every, args.set_apart_as)
    if args.thin:
        spurious = read_column(args, "spurious")
        values = parse_values(args.thin, spurious)
        for key, indices in splits.items():
            step = args.keep_train if key == "train_indices" else args.keep_rest
            splits[key] = thin(indices, spurious, dict.fromkeys(values, step))
    return splits


def skewed_splits(args):
    """A minority and m times as large a majority of each class, in train and in validation."""
    if not args.beton or not args.val_beton or args.set_apart_every or args.thin:
        raise UserError("--subgroups takes --beton and --val-beton, and neither --set-apart-every nor --thin")
    from ..data.index_files import skew

    splits = {}
    for split, path, majority in (
        ("train", args.beton, args.majority),
        ("val", args.val_beton, args.val_majority),
    ):
        labels, spurious = (read_beton_column(path, name) for name in ("label", "spurious"))
        splits[f"{split}_indices"] = skew(labels, spurious, parse_subgroups(args.subgroups), majority)
    return splits


def read_column(args, name):
    """A field of all examples, int (N,), of --beton or, for labels, of --labels."""
    if args.beton:
        return read_beton_column(args.beton, name)
    if name != "label":
        raise UserError(f"--labels holds no {name}; give --beton")
    labels = open_npy(args.labels, "labels", "give a .npy of ints")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0:
        raise UserError(f"labels {args.labels} is not a one-dimensional array of ints of at least 0; give such a .npy")
    return labels


def read_beton_column(path, name):
    from ..data.betons import open_beton

    column = open_beton(path).column(name)
    if column.ndim != 1:
        raise UserError(f"the {name} of {path} is a vector of conditions; set validation images apart as a val_beton")
    return column


def parse_subgroups(text):
    """ "0:0:1,1:1:0" as [(0, 0, 1), (1, 1, 0)]."""
    subgroups = [tuple(part.split(":")) for part in text.split(",")]
    if not all(len(part) == 3 and all(word.isascii() and word.isdecimal() for word in part) for part in subgroups):
        raise UserError(f"--subgroups {text} is not a list of CLASS:MINORITY:MAJORITY such as 0:0:1,1:1:0")
    return [tuple(map(int, part)) for part in subgroups]


def parse_values(text, spurious):
    """The numbers of --thin, each of which some example has as `spurious`."""
    if not all(value.isascii() and value.isdecimal() for value in text.split(",")):
        raise UserError(f"--thin {text} is not a list of numbers such as 1,2,5")
    values = [int(value) for value in text.split(",")]
    for value in values:
        if value not in spurious:
            raise UserError(f"--thin {value}: no example has that value of spurious")
    return values


if __name__ == "__main__":
    main()
