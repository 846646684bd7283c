"""How the project speaks about what a user can mend."""

import errno
import functools
import re
import sys

# What reading from a disk or network mount gives that has gone away.
LOST_STORAGE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN)

# How torch says it, of CUDA and of a CPU, in a RuntimeError.
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")


class UserError(Exception):
    """A mistake in the input, told in one sentence that names the thing and the next step.

    Entry scripts print it without a traceback and exit with code 2 (see `entry_point`).
    """


def entry_point(main):
    """Decorate a script's `main`: a `UserError` or a full disk becomes one line and exit code 2."""

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
            elif error.errno in LOST_STORAGE:
                message = (
                    f"a disk does not answer ({error.strerror}){where}: look at it or its mount and run this again"
                )
            else:
                message = f"the system refuses a file: {error.strerror}{where}; choose another name or place"
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                raise
            message = f"there is not enough memory ({error}): ask for less, such as a smaller batch_size or model"
        print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
        sys.exit(2)

    return wrapped


def some(names, most=8):
    """The first of some names, for an error: "a, b and 5 more"."""
    names = [str(name)[:80] for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
