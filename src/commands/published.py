"""The papers' names for four subcommands, as installed programs."""

import importlib

from ..runtime.signals import quiet_start


def ffcv_main():
    _run("train")


def train_svms():
    _run("distil")


def sparse_main():
    _run("sparse")


def generate_images():
    _run("generate")


def _run(subcommand):
    with quiet_start():
        importlib.import_module(f".{subcommand}", __package__).main()
