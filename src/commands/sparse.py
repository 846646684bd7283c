"""Make a model's last layer sparse: the few deep features on which each class rests, along a path of sparsities.

    failure-directions sparse --dataset beton -c cifar_thin --indices-file cifar --root data \\
        --model-path runs/cifar/version_0/checkpoints/checkpoint_last.pt --out-path results/cifar_sparse

    failure-directions sparse --dataset imagenet --dataset-path ILSVRC --arch resnet50 --out-path results/imagenet
    failure-directions sparse --dataset jigsaw-toxic --balance --dataset-path jigsaw --out-path results/toxic_sparse

leaves OUT/path.csv, path.png, checkpoint/params{i}.pth (one a lambda, sparsest first), run.pt and the deep features.
"""

import argparse
import copy
from pathlib import Path

from ..config_parsing import load_dataset_config
from ..data.run_files import VERIFY, check_run_files
from ..data.text_data import JIGSAW_LABELS
from ..runtime.devices import resolve_device
from ..runtime.environment import environment
from ..runtime.errors import UserError, entry_point
from ..runtime.figure_files import save_figure
from ..runtime.files import check_writable, existing_file, write_csv, written_together
from ..runtime.tables import format_table
from ..sparse.selection import check_selection, select_sparse_model
from ..training.run_folders import checkpoint_in

VISION = ("imagenet", "places-10", "folder", "beton")
JIGSAW = tuple(f"jigsaw-{alt}{label}" for alt in ("", "alt-") for label in JIGSAW_LABELS)
LANGUAGE = ("sst", "csv", *JIGSAW)
UNUSED = ("lr", "lr_decay_factor", "max_epochs", "lookbehind", "verbose")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="imagenet, places-10, folder (images as {train,val,test}/CLASS/FILE), beton, sst, "
        "csv (text,label in train.csv and test.csv), jigsaw-LABEL, jigsaw-alt-LABEL",
    )
    data.add_argument("--dataset-path", help="folder of the data; betons are under --root")
    data.add_argument("--dataset-type", choices=("vision", "language"), help="need not be said: --dataset says it")
    data.add_argument("-c", "--config", help="beton: dataset config (YAML)")
    data.add_argument("--indices-file", help="beton: index file; may be left out where the config has a val_beton")
    data.add_argument("--root", help="beton: folder of the betons (default: .)")
    data.add_argument("--verify", action="store_true", help=f"beton: {VERIFY}")
    data.add_argument(
        "--val-frac",
        type=float,
        default=0.1,
        help="validation share of train, where there is no validation set (default: 0.1)",
    )
    data.add_argument("--balance", action="store_true", help="validate and test on as many examples of every class")
    data.add_argument("--random-seed", type=int, default=0, help="of the validation split and of --balance")

    model = parser.add_argument_group("model and deep features")
    model.add_argument(
        "--model-path",
        metavar="FILE|FOLDER|NAME",
        help="vision: checkpoint or state dict; language: a sequence classifier",
    )
    model.add_argument("--arch", help="vision: torchvision ResNet or timm:NAME; pretrained without --model-path")
    model.add_argument("--out-path", required=True, metavar="OUT", help="folder of the results")
    model.add_argument(
        "--cache", nargs="?", metavar="FOLDER", help="folder of the deep features (default: OUT/features)"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    model.add_argument("--num-workers", type=int, help="that decode images (default: 2; beton: the config's)")
    model.add_argument("--batch-size", type=int, help="of the forward pass (default: 256; beton: the config's)")

    path = parser.add_argument_group("sparse path")
    path.add_argument("--alpha", type=float, default=0.99, help="share of the L1 penalty (default: 0.99)")
    path.add_argument("--lam-factor", type=float, default=1e-3, help="smallest over largest lambda (default: 0.001)")
    path.add_argument("-k", type=int, default=100, help="number of lambdas; 0 is added (default: 100)")
    path.add_argument("--tol", type=float, default=1e-4, help="largest KKT violation, over the largest lambda")
    path.add_argument("--group", action="store_true", help="choose features for all classes together")
    path.add_argument(
        "--select",
        default="absolute",
        choices=("sparsity", "absolute", "relative", "percentile"),
        help="rule for the selected layer (default: absolute)",
    )
    path.add_argument(
        "--factor",
        type=float,
        help="sparsity: features per class (15); absolute: points below the best accuracy (5); "
        "relative: share of the best accuracy (.05); percentile: of its gain (.05)",
    )
    path.add_argument("--write-checkpoint", metavar="FILE", help="vision: also write the model with the selected layer")

    old = parser.add_argument_group("accepted and not used (they steered a stochastic solver)")
    for name in UNUSED:
        old.add_argument(f"--{name.replace('_', '-')}", nargs="?", const="", metavar="X", help=argparse.SUPPRESS)
    old.description = ", ".join(f"--{name.replace('_', '-')}" for name in UNUSED)
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    check_arguments(args)
    check_files(args)
    out = Path(args.out_path)
    cache = Path(args.cache) if args.cache else out / "features"
    for path in (out / "path.csv", cache / "train" / "features.pt", args.write_checkpoint):
        if path:
            check_writable(path)

    from ..runtime.pt_files import save_pt
    from ..sparse.deep_features import accuracy, cached_features
    from ..sparse.path import elastic_net_path
    from ..sparse.reading.pictures import sparsity_figure

    device = resolve_device(args.device)
    task = open_task(args, device)
    features = {split: cached_features(cache / split, task, split, device) for split in task.inputs}
    pairs = {split: (features[split], task.inputs[split].labels) for split in features}
    path = elastic_net_path(
        *pairs["train"],
        alpha=args.alpha,
        k=args.k,
        epsilon=args.lam_factor,
        group=args.group,
        val=pairs["val"],
        test=pairs["test"],
        device=args.device,
        tol=args.tol,
    )
    chosen = select_sparse_model(path, args.select, args.factor)
    dense = {split: accuracy(task.dense, *pairs[split]) for split in ("val", "test")} if task.dense else None
    curves = {split: [row[f"acc_{split}"] for row in path.metrics] for split in ("val", "test")}
    with written_together():
        path.save(out)
        save_pt(run_content(args, task), out / "run.pt")
        write_csv(out / "path.csv", *path_table(path))
        nonzeros = [row["nonzeros"] for row in path.metrics]
        save_figure(sparsity_figure(nonzeros, curves, chosen, dense), out / "path.png")
        if args.write_checkpoint:
            write_checkpoint(args, task, path, chosen)
    for remark in (*unused_flags(args), *task.remarks):
        print(remark)
    print(format_table(*summary_table(path, chosen, dense)))
    if dense is None:
        print("The model's own head is not shown: its outputs are not these classes.")
    print(f"result: {out}")


def check_arguments(args):
    """Every rule that needs no file."""
    if args.dataset.startswith("jigsaw-") and args.dataset not in LANGUAGE:
        label = args.dataset.removeprefix("jigsaw-").removeprefix("alt-")
        raise UserError(f"--dataset {args.dataset}: {label} is no label of Jigsaw; give {', '.join(JIGSAW_LABELS)}")
    if args.dataset not in VISION + LANGUAGE:
        known = ", ".join((*VISION, "sst", "csv", "jigsaw-LABEL"))
        raise UserError(f"--dataset {args.dataset} is not known; give {known} or jigsaw-alt-LABEL")
    language = args.dataset in LANGUAGE
    if args.dataset_type and (args.dataset_type == "language") != language:
        raise UserError(f"--dataset {args.dataset} is {'language' if language else 'vision'}; correct --dataset-type")
    if args.dataset == "beton":
        needed, foreign = ("config", "model_path"), ("dataset_path", "arch")
    else:
        needed, foreign = ("dataset_path",), ("config", "indices_file", "root")
    if args.dataset == "csv":
        needed += ("model_path",)
    for name in needed:
        if getattr(args, name) is None:
            raise UserError(f"--dataset {args.dataset} needs --{name.replace('_', '-')}")
    for name in foreign:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} does not go with --dataset {args.dataset}; leave it out")
    if args.dataset == "folder" and args.arch is None and args.model_path is None:
        raise UserError("--dataset folder needs a model: --arch (pretrained), or --model-path, or both")
    if args.write_checkpoint and language:
        raise UserError("--write-checkpoint is for vision models; a text model's sparse layer is in OUT/checkpoint")
    for name, value, fits, range_ in (
        ("val-frac", args.val_frac, 0 < args.val_frac < 1, "between 0 and 1"),
        ("alpha", args.alpha, 0 <= args.alpha <= 1, "from 0 to 1"),
        ("lam-factor", args.lam_factor, 0 < args.lam_factor < 1, "between 0 and 1"),
        ("tol", args.tol, 0 < args.tol < 1, "between 0 and 1"),
        ("random-seed", args.random_seed, 0 <= args.random_seed < 2**63, "from 0 to 2**63 - 1"),
        ("num-workers", args.num_workers, args.num_workers is None or args.num_workers >= 0, "0 or more"),
        ("batch-size", args.batch_size, args.batch_size is None or args.batch_size >= 1, "1 or more"),
    ):
        if not fits:
            raise UserError(f"--{name} {value} must be {range_}")
    check_selection(args.select, args.factor)
    if (
        args.write_checkpoint
        and args.model_path
        and Path(args.write_checkpoint).resolve() == Path(args.model_path).resolve()
    ):
        raise UserError(f"--write-checkpoint {args.write_checkpoint} is the model itself; name another file")
    if args.k < 2:
        raise UserError(f"-k {args.k} is no path; give 2 or more lambdas")


def check_files(args):
    """Raise `UserError` where the config is wrong, or a file or folder that the arguments name is missing."""
    if args.dataset == "beton":
        check_run_files(beton_config(args), args.root or ".", args.indices_file)
        args.model_path = str(existing_file(checkpoint_in(args.model_path), "checkpoint"))
    elif not Path(args.dataset_path).is_dir():
        raise UserError(f"the folder of data {args.dataset_path} does not exist; correct --dataset-path")


def beton_config(args):
    overrides = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    return load_dataset_config(args.config, [f"{key}={n}" for key, n in overrides.items() if n is not None])


def open_task(args, device):
    """The `SparseTask` that the arguments name."""
    from ..sparse.tasks import PLACES_10, beton_task, image_task, text_task

    chosen = {"balance": args.balance, "seed": args.random_seed}
    if args.dataset == "beton":
        chosen |= {"verify": args.verify}
        return beton_task(beton_config(args), args.root or ".", args.indices_file, args.model_path, device, **chosen)
    chosen |= {"val_frac": args.val_frac, "batch_size": args.batch_size or 256}
    if args.dataset in LANGUAGE:
        return text_task(args.dataset, args.dataset_path, args.model_path, **chosen)
    classes = PLACES_10 if args.dataset == "places-10" else None
    arch = args.arch or (None if args.dataset == "folder" else "resnet50")
    workers = 2 if args.num_workers is None else args.num_workers
    return image_task(args.dataset_path, arch, args.model_path, classes, workers=workers, **chosen)


def unused_flags(args):
    """What to say of flags that are accepted for old command lines."""
    flags = [f"--{name.replace('_', '-')}" for name in UNUSED if getattr(args, name) is not None]
    if args.arch and args.dataset in LANGUAGE:
        flags.append("--arch")
    return [f"Not used: {', '.join(flags)}."] if flags else []


def run_content(args, task):
    """What reads the path later: the classes, the labels in the order of the features, and the model's own head."""
    import torch

    return {
        "args": vars(args),
        "environment": environment(),
        "model": task.name,
        "class_names": list(task.class_names),
        "labels": {split: torch.from_numpy(inputs.labels) for split, inputs in task.inputs.items()},
        "dense": None if task.dense is None else dict(task.dense.state_dict()),
    }


def path_table(path):
    """Header and rows of path.csv."""
    header = ["i", "lambda", "features_per_class", "train_accuracy", "val_accuracy", "test_accuracy", "loss", "kkt"]
    rows = [
        [i, row["lambda"], row["nonzeros"], row["acc_tr"], row["acc_val"], row["acc_test"], row["loss"], kkt]
        for i, (row, kkt) in enumerate(zip(path.metrics, path.kkt.tolist(), strict=True))
    ]
    return header, rows


def summary_table(path, chosen, dense=None):
    """The model's own head, the best layer, those with about 5 to 25 features per class, and the selected one."""
    nonzeros = [row["nonzeros"] for row in path.metrics]
    features = path.weight.shape[2]
    rows = []
    if dense:
        rows.append(["the model's own head", "", float(features), dense["val"], dense["test"]])

    def add(what, i):
        row = path.metrics[i]
        rows.append([what, i, row["nonzeros"], row["acc_val"], row["acc_test"]])

    add("best of the path", path.best)
    for wanted in (5, 10, 15, 25):
        nearest = min(range(1, len(path)), key=lambda i: abs(nonzeros[i] - wanted))
        if abs(nonzeros[nearest] - wanted) <= wanted / 4:
            add(f"about {wanted} features", nearest)
    add("selected", chosen)
    return ["layer", "i", "features per class", "val accuracy", "test accuracy"], rows


def write_checkpoint(args, task, path, chosen):
    """The model with a sparse layer in the place of its last one."""
    from ..models.checkpoints import Checkpoint, save_checkpoint
    from ..models.features import replace_last_linear

    model = copy.deepcopy(task.model).cpu()
    replace_last_linear(model, path.to_linear(chosen).float())
    metadata = {"sparse": {"args": vars(args), "i": chosen, **path.metrics[chosen]}}
    if args.config:
        metadata["config"] = load_dataset_config(args.config).model_dump()
    build_params = task.build_params | {"num_classes": len(task.class_names)}
    save_checkpoint(args.write_checkpoint, Checkpoint(model, build_params, metadata))
