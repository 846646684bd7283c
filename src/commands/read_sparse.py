"""What a sparse layer says: biases, counterfactuals, and what its errors come from.

    failure-directions read-sparse biases --sparse results/toxic_sparse --out results/toxic_reading
    failure-directions read-sparse counterfactual --sparse results/toxic_sparse --class toxic \\
        --out results/toxic_reading
    failure-directions read-sparse misclassified --sparse results/cifar_sparse --out results/cifar_reading

Run it where `failure-directions sparse` was run, or say where the data and the model are now. Each use prints a table
and leaves CSVs and figures in --out. Features of text models are described by the words that drive them, from a sample
of sentences; what is computed of a sentence is kept in the folder --sparse/words and used again.
"""

import argparse
from pathlib import Path

import numpy as np

from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, entry_point
from ..runtime.figure_files import save_figure
from ..runtime.files import check_writable, existing_file, write_csv
from ..runtime.tables import format_table
from ..sparse.reading.debugging import counterfactual, find_biases, misclassifications_by_feature, without_feature
from . import sparse as sparse_main

MOVED = ("dataset_path", "model_path", "config", "indices_file", "root")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    uses = parser.add_subparsers(dest="use", required=True, metavar="USE")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--sparse", required=True, metavar="OUT", help="what failure-directions sparse was given as --out-path"
    )
    common.add_argument("--out", required=True, metavar="FOLDER", help="folder of the CSVs and figures")
    common.add_argument("--layer", type=int, metavar="I", help="of the path (default: the one that was selected)")
    common.add_argument("--split", default="test", choices=("train", "val", "test"), help="(default: test)")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    for name in MOVED:
        common.add_argument(f"--{name.replace('_', '-')}", metavar="PATH", help="where it is now, if it was moved")
    words = common.add_argument_group("text: the words that drive a feature")
    words.add_argument("--sentences", type=int, default=200, help="sentences of the split to look at (default: 200)")
    words.add_argument("--samples", type=int, default=200, help="variants of each sentence (default: 200)")
    words.add_argument("--least", type=int, default=2, help="sentences in which a word must occur (default: 2)")
    words.add_argument("--seed", type=int, default=0, help="of sentences and variants")

    biases = uses.add_parser("biases", parents=[common], help="features and words with an outsized weight in a class")
    biases.add_argument("--factor", type=float, default=3.0, help="times the median |weight| of a class (default: 3)")
    change = uses.add_parser("counterfactual", parents=[common], help="take away what is behind a feature")
    change.add_argument(
        "--class", dest="class_name", required=True, metavar="NAME", help="examples predicted as this class are changed"
    )
    change.add_argument("--feature", type=int, metavar="J", help="(default: that with the largest weight in it)")
    change.add_argument(
        "--words", nargs="+", metavar="WORD", help="text: to replace (default: those that drive it most)"
    )
    change.add_argument("--replace-with", nargs="+", metavar="WORD", help="text: (default: those that drive it least)")
    errors = uses.add_parser("misclassified", parents=[common], help="errors grouped by the feature that caused them")
    errors.add_argument("--groups", type=int, default=10, help="groups to print and draw (default: 10)")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    for name, least in (("sentences", 1), ("samples", 2), ("least", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)} must be {least} or more")
    check_writable(Path(args.out) / "table.csv")
    existing_file(Path(args.sparse) / "run.pt", "sparse result")
    moved = {name: getattr(args, name) for name in MOVED if getattr(args, name) is not None}
    reader = open_reader(args.sparse, args.split, args.layer, args.device, **moved)
    {"biases": biases, "counterfactual": change_examples, "misclassified": misclassified}[args.use](args, reader)


def open_reader(out, split="test", layer=None, device="auto", **moved):
    """A `TextReader` or an `ImageReader` of a folder that sparse_main.py left.

    Args:
        layer: number on the path; by default the selected one.
        moved: options of sparse_main.py to use in place of those of the time, such as dataset_path.
    """
    from ..sparse.reading.readers import ImageReader, TextReader
    from ..sparse.reading.results import SparseResult

    result = SparseResult.load(out)
    device = resolve_device(device)
    options = recorded_options(result, moved)
    task = sparse_main.open_task(options, device)
    kind = TextReader if options.dataset in sparse_main.LANGUAGE else ImageReader
    return kind(result, task, split, result.layer(layer), device, options)


def recorded_options(result, moved):
    """The options of sparse_main.py that a result records, and those of `moved` in their place."""
    defaults = vars(sparse_main.parse_arguments(["--dataset", "folder", "--out-path", str(result.folder)]))
    options = argparse.Namespace(**defaults | result.args | moved)
    numbers = {"factor": float, "num_workers": int, "batch_size": int}  # whose default is None, as is that of text
    for name, default in defaults.items():
        kind = numbers.get(name, str) | None if default is None else type(default)
        if not isinstance(getattr(options, name), kind):
            raise UserError(
                f"{result.folder / 'run.pt'} is damaged: its {name} is another kind of value; run "
                "failure-directions sparse again"
            )
    sparse_main.check_arguments(options)
    return options


def words_are_read(args, reader):
    """Whether the examples are texts; if so the words that drive the features are computed, which may take long."""
    if not reader.is_text:
        return False
    reader.read_words(args.sentences, args.samples, args.least, args.seed)
    return True


# The three uses


def biases(args, reader):
    """Features, and words, of outsized weight in a class: printed, as CSV, and a figure a class."""
    from ..sparse.reading.pictures import image_rows_figure

    if not args.factor >= 1:
        raise UserError(f"--factor {args.factor:g} must be 1 or more")
    out, names, is_text = Path(args.out), reader.class_names, words_are_read(args, reader)
    found = find_biases(reader.layer.weight, args.factor)
    header = ["class", "feature", "weight", "share", "times the median", *(["words for", "words against"] * is_text)]
    rows = [
        [
            names[bias.class_number],
            bias.number,
            bias.weight,
            bias.share,
            bias.ratio,
            *(reader.driving(bias.number, bias.class_number) if is_text else []),
        ]
        for bias in found
    ]
    write_csv(out / "biases.csv", header, rows, for_people=True)
    none = f"No feature has {args.factor:g} times the median weight of its class."
    tables = [format_table(header, rows) if rows else none]
    if is_text:
        header = ["class", "word", "effect", "share", "times the median", "sentences"]
        rows = [
            [
                names[bias.class_number],
                reader.words.words[bias.number],
                bias.weight,
                bias.share,
                bias.ratio,
                int(reader.words.counts[bias.number]),
            ]
            for bias in find_biases(reader.words.effects(reader.layer.weight), args.factor)
        ]
        write_csv(out / "bias_words.csv", header, rows, for_people=True)
        shown = [row for name in names for row in [row for row in rows if row[0] == name][:10]]
        title = "\nWords with an outsized effect on a class's score, by way of all its features (at most 10 a class)\n"
        tables += [title, format_table(header, shown)]
    for c in sorted({bias.class_number for bias in found}):
        features = [bias.number for bias in found if bias.class_number == c][:5]
        save_figure(image_rows_figure(reader.describe(c, features), names[c]), out / f"biases_{c}.png")
    print("\n".join(tables))
    print(f"result: {out}")


def change_examples(args, reader):
    """What the layer says of examples of a class with words replaced, or with a feature at its mean."""
    from ..sparse.reading.pictures import before_after_figure

    out, result = Path(args.out), reader.result
    c = result.class_number(args.class_name)
    weight = reader.layer.weight[c]
    if args.feature is None:
        if not (weight > 0).any():
            raise UserError(f"no feature speaks for class {args.class_name} in this layer; name one with --feature")
        feature = int(weight.argmax())
    elif 0 <= args.feature < len(weight):
        feature = args.feature
    else:
        raise UserError(f"there is no feature {args.feature}; the model has the features 0..{len(weight) - 1}")
    positions = np.flatnonzero(reader.predictions == c)
    if not len(positions):
        raise UserError(f"no {args.split} example is predicted as {args.class_name}; take another class or split")
    if not reader.is_text and (args.words or args.replace_with):
        raise UserError("--words and --replace-with are for text; in images the feature is set to its mean")
    if words_are_read(args, reader):
        replacements = choose_replacements(args, reader, feature, weight[feature])
        how = "replaced: " + ", ".join(f"{word} -> {other or '(left out)'}" for word, other in replacements.items())
        found = counterfactual([reader.texts[i] for i in positions], replacements, reader.probabilities)
        if not len(found.positions):
            raise UserError(
                f"no {args.split} text that is predicted as {args.class_name} has any of the words to replace; give "
                "--words"
            )
    else:
        how = "the feature is set to its mean"
        found = without_feature(reader.rows(positions), reader.layer, feature)
    names = reader.class_names
    header = ["example", f"{args.class_name} before", "after", "predicted after"]
    rows = [
        [
            int(positions[found.positions[i]]),
            float(found.before[i, c]),
            float(found.after[i, c]),
            names[found.after[i].argmax()],
            *([found.texts[i], found.changed[i]] if found.texts else []),
        ]
        for i in np.argsort(found.after[:, c] - found.before[:, c], kind="stable")
    ]
    write_csv(
        out / "counterfactual.csv", [*header, *(["text", "changed"] if found.texts else [])], rows, for_people=True
    )
    save_figure(before_after_figure(found.before, found.after, (c, args.class_name)), out / "counterfactual.png")
    shown = [[*row[:4], *(_short(changed) for changed in row[5:])] for row in rows[:10]]
    print(f"feature {feature}, weight {weight[feature]:+.3f} in {args.class_name}")
    print(how)
    print(format_table([*header, *[""] * (found.texts is not None)], shown))
    print(
        f"flipped: {found.flipped.sum()} of {len(rows)}; mean probability of {args.class_name}: "
        f"{found.before[:, c].mean():.3f} before, {found.after[:, c].mean():.3f} after"
    )
    print(f"result: {out}")


def choose_replacements(args, reader, feature, weight):
    """dict of word -> word: those that speak for the class through the feature -> those that speak against it."""
    pro, contra = reader.words.driving(feature, weight=weight)
    words = args.words or list(pro)
    if not words:
        raise UserError(f"no word drives feature {feature} in these sentences; look at more, or give --words")
    others = args.replace_with or [word for word in contra if word not in words] or [""]
    return {word: others[i % len(others)] for i, word in enumerate(words)}


def misclassified(args, reader):
    """Errors of the layer, by the feature that speaks most for them."""
    from ..sparse.reading.pictures import image_rows_figure

    if args.groups < 1:
        raise UserError(f"--groups {args.groups} must be 1 or more")
    out, names = Path(args.out), reader.class_names
    wrong = np.flatnonzero(reader.predictions != reader.labels)
    if not len(wrong):
        raise UserError(f"the layer makes no error on {args.split}; take another --split, or a sparser --layer")
    groups = misclassifications_by_feature(reader.rows(wrong), reader.labels[wrong], reader.layer)
    is_text = words_are_read(args, reader)
    header = ["feature", "errors", "share", "right without it", "most often", "of them"]
    rows = []
    for group in groups:
        right, taken = (names[c] for c in group.confusion)
        row = [
            group.feature,
            len(group.members),
            len(group.members) / len(wrong),
            group.repaired,
            f"{right} taken for {taken}",
            group.confused,
        ]
        rows.append(row + (reader.driving(group.feature, group.confusion[1]) if is_text else []))
    header += [f"words for {what}" for what in ("what it is taken for", "what it is")] * is_text
    write_csv(out / "misclassified.csv", header, rows, for_people=True)
    write_csv(
        out / "misclassified_examples.csv",
        ["example", "feature", "contribution", "class", "predicted", *["text"] * is_text],
        [
            [
                wrong[k],
                group.feature,
                float(added),
                names[reader.labels[wrong[k]]],
                names[reader.predictions[wrong[k]]],
                *([reader.texts[wrong[k]]] if is_text else []),
            ]
            for group in groups
            for k, added in zip(group.members, group.contributions, strict=True)
        ],
        for_people=True,
    )
    shown = groups[: args.groups]
    if is_text:
        drawn = [row for group in shown for row in reader.describe(group.confusion[1], [group.feature])]
    else:
        positions = [wrong[group.members[:8]] for group in shown]
        pixels = iter(reader.pixels(reader.images(np.concatenate(positions))))
        drawn = [
            (
                f"feature {group.feature}, errors: {len(group.members)}; most often {row[4]} ({row[5]})",
                [next(pixels) for _ in own],
            )
            for group, own, row in zip(shown, positions, rows, strict=False)
        ]
    save_figure(image_rows_figure(drawn, f"errors by feature, {args.split}"), out / "misclassified.png")
    print(f"{len(wrong)} of {len(reader.labels)} are misclassified ({len(wrong) / len(reader.labels):.1%})\n")
    print(format_table(header, rows[: args.groups]))
    print(f"result: {out}")


def _short(text, most=70):
    return text if len(text) <= most else text[: most - 1] + "…"


if __name__ == "__main__":
    main()
