"""Where words for a slice may come from; apart, so that commands read their arguments without what the sources take."""

from ..runtime.errors import UserError

SOURCES = ("qualities", "labels", "captions", "metadata")


def read_sources(text):
    """`SOURCES` that a text names: "auto", or a list of them.

    Raises:
        UserError: an unknown source.

    >>> read_sources("auto"), read_sources("labels, metadata")
    ('auto', ['labels', 'metadata'])
    """
    if text == "auto":
        return text
    asked = [name.strip() for name in text.split(",")] if isinstance(text, str) else list(text)
    for name in asked:
        if name not in SOURCES:
            raise UserError(f"there is no source of words {name!r}; give auto, or some of {', '.join(SOURCES)}")
    return asked


def add_describe(parser):
    """Add the option --describe to a command."""
    parser.add_argument(
        "--describe",
        nargs="?",
        const="auto",
        type=read_sources,
        metavar="auto|SOURCES",
        help="say what the images of each confirmed failure have in common: auto, all that there is something for, or "
        f"some of {','.join(SOURCES)}",
    )
