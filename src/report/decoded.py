"""What `failure-directions decode` left, for the report."""

from dataclasses import dataclass
from pathlib import Path

from ..interventions.decoding import read_curve, where_it_leaves
from ..runtime.errors import UserError
from .thumbnails import IMAGE_BUDGET, data_uri


@dataclass(frozen=True)
class Strip:
    """Images along one direction.

    Attributes:
        name: of the slice or the class.
        image: as a data URI.
        leaves: sentences, where the way leaves the class.
    """

    name: str
    image: str
    leaves: list


@dataclass(frozen=True)
class Decoded:
    """The strips of all directions, and the curves of accuracy as a data URI, "" where there are none."""

    strips: list
    curve: str


def read_decoded(out):
    """A folder that `failure-directions decode --out OUT` wrote, as `Decoded`.

    Raises:
        UserError: a table or figure is missing, damaged or too large.
    """
    points, images = read_curve(out)
    folders = {(row.label, row.slice): Path(row.path).parts[0] for row in images}
    leaves = {}
    for (label, name, side), alpha in where_it_leaves(points).items():
        leaves.setdefault((label, name), []).append(f"towards {side}, images leave the class at alpha {alpha:g}")
    budget = IMAGE_BUDGET // 2 // (len(folders) + 1)
    strips = [
        Strip(key[1] or key[0], _figure(Path(out) / f"{folder}.png", budget), leaves.get(key, []))
        for key, folder in folders.items()
    ]
    curve = Path(out) / "curve.png"
    return Decoded(strips, _figure(curve, budget) if curve.is_file() else "")


def _figure(path, most_bytes):
    again = "run failure-directions decode again"
    if not path.is_file():
        raise UserError(f"the figure {path} does not exist; {again}")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) > most_bytes:
        raise UserError(f"{path} is no figure of decoded images, or too large for the report; {again}")
    return data_uri(content, "png")
