"""What a user can mend, told in one sentence."""

import contextlib
import errno
import functools
import sys

import torch


class UserError(Exception):
    """A mistake in the input, told in one sentence that names the thing and the next step."""


def entry_point(main):
    """Decorate a command's `main`: a `UserError` or a refused file becomes one line and exit code 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            message = str(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except OSError as error:
            if error.errno is None:
                raise
            where = f" ({error.filename})" if error.filename else ""
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                message = f"the disk is full{where}: free some space and run the command again"
            else:
                message = f"the system refuses a file: {error.strerror}{where}; choose another name or place"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)

    return wrapped


@contextlib.contextmanager
def memory_advice(batch_size):
    """Turn running out of memory, on a CPU or on CUDA, into a `UserError` that says which batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # CUDA has its own class of error; on a CPU only the text says so.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        advice = f"try batch_size={batch_size // 2}" if batch_size > 1 else "it is 1 already, so use a smaller model"
        raise UserError(f"out of memory with batch_size={batch_size}; {advice}") from error
