"""Distil a model's failures: per class a direction between the validation images it gets right and those it gets wrong.

    python train_svms.py -c dataset_configs/cifar.yaml -s svm_configs/normalized_svm_latent_config.yaml \\
        --indices-file index_files/cifar.pt --root data \\
        --model-path runs/cifar/version_0/checkpoints/checkpoint_last.pt --out-file results/cifar_svm.pt

leaves results/cifar_svm.pt, cifar_svm_model.pt (the directions) and cifar_svm_{train,val,test}.csv (one row an image).
With an SVM config of CLIP embeddings, --captions also names the failures: cifar_svm_captions.csv.

torchrun --nproc-per-node=4 train_svms.py ... shares out the pass of the model and the embedding over the images.
"""

import argparse

import numpy as np
import torch

from ..captions.ranking import SIDES, describe_directions
from ..captions.subpopulations import caption_similarity, extreme_latents, subpopulation_accuracy
from ..captions.vocabulary import get_caption_set
from ..config_parsing import load_dataset_config, load_svm_config, split_overrides
from ..data.splits import open_splits
from ..directions.job_backends import JobsBackend
from ..directions.label_noise import looks_like
from ..directions.minority import check_spurious
from ..directions.results import OutputFiles, class_table, save_result, split_metrics, spurious_tables, write_split_csv
from ..embeddings.cache import EmbeddingCache, cache_folder
from ..embeddings.spaces import make_embedding
from ..loaders import make_loader
from ..models.checkpoints import load_checkpoint
from ..runtime.devices import resolve_device
from ..runtime.distributed import is_main, own_device, process_group
from ..runtime.environment import environment
from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable, write_csv, written_together
from ..runtime.tables import format_table
from ..svm_utils import SVMFitter
from ..training.metrics import best_f1_threshold


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="dataset config (YAML)")
    parser.add_argument("-s", "--svm-config", required=True, help="SVM config (YAML)")
    parser.add_argument("--indices-file", help="index file; may be left out where the config has a val_beton")
    parser.add_argument("--model-path", required=True, help="checkpoint of ffcv_main.py")
    parser.add_argument("--out-file", required=True, help="OUT: results go to OUT.pt, OUT_model.pt, OUT_SPLIT.csv")
    parser.add_argument(
        "--cache", help="folder that keeps predictions and embeddings (default: embeddings/ in the run)"
    )
    parser.add_argument("--unlabeled", action="store_true", help="also evaluate the unlabeled pool")
    parser.add_argument("--root", default=".", help="folder of the betons")
    parser.add_argument("--spurious", action="store_true", help="also count the beton's `spurious` field in each class")
    parser.add_argument(
        "--captions", metavar="NAME|FILE", help="describe the directions by captions of this set or YAML file"
    )
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
    device = own_device(resolve_device(args.device))
    jobs_backend = JobsBackend.parse(args.jobs_backend)
    overrides, svm_overrides = split_overrides(args.override)
    if args.mlp_size is not None:
        svm_overrides.append(f"svm_args.hidden_layer_size={args.mlp_size}")
    svm_config = load_svm_config(args.svm_config, svm_overrides)
    config = load_dataset_config(args.config, overrides)
    condition = chosen_condition(args, config)
    files = OutputFiles.named(args.out_file)
    for path in (files.result, files.model):
        check_writable(path)
    splits = open_splits(config, args.root, args.indices_file, args.unlabeled, extra=True)
    extra = splits.pop("extra", None)  # trained on as well, but no split of the result
    if args.spurious:
        check_spurious(splits)
    class_names, threshold = config.names, None
    if condition is not None:
        class_names = [f"no {config.names[condition]}", config.names[condition]]
    caption_set = load_captions(args, svm_config, class_names) if args.captions is not None else None
    checkpoint = load_checkpoint(args.model_path, config)
    embedding = make_embedding(svm_config, config, device)

    cache = args.cache or cache_folder(args.model_path, files.result.parent)
    predictions, latents = evaluate(splits, checkpoint.model, embedding, config, device, cache)
    if not is_main():
        return  # rank 0 fits the SVMs, in processes of its own on every core
    if condition is not None:
        val = predictions["val"]
        threshold = best_f1_threshold(val.confs[:, condition], val.labels[:, condition] == 1)
        predictions = {name: found.of_condition(condition, threshold) for name, found in predictions.items()}
        print(f"threshold of {config.names[condition]} with the best F1 on validation: {threshold:.2f}")

    options = svm_config.svm_args
    fitter = SVMFitter(
        split_and_search=options.split_and_search,
        balanced=options.balanced,
        cv=options.cv,
        do_normalize=svm_config.normalize,
        method=svm_config.method,
        svm_args={"hidden_layer_size": options.hidden_layer_size, "first_layer": options.first_layer},
        jobs=args.jobs,
    )
    fitter.set_preprocess(latents["train"] if svm_config.whiten else None)
    with jobs_backend.connected():
        fitter.fit(
            preds=predictions["val"].preds,
            ys=predictions["val"].labels,
            latents=latents["val"],
            num_classes=len(class_names),
        )

    entries = {}
    for name, found in predictions.items():
        _, _, metrics = fitter.predict(ys=found.labels, latents=latents[name], preds=found.preds, compute_metrics=True)
        spurious = splits[name].column("spurious").astype(np.int64) if splits[name].has_spurious else None
        entries[name] = split_metrics(metrics, found, spurious, fitter.skipped)
    # For train alone: what an image looks like, and how hard it would be as one of that class (see label_noise).
    like = looks_like(latents["train"], latents["val"], predictions["val"].labels)
    _, values = fitter.predict(ys=like, latents=latents["train"])
    entries["train"] |= {"looks_like": torch.from_numpy(like), "looks_like_values": torch.from_numpy(values)}
    captions = []
    if caption_set:
        captions = describe_directions(fitter, embedding.clip, caption_set, class_names, args.top_k)
        nearest = extreme_latents(embedding.clip, captions)
        for name, entry in entries.items():
            for side, values in caption_similarity(latents[name], entry["classes"].numpy(), nearest).items():
                entry[f"{side}_similarity"] = torch.from_numpy(values)
    with written_together(old=files.every()):
        for name, entry in entries.items():
            write_split_csv(files.beside(f"{name}.csv"), entry, class_names)

        print(format_table(*class_table(fitter, entries, class_names)))
        if len(fitter.skipped) == len(class_names):
            print("no class has a direction: take more validation images, or a lower svm_args.cv")
        elif svm_config.embedding == "latent":
            print(
                "CV scores on penultimate features are high because these features hold the model's own margin; "
                "they are no measure of how strong a failure is."
            )
        if args.spurious:
            print_spurious(entries, class_names, config.minority if condition is None else None, files)
        if caption_set:
            print_captions(captions, class_names, files)
            write_subpopulations(entries, class_names, files)
        made_from = {
            "args": vars(args),
            "dataset_config": config.model_dump(),
            "svm_config": svm_config.model_dump(),
            "train_labels_digest": splits["train"].beton.labels_digest,
            "environment": environment(),
        }
        if extra is not None:
            made_from["extra_indices"] = torch.from_numpy(extra.indices)
        # The result itself comes last: where it is, everything beside it is.
        save_result(files, fitter, entries, made_from, class_names, threshold)
    print(f"result: {files.result}")


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


def evaluate(splits, model, embedding, config, device, folder):
    """One pass over every split: dicts split -> `Predictions` and split -> embeddings (N, d)."""
    model = model.to(device, memory_format=torch.channels_last)
    cache = EmbeddingCache(folder, model, embedding, config, device)
    predictions, latents = {}, {}
    for name, split in splits.items():
        predictions[name], latents[name] = cache.get(make_loader(split, config, device))
    return predictions, latents


def print_spurious(entries, class_names, given, files):
    """Print and save what the flagged images are made of, and how early the minority comes in each ordering."""
    shown = "unlabeled" if "unlabeled" in entries else "test"
    rates, precisions = spurious_tables(entries, class_names, given)
    for (header, rows), ending, title in (
        (rates, "spurious.csv", "values of `spurious` in each class"),
        (precisions, "precision.csv", "precision of the minority among the K first"),
    ):
        path = files.beside(ending)
        write_csv(path, header, rows)
        print(f"\n{title}, {shown} (all splits: {path})")
        print(format_table(header[1:], [row[1:] for row in rows if row[0] == shown]))
    if not precisions[1]:
        print("no class has a minority: no value of `spurious` is below half its class's mean frequency in train")


def print_captions(rows, class_names, files):
    """Save the captions of `describe_directions` and print the first three a side."""
    header = ("class", "side", "rank", "caption", "score", "z")
    table = [[row["class_name"], *(row[key] for key in header[1:])] for row in rows]
    write_csv(files.beside("captions.csv"), header, table)
    print(f"\nhardest and easiest captions (all: {files.beside('captions.csv')})")
    shown = [[name, side, caption, z] for name, side, rank, caption, _, z in table if rank <= 3]
    print(format_table(["class", "side", "caption", "z"], shown, left=3))


def write_subpopulations(entries, class_names, files):
    """Save the model's accuracy on the images nearest to each class's hardest and easiest caption."""
    rows = []
    for split in ("val", "test"):
        entry = entries[split]
        similarity = {side: entry[f"{side}_similarity"].numpy() for side in SIDES}
        for row in subpopulation_accuracy(similarity, entry["classes"].numpy(), entry["ytrue"].numpy()):
            rows += [[split, class_names[row["class"]], side, row["k"], row[side], row["class_mean"]] for side in SIDES]
    header = ("split", "class", "side", "k", "accuracy", "class_accuracy")
    write_csv(files.beside("subpopulations.csv"), header, rows)
