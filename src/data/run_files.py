"""The files that a run reads, by name: whether they are there is known without opening them, and so without ffcv."""

from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import existing_file
from ..runtime.shipped import find_shipped

VERIFY = "read betons above 1 GiB, too, to compare them with the checksums beside them"
"""What --verify does."""


def check_run_files(config, root=".", indices_file=None, unlabeled=False):
    """Raise `UserError` where a file is missing that `open_splits`, with the same arguments, would open."""
    if indices_file is not None:
        existing_index_file(indices_file)
    elif config.val_beton is None:
        raise UserError("the config has no val_beton: say with --indices-file which training images are validation")
    pool = config.unlabeled_beton if unlabeled else None
    for name in filter(None, (config.train_beton, config.val_beton, config.test_beton, pool)):
        existing_beton(Path(root) / name)


def existing_beton(path):
    """The path of a beton that is to be read.

    Raises:
        UserError: there is none.
    """
    return existing_file(path, "beton", "check the path, or write it with failure-directions betons")


def existing_index_file(path):
    """The path of an index file, given by path or by the name of one of index_files/.

    Raises:
        UserError: there is none.
    """
    return existing_file(find_shipped("index_files", path, ".pt"), "index file")
