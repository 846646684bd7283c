"""Points along a direction, from a class's mean towards its hard or its easy end, in the embedding they came from.

Directions live in the preprocessed embedding: whitened by coordinate and divided by its length
(`class_fit.Preprocess`), so on a sphere. There one walks from the mean of the class's images on a great circle towards
the direction's unit normal ("Distilling Model Failures as Directions in Latent Space", Jain et al., ICLR 2023, section
5, by spherical interpolation: Shoemake, SIGGRAPH 1985). The way back undoes the preprocessing: a length that the
class's own images have, times the deviations, plus the mean.
"""

from dataclasses import dataclass

import numpy as np

from ..runtime.errors import UserError


def slerp(start, end, alphas):
    """Points on the great circle between two unit vectors.

    Args:
        start, end: float (d,), of length 1; not opposite to each other.
        alphas: float (A,), 0 for `start`, 1 for `end`.

    Returns:
        float64 (A, d), of length 1.
    """
    start, end, alphas = (np.asarray(one, dtype=np.float64) for one in (start, end, alphas))
    angle = np.arccos(np.clip(start @ end, -1, 1))
    if np.sin(angle) < 1e-9:
        if start @ end < 0:
            raise UserError("the start lies opposite to the end, so that no way between them is the shortest")
        return np.tile(start, (len(alphas), 1))
    shares = np.stack([1 - alphas, alphas], axis=1)
    return np.sin(shares * angle) / np.sin(angle) @ np.stack([start, end])


@dataclass(frozen=True)
class Origin:
    """Where a class's way begins.

    Attributes:
        preprocess: `class_fit.Preprocess` of the directions.
        point: float64 (d,), of length 1, in the preprocessed embedding.
        length: what an image's whitened embedding measures before it is divided by its length.
    """

    preprocess: object
    point: np.ndarray
    length: float

    @classmethod
    def of_images(cls, preprocess, embeddings):
        """The mean of a class's images (n, d), n of 1 or more, and their median length."""
        whitened = preprocess.whiten(embeddings)
        lengths = np.linalg.norm(whitened, axis=1)
        mean = preprocess(embeddings).mean(axis=0)
        return cls(preprocess, _unit(mean, "the mean of the class's images"), float(np.median(lengths)))

    @classmethod
    def of_caption(cls, preprocess, embedding):
        """A caption's own embedding (d,). Texts lie apart from images: decoded from there, they may be of no class."""
        whitened = preprocess.whiten(embedding)
        return cls(preprocess, _unit(whitened, "the caption"), float(np.linalg.norm(whitened)))

    def towards(self, normal, side, alphas):
        """Embeddings (A, d) float64, not preprocessed, on the way to the hard or easy end of a direction.

        Args:
            normal: float (d,), a direction of the preprocessed embedding, of any length above 0; negative is hard.
            side: "hard" or "easy".
            alphas: float (A,), 0 to 1.
        """
        end = _unit(np.asarray(normal, dtype=np.float64), "the direction") * (-1 if side == "hard" else 1)
        return self.preprocess.undo(self.length * slerp(self.point, end, alphas))


def _unit(vector, what):
    length = np.linalg.norm(vector)
    if not length > 0 or not np.isfinite(length):
        raise UserError(f"{what} has no direction: its length is {length:.3g}")
    return vector / length
