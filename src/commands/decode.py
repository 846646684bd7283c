"""See a failure's direction itself: images decoded along it, from the class's mean towards hard and towards easy.

    failure-directions decode --svm results/scenes_clip.pt --out decoded
    failure-directions decode --svm results/scenes_clip.pt --class star --out decoded_star

For every confirmed slice, or the single direction of each --class: DIR/NAME/SIDE_ALPHA/*.png, a strip NAME.png from
hard to easy, decoded.csv (a row an image; also a manifest for `train --extra-images`), curve.csv and curve.png: the
base model's accuracy against alpha, on the images that still show the class, as the result's CLIP sees it. The
result's embedding must be CLIP. Called again, it goes on where it stopped.
"""

import argparse
import math
from pathlib import Path

from ..interfaces.defaults import SCENES_MODEL, Sampling
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable, existing_file, file_digest
from ..runtime.tables import format_table
from .sampling import add_sampling_options, complete_sampling

SIDES, ORIGINS = ("hard", "easy"), ("mean", "caption")
NOISE_LEVEL = 200


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svm", required=True, metavar="OUT.pt", help="result of failure-directions distil, with CLIP")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the images, tables and figures")
    parser.add_argument(
        "--class", dest="classes", nargs="+", metavar="C", help="single directions of these classes, by name"
    )
    parser.add_argument("--slice", type=int, metavar="K", help="the slice of rank K of the one --class in its place")
    parser.add_argument(
        "--alphas", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3, 0.4, 0.5], metavar="A", help="shares of the way"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="ends of the way (default: both)")
    parser.add_argument("--per-alpha", type=int, default=16, metavar="N", help="images of each (default: 16)")
    parser.add_argument(
        "--from",
        dest="origin",
        choices=ORIGINS,
        default="mean",
        help="begin at the mean of the class's images (default), or at its reference caption, as in the paper",
    )
    parser.add_argument(
        "--model",
        metavar="FOLDER|NAME",
        help=f"a Stable unCLIP folder or OWNER/NAME on the hub, for the result's CLIP, or {SCENES_MODEL} (the default "
        "where the result's CLIP is)",
    )
    parser.add_argument(
        "--noise-level",
        type=int,
        default=NOISE_LEVEL,
        metavar="L",
        help=f"0 to 999, noise on the embedding: more makes images differ more (default: {NOISE_LEVEL})",
    )
    parser.add_argument("--checkpoint", help="the base model (default: the one that the result was made of)")
    parser.add_argument("--root", help="folder of the betons (default: the result's)")
    parser.add_argument("--seed", type=int, default=0, help="image i of each alpha has seed + i (default: 0)")
    add_sampling_options(parser, followed="embeddings")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; half precision on CUDA")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    out = Path(args.out)
    check_writable(out / "curve.csv")
    existing_file(args.svm, "SVM result")
    if args.checkpoint:
        existing_file(args.checkpoint, "checkpoint")

    from ..directions.galleries import SVMProcessor
    from ..embeddings.clip import clip_of
    from ..interfaces.image_decoder import load_decoder
    from ..interventions import decoding
    from ..interventions.synthetic import begin_folder, default_model

    args.device = str(resolve_device(args.device))
    proc = SVMProcessor(args.svm, args.root)
    fitter = decoding.fitter_of(proc)
    chosen = decoding.targets(proc, fitter, args.classes, args.slice)
    args.model = args.model or default_model(proc)
    complete_sampling(args)
    clip = clip_of(proc.loaded.svm_config, proc.loaded.dataset_config, args.device)
    decoder = load_decoder(args.model, clip)
    begin_folder(out, settings(args, clip))

    origins = origins_of(proc, fitter, clip, chosen, args.origin)
    for target in chosen:
        decode_target(out, target, origins[target.c], decoder, args)
    rows = judged(out, proc, fitter, clip, chosen, args)
    rows, told = with_predictions(out, rows, proc, args)
    points = decoding.curve(rows)
    decoding.write_images_table(out, rows)
    decoding.write_curve(out, points)
    draw(out, chosen, rows, points)
    say(points, told, out)


def check_arguments(args):
    """What the parser cannot see."""
    for option in ("per_alpha", "batch_size", "steps"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} is {value}; give 1 or more")
    outside = [alpha for alpha in args.alphas if not 0 <= alpha <= 1]  # nan as well
    if outside:
        raise UserError(f"--alphas has {outside[0]:g}; give shares of the way, from 0 to 1")
    if not 0 <= args.noise_level <= 999:
        raise UserError(f"--noise-level is {args.noise_level}; give 0 to 999")
    if not 0 <= args.seed < 2**62:
        raise UserError(f"--seed {args.seed} is not between 0 and 2**62 - 1")
    if args.guidance is not None and not (math.isfinite(args.guidance) and args.guidance >= 0):
        raise UserError(f"--guidance is {args.guidance}; give 0 or more")
    if args.slice is not None and not args.classes:
        raise UserError("--slice is the rank of a slice of one class; name that class with --class")


def settings(args, clip):
    """Everything that an image depends on but its direction, alpha and number."""
    names = ("origin", "model", "noise_level", "seed", *Sampling._fields)
    return {name: getattr(args, name) for name in names} | {
        "result": file_digest(args.svm),
        "device": args.device.split(":")[0],
        "clip": clip.fingerprint,
    }


def origins_of(proc, fitter, clip, chosen, origin):
    """dict class -> `Origin`."""
    import numpy as np

    from ..directions.interpolation import Origin
    from ..interventions.decoding import MEAN_OF, references

    origins = {}
    for c in dict.fromkeys(target.c for target in chosen):
        if origin == "caption":
            text = clip.evaluate_clip_captions([references(proc)[c]])[0]
            origins[c] = Origin.of_caption(fitter.preprocessing, text)
            continue
        from PIL import Image

        positions = np.flatnonzero(proc.metrics("val")["classes"] == c)[:MEAN_OF]
        if not len(positions):
            raise UserError(f"the class {proc.class_names[c]} has no validation images to begin at; use --from caption")
        images = [Image.fromarray(image) for image in proc.images("val", positions)]
        origins[c] = Origin.of_images(fitter.preprocessing, clip.encode_pictures(images))
    return origins


def decode_target(out, target, origin, decoder, args):
    """Make the images of one direction that are not there."""
    from ..data.images import save_image
    from ..interfaces.image_decoder import decode
    from ..interventions.decoding import image_paths, stops

    jobs = []
    for side, alpha in stops(args.alphas, args.sides):
        end = args.sides[0] if alpha == 0 else side
        (point,) = origin.towards(target.normal, end, [alpha])
        paths = image_paths(target, side, alpha, args.per_alpha)
        jobs += [(path, point, args.seed + i) for i, path in enumerate(paths) if not (out / path).exists()]
    # A batch at a time, so that what is made is kept when the command is stopped.
    for start in range(0, len(jobs), args.batch_size):
        paths, points, seeds = zip(*jobs[start : start + args.batch_size], strict=True)
        images = decode(
            decoder, points, seeds, args.steps, args.guidance, args.noise_level, args.batch_size, args.device
        )
        for path, image in zip(paths, images, strict=True):
            save_image(image, out / path)


def judged(out, proc, fitter, clip, chosen, args):
    """A `DecodedImage` for each image, as CLIP sees it."""
    from ..interventions.decoding import DecodedImage, image_paths, judge, open_images, references, stops

    texts = clip.evaluate_clip_captions(references(proc))
    rows = []
    for target in chosen:
        for side, alpha in stops(args.alphas, args.sides):
            paths = image_paths(target, side, alpha, args.per_alpha)
            values, inside = judge(open_images(out, paths), clip, texts, fitter, target)
            rows += [
                DecodedImage(
                    path.as_posix(),
                    proc.class_names[target.c],
                    target.slice,
                    side,
                    alpha,
                    args.seed + i,
                    float(values[i]),
                    int(inside[i]),
                )
                for i, path in enumerate(paths)
            ]
    return rows


def with_predictions(out, rows, proc, args):
    """The rows with what the base model says, and a sentence to print where there is no model at hand."""
    from dataclasses import replace

    import torch

    from ..interventions.decoding import write_images_table
    from ..interventions.synthetic import predictions_on_images
    from ..models.checkpoints import load_checkpoint

    path = args.checkpoint or proc.args.get("model_path")
    if args.checkpoint is None and not (path and Path(path).is_file()):
        return rows, f"the base model {path or ''} is not at hand, so no accuracies; give --checkpoint"
    config = proc.loaded.dataset_config
    model = load_checkpoint(path, config).model
    write_images_table(out, rows)
    found = predictions_on_images(model, out / "decoded.csv", config, torch.device(args.device))
    names = [proc.class_names[c] for c in found.preds]
    return [replace(row, pred=name, right=int(name == row.label)) for row, name in zip(rows, names, strict=True)], ""


def draw(out, chosen, rows, points):
    """A strip for each direction and, where there are accuracies, their curves."""
    from ..interventions.decoding import grouped, open_images
    from ..interventions.decoding_figures import curve_figure, strip_figure
    from ..runtime.figure_files import save_figure

    groups, curves = grouped(rows), {}
    for target in chosen:
        own = [point for point in points if (point.label, point.slice) == (target.label, target.slice)]
        images = {
            (side, alpha): open_images(out, [row.path for row in group])
            for (label, name, side, alpha), group in groups.items()
            if (label, name) == (target.label, target.slice)
        }
        save_figure(strip_figure(target.title, own, images), out / f"{target.folder}.png")
        curves[target.title] = own
    if not any(math.isnan(point.accuracy) for point in points):
        save_figure(curve_figure(curves), out / "curve.png")


def say(points, told, out):
    """Print the curve, and where a way leaves its class."""
    from ..interventions.decoding import where_it_leaves

    rows = [
        [
            point.slice or point.label,
            point.side,
            f"{point.alpha:g}",
            f"{point.in_class} of {point.images}",
            f"{point.decision_value:.2f}",
            "" if math.isnan(point.accuracy) else f"{point.accuracy:.3f} [{point.low:.3f}, {point.high:.3f}]",
        ]
        for point in points
    ]
    print(format_table(["direction", "side", "alpha", "show the class", "decision value", "accuracy"], rows, left=2))
    for (label, name, side), alpha in where_it_leaves(points).items():
        print(f"{name or label}: towards {side}, images leave the class at alpha {alpha:g}; the curve stops there")
    if told:
        print(told)
    print(f"images, strips and tables: {out}")
