"""Distil a model's failures: per class a direction between the validation images it gets right and those it gets wrong.

    failure-directions distil -c cifar -s normalized_svm_latent_config --indices-file cifar --root data \\
        --model-path runs/cifar/version_0/checkpoints/checkpoint_last.pt --out-file results/cifar_svm.pt

leaves results/cifar_svm.pt, cifar_svm_model.pt (the directions) and cifar_svm_{train,val,test}.csv (one row an image).
With an SVM config of CLIP embeddings, --captions also names the failures: cifar_svm_captions.csv.

torchrun --nproc-per-node=4 train_svms.py ... shares out the pass of the model and the embedding over the images.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..captions.sources import add_describe
from ..captions.vocabulary import get_caption_set
from ..config_parsing import DatasetConfig, SVMConfig, load_dataset_config, load_svm_config, split_overrides
from ..data.run_files import VERIFY, check_run_files
from ..directions.job_backends import JobsBackend
from ..directions.minority import check_spurious
from ..runtime.devices import resolve_device
from ..runtime.distributed import is_main, own_device, process_group
from ..runtime.environment import environment
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_apart, check_writable, existing_file
from ..runtime.tables import format_table
from ..training.run_folders import checkpoint_in

if TYPE_CHECKING:
    from ..directions.results import OutputFiles


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="dataset config (YAML)")
    parser.add_argument("-s", "--svm-config", required=True, help="SVM config (YAML)")
    parser.add_argument("--indices-file", help="index file; may be left out where the config has a val_beton")
    parser.add_argument(
        "--model-path", required=True, help="runs/EXP_NAME of failure-directions train, or a checkpoint"
    )
    parser.add_argument("--out-file", required=True, help="OUT: results go to OUT.pt, OUT_model.pt, OUT_SPLIT.csv")
    parser.add_argument(
        "--cache", help="folder that keeps predictions and embeddings (default: embeddings/ in the run)"
    )
    parser.add_argument("--unlabeled", action="store_true", help="also evaluate the unlabeled pool")
    parser.add_argument("--root", default=".", help="folder of the betons")
    parser.add_argument("--verify", action="store_true", help=VERIFY)
    parser.add_argument(
        "--keep-half",
        action="store_true",
        help="confirm failures on one half of each class's test images, and keep the other from all choices: repairs "
        "are judged on it",
    )
    parser.add_argument("--spurious", action="store_true", help="also count the beton's `spurious` field in each class")
    parser.add_argument(
        "--captions", metavar="NAME|FILE", help="describe the directions by captions of this set or YAML file"
    )
    add_describe(parser)
    parser.add_argument("--top-k", type=int, default=10, help="captions kept a class and side (default: 10)")
    parser.add_argument("--bce", action="store_true", help="the model is one of conditions (bce: true in the config)")
    parser.add_argument("--bce-class", type=int, help="number of the condition to analyse")
    parser.add_argument("--mlp-size", type=int, help="hidden_layer_size of an MLP")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--jobs", type=int, default=-1, help="processes for the SVMs; -1 for one a core")
    parser.add_argument(
        "--jobs-backend",
        default="local",
        metavar="WHERE",
        help="local, or a cluster: dask://HOST:PORT, ray://HOST:PORT, dask or ray",
    )
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change either config, such as svm_args.cv=5; may be given several times",
    )
    return parser.parse_args(argv)


@entry_point
@process_group()
def main(argv=None):
    args = parse_arguments(argv)
    inputs = load(args)
    if not is_main():
        return  # rank 0 fits the SVMs, in processes of its own on every core
    from ..directions.results import write_analysis

    found = distil(inputs, args)
    write_analysis(inputs.files, found)
    if found.result.found:
        confirm_uses(inputs, found.result).count()
    show(found, inputs)


@dataclass(frozen=True)
class Inputs:
    """What the arguments name, and what the model and the embedding make of the images.

    Attributes:
        splits: dict of `Split`.
        described: dict split -> `Described`, the files of its images.
        extra: the `Split` of images that were trained on as well, or None.
        condition: number of the condition to analyse, or None for a task of classes.
        threshold: its own.
        predictions: dict split -> `Predictions`, of the condition where there is one.
        latents: dict split -> (N, d) memory map.
    """

    files: "OutputFiles"
    config: DatasetConfig
    svm_config: SVMConfig
    class_names: list
    condition: int | None
    threshold: float | None
    splits: dict
    described: dict
    extra: Any
    embedding: Any
    caption_set: Any
    jobs_backend: JobsBackend
    cache: Path
    predictions: dict
    latents: dict


def load(args):
    """Check everything that can be known before work, then run model and embedding over the images: `Inputs`."""
    jobs_backend = JobsBackend.parse(args.jobs_backend)
    overrides, svm_overrides = split_overrides(args.override)
    if args.mlp_size is not None:
        svm_overrides.append(f"svm_args.hidden_layer_size={args.mlp_size}")
    svm_config = load_svm_config(args.svm_config, svm_overrides)
    config = load_dataset_config(args.config, overrides)
    condition = chosen_condition(args, config)
    class_names, threshold = config.names, None
    if condition is not None:
        class_names = [f"no {config.names[condition]}", config.names[condition]]
    caption_set = load_captions(args, svm_config, class_names) if args.captions is not None else None
    check_run_files(config, args.root, args.indices_file, args.unlabeled)
    args.model_path = str(existing_file(checkpoint_in(args.model_path), "checkpoint"))

    from ..data.beton_tables import describe_split
    from ..data.splits import open_splits
    from ..directions.results import OutputFiles
    from ..embeddings.cache import cache_folder
    from ..embeddings.spaces import make_embedding
    from ..models.checkpoints import about_training, load_checkpoint
    from ..training.metrics import best_f1_threshold

    device = own_device(resolve_device(args.device))
    files = OutputFiles.named(args.out_file)
    for path in (files.result, files.model):
        check_writable(path)
    check_apart(files.all(), [args.model_path])
    splits = open_splits(config, args.root, args.indices_file, args.unlabeled, extra=True, verify=args.verify)
    extra = splits.pop("extra", None)  # trained on as well, but no split of the result
    described = {name: describe_split(split) for name, split in splits.items()}
    if args.spurious:
        check_spurious(splits)
    checkpoint = load_checkpoint(args.model_path, config)
    if interrupted := about_training(args.model_path, checkpoint):
        print(interrupted)
    embedding = make_embedding(svm_config, config, device)
    cache = args.cache or cache_folder(args.model_path, files.result.parent)
    predictions, latents = evaluate(splits, checkpoint.model, embedding, config, device, cache, svm_config.precision)
    if condition is not None:
        val = predictions["val"]
        threshold = best_f1_threshold(val.confs[:, condition], val.labels[:, condition] == 1)
        predictions = {name: found.of_condition(condition, threshold) for name, found in predictions.items()}
    return Inputs(
        files=files,
        config=config,
        svm_config=svm_config,
        class_names=class_names,
        condition=condition,
        threshold=threshold,
        splits=splits,
        described=described,
        extra=extra,
        embedding=embedding,
        caption_set=caption_set,
        jobs_backend=jobs_backend,
        cache=Path(cache),
        predictions=predictions,
        latents=latents,
    )


def distil(inputs, args):
    """The `Analysis` of the inputs, with the tables that are asked for and with what it was made from."""
    from ..captions.naming import with_captions
    from ..directions.analysis import analyse, with_minority, with_slices

    spurious = {
        name: split.column("spurious").astype(np.int64) for name, split in inputs.splits.items() if split.has_spurious
    }
    found = analyse(
        inputs.predictions,
        inputs.latents,
        inputs.class_names,
        inputs.svm_config,
        spurious=spurious,
        jobs=args.jobs,
        jobs_backend=inputs.jobs_backend,
    )
    config = inputs.svm_config
    if config.confirm in inputs.splits:
        found = with_slices(
            found,
            inputs.latents,
            confirm=config.confirm,
            confidences={name: predictions.highest for name, predictions in inputs.predictions.items()},
            directions=config.directions,
            fdr=config.fdr,
            jobs=args.jobs,
            evaluate=args.keep_half,
        )
        uses = confirm_uses(inputs, found.result).so_far() + 1
        found = replace(found, result=replace(found.result, found=replace(found.result.found, uses=uses)))
    if inputs.caption_set:
        found = with_captions(found, inputs.latents, inputs.embedding.clip, inputs.caption_set, args.top_k)
    if args.spurious:
        found = with_minority(found, inputs.config.minority if inputs.condition is None else None)
    splits = {
        name: replace(split, paths=inputs.described[name].paths, metadata=inputs.described[name].metadata or None)
        for name, split in found.result.splits.items()
    }
    made_from = replace(
        found.result,
        splits=splits,
        dataset_config=inputs.config,
        args=vars(args),
        environment=environment(),
        train_labels_digest=inputs.splits["train"].beton.labels_digest,
        extra_indices=None if inputs.extra is None else inputs.extra.indices,
        bce_threshold=inputs.threshold,
    )
    found = replace(found, result=made_from)
    return described(found, inputs, args.describe) if args.describe else found


def described(found, inputs, sources):
    """The `Analysis` with what the images of its confirmed slices have in common."""
    from ..captions.describing import with_words
    from ..directions.galleries import SVMProcessor

    images = SVMProcessor.of(found.result, inputs.files.result).images
    clip = inputs.embedding.clip if inputs.caption_set else None
    return with_words(found, images, sources, inputs.caption_set, clip)


def confirm_uses(inputs, result):
    """How often the images of the result's confirm part have judged this model."""
    from ..directions.confirm_uses import ConfirmUses

    tested = result.splits[result.found.confirm]
    return ConfirmUses(inputs.cache, tested.classes, tested.preds)


def chosen_condition(args, config):
    """The number of the condition to analyse, or None for a task of classes."""
    if not config.bce:
        if args.bce or args.bce_class is not None:
            raise UserError(f"--bce needs a model of conditions, but {args.config} does not say bce: true")
        return None
    if not args.bce or args.bce_class is None:
        raise UserError(f"{args.config} says bce: true: choose a condition with --bce --bce-class N")
    if not 0 <= args.bce_class < config.num_classes:
        raise UserError(f"--bce-class {args.bce_class} is not a condition: give 0 to {config.num_classes - 1}")
    return args.bce_class


def load_captions(args, svm_config, class_names):
    """The caption set, checked against the classes before any work."""
    if svm_config.embedding != "clip":
        raise UserError(
            f"--captions needs directions in CLIP's space, but {args.svm_config} says embedding: {svm_config.embedding}"
        )
    if args.top_k < 1:
        raise UserError(f"--top-k {args.top_k} keeps no captions; give 1 or more")
    caption_set = get_caption_set(args.captions)
    caption_set.for_classes(class_names)
    return caption_set


def evaluate(splits, model, embedding, config, device, folder, precision="float32"):
    """One pass over every split: dicts split -> `Predictions` and split -> embeddings (N, d)."""
    import torch

    from ..embeddings.cache import EmbeddingCache
    from ..loaders import make_loader

    model = model.to(device, memory_format=torch.channels_last)
    cache = EmbeddingCache(folder, model, embedding, config, device, precision)
    predictions, latents = {}, {}
    for name, split in splits.items():
        predictions[name], latents[name] = cache.get(make_loader(split, config, device))
    return predictions, latents


def show(found, inputs):
    """Print what was found; every file is there already, because a terminal or pipe may refuse what is printed."""
    from ..directions.analysis import class_table, slices_in_words
    from ..directions.results import AttributeRate, CaptionRow, WordRow

    if inputs.condition is not None:
        name = inputs.config.names[inputs.condition]
        print(f"threshold of {name} with the best F1 on validation: {inputs.threshold:.2f}")
    print(format_table(*class_table(found)))
    print(slices_in_words(found.result))
    if WordRow in found.tables:
        from ..captions.describing import words_of_slices

        print(words_of_slices(found))
    if len(found.result.skipped) == len(inputs.class_names):
        print("no class has a direction: take more validation images, or a lower svm_args.cv")
    elif inputs.svm_config.embedding == "latent":
        print(
            "CV scores on penultimate features are high because these features hold the model's own margin; "
            "they are no measure of how strong a failure is."
        )
    if AttributeRate in found.tables:
        show_minority(found, inputs.files)
    if CaptionRow in found.tables:
        show_captions(found.tables[CaptionRow], inputs.files)
    print(f"result: {inputs.files.result}")


def show_minority(found, files):
    """Print what the flagged images are made of, and how early the minority comes in each ordering."""
    from ..directions.results import AttributeRate, MinorityPrecision, table_rows

    shown = "unlabeled" if "unlabeled" in found.result.splits else "test"
    for kind, title in (
        (AttributeRate, "values of `spurious` in each class"),
        (MinorityPrecision, "precision of the minority among the K first"),
    ):
        header, *rows = table_rows(kind, [row for row in found.tables[kind] if row.split == shown])
        print(f"\n{title}, {shown} (all splits: {files.of(kind)})")
        print(format_table(header[1:], [row[1:] for row in rows]))
    if not found.tables[MinorityPrecision]:
        print("no class has a minority: no value of `spurious` is below half its class's mean frequency in train")


def show_captions(rows, files):
    """Print the first three captions a side."""
    from ..directions.results import CaptionRow

    print(f"\nhardest and easiest captions (all: {files.of(CaptionRow)})")
    shown = [[row.slice or row.class_name, row.side, row.caption, row.z] for row in rows if row.rank <= 3]
    print(format_table(["class or failure", "side", "caption", "z"], shown, left=3))
