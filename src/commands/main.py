"""`failure-directions SUBCOMMAND`: everything that a user runs, under one name."""

import importlib
import sys

from ..runtime.signals import quiet_start

# In the order of the loop. A subcommand is a module of this folder with a `main(argv)`.
SUBCOMMANDS = {
    "find": "your own model and images, or predictions: failures found, confirmed, in a report",
    "demo": "the whole loop on drawn images with planted failures",
    "betons": "write betons: CIFAR-10, a folder of images, a table, the papers' data sets, scenes",
    "index": "say which images of a beton are train, validation and pool",
    "train": "train a base model, or retrain it after an intervention",
    "distil": "a model's failures as directions, one per class",
    "power": "how much so many images can show, before they are labelled",
    "report": "look at a result: one HTML file, figures",
    "export": "a result's images for FiftyOne, Spotlight, datasets, as CSV or Parquet",
    "intervene": "loss weights, chosen images or filtered images from a result",
    "compare": "how retrained models differ from the base model",
    "loop": "train, distil, intervene, retrain and compare, over seeds",
    "generate": "images generated from a result's captions",
    "decode": "images decoded along a failure's direction, from hard to easy",
    "sparse": "a sparse decision layer on a model's features",
    "read-sparse": "what the features of a sparse layer mean",
    "interfaces": "class tokens and counterfactual images",
    "convert": "bring published index files into the project's format",
}


def usage():
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in SUBCOMMANDS.items()]
    return "\n".join(["usage: failure-directions SUBCOMMAND ...", "", *lines, "", "SUBCOMMAND --help has its options."])


def main(argv=None):
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        from ..runtime.errors import entry_point

        entry_point(lambda _: print(usage()))(["--help"])  # who reads it may close the pipe
        return
    if name not in SUBCOMMANDS:
        # Late: a command that exists needs no spelling help.
        from ..runtime.english import nearest

        hint = nearest(name, SUBCOMMANDS, "failure-directions --help lists them")
        print(f"error: there is no subcommand {name[:80]!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    # What argparse shows as the command's name.
    sys.argv = [f"failure-directions {name}", *rest]
    with quiet_start():
        importlib.import_module(f".{name.replace('-', '_')}", __package__).main(rest)


if __name__ == "__main__":
    main()
