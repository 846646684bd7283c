"""Train a base model on betons and measure it; or retrain it, with loss weights or another index file.

    python ffcv_main.py -c dataset_configs/cifar.yaml --indices-file index_files/cifar.pt --root data --exp-name cifar

leaves runs/cifar/version_0/ with checkpoints/checkpoint_{last,best}.pt, metrics.pt, metrics.csv and TensorBoard logs.
"""

import argparse
from pathlib import Path

from src.checkpoints import latest_version
from src.config_parsing import load_dataset_config
from src.devices import resolve_device
from src.errors import UserError, entry_point
from src.evaluation import predict
from src.files import check_writable, save_pt, write_csv
from src.loaders import make_loader
from src.splits import open_splits
from src.tables import format_table
from src.training import Trainer, load_loss_vector


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="dataset config (YAML)")
    parser.add_argument("--indices-file", help="index file; may be left out where the config has a val_beton")
    parser.add_argument("--exp-name", required=True, help="the run goes to RUNS/EXP_NAME/version_K")
    parser.add_argument("--loss-vec-file", help="loss weight of every training image (.pt)")
    parser.add_argument("--root", default=".", help="folder of the betons")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same training")
    parser.add_argument("--resume", action="store_true", help="go on with the latest version of this run")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE",
                        help="change the config, such as training.epochs=3; may be given several times")  # fmt: skip
    parser.add_argument("--disable-logging", action="store_true", help="no TensorBoard logs")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed} is not between 0 and 2**63 - 1")
    device = resolve_device(args.device)
    config = load_dataset_config(args.config, args.override)
    splits = open_splits(config, args.root, args.indices_file)
    loss_vector = load_loss_vector(args.loss_vec_file, splits["train"]) if args.loss_vec_file else None
    folder = run_folder(Path(args.runs), args.exp_name, args.resume)
    check_writable(folder / "metrics.pt")

    trainer = Trainer(
        config,
        device,
        folder,
        train=make_loader(splits["train"], config, device, train=True, seed=args.seed),
        val=make_loader(splits["val"], config, device),
        seed=args.seed,
        metadata={"config": config.model_dump(), "arguments": vars(args)},
        loss_vector=loss_vector,
        log=not args.disable_logging,
    )
    try:
        model = trainer.fit(resume=args.resume)
    except KeyboardInterrupt:
        path = trainer.checkpoint_path("last")
        if path.exists():
            print(f"\ninterrupted; {path} holds the last whole epoch: go on with the same command and --resume")
        raise

    metrics = {}
    for name in ("val", "test"):
        predictions = predict(model, make_loader(splits[name], config, device), device, config.bce)
        metrics[name] = predictions.metrics(config.num_classes)
    save_pt(metrics, folder / "metrics.pt")
    header, rows = metrics_table(metrics, config)
    write_csv(folder / "metrics.csv", header, rows)
    print(format_table(header, rows))
    print(f"run: {folder}")


def run_folder(runs, exp_name, resume):
    """`runs/exp_name/version_K`: the next free K, or, to resume, the latest."""
    if not exp_name.strip(" .") or Path(exp_name).is_absolute() or ".." in Path(exp_name).parts:
        raise UserError(f"--exp-name {exp_name} leaves {runs}; give a plain name, and --runs for another folder")
    latest = latest_version(runs / exp_name)
    if resume and latest is None:
        raise UserError(f"there is no run in {runs / exp_name} to resume; train without --resume")
    return runs / exp_name / f"version_{latest if resume else (-1 if latest is None else latest) + 1}"


def metrics_table(metrics, config):
    """One row for everything and one a class; a column a measure and split."""
    measures = [key for key in ("accuracy", "auroc") if key in metrics["val"]]
    columns = [(split, measure) for measure in measures for split in metrics]
    rows = [["all", *(metrics[split][measure] for split, measure in columns)]]
    for c, name in enumerate(config.names):
        rows.append([name, *(float(metrics[split][f"per_class_{measure}"][c]) for split, measure in columns)])
    return ["class", *(f"{split} {measure}" for split, measure in columns)], rows


if __name__ == "__main__":
    main()
