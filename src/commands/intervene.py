"""Turn a result into what the next training takes: loss weights, or an index file.

    failure-directions intervene weights --svm results/cifar_svm.pt --scheme x2 --out results/cifar_x2.pt
    failure-directions train ... --loss-vec-file results/cifar_x2.pt

    failure-directions intervene add --svm results/cifar_svm.pt --per-class 100 --out results/cifar_add.pt
    failure-directions train ... --indices-file results/cifar_add.pt

    failure-directions intervene filter --svm results/cifar_svm.pt --out results/cifar_filtered.pt

`add` takes the images from the extra pool, so the result must be made with --unlabeled. --by says what chooses images:
each class's single direction (svm), its confirmed failures (slices; --slices names some), or, to compare with, the
model's confidence, chance, or the true minority where the betons know `spurious`. --budget N is shared by the
confirmed failures: by their errors (size x error rate), or equally. Classes in which no failure is confirmed stay as
they are, unless --classes or --unconfirmed says otherwise.

    failure-directions intervene add --svm OUT.pt --pool FOLDER --budget 200 --out to_label.csv
    failure-directions intervene add --svm OUT.pt --labelled to_label.csv --out more.csv

A pool without labels: its images are classed and embedded as the result was made, by distil or find, and those that
look hardest to the confirmed failures of the class that they are guessed to be are listed, to be labelled. Read back,
the list becomes a table of images for `train --extra-images`, or for one's own training.
"""

import argparse
from pathlib import Path

import numpy as np

from ..interventions.choosing import (
    CHOICES,
    SCHEMES,
    SHARES,
    balanced_weights,
    choose,
    choose_by_slice,
    class_shares,
    flagged,
    hardness,
    in_minority,
    in_slices,
    shared_budget,
    soft_weights,
    suspected_by_slice,
    suspected_noise,
    x2_weights,
)
from ..runtime.english import some
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable, existing_file, write_csv
from ..runtime.tables import format_table

BY_SLICES = "slices"
NO_POOL = (
    "; it was made without an index file, so that there is no pool yet: failure-directions index --set-apart-every "
    "sets one apart from the training images, before the model is trained"
)


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
    how_many = add.add_mutually_exclusive_group()
    how_many.add_argument("--per-class", type=int, metavar="K", help="images added to each class")
    how_many.add_argument("--budget", type=int, metavar="N", help="images in all, shared by the confirmed failures")
    add.add_argument(
        "--share",
        choices=SHARES,
        default="errors",
        help="of failures that share: by their numbers of errors, or equally (default: errors)",
    )
    unlabelled = add.add_mutually_exclusive_group()
    unlabelled.add_argument(
        "--pool", metavar="FOLDER", help="choose among these images, which have no labels; OUT is a CSV to be labelled"
    )
    unlabelled.add_argument(
        "--labelled", metavar="CSV", help="that CSV with its labels; OUT is a table of the images that have one"
    )
    add.add_argument("--device", default="auto", help="of --pool: auto, cpu, cuda or cuda:N")
    filtered = commands.add_parser("filter", help="index file without training images that look mislabelled")
    for command in (weights, add, filtered):
        choices = (*(CHOICES[:2] if command is filtered else CHOICES), BY_SLICES)
        command.add_argument(
            "--svm", required=True, metavar="OUT.pt", help="result of failure-directions distil (or find, for --pool)"
        )
        command.add_argument(
            "--by", choices=choices, help="what chooses images (default: svm; slices with --slices and --pool)"
        )
        which = command.add_mutually_exclusive_group()
        which.add_argument(
            "--classes",
            nargs="+",
            metavar="NAME",
            help="change these classes only (default: those in which a failure is confirmed)",
        )
        which.add_argument("--unconfirmed", action="store_true", help="change all classes, confirmed or not")
        which.add_argument(
            "--slices",
            nargs="+",
            metavar="ID",
            help="these failures, such as cat-1 (default of --by slices: the confirmed ones)",
        )
        command.add_argument("--out", required=True, help="file to write (.pt; with --pool and --labelled .csv)")
        if command is not filtered:
            command.add_argument("--seed", type=int, default=0, help="of chance (default: 0)")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    check_writable(args.out)
    if getattr(args, "seed", 0) < 0:
        raise UserError(f"--seed {args.seed} is below 0; give 0 or more")
    if args.command == "add":
        check_count(args)
    existing_file(args.svm, "SVM result")
    if args.command == "add" and (args.pool or args.labelled):
        (write_to_label if args.pool else write_labelled)(args)
        return
    from ..directions.galleries import SVMProcessor
    from ..directions.results import OutputFiles

    proc = SVMProcessor(args.svm)
    of_result = (proc.path, OutputFiles(proc.path).model)
    if Path(args.out).resolve() in [path.resolve() for path in of_result]:
        raise UserError(f"--out {args.out} is the result itself; name another file")
    if proc.loaded.dataset_config is None:
        raise UserError(
            f"{args.svm} was not made from betons, whose training images an intervention changes; make a result with "
            "failure-directions betons, train and distil"
        )
    if "train" not in proc.splits:
        raise UserError(f"{args.svm} has no training split; make it again with failure-directions distil")
    args.by = args.by or (BY_SLICES if args.slices else "svm")
    slices = failures_that_choose(args, proc.loaded)
    if slices and args.command != "filter":  # which takes images away that carry another class's label
        args.classes = [proc.class_names[c] for c in sorted({one.class_index for one in slices})]
    elif args.by != BY_SLICES and not args.classes and not args.unconfirmed:
        args.classes = confirmed_classes(proc.loaded)
    if (args.by == BY_SLICES and not slices) or args.classes == []:
        print(nothing_confirmed(args))
        return
    {"weights": write_weights, "add": write_added, "filter": write_filtered}[args.command](args, proc, slices)


def check_count(args):
    """How many images `add` takes is said, and makes sense."""
    if args.labelled:
        return
    if args.pool and args.per_class is not None:
        raise UserError("--per-class does not go with --pool, whose classes are guesses; give --budget")
    name, value = ("--budget", args.budget) if args.per_class is None else ("--per-class", args.per_class)
    if value is None:
        raise UserError(
            "it is not said how many images to add; give " + "--per-class K or " * (not args.pool) + "--budget N"
        )
    if value < 1:
        raise UserError(f"{name} {value} adds nothing; give 1 or more")


def write_weights(args, proc, slices):
    """A weight for every image of the train beton up to the last that is trained on."""
    if not 0 <= args.factor < 1e30:
        raise UserError(f"--factor {args.factor} is no weight; give a number of 0 or more")
    train, by = chosen_classes(proc.metrics("train"), args, proc, slices), _order_of(args)
    if args.scheme == "soft":
        if by not in ("svm", "confidence"):
            raise UserError(f"--scheme soft needs an order, which --by {by} has not; give svm or confidence")
        values = np.where(np.isnan(train["decision_values"]), np.nan, -hardness(train, by))
        weights, what = soft_weights(train["classes"], values), "higher than 1"
    else:
        check_flagged(slices, train["classes"], train.get("slice_values"))
        is_flagged = flagged(train, by, minority_of(args, proc, train), args.seed)
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


def write_added(args, proc, slices):
    """The result's splits, with images of the pool moved to train."""
    if "unlabeled" not in proc.loaded.splits:
        raise UserError(
            f"{args.svm} has no extra pool to choose from; make it again with failure-directions distil --unlabeled"
            + ("" if proc.loaded.args.get("indices_file") or proc.loaded.dataset_config.unlabeled_beton else NO_POOL)
        )
    from ..data.index_files import save_index_file
    from ..directions.galleries import SVMProcessor

    proc = SVMProcessor(args.svm, get_unlabeled=True)
    pool = chosen_classes(proc.metrics("unlabeled"), args, proc, slices)
    order = hardness(pool, _order_of(args), minority_of(args, proc, pool), args.seed)
    available = int(np.isfinite(order).sum())
    if args.budget is not None and args.budget > available:
        raise UserError(
            f"of the pool in {args.svm} {available} images can be chosen by {args.by}, fewer than --budget "
            f"{args.budget}; give {available} or less"
            if available
            else nothing_to_choose(args)
        )
    counts = counts_of(args, proc, slices, pool)
    if args.by == BY_SLICES:
        taken = choose_by_slice(slices, counts, pool["classes"], pool["slice_values"])
        chosen = np.concatenate(list(taken.values()))
        got = {name: len(positions) for name, positions in taken.items()}
    else:
        chosen = choose(order, pool["classes"], counts)
        of_class = np.bincount(pool["classes"][chosen], minlength=proc.num_classes)
        got = {c: int(of_class[c]) for c in counts}
    if not len(chosen):
        raise UserError(nothing_to_choose(args))
    splits = splits_of(proc)
    # A pool in a beton of its own is added as `extra_indices`; one in the train beton becomes part of train.
    added = "extra_indices" if proc.loaded.dataset_config.unlabeled_beton else "train_indices"
    splits[added] = np.concatenate([splits.get(added, np.array([], np.int64)), pool["indices"][chosen]])
    splits["unlabeled_indices"] = np.delete(pool["indices"], chosen)
    save_index_file(args.out, splits, proc.loaded.train_labels_digest)
    write_files(args, proc, pool, chosen)
    is_chosen = np.isin(np.arange(len(order)), chosen)
    print_counts(proc, pool, is_chosen, "added", args)
    if args.by == BY_SLICES:
        print(f"by failure: {', '.join(f'{name} {count}' for name, count in got.items())}")
    short = [
        f"{name if isinstance(name, str) else proc.class_names[name]} ({got[name]})"
        for name, count in counts.items()
        if got[name] < count
    ]
    if short:
        asked = "asked" if args.per_class is None or args.by == BY_SLICES else args.per_class
        print(f"fewer than {asked}, all that can be chosen: {', '.join(short)}")


def counts_of(args, proc, slices, pool):
    """How many images are asked of each failure (by its id), or where something else chooses of each class."""
    if args.by == BY_SLICES and args.budget is not None:
        return shared_budget(slices, args.budget, args.share)
    if args.by == BY_SLICES:
        by_class = [[one for one in slices if one.class_index == c] for c in sorted({s.class_index for s in slices})]
        return {k: v for of in by_class for k, v in shared_budget(of, args.per_class, args.share).items()}
    classes = (
        [proc.class_number(name) for name in args.classes] if args.classes else np.unique(pool["classes"]).tolist()
    )
    if args.budget is None:
        return dict.fromkeys(classes, args.per_class)
    found = proc.loaded.found
    return class_shares(slices or (found.confirmed if found else []), classes, args.budget, args.share)


def nothing_to_choose(args):
    return (
        f"no image of the pool in {args.svm} can be chosen by {args.by}: no class has a direction and images; "
        "look at its table of classes"
    )


def write_filtered(args, proc, slices):
    """The result's splits without the training images that look mislabelled."""
    column = "looks_like_slice_values" if args.by == BY_SLICES else "looks_like"
    train = proc.metrics("train")
    if args.by != BY_SLICES:
        train = chosen_classes(train, args, proc, slices)
    if column not in train:
        raise UserError(
            f"{args.svm} does not say what training images look like; make it again with failure-directions distil"
        )
    if args.by == BY_SLICES:
        check_flagged(slices, train["looks_like"], train[column])
        suspected = suspected_by_slice(slices, train["looks_like"], train["classes"], train[column])
    else:
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
    write_files(args, proc, train, np.flatnonzero(suspected))
    print_counts(proc, train, suspected, "left out", args)


# ---- a pool without labels ------------------------------------------------------------------------------------------


def write_to_label(args):
    """The list of images to label, of a folder without labels."""
    check_list(args, "--pool")
    if args.by not in (None, BY_SLICES):
        raise UserError(f"--by {args.by} does not go with --pool, where confirmed failures choose; leave it out")
    args.by = BY_SLICES
    from ..directions.analysis import slice_values
    from ..directions.results import read_directions, read_result
    from ..interventions.label_next import choose_to_label, write_to_label
    from .pool import look_at

    result = read_result(args.svm)
    slices = failures_that_choose(args, result)
    if not slices:
        print(nothing_confirmed(args))
        return
    seen = look_at(args.pool, result, args.svm, args.device)
    for note in seen.notes:
        print(f"note: {note}")
    values = slice_values(result.found, read_directions(args.svm).preprocess, seen.embeddings, seen.guesses)
    chosen = choose_to_label(seen.paths, seen.guesses, values, slices, args.budget, args.share)
    if not chosen:
        raise UserError(
            f"no image of {args.pool} is guessed to be of a class with a confirmed failure, "
            f"{some(sorted({one.class_name for one in slices}))}; give other images"
        )
    write_to_label(args.out, chosen)
    shares = shared_budget(slices, args.budget, args.share)
    rows = []
    for one in slices:
        scores = [row.score for row in chosen if row.slice == one.id]
        guessed = int((seen.guesses == one.class_index).sum())
        rows.append([one.id, guessed, shares[one.id], len(scores), sum(score <= 0 for score in scores)])
    print(format_table(["failure", "images guessed", "asked", "chosen", "that it flags"], rows))
    print(
        f"{args.out}: {len(chosen)} of {len(seen.paths)} images; fill in the column label, then failure-directions "
        f"intervene add --svm {args.svm} --labelled {args.out} --out more.csv"
    )


def write_labelled(args):
    """The table of images that have a label by now."""
    check_list(args, "--labelled")
    from ..directions.results import read_result
    from ..interventions.label_next import read_labelled

    if Path(args.out).absolute() == Path(args.labelled).absolute():
        raise UserError(f"--out {args.out} is the list itself; name another file")
    result = read_result(args.svm)
    labelled = read_labelled(args.labelled, result.class_names)
    folder = Path(args.out).absolute().parent
    outside = [path for path in labelled.paths if not path.resolve().is_relative_to(folder.resolve())]
    if outside and result.dataset_config is not None:
        raise UserError(
            f"{outside[0]} does not lie below {folder}, and training takes a table from above its images; "
            "write --out there"
        )
    names = [result.class_names[c] for c in labelled.labels]
    paths = [str(path if outside else path.resolve().relative_to(folder.resolve())) for path in labelled.paths]
    write_csv(args.out, ["path", "label"], zip(paths, names, strict=True))
    rows = []
    for of in dict.fromkeys(labelled.slices):
        pairs = [
            (name, guess)
            for name, guess, one in zip(names, labelled.guesses, labelled.slices, strict=True)
            if one == of
        ]
        rows.append([of or "-", len(pairs), sum(name == guess for name, guess in pairs)])
    print(format_table(["failure", "labelled", "of the class guessed"], rows))
    told = f"{args.out}: {len(paths)} images with their labels; {labelled.without} have none and are left out"
    if result.dataset_config is not None:
        told += f"; train on them with failure-directions train ... --extra-images {args.out}"
    print(told)


def check_list(args, option):
    if Path(args.out).suffix != ".csv":
        raise UserError(f"--out {args.out} is to be a table with {option}: give a name that ends in .csv")


# ---- what is chosen -------------------------------------------------------------------------------------------------


def confirmed_classes(result):
    """Names of the classes in which a slice or the single direction is confirmed; None where nothing was tested."""
    if result.found is None:
        return None
    confirmed = result.found.confirmed_directions | {one.class_index for one in result.found.confirmed}
    return [result.class_names[c] for c in sorted(confirmed)]


def nothing_confirmed(args):
    return (
        f"no failure in {args.svm} is confirmed, so that there is nothing to mend and {args.out} is not written: find "
        "some in more images, or say with --classes or --unconfirmed what to change all the same"
    )


def failures_that_choose(args, result):
    """The slices that --slices names, or with --by slices those that are confirmed; none where others choose."""
    found = result.found
    if args.slices:
        known = {one.id: one for one in (found.slices if found else ())}
        for name in args.slices:
            if name not in known:
                raise UserError(f"{args.svm} has no failure {name}; it has {some(known) or 'none'}")
        return [known[name] for name in dict.fromkeys(args.slices)]
    if args.by != BY_SLICES:
        return []
    if found is None:
        raise UserError(f"{args.svm} is of an earlier version, which sought no slices; make it again")
    for name in args.classes or ():
        if name not in result.class_names:
            raise UserError(f"{args.svm} has no class {name!r}; it has {some(result.class_names)}")
    slices = found.slices if args.unconfirmed else found.confirmed
    return [one for one in slices if not args.classes or one.class_name in args.classes]


def check_flagged(slices, classes, slice_values):
    """Say which of the failures flag no training image; raise `UserError` where none does."""
    empty = [one.id for one in slices if not in_slices([one], classes, slice_values).any()]
    if slices and len(empty) == len(slices):
        raise UserError(
            f"no training image lies in {some(empty)}, so that weights and filters change nothing there; add images "
            "with failure-directions intervene add"
        )
    if empty:
        print(f"no training image lies in {some(empty)}: for {'it' if len(empty) == 1 else 'them'} nothing changes")


def _order_of(args):
    """What orders images of the entry of `chosen_classes`, where slices give the decision values."""
    return "svm" if args.by == BY_SLICES else args.by


def write_files(args, proc, entry, chosen):
    """Beside the index file a CSV with the files of the chosen images, at these positions, where they are known."""
    if "paths" not in entry:
        return
    path = Path(args.out).with_suffix(".csv")
    rows = [
        [entry["indices"][i], proc.class_names[entry["classes"][i]], f"{entry['decision_values'][i]:.6f}", file]
        for i, file in ((i, entry["paths"][i]) for i in chosen)
    ]
    write_csv(path, ["index", "class_name", "decision_value", "path"], rows, for_people=True)
    print(f"{path}: the files of these images")


def chosen_classes(entry, args, proc, slices):
    """The entry, in which classes that --classes leaves out have no direction, so that nothing in them changes.

    With slices the decision value of an image is the lowest that those of its class give it.
    """
    if slices:
        values = np.full(len(entry["classes"]), np.nan)
        for one in slices:
            rows = entry["classes"] == one.class_index
            values[rows] = np.fmin(values[rows], entry["slice_values"][rows, one.rank - 1])
        return {**entry, "decision_values": values}
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
