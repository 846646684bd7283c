"""Commands of this project, run one after another in one process."""

import shlex
import time


def run(command, name, *words):
    """Print a command line as it could be typed, then do what it does: `command` is the script's `main`."""
    words = [str(word) for word in words]
    print(f"\n$ python {name} {shlex.join(words)}", flush=True)
    began = time.perf_counter()
    command(words)
    print(f"({time.perf_counter() - began:.0f} s)")


def repeated(option, values):
    """[option, value, option, value, ...], for options that may be given several times."""
    return [word for value in values for word in (option, value)]
