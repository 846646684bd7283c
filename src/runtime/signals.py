"""Ctrl-C and SIGTERM: one line and exit code 130 or 143, from a command's first line on."""

import contextlib
import os
import signal


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: temporary files are removed on the way."""


_SAID = {signal.SIGINT: b"interrupted\n", signal.SIGTERM: b"terminated\n"}


@contextlib.contextmanager
def quiet_start():
    """Around a program: end at once where no one catches an exception, as while modules are imported.

    There is nothing to clean up then. What is to be cleaned up is within `raised_as_exceptions`.
    """

    def end(number, _):
        os.write(2, _SAID[number])
        os._exit(128 + number)

    with _handled({signal.SIGINT: end, signal.SIGTERM: end}):
        yield


@contextlib.contextmanager
def raised_as_exceptions():
    """SIGINT raises `KeyboardInterrupt`, SIGTERM `Terminated`, in this process; its forks end without a word."""
    own = os.getpid()

    def terminate(number, _):
        if os.getpid() != own:
            os._exit(128 + number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what cleans up is not cut short
        raise Terminated

    with _handled({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}):
        yield


@contextlib.contextmanager
def _handled(handlers):
    before = {}
    with contextlib.suppress(ValueError):  # in a thread, where signals are not handled
        for number, handler in handlers.items():
            # What is ignored, as by nohup, stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            # A process that is about to leave has set its signals to be ignored, and leaves with a code of its own.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)
