"""How far a long pass is: a bar in a terminal, a line now and then in a log, and an estimate before a long wait."""

import sys
import time

LONG = 60.0  # seconds from which an estimate is given
ESTIMATE_AFTER = 3.0  # seconds of work that it is made from
LINE_EVERY = 60.0


class Progress:
    """Use as a context manager; `advance` as work is done.

    Args:
        total: units of work.
        what: what is done, such as "reading images".
        unit: in the plural.
        quiet: say nothing.
        stream: where to, by default standard error.
    """

    def __init__(self, total, what, unit="images", quiet=False, stream=None):
        self.total, self.what, self.unit, self.quiet = total, what, unit, quiet
        self.stream = stream or sys.stderr
        self.done, self._bar, self._told, self._line = 0, None, False, 0.0

    def __enter__(self):
        self._start = time.monotonic()
        if not self.quiet and self.stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=self.what, unit=f" {self.unit}", file=self.stream, leave=False)
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def advance(self, amount):
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
        if self.quiet or not self.done:
            return
        passed = time.monotonic() - self._start
        left = passed / self.done * (self.total - self.done)
        if not self._told and passed > ESTIMATE_AFTER:
            self._told, self._line = True, passed
            if passed + left > LONG:
                self._say(f"{self.what}: {self.total:,} {self.unit} take about {duration(passed + left)}")
        elif self._bar is None and self._told and passed - self._line > LINE_EVERY and left > 0:
            self._line = passed
            self._say(f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, about {duration(left)} left")

    def _say(self, line):
        if self._bar is not None:
            self._bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)


def duration(seconds):
    """Seconds in words: "40 seconds", "4 minutes", "2.5 hours"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} second{'' if round(seconds) <= 1 else 's'}"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
