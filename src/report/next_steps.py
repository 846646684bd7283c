"""What to do next with a result: commands as they could be typed, with its own paths where they are known."""

import shlex
from dataclasses import dataclass
from pathlib import Path

MOST_CLASSES = 20  # that a command names
COMMAND = "failure-directions"


@dataclass(frozen=True)
class Step:
    """Why, and the commands, a string each."""

    why: str
    commands: list


def next_steps(result, path, tested):
    """`Step`s after looking at a result.

    Args:
        result: a `Result`.
        path: of its file; None where it is in memory alone.
        tested: `slices.Tested`, or None where no failure was tested.

    Returns:
        list of `Step`, in the order in which they are worth doing: one at least.
    """
    trained_here = result.dataset_config is not None
    steps = [_test_again(result)] if tested is None and trained_here else []
    classes = list(dict.fromkeys(one.found.class_name for one in tested.confirmed)) if tested else []
    if classes and trained_here:
        steps += _interventions(result, path, classes)
    elif classes:
        steps.append(
            Step(
                "Look at the images, say what they share, and collect more like them: those of new images that lie in "
                "a confirmed failure are found by their embeddings, labels or not.",
                ["failures.score(new_embeddings, predictions)"]
                if path is None
                else [f'fd.load("{path}").score(new_embeddings, predictions)'],
            )
        )
        if path is not None and "--model" in shlex.split(result.made_from.get("command", "")):
            folder = Path(path).parent
            pool = command("intervene", "add", svm=path, pool="FOLDER", budget=200, out=folder / "to_label.csv")
            steps.append(Step("Or have those that are worth a label most picked from a folder of new images.", [pool]))
    steps.append(_more_images(result, tested))
    return steps


def command(*words, **options):
    """A command line of `failure-directions`, as it could be typed; for `options` see `_typed`."""
    return shlex.join([COMMAND, *map(str, words), *_typed(options)])


def command_line(args):
    """The call of `failure-directions distil` that a result's `args` record, as it could be typed."""
    repeated = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
    return command("distil", **repeated)


def _typed(options):
    """Options by name as words: a list follows its option, a tuple repeats it, True is the option alone."""
    words = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            words.append(option)
        elif isinstance(value, tuple):
            words += [word for item in value for word in (option, str(item))]
        else:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return words


def _test_again(result):
    return Step("Have failures found and tested: make the result again with this version.", [command_line(result.args)])


def _interventions(result, path, classes):
    """Weigh, add or generate images, retrain, and compare with the model as it is."""
    args, folder = result.args, Path(path).parent
    out = {name: folder / f"{Path(path).stem}_{name}" for name in ("x2", "add", "compared", "generated")}
    named = classes if len(classes) < len(result.class_names) and len(classes) <= MOST_CLASSES else None
    run = Path(args.get("model_path") or "runs/base")
    # RUNS/EXPERIMENT/version_K/checkpoints/checkpoint_last.pt
    base = run.parents[2] if run.parent.name == "checkpoints" and len(run.parents) > 3 else Path("runs/base")

    def train(name, **options):
        common = {"config": args.get("config", "CONFIG"), "root": args.get("root"), "runs": base.parent}
        return command("train", **common, exp_name=name, **options, override=tuple(args.get("override") or ()))

    steps = [
        Step(
            "Weigh the training images of these classes that are flagged double in the next training.",
            [
                command("intervene", "weights", svm=path, classes=named, out=f"{out['x2']}.pt"),
                train("x2", indices_file=args.get("indices_file"), loss_vec_file=f"{out['x2']}.pt"),
            ],
        )
    ]
    more = [] if "unlabeled" in result.splits else [command_line({**args, "unlabeled": True})]
    steps.append(
        Step(
            "Or add flagged images of these classes from the unlabeled pool"
            + (", which this result has not seen yet: make it again first." if more else "."),
            [
                *more,
                command("intervene", "add", per_class=100, svm=path, classes=named, out=f"{out['add']}.pt"),
                train("add", indices_file=f"{out['add']}.pt"),
            ],
        )
    )
    if args.get("captions"):
        steps.append(
            Step(
                "Or generate images of the hardest caption of each class.",
                [
                    command("generate", svm=path, captions="hard", per_class=100, out=out["generated"]),
                    train("generated", indices_file=args.get("indices_file"), extra_images=out["generated"]),
                ],
            )
        )
    steps.append(
        Step(
            "See whether it helped, and whether as much by chance; take several seeds.",
            [
                command("compare", base, base.with_name("x2"), svm=path, out=out["compared"]),
                command("report", svm=path, compared=out["compared"], report=folder / "report_compared.html"),
            ],
        )
    )
    return steps


def _more_images(result, tested):
    """Test on more images: what is missing where too few were there, and a check of any claim where they were not."""
    if tested and tested.confirmed and not tested.too_few:
        why = "Look for failures in other images: those of another place or time, say."
    else:
        why = "Look for failures in more images: what so few can\N{RIGHT SINGLE QUOTATION MARK}t show, more may."
    checkpoint = result.args.get("model_path")
    return Step(why, [command("find", images="MORE_IMAGES", model=checkpoint or "MODEL", report="more.html")])
