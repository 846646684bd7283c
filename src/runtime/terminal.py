"""What is printed: no file's content and no name commands the terminal."""

import contextlib
import re
import sys

# All that is no text: control characters, and what turns the direction of what follows. Bars move by carriage returns
# and go up by a line.
_COMMANDS = re.compile("(?!\x1b\\[A)[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text):
    """Text with a replacement character for each that commands a terminal."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


class _Harmless:
    """A text stream through which nothing but text is written."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        self._stream.write(harmless(text))
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def harmless_output():
    """Within this block, standard output and error let no control characters through."""
    before = sys.stdout, sys.stderr
    if not isinstance(sys.stdout, _Harmless):
        sys.stdout, sys.stderr = (stream and _Harmless(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
