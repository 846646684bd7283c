"""Find a model's failures in one's own images, confirm them, and write a report. No betons, no config.

    failure-directions find --images my_images --model timm:NAME|torchvision:NAME|hf:FOLDER_OR_NAME|FILE \\
        [--arch timm:NAME] --report report.html
    failure-directions find --predictions table.csv [--embeddings e.npy] --report report.html
    failure-directions find --images my_images --report report.html

The last, without a model, asks where images like these are hard: a linear classifier on pretrained features, and its
predictions for images that it was not fitted on.

Images lie in [SPLIT/]CLASS/**/FILE, or are listed in a table (CSV, Parquet)
path,label[,split][,group][,pred][,prob_CLASS ...]; other columns are metadata. Failures are found in val (find) and
confirmed in test (confirm); without splits, each class is halved.
"""

import argparse
import shlex
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..captions.sources import add_describe
from ..captions.vocabulary import read_vocabulary
from ..config_parsing import MOST
from ..runtime.distributed import is_main, process_group
from ..runtime.english import some
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_apart, check_writable, open_npy

DEFAULT_EMBEDDING = "timm:tf_efficientnet_lite0"
SMALL = 96  # pixels: images no larger are embedded at this size, in a fifth of the time
OWN_FEATURES = (
    "the embedding is the model's own features: what the model has learned to ignore is no direction in it, so that "
    "failures may be missed"
)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", metavar="FOLDER|TABLE", help="images in class folders, a table, a datasets folder")
    what.add_argument("--predictions", metavar="TABLE", help="a table with pred or prob_ columns")
    parser.add_argument("--embeddings", metavar="FILE.npy", help="(N, d), row i of the table in row i")
    parser.add_argument("--model", help="timm:NAME, torchvision:NAME, hf:FOLDER_OR_NAME, or a file of weights")
    parser.add_argument(
        "--arch", help="of a file of weights: timm:NAME, torchvision:NAME, cifar_resnet:NAME, hf:FOLDER"
    )
    parser.add_argument(
        "--label-names", metavar="A,B,...|FILE", help="the model's outputs in order; a file has a line each"
    )
    parser.add_argument(
        "--embedding",
        metavar="timm:NAME|clip:NAME|hf:NAME|model",
        help=f"space in which failures are sought, hf: for texts (default: {DEFAULT_EMBEDDING} where it is at hand)",
    )
    add_describe(parser)
    parser.add_argument(
        "--captions", metavar="NAME|FILE", help="of --describe: a caption set, its YAML file, or a .txt of one a line"
    )
    parser.add_argument("--report", metavar="FILE.html", help="write the report here")
    parser.add_argument("--out", metavar="OUT.pt", help="write the result here")
    parser.add_argument(
        "--image-root", metavar="FOLDER", help="what a table's paths are relative to (default: its folder)"
    )
    parser.add_argument(
        "--no-splits", action="store_true", help="the top folders are classes, whatever they are called"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out what is missing, empty, broken or doubled"
    )
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="what the model sees, where not its own size")
    parser.add_argument("--mean", type=_three, metavar="R,G,B", help="of the model's images, 0 to 1, where not its own")
    parser.add_argument("--std", type=_three, metavar="R,G,B", help="as --mean")
    parser.add_argument(
        "--directions", default="auto", type=_directions, help="auto, or how many slices a class may have"
    )
    parser.add_argument("--fdr", type=float, default=0.1, help="expected share of false claims (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result")
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward pass (default: 64)")
    parser.add_argument("--workers", type=int, help="processes that decode images (default: by the cores)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--cache", metavar="FOLDER", help="keep predictions and embeddings here (default: in ~/.cache)")
    return parser.parse_args(argv)


def _three(text):
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers, such as .5,.5,.5") from None
    return [red, green, blue]


def _directions(text):
    if text != "auto" and not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number")
    return text if text == "auto" else int(text)


@entry_point
@process_group()
def main(argv=None):
    args = parse_arguments(argv)
    _check_arguments(args)
    inputs = prepare(args)
    words = sys.argv[1:] if argv is None else argv
    inputs.made_from = {"command": shlex.join(["failure-directions", "find", *words])} | inputs.made_from
    if not is_main():
        return
    # Late: the statistics need no more than what is ready by now.
    from ..api import find_failures
    from ..captions.describing import words_of_slices

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its notes are printed
        found = find_failures(**vars(inputs), directions=args.directions, fdr=args.fdr, seed=args.seed)
    said = []
    if args.describe:
        embedded_by = (args.embedding or "").partition("clip:")[2] or None
        found = found.describe(args.describe, captions=args.captions, clip=embedded_by)
        said.append(words_of_slices(found.analysis))
    if args.out:
        found = replace(found, path=found.save(args.out))  # which the report's next steps name
        said.append(f"{found.path}: the result; failure_directions.load reads it")
    if args.report:
        said.append(f"{found.report(args.report)}: the report, for a browser")
    _say(*found.notes, str(found), *said)


def _check_arguments(args):
    for path in (args.report, args.out):
        if path is not None:
            check_writable(path)
    for option, value, least in (
        ("--batch-size", args.batch_size, 1),
        ("--workers", args.workers, 0),
        ("--seed", args.seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{option} is {value}; give at least {least}")
    if not 0 < args.fdr < 1:
        raise UserError(f"--fdr is {args.fdr}; give a share between 0 and 1, such as 0.1")
    if args.directions != "auto" and not 1 <= args.directions <= MOST:
        raise UserError(f"--directions is {args.directions}; give auto, or a number from 1 to {MOST:,}")
    for option in ("arch", "label_names", "image_size", "mean", "std"):
        if getattr(args, option) is not None and args.model is None:
            raise UserError(f"--{option.replace('_', '-')} is about a model, and none is given; add --model")
    if args.captions and not args.describe:
        raise UserError("--captions are texts to describe failures by; add --describe")
    if args.captions:
        args.captions = read_vocabulary(args.captions)
    if args.embeddings and args.embedding:
        raise UserError("--embeddings brings embeddings and --embedding computes some; give one of them")
    outputs = [args.report]
    if args.out is not None:
        from ..directions.results import OutputFiles  # late: it takes torch

        outputs += OutputFiles.named(args.out).all()
    check_apart(outputs, (args.images, args.predictions, args.embeddings, args.model, args.label_names))


# ---------------------------------------------------------------------------------------------------------------------
# From what a person has to arrays
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Inputs:
    """The arguments of `find_failures`, one row an image."""

    labels: np.ndarray
    preds: np.ndarray
    embeddings: np.ndarray
    split: np.ndarray | None = None
    groups: np.ndarray | None = None
    probs: np.ndarray | None = None
    images: object = None
    class_names: list | None = None
    metadata: dict = field(default_factory=dict)
    made_from: dict = field(default_factory=dict)


class MadeFrom(dict):
    """What the arrays were made from -> a sentence on it, printed as it becomes known and repeated by the report."""

    def tell(self, what, sentence):
        self[what] = sentence
        print(sentence)


def prepare(args):
    """`Inputs` of the command's arguments: the table read and checked, the passes made."""
    from ..data.image_checks import check_image_files
    from ..data.image_tables import read_table

    table = read_table(args.images or args.predictions, args.image_root, splits=not args.no_splits)
    made_from = MadeFrom()
    made_from.tell("images" if table.texts is None else "texts", _summary(table))
    if args.predictions and table.preds is None and args.model is None:
        raise UserError(f"{table.name} has neither pred nor prob_ columns: add them, or give --images and --model")
    if table.preds is not None and args.model is not None:
        raise UserError(f"{table.name} has predictions and --model makes some; leave one of them out")
    needs_images = table.images is not None and (args.model is not None or args.embeddings is None)
    if table.images is None:
        _check_texts(table, args)
    table = _without_train(table, has_model=args.model is not None or table.preds is not None)
    if needs_images:
        table = check_image_files(table, args.skip_broken)
    if table.notes:
        made_from["remarks on them"] = "; ".join(table.notes)
    _say(*table.notes)
    table, embeddings = _predicted_and_embedded(table, args, made_from)
    return _inputs(table, embeddings, args.seed, made_from)


def _check_texts(table, args):
    if args.model is not None:
        raise UserError(f"{table.name} has texts, and --model is about images: give predictions in a column pred")
    if args.embeddings is None and not (args.embedding or "").startswith("hf:"):
        raise UserError(f"{table.name} has texts: give --embeddings FILE.npy, or --embedding hf:FOLDER_OR_NAME")


def _summary(table):
    labels, classes = table.labels, len(table.class_names)
    counts = labels.sum(axis=0) if table.has_conditions else np.bincount(labels, minlength=classes)
    classes = some([f"{name} {count}" for name, count in zip(table.class_names, counts, strict=True)], 12)
    splits = ""
    if table.split is not None:
        parts = zip(*np.unique(table.split, return_counts=True), strict=True)
        splits = "; " + ", ".join(f"{name} {count}" for name, count in parts)
    kind = "conditions" if table.has_conditions else "classes"
    return f"{table.name}: {len(table):,} rows{splits}; {len(table.class_names)} {kind}: {classes}"


def _without_train(table, has_model):
    """The rows that a model's failures show in: not those it was trained on."""
    if table.split is None or not has_model or not (table.split == "train").any():
        return table
    train = table.split == "train"
    if train.all():
        raise UserError(
            f"all images of {table.name} are in train, where a model's failures do not show: give val and test images, "
            "or --no-splits where train is a class"
        )
    return table.keep(~train, f"{int(train.sum()):,} training images are left out")


def _predicted_and_embedded(table, args, made_from):
    """The table with predictions, of the images that can be read, and embeddings (N, d)."""
    embeddings, chosen, model = None, None, None
    if args.model is not None:
        from ..models.own_models import load_model
        from ..training.run_folders import checkpoint_in

        model = load_model(checkpoint_in(args.model), args.arch, args.image_size, args.mean, args.std)
        told = f"{model.name}: {model.outputs} outputs; images: {model.preprocessing.description}"
        made_from.tell("model", "; ".join([told, *model.notes]))
    elif table.preds is not None:
        made_from["predictions"] = f"those in {table.name}"
    if args.embeddings is None and table.texts is None:
        chosen, network = _embedding(args.embedding, model, table, made_from)
    if model is not None:
        from ..embeddings.passes import classifier

        names = _match(table, model, args.label_names)  # before the work
        made_from.tell("classes", names[0].how)
        table, arrays = _passed(
            table, classifier(model, table.has_conditions, features=chosen == "model"), args, made_from
        )
        table = _with_predictions(table, names, arrays["probs"])
        embeddings = arrays.get("embeddings")
    if args.embeddings is not None:
        embeddings = _read_embeddings(args.embeddings, table)
        made_from["embedding"] = str(args.embeddings)
        from ..data.guards import row_order

        if not table.has_conditions and (told := row_order(embeddings, table.labels)):
            made_from.tell("remark on it", told)
    elif table.texts is not None:
        from ..embeddings.texts import embed_texts

        made_from["embedding"] = args.embedding
        how = {"batch_size": args.batch_size, "device": args.device, "cache": args.cache}
        embeddings = embed_texts(table.texts, args.embedding, **how)
    elif chosen != "model":
        table, arrays = _passed(table, network, args, made_from)
        embeddings = arrays["embeddings"]
    if table.preds is None:
        table, embeddings = _with_linear_head(table, embeddings, args.seed, made_from)
    return table, embeddings


def _passed(table, network, args, made_from):
    """The table of the images that can be read, and what a network gives for them."""
    from ..embeddings.passes import raise_problems, run_pass

    done = run_pass(
        table.images,
        network,
        batch_size=args.batch_size,
        device=args.device,
        workers=args.workers,
        cache=args.cache,
    )
    if not done.problems:
        return table, done.arrays
    raise_problems(done, args.skip_broken)
    if len(done.problems) == len(table):
        raise UserError(f"none of the {len(table)} images can be read, the first: {done.problems[0]}")
    good = np.setdiff1d(np.arange(len(table)), list(done.problems))
    told = f"left out: {len(done.problems)} image(s) that can't be read: {some(done.problems.values(), 3)}"
    made_from.tell("images that can't be read", told)
    return table.keep(good), {name: array[good] for name, array in done.arrays.items()}


def _read_embeddings(path, table):
    from ..data.guards import check_embeddings

    embeddings = open_npy(path, "embeddings", "save them with numpy.save")
    check_embeddings(embeddings, table.total)
    return embeddings if len(table) == table.total else embeddings[table.rows]


def _embedding(asked, model, table, made_from):
    """Name of the embedding, and its `Network`; ("model", None) for the model's own features."""
    from ..embeddings.passes import encoder
    from ..models.lite import PIP_LINE, SHA256

    if asked == "model":
        if model is None or not model.features:
            raise UserError(
                "--embedding model are the features of a model, and there is none that has any; give --model"
            )
        made_from.tell("embedding", OWN_FEATURES)
        return "model", None
    name = asked or DEFAULT_EMBEDDING
    try:
        network = encoder(name, SMALL if name.startswith("timm:") and _are_small(table.images) else None)
    except UserError as error:
        if asked is not None:
            raise
        pip = f"{PIP_LINE} (sha256 {SHA256})"
        if model is None or not model.features:
            raise UserError(
                f"no pretrained embedding is at hand: fetch one with {pip}, or give --embedding, --embeddings"
            ) from error
        made_from.tell("embedding", f"{OWN_FEATURES}. A pretrained embedding is not at hand; fetch one with {pip}")
        return "model", None
    prepared = getattr(network.prepare, "description", "as it prepares them")
    made_from["embedding"] = f"{name}; images: {prepared}"
    _say(f"embedding: {made_from['embedding']}")
    return name, network


def _are_small(images, sample=20):
    """Whether some images, evenly taken, have shorter sides of at most `SMALL` pixels."""
    from ..data.any_images import AnyImages

    images = AnyImages(images)
    sizes = []
    for i in np.unique(np.linspace(0, len(images) - 1, sample).astype(int)):
        try:
            sizes.append(min(images.read(i).size))
        except (UserError, OSError):  # told of by the pass
            continue
    return bool(sizes) and max(sizes) <= SMALL


def _match(table, model, label_names):
    """`LabelMatch` of the table's classes, and the numbers of those that have images."""
    from ..models.label_names import match_labels

    labels = _label_names(label_names, model.outputs) if label_names else model.labels
    numbers = np.arange(len(table.class_names))
    if labels is not None and not table.has_conditions:
        numbers = np.unique(table.labels)  # a class without images needs no output
    aliases = None if label_names else model.aliases
    match = match_labels([table.class_names[c] for c in numbers], model.outputs, labels, aliases)
    return match, numbers


def _label_names(text, outputs):
    from ..data.names import clean_name

    path = Path(text)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else text.split(",")
    except UnicodeDecodeError:
        raise UserError(f"--label-names {path} is not a text in UTF-8; save it as one") from None
    names = [clean_name(line) for line in lines if line.strip()]
    if len(names) != outputs:
        raise UserError(f"--label-names gives {len(names)} names ({some(names)}), but the model has {outputs} outputs")
    return names


def _with_predictions(table, matched, probs):
    """The table in the model's classes: all its outputs, so that a wrong prediction may be any of them."""
    match, numbers = matched
    if table.has_conditions:
        probs = np.asarray(probs)[:, match.outputs]
        return replace(table, preds=probs >= 0.5, probs=probs)
    outputs = np.full(len(table.class_names), -1)
    outputs[numbers] = match.outputs
    preds = np.concatenate([probs[i : i + 65_536].argmax(axis=1) for i in range(0, len(probs), 65_536)])
    return replace(table, labels=outputs[table.labels], preds=preds, probs=probs, class_names=match.names)


def _with_linear_head(table, embeddings, seed, made_from):
    """Predictions where there is no model: of a linear classifier, for images that it was not fitted on."""
    from ..models.linear_head import fit_predict, out_of_fold

    if table.has_conditions:
        raise UserError("conditions need a model or predictions: give --model, or pred or prob_ columns")
    classes = len(table.class_names)
    train = np.zeros(len(table), dtype=bool) if table.split is None else table.split == "train"
    if train.any() and not train.all():
        out, rest = np.flatnonzero(~train), np.flatnonzero(train)
        probs = fit_predict(embeddings, table.labels, rest, out, classes)
        table, embeddings = table.keep(out), embeddings[out]
        how = f"fitted on the {len(rest):,} training images"
    else:
        probs = out_of_fold(embeddings, table.labels, classes, table.group, seed=seed)
        how = "its predictions are out of fold (5)" + (", groups never cut" if table.group is not None else "")
    preds = probs.argmax(axis=1)
    made_from.tell(
        "predictions",
        f"no model is given: the predictions are those of a linear classifier on the embedding, {how}; it is right on "
        f"{(preds == table.labels).mean():.1%}",
    )
    return replace(table, preds=preds, probs=probs), embeddings


def _parts(table):
    """The rows' parts, "val" or "test", or None where each class is to be halved."""
    if table.split is None or len(set(table.split) & {"val", "test"}) < 2:
        return None
    return table.split


def _inputs(table, embeddings, seed, made_from):
    from ..data.conditions import condition_rows, halves

    split = _parts(table)
    if split is None and table.split is not None:
        _say(f"all images are in {table.split[0]}: each class is halved, one half finds and the other confirms")
    images, metadata = table.images, dict(table.metadata)
    if table.texts is not None:
        metadata["text"] = table.texts
    if not table.has_conditions:
        return Inputs(
            table.labels,
            table.preds,
            embeddings,
            split,
            table.group,
            table.probs,
            images,
            table.class_names,
            metadata,
            made_from,
        )
    # The same image is in one part for all its conditions.
    split = halves(len(table), table.group, seed) if split is None else split
    rows = condition_rows(table.labels, table.preds, table.class_names, table.probs)
    table = table.keep(rows.images)
    metadata = {name: [values[i] for i in rows.images] for name, values in metadata.items()}
    return Inputs(
        rows.labels,
        rows.preds,
        embeddings[rows.images],
        split[rows.images],
        table.group,
        rows.probs,
        table.images,
        rows.class_names,
        metadata,
        made_from,
    )


def _say(*lines):
    for line in lines:
        if line:
            print(line)
