"""Write betons from a data set of the papers, an image folder, a CSV manifest, or scenes (drawn).

    failure-directions betons cifar10 --data ~/torchvision --download --out data
    failure-directions betons celeba_age --data ~/CelebA --max-resolution 92 --out data
    failure-directions betons folder --data my_images --out data --name mine --image-format jpg --max-resolution 256
    failure-directions betons manifest --data my_images/list.csv --out data --name mine
    failure-directions betons scenes --kind correlation --out data

writes OUT/NAME_{train,val,test,unlabeled}.beton for the splits that there are; for a folder or manifest also
OUT/NAME.yaml, a dataset config to start from; for scenes OUT/NAME_SPLIT.csv, the truth of every image.
"""

import argparse
import importlib
from dataclasses import replace
from pathlib import Path

from ..data import LIMIT_OF_LIMITS, MOST_PIXELS
from ..data.scenes import KINDS, VALIDATIONS, Plant, SceneSetting, planted_setting
from ..runtime.english import some
from ..runtime.errors import UserError, entry_point

# Data sets that need nothing but their folder: NAME_sources of a module of data/official, and what NAME is.
OFFICIAL = {
    "celeba_age": ("celeba", "CelebA: old or young; spurious: gender"),
    "celeba_gender": ("celeba", "CelebA: female or male; spurious: colour of the hair"),
    "chestxray": ("chestxray", "ChestX-ray14: 14 conditions; spurious: view"),
    "imagenet": ("imagenet", "ImageNet: train/WNID/ and val/WNID/, which becomes test"),
    "waterbirds": ("waterbirds", "Waterbirds: metadata.csv; spurious: place"),
}


def parse_arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", required=True, help="folder for the betons")
    common.add_argument("--name", help="start of the files' names (default: the source's)")
    common.add_argument(
        "--image-format",
        choices=["raw", "jpg", "proportion", "smart"],
        default="raw",
        help="raw pixels; JPEG; a random share as JPEG; JPEG above --smart-threshold",
    )
    common.add_argument("--jpeg-quality", type=int, default=90, help="1 to 100")
    common.add_argument("--compress-probability", type=float, default=0.5, help="share of JPEGs with proportion")
    common.add_argument("--smart-threshold", type=int, help="bytes of raw pixels above which smart takes JPEG")
    common.add_argument("--max-resolution", type=int, help="scale images down to this longer side, pixels")
    common.add_argument("--workers", type=int, default=-1, help="processes that write; -1 for one a core")

    official = argparse.ArgumentParser(add_help=False, parents=[common])
    official.add_argument("--data", required=True, help="folder (cifar: torchvision's root), or the manifest")
    official.add_argument(
        "--skip-broken", action="store_true", help="leave out, and list, images that can't be read or stored"
    )
    official.add_argument(
        "--max-pixels",
        type=int,
        default=MOST_PIXELS,
        help=f"largest image that is read, width times height (default: {MOST_PIXELS}; at most twice that)",
    )

    files = argparse.ArgumentParser(add_help=False, parents=[official])
    files.add_argument(
        "--group-classes",
        metavar="A+B,C+D",
        help="merge classes into superclasses; `spurious` becomes the original class",
    )

    download = argparse.ArgumentParser(add_help=False)
    download.add_argument("--download", action="store_true", help="fetch it into --data if it is not there")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="source", required=True)
    for name in ("cifar10", "cifar100"):
        sources.add_parser(name, parents=[files, download], help="torchvision's data set")
    for name, (_, what) in OFFICIAL.items():
        sources.add_parser(name, parents=[official], help=what)
    sources.add_parser(
        "supercifar100", parents=[official, download], help="CIFAR-100 by its 20 superclasses; spurious: class"
    )
    imagenetc = sources.add_parser("imagenetc", parents=[official], help="ImageNet with a share from ImageNet-C")
    imagenetc.add_argument("--distorted", required=True, help="folder with CORRUPTION/SEVERITY/WNID/")
    imagenetc.add_argument("--corruptions", metavar="A,B,...", help="which of its folders (default: all)")
    imagenetc.add_argument("--severity", type=int, default=3, help="1 to 5 (default: 3)")
    mnist = sources.add_parser("colored_mnist", parents=[official, download], help="MNIST in red and green")
    mnist.add_argument("--train-corr", type=float, default=0.92, help="share of train whose tint is the label")
    mnist.add_argument("--val-corr", type=float, default=0.5, help="and of the other splits")
    mnist.add_argument("--label-noise", type=float, default=0.25, help="share of train whose label is turned")
    mnist.add_argument("--seed", type=int, default=10)
    mnist.add_argument("--unlabeled", action="store_true", help="leave half of train to the unlabeled pool")
    sources.add_parser("folder", parents=[files], help="images in SPLIT/CLASS/")
    manifest = sources.add_parser("manifest", parents=[files], help="CSV with path,label[,spurious][,split]")
    manifest.add_argument("--image-root", help="folder that paths are relative to (default: the manifest's)")
    manifest.add_argument("--class-names", metavar="A,B,...", help="order of the classes (default: alphabetical)")
    manifest.add_argument("--bce", action="store_true", help="labels are the conditions present, joined by |")

    scenes = sources.add_parser("scenes", parents=[common], help="drawn shapes with planted failures")
    scenes.add_argument("--kind", choices=KINDS, help="plant three failures of this kind, chosen by the seed")
    scenes.add_argument("--strength", type=float, help="of the --kind plants (default: the kind's own)")
    scenes.add_argument(
        "--plant",
        action="append",
        default=[],
        metavar="KIND:SHAPE:ATTRIBUTE=VALUE:STRENGTH",
        help="one failure, such as correlation:circle:colour=red:0.95; may be repeated, also for one class",
    )
    for split in ("train", "val", "test", "unlabeled"):
        default = getattr(SceneSetting, split)
        scenes.add_argument(f"--{split}", type=int, default=default, help=f"images a class (default: {default})")
    scenes.add_argument("--size", type=int, default=32, help="side of the images, pixels, at least 32")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument(
        "--validation",
        choices=VALIDATIONS,
        default="natural",
        help="share of the minority in val: as in test, half, or as in train",
    )
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    name = args.source if args.name is None else args.name
    if Path(name).name != name or name in ("", ".."):
        raise UserError(f"--name {name!r} is not a plain name; give --out for another folder")
    if args.workers == 0 or args.workers < -1:
        raise UserError(f"--workers {args.workers} is not a number of processes; give 1 or more, or -1")
    check_image_options(args)
    if args.source == "scenes":
        setting = scene_setting(args)
    else:
        sources = with_pixel_limit(image_sources(args), args.max_pixels)
        for note in next(iter(sources.values())).notes if args.source in ("folder", "manifest") else ():
            print(f"note: {note}")
    from ..data.beton_sets import leave_out_broken, write_scenes, write_splits, write_starter_config
    from ..data.beton_writer import ImageOptions

    options = ImageOptions(
        args.image_format, args.jpeg_quality, args.compress_probability, args.smart_threshold, args.max_resolution
    )
    if args.source == "scenes":
        written = write_scenes(setting, args.out, name, options, args.workers)
    else:
        if args.skip_broken:
            sources = leave_out_broken(sources, args.out, name, args.workers, options)
        written = write_splits(sources, args.out, name, options, args.workers)
    remark = None
    if args.source in ("folder", "manifest"):
        remark = "no config to start from was written: that takes a train and a test (or val) split"
        if "train" in sources and {"test", "val"} & set(sources):
            remark = f"config to start from: {write_starter_config(sources, args.out, name)}"
    for split, count in written.items():
        classes = "" if args.source == "scenes" else f" ({counted(sources[split])})"
        print(f"{Path(args.out) / f'{name}_{split}.beton'}: {count:,} images{classes}")
    if args.source != "scenes" and (untrained := without_training_images(sources)):
        print(f"note: no image in train of {some(untrained)}")
    if remark:
        print(remark)


def check_image_options(args):
    """What the parser cannot see."""
    if not 1 <= args.jpeg_quality <= 100:
        raise UserError(f"--jpeg-quality {args.jpeg_quality} is not between 1 and 100")
    if not 0 <= args.compress_probability <= 1:
        raise UserError(f"--compress-probability {args.compress_probability} is not between 0 and 1")
    if args.max_resolution is not None and args.max_resolution < 1:
        raise UserError(f"--max-resolution {args.max_resolution} is not a number of pixels")


def with_pixel_limit(sources, most_pixels):
    """The sources, of which files of up to `most_pixels` are read."""
    from ..data.image_sources import ImageFiles

    if not 1 <= most_pixels <= LIMIT_OF_LIMITS:
        raise UserError(f"--max-pixels {most_pixels} is not between 1 and {LIMIT_OF_LIMITS}")
    return {
        split: replace(source, most_pixels=most_pixels) if isinstance(source, ImageFiles) else source
        for split, source in sources.items()
    }


def counted(source):
    """The classes of a source and their numbers of images: "cat 12, dog 7"."""
    from ..data.image_sources import class_counts

    return some([f"{name} {n:,}" for name, n in zip(source.class_names, class_counts(source), strict=True)])


def without_training_images(sources):
    """Names of classes (for BCE, conditions) without an image in train."""
    from ..data.image_sources import class_counts

    if "train" not in sources:
        return []
    train = sources["train"]
    return [name for name, count in zip(train.class_names, class_counts(train), strict=True) if count == 0]


def image_sources(args):
    """Split -> source, as the arguments say."""
    if args.source in OFFICIAL:
        module, _ = OFFICIAL[args.source]
        module = importlib.import_module(f"..data.official.{module}", __package__)
        return getattr(module, f"{args.source}_sources")(args.data)
    if args.source == "supercifar100":
        from ..data.official.supercifar100 import supercifar100_sources

        return supercifar100_sources(args.data, args.download)
    if args.source == "imagenetc":
        from ..data.official.imagenet import imagenetc_sources

        corruptions = args.corruptions.split(",") if args.corruptions else None
        return imagenetc_sources(args.data, args.distorted, corruptions, args.severity)
    if args.source == "colored_mnist":
        from ..data.official.colored_mnist import colored_mnist_sources

        return colored_mnist_sources(
            args.data, args.train_corr, args.label_noise, args.val_corr, args.seed, args.unlabeled, args.download
        )
    from ..data.image_sources import (
        check_some_are_there,
        cifar_sources,
        folder_sources,
        group_classes,
        manifest_sources,
    )

    if args.source == "folder":
        sources = folder_sources(args.data)
    elif args.source == "manifest":
        class_names = args.class_names.split(",") if args.class_names else None
        sources = manifest_sources(args.data, args.image_root, class_names, args.bce)
        check_some_are_there(sources)
    else:
        sources = cifar_sources(args.source, args.data, args.download)
    if args.group_classes:
        groups = [group.split("+") for group in args.group_classes.split(",")]
        sources = {split: group_classes(source, groups) for split, source in sources.items()}
    return sources


def scene_setting(args):
    """The `SceneSetting` that the options describe: plants as given, or drawn from the seed."""
    shared = {
        "train": args.train,
        "val": args.val,
        "test": args.test,
        "unlabeled": args.unlabeled,
        "size": args.size,
        "validation": args.validation,
    }
    if args.kind and args.plant:
        raise UserError("give --kind or --plant, not both")
    if args.kind:
        return planted_setting(args.kind, args.seed, strength=args.strength, **shared)
    return SceneSetting(tuple(Plant.parse(text) for text in args.plant), seed=args.seed, **shared)


if __name__ == "__main__":
    main()
