"""Images in the page: small WebP files as data URIs, within a budget of bytes."""

import base64
import io
import textwrap
from dataclasses import dataclass

from PIL import Image

from ..directions.galleries import knows_confidences

MOST_BYTES, LARGEST_SIDE, SMALLEST_SIDE = 20_000, 256, 24  # of one image: bytes, pixels, pixels
MOST_TEXT = 400  # characters of a text
IMAGE_BUDGET = 18_000_000  # bytes of base64 in the page; with the text of 1,000 classes it stays below 30 MB


@dataclass
class Thumbnail:
    """An image of a gallery with what is said of it; or a text, of which there is no image.

    Attributes:
        uri: the image as a data URI.
        width, height: in pixels.
        decision_value: lowest is hardest.
        conf: probability of the true label, NaN where it is not known.
        pred_name: the class that the model takes it for.
        right: whether that is its own.
        path: of the file where it is known, else "".
        text: the beginning of a text, else "".
    """

    uri: str
    width: int
    height: int
    decision_value: float
    conf: float
    pred_name: str
    right: bool
    path: str = ""
    text: str = ""


def thumbnails(proc, split, positions, values, limit):
    """`Thumbnail`s of a split's images of at most `limit` bytes each, and whether any had to be made smaller for that.

    Args:
        proc: `SVMProcessor`.
        split: whose images.
        positions: int (n,), which of them.
        values: (N,), the decision values to show, of the whole split.
        limit: bytes of an image.

    Returns:
        (list of `Thumbnail`, bool), in the order of `positions`.

    Raises:
        MissingBeton: there are no images.
    """
    metrics = proc.metrics(split)
    paths, knows_confidence = metrics.get("paths"), knows_confidences(metrics["confs"])
    texts = proc.texts(split)
    shown = proc.images(split, positions) if texts is None else [texts[position] for position in positions]
    made, reduced = [], False
    for position, image in zip(positions, shown, strict=True):
        if texts is None:
            small, content = encode_thumbnail(image, limit)
            reduced |= max(small.size) < min(LARGEST_SIDE, max(image.shape))
            drawn = {"uri": data_uri(content), "width": small.width, "height": small.height}
        else:
            drawn = {"uri": "", "width": 0, "height": 0, "text": textwrap.shorten(image, MOST_TEXT, placeholder=" ...")}
        made.append(
            Thumbnail(
                **drawn,
                decision_value=float(values[position]),
                conf=float(metrics["confs"][position]) if knows_confidence else float("nan"),
                pred_name=proc.class_names[metrics["preds"][position]],
                right=bool(metrics["ytrue"][position]),
                path=paths[position] if paths else "",
            )
        )
    return made, reduced


def images_a_side(galleries):
    """How many images are shown in each of so many galleries."""
    return 16 if galleries <= 50 else 8 if galleries <= 200 else 4


def image_limit(budget, images):
    """Bytes that each of so many images may take of a budget of base64."""
    return int(min(MOST_BYTES, budget * 3 // 4 // max(1, images)))


def encode_thumbnail(image, limit):
    """An image as WebP of at most `limit` bytes: as it is where that fits, else smaller.

    Args:
        image: uint8 (H, W, 3).
        limit: bytes.

    Returns:
        The PIL image that was encoded, and its bytes. Below 24 pixels a side it is not made smaller, whatever it takes.
    """
    full = Image.fromarray(image)
    if max(full.size) <= 64 and full.width * full.height <= limit:  # else the attempt would be in vain
        content = _webp(full, lossless=True)
        if len(content) <= limit:
            return full, content
    # Photographs take about a quarter of a byte a pixel at this quality.
    side = min(LARGEST_SIDE, max(full.size), max(SMALLEST_SIDE, int(2 * limit**0.5)))
    while True:
        small = full.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        content = _webp(small, quality=78)
        if len(content) <= limit or side <= SMALLEST_SIDE:
            return small, content
        side = max(SMALLEST_SIDE, min(side - 1, int(0.95 * side * (limit / len(content)) ** 0.5)))


def data_uri(content, kind="webp"):
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def _webp(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=0, **options)
    return buffer.getvalue()
