"""The whole loop with one command: base model, directions, intervention, retraining, comparison, report.

    failure-directions loop -c cifar_pairs -s normalized_svm_latent_config --indices-file cifar_pairs --root data \\
        --intervention add --per-class 100 --by svm random --seeds 0 1 2 --out loops/pairs

Failures are confirmed on one half of the test images; the other half, which has chosen nothing, judges the repairs.
With --placebo also the base trained anew with another seed, which takes as long as the base: what it gains there, any
other training does. A repair is said to help where it gains more than the placebo and than random choices, as far as
these are there, and one of them must be. The comparison ends with a verdict; the report opens with it and the cost.

The classes in which a slice is confirmed change, whatever chooses in them; --unconfirmed: all. --by slices has each
confirmed slice choose for itself, and --budget N is shared by them. A seed whose base has no confirmed slice is left
out; where none has any, nothing is retrained.

Everything goes to OUT: runs/, svm/ (a result for each seed), embeddings/, interventions/, compared_NAME.{md,csv,png}
and report.html with a section "before and after". Commands are printed as they could be typed. Called again, it goes on
where it stopped; called again with another intervention, more --by or more --seeds, it uses what is there.

    failure-directions loop ... --captions CIFARSIMPLE --intervention synthetic --per-class 100 --out loops/cifar

retrains the last layer with images that a diffusion model makes of each class's neutral, easy and hard captions, and
without any. The images go to OUT/generated/, and how accurate the base models are on them to OUT/generatedN.csv.
--from directions compares them with images that are decoded from the class's mean and along its single direction.
"""

import argparse
import csv
import hashlib
import time
from pathlib import Path

from ..config_parsing import load_dataset_config, load_svm_config
from ..data.run_files import existing_index_file
from ..interventions.choosing import CHOICES, SCHEMES, SHARES
from ..interventions.costs import Cost, load_costs, mean_costs, save_costs
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, entry_point
from ..runtime.files import atomic_path, check_writable, file_digest
from ..runtime.tables import format_table
from ..runtime.yaml_files import dump_yaml, read_yaml
from ..training.run_folders import latest_version, version_number
from .compare import text_table
from .steps import options, repeated, run

SYNTHETIC = ("none", "neutral", "easy", "hard")
DECODED = ("decoded_neutral", "decoded_easy", "decoded_hard")
SOURCES = {"captions": SYNTHETIC, "directions": (*SYNTHETIC, *DECODED)}  # what --by is of, by default
PLACEBO, PLACEBO_SEEDS = "placebo", 10**6  # as the comparison knows them
BY_SLICES = "slices"
COSTS = "costs.csv"
SEEDS_APART = 10**6  # so that no two seeds of the loop share an image's noise

# Published for retraining a trained model (Jain et al. 2023).
FINETUNING = (
    "training.epochs=15",
    "training.lr=0.1",
    "training.lr_scheduler.type=cyclic",
    "training.lr_scheduler.lr_peak_epoch=5",
)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, help="dataset config (YAML)")
    parser.add_argument("-s", "--svm-config", required=True, help="SVM config (YAML)")
    parser.add_argument("--indices-file", help="index file; may be left out where the config has a val_beton")
    parser.add_argument("--root", default=".", help="folder of the betons; {seed} is replaced by the seed")
    parser.add_argument("--out", required=True, help="folder for everything")
    parser.add_argument(
        "--intervention", choices=["weights", "add", "filter", "synthetic"], default="add", help="default: add"
    )
    parser.add_argument(
        "--by",
        nargs="+",
        choices=(*CHOICES, BY_SLICES, *SYNTHETIC, *DECODED),
        help="what chooses images, a run each (default: svm); of synthetic, whose captions they are "
        "made of, none for no images, or what they are decoded of (default: all that --from says)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=SOURCES,
        default="captions",
        help="what synthetic makes images of: captions (default), or directions as well",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.3,
        metavar="A",
        help="share of the way along a direction at which images are decoded (default: 0.3)",
    )
    parser.add_argument(
        "--decoder", metavar="FOLDER|NAME", help="of decoded images: --model of failure-directions decode --help"
    )
    parser.add_argument("--scheme", choices=SCHEMES, default="x2", help="of weights (default: x2)")
    parser.add_argument("--factor", type=float, default=2.0, help="of weights by x2 (default: 2)")
    parser.add_argument(
        "--per-class",
        type=int,
        default=100,
        metavar="K",
        help="images that add takes, or synthetic makes (default: 100)",
    )
    parser.add_argument(
        "--budget", type=int, metavar="N", help="images in all in place of --per-class, shared by the confirmed slices"
    )
    parser.add_argument(
        "--share", choices=SHARES, default="errors", help="of slices: by their errors, or equally (default: errors)"
    )
    parser.add_argument("--unconfirmed", action="store_true", help="change all classes, confirmed or not")
    parser.add_argument("--model", metavar="FOLDER|NAME", help="of synthetic: see failure-directions generate --help")
    parser.add_argument("--filter", action="store_true", help="of synthetic: see failure-directions generate --help")
    parser.add_argument(
        "--finetune",
        choices=["last", "all"],
        help="train the base model's last layer, or all of it, further, for 15 epochs with a peak rate "
        "of 0.1, whatever --override says; by default a new model is trained, with synthetic the last "
        "layer",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="train everything once with each (default: 0)"
    )
    parser.add_argument(
        "--placebo", action="store_true", help="also train the base anew with another seed, which a repair must beat"
    )
    parser.add_argument("--captions", metavar="NAME|FILE", help="describe the directions by captions of this set")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the dataset config; may be given several times",
    )
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    out = Path(args.out)
    check_arguments(args)
    check_settings(out, args)
    retrained = [run_name(args, by) for by in args.by]
    bases = {}
    for seed in args.seeds:
        base = train(out, "base", seed, args)
        result = distil(out, base, seed, args)
        if not (args.unconfirmed or confirmed_classes(result)):
            print(f"no slice of the base of seed {seed} is confirmed, so that there is nothing to mend")
            continue
        bases[seed] = base
        for by, name in zip(args.by, retrained, strict=True):
            began, already = time.monotonic(), finished(out, name, [seed])
            changes = intervention(out, name, by, result, seed, args)
            train(out, name, seed, args, base, changes)
            if not already:
                seconds = round(time.monotonic() - began, 1)
                cost = Cost(name, seed, *looked_and_labelled(by, result, changes, args), seconds)
                save_costs(out / COSTS, [*load_costs(out / COSTS), cost])
        if args.placebo:
            train(out, PLACEBO, seed, args)
    if not bases:
        print("nothing is retrained: find failures in more images, or change all classes with --unconfirmed")
        return
    if args.intervention == "synthetic":
        measure_generated(out, bases, args)
    compared = out / f"compared_{run_name(args)}"
    # Those of earlier calls as well, so that a call with another --by adds a column.
    names = [
        "base",
        *([PLACEBO] if args.placebo else []),
        *(run_name(args, by) for by in choices(args) if by in args.by or finished(out, run_name(args, by), bases)),
    ]
    runs = [out / "runs" / name for name in names]
    run("compare", *runs, *options(svm=out / "svm" / "seed_{seed}.pt", seeds=list(bases), out=compared))
    if not args.placebo:
        print(NO_PLACEBO)
    shown = [cost for cost in load_costs(out / COSTS) if cost.name in names and cost.seed in bases]
    save_costs(compared.with_name(f"{compared.name}_{COSTS}"), shown)
    for name, cost in mean_costs(shown, names, bases).items():
        print(f"{name}: {cost}, a seed")
    first = next(iter(bases))
    shown = options(svm=out / "svm" / f"seed_{first}.pt", root=root(args, first), report=out / "report.html")
    run("report", *shown, *options(title=Path(args.config).stem), "--compared", compared)


def check_arguments(args):
    """What can be known before anything is trained; the configs are read for their own checks."""
    load_dataset_config(args.config, args.override)
    svm_config = load_svm_config(args.svm_config)
    if args.indices_file:
        existing_index_file(args.indices_file)
    is_synthetic = args.intervention == "synthetic"
    args.by = list(dict.fromkeys(args.by or (SOURCES[args.source] if is_synthetic else ["svm"])))
    args.seeds = list(dict.fromkeys(args.seeds))
    args.finetune = args.finetune or ("last" if is_synthetic else None)
    strange = set(args.by) - set(choices(args))
    if strange:
        raise UserError(
            f"--by {min(strange)} does not go with {args.intervention}; give some of {', '.join(choices(args))}"
        )
    if min(args.seeds) < 0:
        raise UserError(f"--seeds {min(args.seeds)} is below 0; give 0 or more")
    if args.captions and svm_config.embedding != "clip":
        raise UserError(f"--captions needs embedding: clip, but {args.svm_config} says {svm_config.embedding}")
    if is_synthetic and not args.captions:
        raise UserError("--intervention synthetic makes images of captions; give --captions")
    if args.source != "captions" and not is_synthetic:
        raise UserError(f"--from {args.source} does not go with {args.intervention}; leave it out")
    if set(args.by) & set(DECODED) and not args.decoder and svm_config.clip_model != "scenes":
        raise UserError(f"images are decoded by a model for the CLIP {svm_config.clip_model}; name it with --decoder")
    if args.filter and set(args.by) & set(DECODED):
        raise UserError("--filter is of images of captions; leave it out, or --by decoded_...")
    if not 0 < args.alpha <= 1:  # nan as well
        raise UserError(f"--alpha is {args.alpha:g}; give a share of the way, above 0 and at most 1")
    how_many = ("--per-class", args.per_class) if args.budget is None else ("--budget", args.budget)
    if args.intervention in ("add", "synthetic") and how_many[1] < 1:
        raise UserError(f"{how_many[0]} {how_many[1]} adds nothing; give 1 or more")
    if args.budget is not None and args.intervention != "add":
        raise UserError(f"--budget does not go with {args.intervention}; leave it out")
    if args.intervention == "add" and not has_pool(args):
        raise UserError("there is no extra pool to add from: set unlabeled_beton, or give an index file with one")
    if args.intervention == "weights" and not 0 <= args.factor < 1e30:
        raise UserError(f"--factor {args.factor} is no weight; give a number of 0 or more")
    without_order = set(args.by) & {"random", "minority"}
    if without_order and (args.intervention == "filter" or (args.intervention, args.scheme) == ("weights", "soft")):
        what = "filter" if args.intervention == "filter" else "--scheme soft"
        raise UserError(f"--by {min(without_order)} does not go with {what}; give svm or confidence")


def choices(args):
    """What --by can be, in the order of the comparison's columns."""
    return (*SYNTHETIC, BY_SLICES, *DECODED) if args.intervention == "synthetic" else (*CHOICES, BY_SLICES)


def finished(out, name, seeds):
    """Whether a run is there with every seed."""
    return all(any((out / "runs" / name / f"seed_{seed}").glob("version_*/predictions.pt")) for seed in seeds)


def confirmed_classes(path):
    """Names of the classes of a result in which a slice is confirmed."""
    from ..directions.results import read_result

    found = read_result(path).found
    return sorted({one.class_name for one in found.confirmed}) if found else []


def check_settings(out, args):
    """Remember what base models and directions depend on; another call with the same folder must not change it."""
    path = out / "loop.yaml"
    fixed = ("config", "svm_config", "indices_file", "root", "captions", "override", "unconfirmed")
    settings = {name: getattr(args, name) for name in fixed}
    settings["contents"] = contents(args)
    if path.exists():
        before = read_yaml(path, "loop", "give another --out")
        for name in fixed:
            # Earlier versions changed all classes.
            then = before.get(name, True if name == "unconfirmed" else None)
            if then != settings[name]:
                raise UserError(
                    f"{out} was begun with --{name.replace('_', '-')} {then}, not {settings[name]}; give "
                    "the same, or another --out"
                )
        known = before.get("contents") or {}  # folders of earlier versions have none
        for name, digest in settings["contents"].items():
            if known.get(name, digest) != digest:
                raise UserError(
                    f"what --{name.replace('_', '-')} {settings[name]} says has changed since {out} was begun; give "
                    "another --out, or change it back"
                )
        return
    check_writable(path)
    with atomic_path(path) as temporary:
        temporary.write_text(dump_yaml(settings), encoding="utf-8")


def contents(args):
    """SHA-256 of what the named files say: of configs without comments and spelling, of others byte by byte."""
    dataset, svm = load_dataset_config(args.config, args.override), load_svm_config(args.svm_config)
    found = {
        name: hashlib.sha256(config.model_dump_json(exclude_defaults=True).encode()).hexdigest()
        for name, config in (("config", dataset), ("svm_config", svm))
    }
    if args.indices_file:
        found["indices_file"] = file_digest(existing_index_file(args.indices_file))
    if args.captions and Path(args.captions).is_file():
        found["captions"] = file_digest(args.captions)
    return found


def run_name(args, by=None):
    """Of a run, by everything that it depends on beside the loop's settings; of a comparison, without `by`."""
    what = {
        "add": f"add{args.per_class}" if args.budget is None else f"budget{args.budget}",
        "weights": args.scheme,
        "filter": "filter",
        "synthetic": f"synthetic{images_of(args)}",
    }[args.intervention]
    if what == "x2":
        what = f"x{args.factor:g}"
    if args.share != "errors":
        what += args.share
    return "_".join(
        part for part in (what, by and kind_of(by, args), args.finetune and f"finetune_{args.finetune}") if part
    )


def root(args, seed):
    return args.root.replace("{seed}", str(seed))


def train(out, name, seed, args, base=None, changes=()):
    """Path of the last checkpoint of the run of that name and seed, which is trained, trained to its end, or found."""
    folder = out / "runs" / name / f"seed_{seed}"
    if not any(folder.glob("version_*/predictions.pt")):
        words = options(
            config=args.config,
            root=root(args, seed),
            runs=folder.parent,
            exp_name=folder.name,
            seed=seed + PLACEBO_SEEDS * (name == PLACEBO),
            device=args.device,
        )
        words += [*repeated("--override", args.override), *changes]
        if base is None or args.intervention in ("weights", "synthetic"):
            words += options(indices_file=args.indices_file)
        if base and args.finetune:
            words += options(finetune_from=base, freeze=args.finetune == "last")
            words += repeated("--override", FINETUNING)
        version = latest_version(folder)
        if version is not None and (folder / f"version_{version}" / "checkpoints" / "checkpoint_last.pt").exists():
            words += ["--resume"]
        run("train", *words)
    version = max((file.parent for file in folder.glob("version_*/predictions.pt")), key=version_number)
    return version / "checkpoints" / "checkpoint_last.pt"


def distil(out, checkpoint, seed, args):
    """Path of the result of that seed's base model, which is made unless it is there."""
    result = out / "svm" / f"seed_{seed}.pt"
    if not result.exists():
        words = options(
            config=args.config,
            svm_config=args.svm_config,
            root=root(args, seed),
            model_path=checkpoint,
            out_file=result,
            cache=out / "embeddings",
            device=args.device,
            indices_file=args.indices_file,
            captions=args.captions,
            unlabeled=has_pool(args),
            # Where the pool confirms, all of the test images judge.
            keep_half=load_svm_config(args.svm_config).confirm == "test",
        )
        words += repeated("--override", args.override)
        run("distil", *words)
    return result


def has_pool(args):
    """Whether the data set has an extra pool of images."""
    if load_dataset_config(args.config, args.override).unlabeled_beton:
        return True
    if not args.indices_file:
        return False
    from ..data.index_files import load_index_file

    return "unlabeled_indices" in load_index_file(args.indices_file)


def intervention(out, name, by, result, seed, args):
    """The words that hand the intervention's file to ffcv_main.py; it is made unless it is there."""
    if args.intervention == "synthetic":
        return ["--extra-images", generated(out, by, result, seed, args)] if by != "none" else []
    path = out / "interventions" / f"{name}_seed_{seed}.pt"
    if not path.exists():
        settings = {
            "weights": options(scheme=args.scheme, factor=args.factor, seed=seed),
            "add": options(**how_many(args), seed=seed),
            "filter": [],
        }[args.intervention]
        # Ways to choose images are compared on the same classes.
        run(
            "intervene",
            args.intervention,
            *options(svm=result, by=by),
            *settings,
            *changed(result, args),
            "--out",
            path,
        )
    return ["--loss-vec-file" if args.intervention == "weights" else "--indices-file", path]


def how_many(args):
    """The options of intervene add that say how many images."""
    if args.budget is None:
        return {"per_class": args.per_class, "share": args.share}
    return {"budget": args.budget, "share": args.share}


def changed(result, args):
    """The words that say which classes change."""
    return ["--unconfirmed"] if args.unconfirmed else ["--classes", *confirmed_classes(result)]


# ---- what it costs --------------------------------------------------------------------------------------------------

NO_PLACEBO = (
    "no placebo was trained, as it takes as long as the base: --placebo shows what training anew with another seed does"
)


def looked_and_labelled(by, result, changes, args):
    """How many images without a label what chooses has looked at, and how many labels its choice takes."""
    from ..data.index_files import load_index_file
    from ..directions.results import read_result

    if args.intervention == "synthetic":
        if by == "none":
            return 0, 0
        with open(changes[1], newline="", encoding="utf-8") as stream:
            return sum(1 for _ in csv.DictReader(stream)), 0
    if args.intervention != "add":
        return 0, 0
    before, after = read_result(result), load_index_file(changes[1])
    pool = len(before.splits["unlabeled"])
    return 0 if by == "random" else pool, pool - len(after["unlabeled_indices"])


# ---- generated images -----------------------------------------------------------------------------------------------


def generated(out, by, result, seed, args):
    """Path of the manifest of the images of one kind, which are generated as far as they are not there."""
    manifest = manifest_path(out, by, seed, args)
    if by in DECODED:
        words = options(
            svm=result,
            alphas=[0 if by == "decoded_neutral" else args.alpha],
            sides=[by.removeprefix("decoded_")] if by != "decoded_neutral" else None,
            per_alpha=args.per_class,
            out=manifest.parent,
            seed=SEEDS_APART * seed,
            device=args.device,
            model=args.decoder,
        )
        classes = classes_with_directions(result) if args.unconfirmed else confirmed_classes(result)
        run("decode", *words, "--class", *classes)
        return manifest
    words = options(
        svm=result,
        captions="hard" if by == BY_SLICES else by,
        by_slices=by == BY_SLICES,
        share=args.share if by == BY_SLICES else None,
        per_class=args.per_class,
        out=manifest.parent,
        seed=SEEDS_APART * seed,
        device=args.device,
        model=args.model,
        filter=args.filter,
    )
    words += [] if args.unconfirmed else changed(result, args)
    run("generate", *words)
    if not manifest.exists():
        raise UserError(f"{result} describes no failure that images could be made of; leave --by {by} out")
    return manifest


def manifest_path(out, by, seed, args):
    if by in DECODED:
        return out / "generated" / f"{kind_of(by, args)}_{images_of(args)}" / f"seed_{seed}" / "decoded.csv"
    return out / "generated" / f"{by}{images_of(args)}" / f"seed_{seed}" / "manifest.csv"


def kind_of(by, args):
    """What chooses or what images are made of, for names: with the share of the way where images are decoded on it."""
    return f"{by}_{args.alpha:g}" if by in ("decoded_easy", "decoded_hard") else by


def classes_with_directions(path):
    """Names of the classes of a result that were not skipped."""
    from ..directions.results import read_result

    result = read_result(path)
    return [name for c, name in enumerate(result.class_names) if c not in result.skipped]


def images_of(args):
    """How many images a class, and whether they are filtered, for names."""
    return f"{args.per_class}{'_filtered' * args.filter}"


def measure_generated(out, bases, args):
    """Print and save how accurate the base models, dict seed -> checkpoint, are on the images of each kind."""
    from ..interventions.comparison import compare, save_rows
    from ..interventions.synthetic import accuracy_on_images
    from ..models.checkpoints import load_checkpoint

    config, device = load_dataset_config(args.config, args.override), resolve_device(args.device)
    accuracies = {
        kind_of(by, args): [
            accuracy_on_images(load_checkpoint(path, config).model, manifest_path(out, by, seed, args), config, device)
            for seed, path in bases.items()
        ]
        for by in choices(args)
        if all(manifest_path(out, by, seed, args).is_file() for seed in bases)
    }
    if accuracies:
        rows = compare(accuracies)
        save_rows(out / f"generated{images_of(args)}.csv", rows)
        print("\naccuracy of the base models on the generated images")
        print(format_table(*text_table(rows)))


if __name__ == "__main__":
    main()
