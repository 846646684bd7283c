"""Class tokens, images of classes under shifts, and what CLIP and a classifier make of them.

    failure-directions interfaces learn --images photos --encoder-root encoder
    failure-directions interfaces generate --encoder-root encoder --class robin --prompt "a <TOKEN> in snow" --out made
    failure-directions interfaces score --images made --object "a photo of a robin" --shift "a photo in the grass"
    failure-directions interfaces benchmark --encoder-root encoder --classifier resnet50.a1_in1k --labels 15 --out bench

The same as `python -m dataset_interfaces`.
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..interfaces.defaults import CLIP_MODEL, CLIP_WEIGHTS, DEFAULT_MODEL, QUANTILE
from ..interfaces.shifts import SHIFTS_FILE, load_shifts
from ..interfaces.tokens import check_encoder_root, class_token, load_class_tokens, save_token
from ..runtime.english import nearest, some
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable, write_file
from .sampling import MODEL_FORMS, add_sampling_options, complete_sampling


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_learn, _add_generate, _add_score, _add_benchmark):
        add(commands)
    args = parser.parse_args(argv)
    args.run(args)


def _command(commands, name, run, text):
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return command


def _add_model(command):
    command.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"{MODEL_FORMS} (default: {DEFAULT_MODEL})",
    )


def _add_sampling(command):
    _add_model(command)
    command.add_argument("--encoder-root", required=True, help="folder that learn made, with the same --model")
    command.add_argument("--seed", type=int, default=0, help="image i has seed + i (default: 0)")
    add_sampling_options(command)


def _sampling(args):
    complete_sampling(args)
    return {
        "model_name": args.model,
        "batch_size": args.batch_size,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "device": args.device,
    }


def _add_clip(command):
    command.add_argument("--clip-model", default=CLIP_MODEL, help="of open_clip, local-dir:FOLDER, or scenes")
    command.add_argument("--clip-weights", default=CLIP_WEIGHTS, help="open_clip's tag, or a file")
    command.add_argument("--quantile", type=float, default=QUANTILE, help="of the real images, for the thresholds")


def _clip(args):
    return {"clip_model": args.clip_model, "clip_weights": args.clip_weights, "device": args.device}


# ---------------------------------------------------------------------------------------------------------------------
# learn
# ---------------------------------------------------------------------------------------------------------------------


def _add_learn(commands):
    command = _command(commands, "learn", _learn, "Learn a token for each class of a folder, and save an encoder root.")
    _add_model(command)
    command.add_argument(
        "--images", required=True, help="folder with a folder of images for each class: IMAGES/CLASS/*"
    )
    command.add_argument("--classes", nargs="+", help="some of the folders, in this order (default: all, by name)")
    command.add_argument(
        "--encoder-root",
        required=True,
        help="folder to write; its tokens are in ENCODER_ROOT_tokens, from which a call that was cut off goes on",
    )
    command.add_argument("--steps", type=int, default=3000, help="of AdamW, for each class (default: 3000)")
    command.add_argument("--learning-rate", type=float, default=5e-4, help="default: 5e-4")
    command.add_argument("--batch-size", type=int, default=1, help="images (default: 1)")
    command.add_argument("--accumulate", type=int, default=1, help="batches a step (default: 1)")
    command.add_argument(
        "--templates", help="text file, a prompt a line with {} for the token (default: 27 of our own)"
    )
    command.add_argument("--seed", type=int, default=0, help="default: 0")


def _learn(args):
    folder = Path(args.images)
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist; check the path")
    names = args.classes or sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    if not names:
        raise UserError(f"{folder} has no folders of images, one for each class; check the path")
    if len(set(names)) < len(names):
        raise UserError("--classes names a class twice; name each once")
    templates = _templates(args.templates)
    check_encoder_root(args.encoder_root)

    from ..interfaces.encoders import create_token_dictionary
    from ..interfaces.photos import image_files
    from ..interfaces.textual_inversion import run_textual_inversion

    learned = Path(f"{args.encoder_root.rstrip('/')}_tokens")
    tokens = [class_token(name, index) for index, name in enumerate(names)]
    class_names = [name.replace("_", " ") for name in names]
    for name in names:
        image_files(folder / name)
    embeds = []
    for name, token, class_name in zip(names, tokens, class_names, strict=True):
        embedding = run_textual_inversion(
            folder / name,
            token,
            class_name,
            args.model,
            args.steps,
            args.learning_rate,
            batch_size=args.batch_size,
            gradient_accumulation_steps=args.accumulate,
            templates=templates,
            seed=args.seed,
            device=args.device,
            checkpoint=learned / f"{token[1:-1]}.checkpoint.pt",
        )
        save_token(token, embedding, learned / f"{token[1:-1]}.safetensors")
        embeds.append(embedding)
    create_token_dictionary(embeds, tokens, class_names, args.encoder_root, args.model)
    print(f"{args.encoder_root} knows {' '.join(tokens)}")


def _templates(path):
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"the file of templates {path} does not exist; check the path")
    try:
        return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"the file of templates {path} is not text in UTF-8; name another") from error


# ---------------------------------------------------------------------------------------------------------------------
# generate
# ---------------------------------------------------------------------------------------------------------------------


def _add_generate(commands):
    command = _command(commands, "generate", _generate, "Generate images of a class.")
    _add_sampling(command)
    command.add_argument("--class", dest="class_name", required=True, help="its number, or its name")
    command.add_argument(
        "--prompt", required=True, help='with <TOKEN> for the class: "a photo of a <TOKEN> in the snow"'
    )
    command.add_argument("--num-samples", type=int, default=10, help="images (default: 10)")
    command.add_argument("--no-token", action="store_true", help="say the class's name instead of its token")
    command.add_argument("--out", required=True, help="folder for the images, SEED.png each")


def _generate(args):
    c = _class_number(args.encoder_root, args.class_name)
    check_writable(Path(args.out) / "0.png")

    from ..data.images import save_image
    from ..interfaces.generation import generate

    images = generate(
        args.encoder_root, c, args.prompt, args.num_samples, args.seed, not args.no_token, **_sampling(args)
    )
    for number, image in enumerate(images):
        save_image(image, Path(args.out) / f"{args.seed + number}.png")
    print(f"{len(images)} images in {args.out}")


def _class_number(encoder_root, name):
    names = load_class_tokens(encoder_root).class_names
    if names.count(name) > 1:
        numbers = ", ".join(str(c) for c, other in enumerate(names) if other == name)
        raise UserError(f"{encoder_root} has the name {name} for the classes {numbers}; give a number")
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    hint = nearest(name, names, f"give a number from 0 to {len(names) - 1} or one of {some(names, 20)}")
    raise UserError(f'{encoder_root} has no class "{name[:80]}"; {hint}')


# ---------------------------------------------------------------------------------------------------------------------
# score
# ---------------------------------------------------------------------------------------------------------------------


def _add_score(commands):
    command = _command(commands, "score", _score, "Say how similar images are to a class and to a shift, by CLIP.")
    command.add_argument("--images", required=True, help="folder of images")
    command.add_argument("--object", required=True, help='such as "a photo of a robin"')
    command.add_argument("--shift", help='without the class, such as "a photo in the grass"')
    command.add_argument("--real", help="folder of real images of the class: calibrates thresholds, and adds `kept`")
    command.add_argument("--out", help="CSV file (default: print the table)")
    _add_clip(command)


def _score(args):
    if args.out:
        check_writable(args.out)

    from ..interfaces.inference_utils import calibrate_thresholds, clip_similarity
    from ..interfaces.photos import image_files, read_photo

    files = image_files(args.images)
    images = [read_photo(file) for file in files]
    if args.real:
        real = [read_photo(file) for file in image_files(args.real)]
        thresholds = calibrate_thresholds(real, args.object, args.shift, args.quantile, **_clip(args))
    texts = {"object": args.object, "shift": args.shift} if args.shift else {"object": args.object}
    scores = clip_similarity(images, list(texts.values()), **_clip(args)).T
    columns = {"image": [file.relative_to(args.images) for file in files], **dict(zip(texts, scores, strict=True))}
    if args.real:
        columns["kept"] = thresholds.reached(*scores).astype(int)
    rows = [
        [f"{value:.4f}" if isinstance(value, np.floating) else value for value in row]
        for row in zip(*columns.values(), strict=True)
    ]
    if args.out:
        text = io.StringIO()
        csv.writer(text).writerows([list(columns), *rows])
        write_file(args.out, text.getvalue().encode())
        print(f"similarities of {len(files)} images: {args.out}")
    else:
        print(tabulate(rows, list(columns), disable_numparse=True))
    if args.real:
        shift = f", shift {thresholds.shift:.4f}" if args.shift else ""
        print(
            f"{int(columns['kept'].sum())} of {len(files)} images kept (thresholds: object {thresholds.object:.4f}"
            f"{shift}, from {len(real)} real images at the quantile {args.quantile:g})"
        )


# ---------------------------------------------------------------------------------------------------------------------
# benchmark
# ---------------------------------------------------------------------------------------------------------------------


def _add_benchmark(commands):
    command = _command(
        commands, "benchmark", _benchmark, "Measure a classifier's accuracy under each shift: table and chart."
    )
    _add_sampling(command)
    command.add_argument("--classes", nargs="+", help="numbers or names of the encoder root's (default: all)")
    command.add_argument("--labels", nargs="+", type=int, help="the classifier's numbers for them (default: their own)")
    command.add_argument("--classifier", required=True, help="name of a model of timm")
    command.add_argument("--weights", help="file of its weights (default: timm's pretrained)")
    command.add_argument("--shifts", default=str(SHIFTS_FILE), help="YAML file (default: the 23 of ImageNet* and base)")
    command.add_argument("--per-class", type=int, default=10, help="images for each class and shift")
    command.add_argument("--real", help="folder of real images, REAL/CLASS/*: leave out what CLIP finds not to show it")
    command.add_argument("--out", required=True, help="folder; goes on where an earlier run stopped")
    _add_clip(command)


def _benchmark(args):
    names = load_class_tokens(args.encoder_root).class_names
    numbers = list(range(len(names)))
    if args.classes:
        numbers = [_class_number(args.encoder_root, name) for name in args.classes]
    if len(set(numbers)) < len(numbers):
        raise UserError("--classes names a class twice; name each once")
    labels = args.labels or numbers
    if len(labels) != len(numbers):
        raise UserError(f"there are {len(numbers)} classes and {len(labels)} labels; give one label for each class")
    shifts = load_shifts(args.shifts)
    check_writable(Path(args.out) / "accuracy.csv")

    from ..interfaces.benchmark import benchmark, by_shift, timm_classifier, write_results
    from ..interfaces.inference_utils import load_clip
    from ..interfaces.photos import image_files, read_photo

    real = None
    if args.real:
        real = {c: [read_photo(f) for f in image_files(_real_folder(args.real, names[c]))] for c in numbers}
        load_clip(**_clip(args))
    classify = timm_classifier(args.classifier, args.weights, args.device)
    wrong = [label for label in labels if not 0 <= label < classify.num_classes]
    if wrong:
        raise UserError(
            f"{args.classifier} has the labels 0 to {classify.num_classes - 1}, not {wrong[0]}; give --labels, its "
            "number for each class"
        )
    classes = {c: (names[c], label) for c, label in zip(numbers, labels, strict=True)}
    results = benchmark(
        args.encoder_root,
        classify,
        classes,
        shifts,
        args.out,
        args.per_class,
        args.seed,
        real,
        args.quantile,
        _clip(args),
        **_sampling(args),
    )
    write_results(results, args.out)
    rows = [
        [name, kept if kept == made else f"{kept} of {made}", "" if np.isnan(accuracy) else f"{accuracy:.3f}"]
        for name, (kept, made, accuracy) in by_shift(results).items()
    ]
    print(tabulate(rows, ["shift", "images", "accuracy"], disable_numparse=True, colalign=("left", "right", "right")))
    print(f"by class: {args.out}/accuracy.csv; chart: {args.out}/accuracy.png")


def _real_folder(folder, name):
    """REAL/CLASS, where the class's folder may have underscores for spaces."""
    plain = Path(folder) / name
    return plain if plain.is_dir() else Path(folder) / name.replace(" ", "_")


if __name__ == "__main__":
    main()
