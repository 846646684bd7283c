"""Commands of this project, run one after another in one process."""

import importlib
import shlex
import time


def run(subcommand, *words):
    """Print a command line as it could be typed, then do what it does."""
    words = [str(word) for word in words]
    print(f"\n$ failure-directions {subcommand} {shlex.join(words)}", flush=True)
    began = time.perf_counter()
    importlib.import_module(f".{subcommand.replace('-', '_')}", __package__).main(words)
    print(f"({time.perf_counter() - began:.0f} s)")


def options(**values):
    """A command's options as words: `svm_config=path` is `--svm-config path`; True is a flag, None and False nothing.

    A list is all of the option's values; see `repeated` for an option that is given several times.
    """
    words = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += value if isinstance(value, list) else [value]
    return words


def repeated(option, values):
    """[option, value, option, value, ...], for options that may be given several times."""
    return [word for value in values for word in (option, value)]
