"""Train a base model on betons and measure it; or retrain it, with loss weights, other images or extra ones.

    failure-directions train -c cifar --indices-file cifar --root data --exp-name cifar

leaves runs/cifar/version_0/ with checkpoints/checkpoint_{last,best}.pt, metrics.pt, metrics.csv, predictions.pt,
environment.yaml and TensorBoard logs. A trained model is trained further, here its last layer with a folder
CLASS/*.png of extra images:

    failure-directions train ... --exp-name more --finetune-from runs/cifar/version_0/checkpoints/checkpoint_last.pt \\
        --freeze --extra-images generated

Several processes, on one device each, train as one: torchrun --nproc-per-node=4 ffcv_main.py ...
"""

import argparse
import contextlib
import os
import time

from ..config_parsing import load_dataset_config
from ..data.run_files import VERIFY, check_run_files
from ..runtime.devices import resolve_device
from ..runtime.distributed import broadcast, is_main, main_first, own_device, process_group, world_size
from ..runtime.environment import write_environment
from ..runtime.errors import UserError, entry_point
from ..runtime.files import existing_file, file_digest, write_csv
from ..runtime.tables import format_table
from ..training.run_folders import LAST, checkpoint_in, run_folder


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="dataset config (YAML)")
    parser.add_argument("--indices-file", help="index file; may be left out where the config has a val_beton")
    parser.add_argument("--exp-name", required=True, help="the run goes to RUNS/EXP_NAME/version_K")
    parser.add_argument("--loss-vec-file", help="loss weight of every training image (.pt)")
    parser.add_argument("--finetune-from", metavar="CKPT", help="start from this trained model, or runs/EXP_NAME")
    parser.add_argument("--freeze", action="store_true", help="train the last layer only, on features computed once")
    parser.add_argument(
        "--extra-images",
        metavar="DIR|MANIFEST",
        help="train on these as well: a folder CLASS/FILE, or a CSV path,label",
    )
    parser.add_argument(
        "--extra-weight", type=float, metavar="W", help="loss weight of images beyond the train beton (default: 1)"
    )
    parser.add_argument("--root", default=".", help="folder of the betons")
    parser.add_argument("--verify", action="store_true", help=VERIFY)
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same training")
    parser.add_argument("--resume", action="store_true", help="go on with the latest version of this run")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the config, such as training.epochs=3; may be given several times",
    )
    parser.add_argument("--disable-logging", action="store_true", help="no TensorBoard logs")
    return parser.parse_args(argv)


@entry_point
@process_group()
def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    config = load_dataset_config(args.config, args.override)
    if args.finetune_from:
        args.finetune_from = checkpoint_in(args.finetune_from)
    check_files(args, config)
    train(args, config, own_device(resolve_device(args.device)))


def check_files(args, config):
    """Raise `UserError` where a file that the arguments name is missing: known before anything is imported for it."""
    check_run_files(config, args.root, args.indices_file)
    for path, what in ((args.loss_vec_file, "loss vector"), (args.finetune_from, "checkpoint")):
        if path:
            existing_file(path, what)


def train(args, config, device):
    """Train, resume or retrain in a version of the run's folder, and leave everything there."""
    from ..data.extra_images import extra_images_split
    from ..data.splits import open_splits
    from ..loaders import check_batches, make_loader, make_training_loader
    from ..models.features import last_linear
    from ..models.input_sizes import check_input
    from ..training.evaluation import predict
    from ..training.loss_weights import extended_loss_vector, load_loss_vector
    from ..training.resuming import load_pretrained, load_resumable, new_checkpoint
    from ..training.trainer import Trainer

    splits = open_splits(config, args.root, args.indices_file, extra=True, verify=args.verify)
    if args.extra_weight is not None and not (args.extra_images or "extra" in splits):
        raise UserError("--extra-weight weighs images beyond the train beton, and there are none: give --extra-images")
    loss_vector = load_loss_vector(args.loss_vec_file, splits["train"]) if args.loss_vec_file else None
    check_batches(splits["train"], config)
    evaluated = {name: make_loader(splits[name], config, device) for name in ("val", "test")}
    metadata = {"config": config.model_dump(), "arguments": vars(args), "contents": contents(args)}
    if not args.resume:
        start = load_pretrained(args.finetune_from, config) if args.finetune_from else new_checkpoint(config, args.seed)
        if not args.freeze:
            alone = not args.extra_images and "extra" not in splits
            smallest = smallest_batch(splits["train"], config) if alone else None
            check_input(start.model, f"{config.arch_type} {config.arch}", config.imgsz, smallest)

    claimed = run_folder(args.runs, args.exp_name, args.resume) if is_main() else contextlib.nullcontext()
    with claimed as folder:
        folder = broadcast(folder)
        if args.resume:
            start = load_resumable(folder / LAST, config, args.seed, metadata)
        if is_main():
            write_environment(folder / "environment.yaml", vars(args))

        trained_on = [splits[name] for name in ("train", "extra") if name in splits]
        if args.extra_images:
            with main_first():
                trained_on.append(extra_images_split(args.extra_images, config, folder / "extra_images.beton"))
        if len(trained_on) > 1:
            loss_vector = extended_loss_vector(loss_vector, trained_on, args.extra_weight or 1.0)
            print(f"training on {', '.join(f'{len(split)} images of {split.beton.path}' for split in trained_on)}")
        if args.freeze:
            train_loader, val_loader = feature_loaders(trained_on, splits["val"], config, device, args, folder)
        else:
            train_loader = make_training_loader(trained_on, config, device, args.seed)
            val_loader = evaluated["val"]
        trainer = Trainer(
            config,
            device,
            folder,
            train=train_loader,
            val=val_loader,
            seed=args.seed,
            metadata=metadata,
            loss_vector=loss_vector,
            log=not args.disable_logging,
        )
        try:
            model = trainer.fit(start, trained=last_linear(start.model) if args.freeze else None)
        except KeyboardInterrupt:
            path = trainer.checkpoint_path("last")
            if path.exists():
                print(f"\ninterrupted; {path} holds the last whole epoch: go on with the same command and --resume")
            raise

        predictions = {name: predict(model, loader, device, config.bce) for name, loader in evaluated.items()}
        if is_main():
            save_results(folder, predictions, config, args.seed)


def smallest_batch(train, config):
    """Images of the smallest batch that a process is given in an epoch of the split alone."""
    last = 0 if config.drop_last else len(train) % config.batch_size
    return -(-(last or config.batch_size) // world_size())


def contents(args):
    """SHA-256 of files that a resumed training must find as they were, by option; of those that are there."""
    options = {
        "--indices-file": args.indices_file,
        "--loss-vec-file": args.loss_vec_file,
        "--finetune-from": args.finetune_from,
    }
    return {option: file_digest(path) for option, path in options.items() if path and os.path.isfile(path)}


def save_results(folder, predictions, config, seed):
    """Save a dict split -> `Predictions`; save and print their accuracies."""
    from ..runtime.pt_files import save_pt
    from ..training.evaluation import save_predictions

    metrics = {name: found.metrics(config.num_classes) for name, found in predictions.items()}
    save_pt(metrics, folder / "metrics.pt")
    header, rows = metrics_table(metrics, config)
    write_csv(folder / "metrics.csv", header, rows, for_people=True)
    # Last: where the predictions are, the run is whole.
    save_predictions(folder / "predictions.pt", predictions, seed, config.names)
    print(format_table(header, rows))
    print(f"run: {folder}")


def check_arguments(args):
    """What the parser cannot see."""
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed} is not between 0 and 2**63 - 1")
    if args.freeze and not args.finetune_from:
        raise UserError("--freeze keeps all but the last layer as it is: say with --finetune-from which model's")
    if args.extra_weight is not None and not 0 < args.extra_weight < float("inf"):
        raise UserError(f"--extra-weight {args.extra_weight} is no weight; give a number above 0")


def feature_loaders(trained_on, val, config, device, args, folder):
    """Loaders of penultimate features for training and for validation, computed once and kept."""
    import torch

    from ..embeddings.cache import EmbeddingCache, cache_folder
    from ..embeddings.spaces import LatentEmbedding
    from ..loaders import FeatureLoader, make_feature_loader, make_loader
    from ..models.checkpoints import load_checkpoint

    began = time.perf_counter()
    model = load_checkpoint(args.finetune_from, config).model.to(device, memory_format=torch.channels_last)
    cache = EmbeddingCache(cache_folder(args.finetune_from, folder), model, LatentEmbedding(), config, device)
    train = make_feature_loader(trained_on, cache, config, device, args.seed)
    found, features = cache.get(make_loader(val, config, device))
    print(
        "training the last layer alone, on features of the images without augmentation, in evaluation mode "
        f"({time.perf_counter() - began:.1f} s to compute or read them; kept in {cache.folder})"
    )
    return train, FeatureLoader(val, features, found.labels, device, config.batch_size)


def metrics_table(metrics, config):
    """One row for everything and one a class; a column a measure and split."""
    measures = [key for key in ("accuracy", "auroc") if key in metrics["val"]]
    columns = [(split, measure) for measure in measures for split in metrics]
    rows = [["all", *(metrics[split][measure] for split, measure in columns)]]
    for c, name in enumerate(config.names):
        rows.append([name, *(float(metrics[split][f"per_class_{measure}"][c]) for split, measure in columns)])
    return ["class", *(f"{split} {measure}" for split, measure in columns)], rows
