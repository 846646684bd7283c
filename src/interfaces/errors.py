"""What a user can mend, told in one sentence."""

import contextlib
import errno
import functools
import re
import sys

# How torch says it, of CUDA, its libraries and a CPU, in a RuntimeError.
_OUT_OF_MEMORY = re.compile("out of memory|allocate memory|ALLOC_FAILED")


class UserError(Exception):
    """A mistake in the input, told in one sentence that names the thing and the next step."""


def entry_point(main):
    """Decorate a command's `main`: a `UserError`, a refused file or lack of memory becomes one line and exit code 2."""

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
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            message = f"there is not enough memory ({error}): use a smaller model, or fewer images at once"
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)

    return wrapped


@contextlib.contextmanager
def memory_advice(batch_size):
    """Turn running out of memory, on a CPU or on CUDA, into a `UserError` that says which batch size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        advice = f"try batch_size={batch_size // 2}" if batch_size > 1 else "it is 1 already, so use a smaller model"
        raise UserError(f"out of memory with batch_size={batch_size}; {advice}") from error


def _is_out_of_memory(error):
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))
