"""Class tokens, images of classes under shifts, and what CLIP and a classifier make of them.

python -m dataset_interfaces learn --images photos --encoder-root encoder
python -m dataset_interfaces generate --encoder-root encoder --class robin --prompt "a <TOKEN> in snow" --out images
python -m dataset_interfaces score --images images --object "a photo of a robin" --shift "a photo in the grass"
python -m dataset_interfaces benchmark --encoder-root encoder --classifier resnet50.a1_in1k --labels 15 --out bench
"""

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from tabulate import tabulate

from .benchmark import benchmark, by_shift, timm_classifier, write_results
from .diffusion_models import DEFAULT_MODEL
from .encoders import create_token_dictionary, load_class_tokens
from .errors import UserError, entry_point
from .files import image_files, load_tensors, read_image, save_image, save_token, write_file
from .generation import generate
from .inference_utils import CLIP_MODEL, CLIP_WEIGHTS, QUANTILE, calibrate_thresholds, clip_similarity
from .shifts import SHIFTS_FILE, load_shifts
from .textual_inversion import TEMPLATES, run_textual_inversion
from .tokens import class_token


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m dataset_interfaces", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        help="a diffusers folder, a .safetensors or .ckpt file, or OWNER/NAME on the hub",
    )


def _add_sampling(command):
    _add_model(command)
    command.add_argument("--encoder-root", required=True, help="folder that learn made, with the same --model")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--batch-size", type=int, default=4)
    command.add_argument("--steps", type=int, default=50)
    command.add_argument("--guidance", type=float, default=7.5)


def _sampling(args):
    return {
        "model_name": args.model,
        "batch_size": args.batch_size,
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance,
        "device": args.device,
    }


def _add_clip(command):
    command.add_argument("--clip-model", default=CLIP_MODEL, help="of open_clip, or local-dir:FOLDER")
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
    command.add_argument("--encoder-root", required=True, help="folder to write; its tokens are in ENCODER_ROOT_tokens")
    command.add_argument("--steps", type=int, default=3000)
    command.add_argument("--learning-rate", type=float, default=5e-4)
    command.add_argument("--batch-size", type=int, default=1)
    command.add_argument("--accumulate", type=int, default=1, help="batches a step")
    command.add_argument(
        "--templates", help="text file, a prompt a line with {} for the token (default: 27 of our own)"
    )
    command.add_argument("--seed", type=int, default=0)


def _learn(args):
    folder = Path(args.images)
    if not folder.is_dir():
        raise UserError(f"the image folder {folder} does not exist; check the path")
    names = args.classes or sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise UserError(f"{folder} has no folders of images, one for each class; check the path")
    templates = _templates(args.templates)
    learned = Path(f"{args.encoder_root.rstrip('/')}_tokens")
    tokens = [class_token(name, index) for index, name in enumerate(names)]
    class_names = [name.replace("_", " ") for name in names]
    for name in names:
        image_files(folder / name)
    embeds = []
    for name, token, class_name in zip(names, tokens, class_names, strict=True):
        file = learned / f"{token[1:-1]}.safetensors"
        if not file.exists():
            checkpoint = learned / f"{token[1:-1]}.checkpoint.pt"
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
                checkpoint=checkpoint,
            )
            save_token(token, embedding, file)
            checkpoint.unlink()
        embeds.append(load_tensors(file, "the token file")[token][0])
    create_token_dictionary(embeds, tokens, class_names, args.encoder_root, args.model)
    print(f"{args.encoder_root} knows {' '.join(tokens)}")


def _templates(path):
    if path is None:
        return TEMPLATES
    if not Path(path).is_file():
        raise UserError(f"the file of templates {path} does not exist; check the path")
    return tuple(line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())


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
    command.add_argument("--num-samples", type=int, default=10)
    command.add_argument("--no-token", action="store_true", help="say the class's name instead of its token")
    command.add_argument("--out", required=True, help="folder for the images, SEED.png each")


def _generate(args):
    c = _class_number(args.encoder_root, args.class_name)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    images = generate(
        args.encoder_root, c, args.prompt, args.num_samples, args.seed, not args.no_token, **_sampling(args)
    )
    for number, image in enumerate(images):
        save_image(image, Path(args.out) / f"{args.seed + number}.png")
    print(f"{len(images)} images in {args.out}")


def _class_number(encoder_root, name):
    names = load_class_tokens(encoder_root).class_names
    if name in names:
        return names.index(name)
    if name.isdigit():
        return int(name)
    raise UserError(f'{encoder_root} has no class "{name}"; choose one of {", ".join(names[:20])}')


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
    files = image_files(args.images)
    images = [read_image(file) for file in files]
    columns = {"image": [file.name for file in files], "object": clip_similarity(images, args.object, **_clip(args))}
    if args.shift:
        columns["shift"] = clip_similarity(images, args.shift, **_clip(args))
    if args.real:
        real = [read_image(file) for file in image_files(args.real)]
        thresholds = calibrate_thresholds(real, args.object, args.shift, args.quantile, **_clip(args))
        columns["kept"] = columns["object"] >= thresholds.object
        if args.shift:
            columns["kept"] &= columns["shift"] >= thresholds.shift
        columns["kept"] = columns["kept"].astype(int)
    rows = [
        [f"{value:.4f}" if isinstance(value, np.floating) else value for value in row]
        for row in zip(*columns.values(), strict=True)
    ]
    if args.out:
        text = io.StringIO()
        csv.writer(text).writerows([list(columns), *rows])
        write_file(args.out, text.getvalue().encode())
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
    numbers = [_class_number(args.encoder_root, name) for name in args.classes or map(str, range(len(names)))]
    outside = [number for number in numbers if number >= len(names)]
    if outside:
        raise UserError(f"class {outside[0]} is out of range: {args.encoder_root} has classes 0 to {len(names) - 1}")
    labels = args.labels or numbers
    if len(labels) != len(numbers):
        raise UserError(f"there are {len(numbers)} classes and {len(labels)} labels; give one label for each class")
    shifts = load_shifts(args.shifts)
    real = None
    if args.real:
        real = {c: [read_image(f) for f in image_files(_real_folder(args.real, names[c]))] for c in numbers}
    classify = timm_classifier(args.classifier, args.weights, args.device)
    classes = {c: (names[c], label) for c, label in zip(numbers, labels, strict=True)}
    Path(args.out).mkdir(parents=True, exist_ok=True)
    results = benchmark(
        args.encoder_root, classify, classes, shifts, args.out, args.per_class, args.seed, real, args.quantile,
        _clip(args), **_sampling(args),
    )  # fmt: skip
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
