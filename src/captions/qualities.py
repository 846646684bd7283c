"""How images look, apart from what they show: brightness, contrast, colours, sharpness, noise, size, shape, borders."""

import numpy as np

# (what is measured, said of more of it, said of less)
QUALITIES = (
    ("brightness", "brighter", "darker"),
    ("contrast", "of more contrast", "of less contrast"),
    ("saturation", "more colourful", "greyer"),
    ("red", "redder", "less red"),
    ("green", "greener", "less green"),
    ("blue", "bluer", "less blue"),
    ("sharpness", "sharper", "blurrier"),
    ("noise", "noisier", "smoother"),
    ("size", "larger", "smaller"),
    ("aspect", "wider", "taller"),
    ("border", "with a blank border", "without a blank border"),
)
TEXTS = [text for _, more, less in QUALITIES for text in (more, less)]
EPSILON = 1e-3


def measure(images):
    """Qualities of images of any sizes: float64 (N, Q), in the order of `QUALITIES`.

    Args:
        images: iterable of uint8 (H, W, 3); those of one size that follow each other are measured together.
    """
    found, batch = [], []
    for image in images:
        if batch and (batch[0].shape != image.shape or len(batch) * image.size > 2**24):
            found.append(_measure(np.stack(batch)))
            batch = []
        batch.append(np.asarray(image))
    if batch:
        found.append(_measure(np.stack(batch)))
    return np.concatenate(found) if found else np.empty((0, len(QUALITIES)))


def statements(measured):
    """Scores (N, 2 Q) of `TEXTS`: a quality, and the same with its sign turned."""
    return np.stack([measured, -measured], axis=2).reshape(len(measured), -1)


def _measure(images):
    """Of uint8 (N, H, W, 3), one size."""
    x = images.astype(np.float32)
    n, height, width = x.shape[:3]
    grey = x @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    mean, spread = grey.mean((1, 2)), grey.std((1, 2))
    colours = x.mean((1, 2))
    saturation = ((x.max(3) - x.min(3)) / np.maximum(x.max(3), 1)).mean((1, 2))
    # What differs from one pixel to the next, against all that differs: a blur lowers it, contrast does not.
    fine = 4 * grey - sum(np.roll(grey, step, axis) for axis in (1, 2) for step in (-1, 1))
    fine = np.abs(fine[:, 1:-1, 1:-1]) if min(height, width) > 2 else np.zeros((n, 1, 1), np.float32)
    sharpness = np.log(fine.mean((1, 2)) + EPSILON) - np.log(spread + EPSILON)
    # Noise is there even where an image is smooth: in its calmest quarter.
    noise = np.quantile(fine.reshape(n, -1), 0.25, axis=1)
    edges = [grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]]
    border = -np.max([edge.std(1) for edge in edges], axis=0)
    border = np.maximum(border, -64)  # beyond, an edge is an edge
    return np.stack(
        [
            mean,
            spread,
            saturation,
            *(colours - colours.mean(1, keepdims=True)).T,
            sharpness,
            noise,
            np.full(n, np.sqrt(height * width)),
            np.full(n, width / height),
            border,
        ],
        axis=1,
    ).astype(np.float64)
