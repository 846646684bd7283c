"""Generate images of each class's hardest, easiest or neutral caption, to train on or to measure a model with.

    failure-directions generate --svm results/cifar_svm.pt --captions hard --per-class 100 --out generated/hard

leaves generated/hard/CLASS/*.png and manifest.csv (path, label, class, prompt, seed, CLIP scores); `failure-directions
train --extra-images` takes either. The result must be made with `distil --captions`; a class without a direction has no
images. Called again, it goes on where it stopped, and on the same machine with the same number of threads the images
are those of a call that was never interrupted.

With --by-slices images are made of each confirmed failure's hardest (or easiest) caption, a folder each; a class's
images are shared by its failures, and train takes the manifest.
"""

import argparse
import functools
import math
from pathlib import Path

from ..interfaces.defaults import QUANTILE, Sampling
from ..interventions.choosing import CAPTIONS, SHARES, shared_budget
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_space, check_writable, existing_file, write_csv
from ..runtime.tables import format_table
from .sampling import MODEL_FORMS, add_sampling_options, complete_sampling


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svm", required=True, metavar="OUT.pt", help="result of failure-directions distil --captions")
    parser.add_argument(
        "--captions",
        required=True,
        choices=CAPTIONS,
        help="each class's hardest or easiest caption, or its reference, such as a photo of a cat",
    )
    parser.add_argument("--per-class", type=int, default=100, metavar="K", help="images a class (default: 100)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="of these classes only")
    parser.add_argument(
        "--by-slices", action="store_true", help="of the captions of confirmed failures, not of the classes' directions"
    )
    parser.add_argument(
        "--share",
        choices=SHARES,
        default="errors",
        help="with --by-slices: how a class's failures share its images, by their errors or equally (default: errors)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for CLASS/*.png and manifest.csv")
    parser.add_argument(
        "--model",
        metavar="FOLDER|NAME",
        help=f"{MODEL_FORMS} (default: scenes where the result's CLIP is, else Stable Diffusion 1.5)",
    )
    parser.add_argument(
        "--encoder-root",
        metavar="ROOT",
        help="token dictionary of dataset_interfaces: say a class's token in the place of its noun",
    )
    parser.add_argument(
        "--filter",
        action="store_true",
        help="replace images that do not show class and caption, as the result's CLIP sees it",
    )
    parser.add_argument(
        "--quantile",
        type=float,
        default=QUANTILE,
        metavar="Q",
        help="with --filter: all but this share of real images show the class, and this share of them shows the rest "
        f"of the caption (default: {QUANTILE})",
    )
    parser.add_argument(
        "--attempts",
        type=int,
        default=5,
        metavar="N",
        help="with --filter: make at most N times K images a class (default: 5)",
    )
    parser.add_argument("--root", help="folder of the betons, for --filter (default: the result's)")
    parser.add_argument("--seed", type=int, default=0, help="image i of each class has seed + i (default: 0)")
    add_sampling_options(parser, followed="captions")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; half precision on CUDA")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    out = Path(args.out)
    manifest = out / "manifest.csv"
    check_writable(manifest)
    existing_file(args.svm, "SVM result")

    from tqdm import tqdm

    from ..directions.galleries import SVMProcessor
    from ..interfaces.generation import load_pipeline
    from ..interventions.synthetic import (
        MANIFEST_COLUMNS,
        begin_folder,
        class_prompts,
        clip_options,
        folder_names,
        image_path,
        kept_of,
        make_images,
        slice_prompts,
    )

    args.device = str(resolve_device(args.device))
    proc = SVMProcessor(args.svm, args.root)
    complete_arguments(args, proc)
    for name in args.classes or ():
        proc.class_number(name)
    if args.by_slices:
        prompts = slice_prompts(proc, args.captions, args.encoder_root)
    else:
        prompts = {proc.class_names[one.c]: one for one in class_prompts(proc, args.captions, args.encoder_root)}
    prompts = {
        key: one for key, one in prompts.items() if args.classes is None or proc.class_names[one.c] in args.classes
    }
    counts = counts_of(proc, prompts, args)
    prompts = {key: one for key, one in prompts.items() if counts[key]}
    if not prompts:
        print(f"no failure in {args.svm} is confirmed and described in these classes, so that no image is made")
        return
    pipeline = functools.partial(load_pipeline, args.model, args.encoder_root, args.device)
    clip = clip_options(proc, args.device)
    if not manifest.exists():
        check_parts(out, pipeline(), clip, proc, prompts, args)
    begin_folder(out, settings(args, prompts, clip))

    folders = folder_names(list(prompts) if args.by_slices else proc.class_names)
    made, kept = {}, {name: [] for name in prompts}
    with tqdm(total=sum(counts.values()), desc="generating", unit="image", disable=None) as bar:
        for name, prompt in prompts.items():
            seeds = range(args.seed, args.seed + counts[name] * (args.attempts if args.filter else 1))
            paint, score = sampler(pipeline, prompt, args), scorer(proc, prompt, clip, args)
            for attempts in make_images(out / folders[name], counts[name], seeds, args.batch_size, paint, score):
                already = len(kept[name])
                made[name], kept[name] = attempts, kept_of(attempts, counts[name])
                bar.update(len(kept[name]) - already)

    if not any(kept.values()):
        raise UserError(f"the filter kept none of the images in {out}; leave it out, or give a larger --quantile")
    rows = [
        [
            image_path(Path(folders[name]), image.seed),
            proc.class_names[prompt.c],
            prompt.c,
            prompt.prompt,
            image.seed,
            *image.scores,
        ]
        for name, prompt in prompts.items()
        for image in kept[name]
    ]
    write_csv(manifest, MANIFEST_COLUMNS, rows)
    report(proc, prompts, made, kept, counts, args)
    as_folder = not args.by_slices and all(folders[name] == name for name in folders)
    print(f"{len(rows)} images: {out if as_folder else manifest}")


def counts_of(proc, prompts, args):
    """How many images are made of each prompt: --per-class of a class's, shared by the class's failures."""
    if not args.by_slices:
        return dict.fromkeys(prompts, args.per_class)
    slices = [one for one in proc.loaded.found.confirmed if one.id in prompts]
    of_classes = [[one for one in slices if one.class_index == c] for c in sorted({one.class_index for one in slices})]
    return {name: n for of in of_classes for name, n in shared_budget(of, args.per_class, args.share).items()}


def check_arguments(args):
    """What the parser cannot see."""
    for option in ("per_class", "batch_size", "steps", "attempts"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} is {value}; give 1 or more")
    if not 0 <= args.seed < 2**62:
        raise UserError(f"--seed {args.seed} is not between 0 and 2**62 - 1")
    if args.guidance is not None and not (math.isfinite(args.guidance) and args.guidance >= 0):
        raise UserError(f"--guidance is {args.guidance}; give 0 or more")
    if not 0 <= args.quantile <= 1:
        raise UserError(f"--quantile is {args.quantile}; give one from 0 to 1")


def complete_arguments(args, proc):
    """Fill in what depends on the result or on the model."""
    from ..interventions.synthetic import default_model

    args.model = args.model or default_model(proc)
    complete_sampling(args)


def check_parts(out, pipeline, clip, proc, prompts, args):
    """Find out now, and not after the first images, what is missing."""
    from ..interfaces.generation import check_request
    from ..interfaces.inference_utils import load_clip

    check_request(pipeline, [prompt.prompt for prompt in prompts.values()], args.steps)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    check_space(out, 3 * side**2 * args.per_class * len(prompts))
    load_clip(**clip)
    if args.filter:
        proc.images("val", [])


def settings(args, prompts, clip):
    """Everything that the images depend on."""
    from ..interfaces.encoders import encoder_digest

    return {
        "prompts": {name: prompt.prompt for name, prompt in prompts.items()},
        **{name: getattr(args, name) for name in ("per_class", "seed", "model", *Sampling._fields)},
        "encoder_root": encoder_digest(args.encoder_root) if args.encoder_root else None,
        "device": args.device.split(":")[0],
        "clip": clip["clip_model"],
        "filter": {"quantile": args.quantile, "attempts": args.attempts} if args.filter else None,
        **({"share": args.share} if args.by_slices else {}),
    }


def sampler(pipeline, prompt, args):
    """A `sample` for `make_images`."""
    from ..interfaces.generation import sample

    return lambda seeds: sample(pipeline(), [prompt.prompt] * len(seeds), seeds, args.steps, args.guidance)


def scorer(proc, prompt, clip, args):
    """A `score` for `make_images`; its thresholds are calibrated when there is an image to judge."""
    from ..interventions.synthetic import real_thresholds, score_images

    thresholds = functools.cache(lambda: real_thresholds(proc, prompt, args.quantile, clip) if args.filter else None)
    return lambda images: score_images(images, prompt, clip, thresholds())


def report(proc, prompts, made, kept, counts, args):
    """Print what was made of each class, and which classes are without images or have fewer."""
    rows = [
        [name, prompt.prompt, len(kept[name]), sum(not attempt.kept for attempt in made[name])]
        for name, prompt in prompts.items()
    ]
    print(
        format_table(
            ["failure" if args.by_slices else "class", "prompt", "images", "filtered out"][: 4 if args.filter else 3],
            [row if args.filter else row[:3] for row in rows],
            left=2,
        )
    )
    for c, reason in proc.skipped.items():
        if not args.by_slices and (args.classes is None or proc.class_names[c] in args.classes):
            print(f"{proc.class_names[c]}: no direction ({reason}), so no images")
    short = [f"{name} ({len(images)})" for name, images in kept.items() if len(images) < counts[name]]
    if short:
        asked = "asked" if args.by_slices else args.per_class
        made_of_each = f"{args.attempts} times as many" if args.by_slices else args.attempts * args.per_class
        print(
            f"fewer than {asked} passed among {made_of_each} that were made: "
            f"{', '.join(short)}; give more --attempts, or a larger --quantile, and another --out"
        )
