"""Turn a result of train_svms.py into what the next training takes: loss weights, or an index file.

    failure-directions intervene weights --svm results/cifar_svm.pt --scheme x2 --out results/cifar_x2.pt
    python ffcv_main.py ... --loss-vec-file results/cifar_x2.pt

    failure-directions intervene add --svm results/cifar_svm.pt --per-class 100 --out results/cifar_add.pt
    python ffcv_main.py ... --indices-file results/cifar_add.pt

    failure-directions intervene filter --svm results/cifar_svm.pt --out results/cifar_filtered.pt

`add` takes the images from the extra pool, so the result must be made with --unlabeled. --by says what chooses images:
the SVM, or, to compare with, the model's confidence, chance, or the true minority where the betons know `spurious`.
"""

import argparse
from pathlib import Path

import numpy as np

from ..interventions.choosing import (
    CHOICES,
    SCHEMES,
    balanced_weights,
    choose,
    flagged,
    hardness,
    in_minority,
    soft_weights,
    suspected_noise,
    x2_weights,
)
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable, existing_file
from ..runtime.tables import format_table


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    weights = commands.add_parser("weights", help="loss weights of the training images, for --loss-vec-file")
    weights.add_argument(
        "--scheme",
        choices=SCHEMES,
        default="x2",
        help="x2: --factor where flagged; balanced: flagged and other images of a class count alike; "
        "soft: by decision value",
    )
    weights.add_argument("--factor", type=float, default=2.0, help="weight of flagged images with x2 (default: 2)")
    add = commands.add_parser("add", help="index file with more training images, from the extra pool")
    add.add_argument("--per-class", type=int, required=True, metavar="K", help="images added to each class")
    filtered = commands.add_parser("filter", help="index file without training images that look mislabelled")
    for command in (weights, add, filtered):
        choices = CHOICES[:2] if command is filtered else CHOICES
        command.add_argument("--svm", required=True, metavar="OUT.pt", help="result of train_svms.py")
        command.add_argument("--by", choices=choices, default="svm", help="what chooses images (default: svm)")
        command.add_argument("--classes", nargs="+", metavar="NAME", help="change these classes only")
        command.add_argument("--out", required=True, help="file to write (.pt)")
        if command is not filtered:
            command.add_argument("--seed", type=int, default=0, help="of chance (default: 0)")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    check_writable(args.out)
    if getattr(args, "seed", 0) < 0:
        raise UserError(f"--seed {args.seed} is below 0; give 0 or more")
    existing_file(args.svm, "SVM result")
    from ..directions.galleries import SVMProcessor
    from ..directions.results import OutputFiles

    proc = SVMProcessor(args.svm)
    of_result = (proc.path, OutputFiles(proc.path).model)
    if Path(args.out).resolve() in [path.resolve() for path in of_result]:
        raise UserError(f"--out {args.out} is the result itself; name another file")
    if "train" not in proc.splits:
        raise UserError(f"{args.svm} has no training split; make it again with train_svms.py")
    {"weights": write_weights, "add": write_added, "filter": write_filtered}[args.command](args, proc)


def write_weights(args, proc):
    """A weight for every image of the train beton up to the last that is trained on."""
    if not 0 <= args.factor < 1e30:
        raise UserError(f"--factor {args.factor} is no weight; give a number of 0 or more")
    train = chosen_classes(proc.metrics("train"), args, proc)
    if args.scheme == "soft":
        if args.by not in ("svm", "confidence"):
            raise UserError(f"--scheme soft needs an order, which --by {args.by} has not; give svm or confidence")
        values = np.where(np.isnan(train["decision_values"]), np.nan, -hardness(train, args.by))
        weights, what = soft_weights(train["classes"], values), "higher than 1"
    else:
        is_flagged = flagged(train, args.by, minority_of(args, proc, train), args.seed)
        balanced = args.scheme == "balanced"
        weights = balanced_weights(train["classes"], is_flagged) if balanced else x2_weights(is_flagged, args.factor)
        what = "flagged"
    if not weights.any():
        raise UserError(
            f"every weight would be 0, so nothing would be learned; give another --factor than {args.factor:g}"
        )
    import torch

    from ..runtime.pt_files import save_pt

    vector = torch.ones(int(train["indices"].max()) + 1)
    vector[torch.from_numpy(train["indices"])] = torch.from_numpy(weights).float()
    save_pt(vector, args.out)
    changed = weights > 1 if args.scheme == "soft" else is_flagged
    print_counts(proc, train, changed, what, args)
    if np.allclose(weights, weights[0]):
        print("all weights are equal, so training with them changes nothing: nothing is flagged, or a class at a time")


def write_added(args, proc):
    """The result's splits, with images of the pool moved to train."""
    if args.per_class < 1:
        raise UserError(f"--per-class {args.per_class} adds nothing; give 1 or more")
    if "unlabeled" not in proc.loaded.splits:
        raise UserError(f"{args.svm} has no extra pool to choose from; make it again with train_svms.py --unlabeled")
    from ..data.index_files import save_index_file
    from ..directions.galleries import SVMProcessor

    proc = SVMProcessor(args.svm, get_unlabeled=True)
    pool = chosen_classes(proc.metrics("unlabeled"), args, proc)
    order = hardness(pool, args.by, minority_of(args, proc, pool), args.seed)
    chosen = choose(order, pool["classes"], args.per_class)
    if not len(chosen):
        raise UserError(
            f"no image of the pool in {args.svm} can be chosen by {args.by}: no class has a direction and images; "
            "look at its table of classes"
        )
    splits = splits_of(proc)
    # A pool in a beton of its own is added as `extra_indices`; one in the train beton becomes part of train.
    added = "extra_indices" if proc.loaded.dataset_config.unlabeled_beton else "train_indices"
    splits[added] = np.concatenate([splits.get(added, np.array([], np.int64)), pool["indices"][chosen]])
    splits["unlabeled_indices"] = np.delete(pool["indices"], chosen)
    save_index_file(args.out, splits, proc.loaded.train_labels_digest)
    is_chosen = np.isin(np.arange(len(order)), chosen)
    print_counts(proc, pool, is_chosen, "added", args)
    counts = np.bincount(pool["classes"][chosen], minlength=proc.num_classes)
    asked = [proc.class_number(name) for name in args.classes] if args.classes else np.unique(pool["classes"])
    short = [f"{proc.class_names[c]} ({counts[c]})" for c in asked if counts[c] < args.per_class]
    if short:
        print(f"fewer than {args.per_class}, all that can be chosen: {', '.join(short)}")


def write_filtered(args, proc):
    """The result's splits without the training images that look mislabelled."""
    train = chosen_classes(proc.metrics("train"), args, proc)
    if "looks_like" not in train:
        raise UserError(f"{args.svm} does not say what training images look like; make it again with train_svms.py")
    suspected = suspected_noise(train, args.by)
    for c in np.unique(train["classes"]):
        if suspected[train["classes"] == c].all():
            raise UserError(
                f"every training image of {proc.class_names[c]} looks mislabelled, so the base model of {args.svm} has "
                "not learned the class; train it longer, or leave the class out with --classes"
            )
    splits = splits_of(proc)
    splits["train_indices"] = splits["train_indices"][~suspected]
    from ..data.index_files import save_index_file

    save_index_file(args.out, splits, proc.loaded.train_labels_digest)
    print_counts(proc, train, suspected, "left out", args)


def chosen_classes(entry, args, proc):
    """The entry, in which classes that --classes leaves out have no direction, so that nothing in them changes."""
    if not args.classes:
        return entry
    wanted = [proc.class_number(name) for name in args.classes]
    values = np.where(np.isin(entry["classes"], wanted), entry["decision_values"], np.nan)
    return {**entry, "decision_values": values}


def minority_of(args, proc, entry):
    """The minority of each class where it is asked for."""
    if args.by != "minority":
        return None
    if "spuriouses" not in entry:
        raise UserError(f"--by minority needs to know it, but the betons of {args.svm} have no field `spurious`")
    minority = proc.minority()
    if not any(minority):
        raise UserError(f"no class of {args.svm} has a minority; name its values with minority: in the dataset config")
    return minority


def splits_of(proc):
    """The index arrays that a result was made from."""
    splits = {f"{name}_indices": proc.metrics(name)["indices"] for name in proc.splits if name != "test"}
    if proc.loaded.extra_indices is not None:
        splits["extra_indices"] = proc.loaded.extra_indices
    return splits


def print_counts(proc, entry, changed, what, args):
    """Of each class: how many images there are, how many are changed, and how many of these are of the minority."""
    minority = proc.minority() if "spuriouses" in entry else [set()] * proc.num_classes
    rare = in_minority(entry, minority) if any(minority) else None
    rows = []
    for c, name in enumerate(proc.class_names):
        members = entry["classes"] == c
        row = [name, int(members.sum()), int((members & changed).sum())]
        if rare is not None:
            row.append(int((members & changed & rare).sum()))
        remark = "no direction" if np.isnan(entry["decision_values"][members]).all() else ""
        rows.append([*row, "not chosen" if args.classes and name not in args.classes else remark])
    header = ["class", "images", what, *(["of the minority"] if rare is not None else []), ""]
    print(format_table(header, rows))
    print(f"{args.out}: {int(changed.sum())} of {len(changed)} images {what} by {args.by}")


if __name__ == "__main__":
    main()
