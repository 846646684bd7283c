"""How the project speaks about what a user can mend."""

import contextlib
import ctypes
import errno
import functools
import getpass
import os
import re
import resource
import signal
import sys

from .extras import what_is_missing
from .signals import Terminated, raised_as_exceptions
from .terminal import harmless_output

# What reading from a disk or network mount gives that has gone away.
LOST_STORAGE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN)

# How torch says it, of CUDA, its libraries and a CPU, and Python of a thread's stack, in a RuntimeError.
_OUT_OF_MEMORY = re.compile(
    "out of memory|allocate memory|ALLOC_FAILED|bad_alloc|can't start new thread|could not create a primitive"
)


LESS_MEMORY = "ask for less, such as a smaller batch_size or model"


class UserError(Exception):
    """A mistake in the input, told in one sentence that names the thing and the next step.

    Entry scripts print it without a traceback and exit with code 2 (see `entry_point`).
    """


def entry_point(main):
    """Decorate a script's `main`: what a user can mend becomes one line and exit code 2.

    A `UserError`, a disk that is full or lost, too little memory, a package of an extra that is not installed.
    """

    @functools.wraps(main)
    def harmless(*args, **kwargs):
        with harmless_output(), raised_as_exceptions():
            return wrapped(*args, **kwargs)

    def wrapped(*args, **kwargs):
        # By ctypes: a handler of Python's would wait for the instruction that faults to end, which it never does.
        ctypes.CDLL(None).signal(signal.SIGBUS, _lost_mapping)
        ctypes.CDLL(None).signal(signal.SIGABRT, _gave_up)
        _print_in_any_encoding()
        _name_the_user()
        try:
            _refuse_empty(args[0] if args else sys.argv[1:])
            returned = main(*args, **kwargs)
            print(end="", flush=True)  # else Python tries as it ends, where nobody can say what went wrong
            return returned
        except UserError as error:
            message = str(error)
        except KeyboardInterrupt as error:
            by_term = isinstance(error, Terminated)
            print("terminated" if by_term else "interrupted", file=sys.stderr)
            sys.exit(128 + (signal.SIGTERM if by_term else signal.SIGINT))
        except ModuleNotFoundError as error:
            message = what_is_missing(error)
            if message is None:
                raise
        except OSError as error:
            if error.errno is None:
                raise
            if error.filename is None and _output_is_lost():
                if error.errno == errno.EPIPE:
                    sys.exit(128 + signal.SIGPIPE)  # the reader has seen enough: as the shell says it of other programs
                print(_line(f"what this command prints cannot be written: {error.strerror}"), file=sys.stderr)
                sys.exit(2)
            where = f" ({error.filename})" if error.filename else ""
            if error.errno == errno.ENOMEM:
                message = f"there is not enough memory{where}: {LESS_MEMORY}"
            elif error.errno in (errno.EMFILE, errno.ENFILE):
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                message = f"more files are opened than the {limit} that are allowed: allow more, such as ulimit -n 4096"
            elif str(error.filename).startswith(("/psm_", "/dev/shm/")):
                message = f"shared memory (/dev/shm) cannot be used ({error.strerror}): mount it, with room to write"
            elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                message = f"the disk is full{where}: free some space and run the command again"
            elif error.errno in LOST_STORAGE:
                message = (
                    f"a disk does not answer ({error.strerror}){where}: look at it or its mount and run this again"
                )
            else:
                message = f"the system refuses a file: {error.strerror}{where}; choose another name or place"
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            message = f"there is not enough memory ({one_line(error)}): {LESS_MEMORY}"
        print(_line(message), file=sys.stderr)
        sys.exit(2)

    return harmless


def _refuse_empty(argv):
    """Raise `UserError` for an argument that is empty: it would count as one that is not given."""
    for before, word in zip(["", *(argv or ())], argv or (), strict=False):
        if word == "" or re.fullmatch(r"--[\w-]+=", word):
            option = word[:-1] or (before if before.startswith("-") else "") or "an argument"
            raise UserError(f"{option} is empty, as a shell's variable that is not set is: give it a value")


def _name_the_user():
    """Give a process whose user has no name its number as one: torch asks for a name as it is imported.

    So it is under `docker run -u 12345`.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _print_in_any_encoding():
    """Let a terminal that lacks a character show its number, as it does in errors."""
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _output_is_lost():
    """Whether nothing can be printed any more: a pipe whose reader has left, a full disk."""
    try:
        print(flush=True)
    except OSError:
        # What is left to print goes nowhere: Python would try again as it ends, and complain.
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False


@contextlib.contextmanager
def memory_advice(batch_size):
    """Around work on batches: running out of memory, on a CPU or on CUDA, is told with the batch size to try.

    Args:
        batch_size: the one in use.

    Raises:
        UserError: in place of torch's or Python's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        advice = f"try batch_size={batch_size // 2}" if batch_size > 1 else "it is 1 already, so use a smaller model"
        raise UserError(f"out of memory with batch_size={batch_size}; {advice}") from error


def _is_out_of_memory(error):
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def one_line(error):
    """What another library's error says, as a part of a sentence."""
    return " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__


def _line(message):
    """An error as one line, in which no file's name commands the terminal."""
    return "error: " + "".join(character if character.isprintable() else " " for character in message)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _lost_mapping(_):
    """What is read by way of memory (a beton, features) is no longer there: the system's SIGBUS.

    No exception gets out of compiled code, so that the process ends here; temporary files stay, as after a kill.
    """
    names = ", ".join(_shortened_files())
    message = f"{names} was cut short, or its disk went away, as it was read: see that it is whole"
    if not names:
        message = "a file was cut short as it was read, or shared memory (/dev/shm) is full: make room"
    os.write(2, f"{_line(message)} and run the command again\n".encode())
    os._exit(2)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _gave_up(_):
    """Compiled code ends the process, in words of its own: as it does where it is given no memory (std::bad_alloc)."""
    message = f"compiled code gave up, most likely for want of memory: {LESS_MEMORY}, or fewer processes"
    os.write(2, f"{_line(message)}\n".encode())
    os._exit(2)


def _shortened_files():
    """Names of files of which more is mapped into memory than there is."""
    names = set()
    with contextlib.suppress(OSError, ValueError), open("/proc/self/maps", errors="replace") as mappings:
        for mapping in mappings:
            addresses, modes, offset, _, _, *name = mapping.rstrip("\n").split(maxsplit=5)
            first, end = (int(address, 16) for address in addresses.split("-"))
            if modes.endswith("s") and name and name[0].startswith("/"):  # shared, as NumPy maps
                size = os.path.getsize(name[0]) if os.path.exists(name[0]) else 0
                # The last page is mapped whole.
                if int(offset, 16) + end - first >= size + os.sysconf("SC_PAGESIZE"):
                    names.add(name[0])
    return sorted(names)
