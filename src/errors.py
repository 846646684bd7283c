"""How the project speaks about what a user can mend."""

import errno
import functools
import sys


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
            else:
                message = f"the system refuses a file: {error.strerror}{where}; choose another name or place"
        except MemoryError as error:
            message = f"there is not enough memory ({error}): ask for less, such as a smaller batch_size or model"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)

    return wrapped
