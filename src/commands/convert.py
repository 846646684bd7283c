"""Convert a published index file or loss vector that holds numpy arrays into plain tensors, safely.

    failure-directions convert OLD.pt NEW.pt

Only arrays and numbers of numpy are let through; a file that names anything else is refused, never run.
"""

import argparse
import pickle

import numpy as np

from ..runtime.errors import UserError, entry_point
from ..runtime.files import check_writable, existing_file

# Everything that a pickled numpy array or number consists of, under its old and new names.
_NUMPY_TYPES = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (np._core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    args = parser.parse_args(argv)
    existing_file(args.old, "file")
    check_writable(args.new)
    import torch

    from ..runtime.pt_files import save_pt

    try:
        with torch.serialization.safe_globals(_NUMPY_TYPES):
            content = torch.load(args.old, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{args.old} holds more than arrays, tensors, numbers, strings, lists and dicts, so reading it could run "
            "code; it is not converted. Index files can be made again with failure-directions index, SVMs refitted "
            "with failure-directions distil"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"{args.old} is truncated or not a torch file ({error})") from None
    save_pt(to_tensors(content), args.new)
    print(f"{args.new} written")


def to_tensors(content):
    """Arrays as tensors (integers as int64), numpy numbers as Python's; None entries are left out of dicts."""
    if isinstance(content, dict):
        return {key: to_tensors(value) for key, value in content.items() if value is not None}
    if isinstance(content, list | tuple):
        return [to_tensors(value) for value in content]
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, np.ndarray):
        import torch

        integers = np.issubdtype(content.dtype, np.integer)
        return torch.from_numpy(content.astype(np.int64) if integers else content.copy())
    return content


if __name__ == "__main__":
    main()
