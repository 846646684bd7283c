"""Embeddings of the photographs by a network that never saw the task; each image and look is embedded once."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from failure_directions.embeddings.spaces import TimmEmbedding
from failure_directions.runtime.files import create_npy

from .photographs import with_look

DIMENSION = 1280
BATCH = 250


class EmbeddingStore:
    """Embeddings of photographs in `folder`, a half-precision .npy a look; NaN where not computed yet.

    A file's name has a hash of some of its images, so that other photographs or looks get files of their own.

    Args:
        folder: where the files are and come.
        images: uint8 (N, H, W, 3).
        weights: file of weights for timm's tf_efficientnet_lite0.
        size: pixels to which images are resized.
    """

    def __init__(self, folder, images, weights, size=96):
        self.folder, self.images, self.weights, self.size = Path(folder), images, weights, size
        self._embed = None

    def get(self, rows, look=None):
        """Embeddings of the photographs `rows` with a look (None: as they are), float32 (len(rows), 1280)."""
        stored = self._open(look)
        missing = np.unique(rows[np.isnan(stored[rows, 0])])
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            stored[batch] = self._embeddings(self._images(batch, look))
        return stored[rows].astype(np.float32)

    def _open(self, look):
        some = self._images(np.arange(min(100, len(self.images))), look)
        path = self.folder / f"{look or 'plain'}-{hashlib.sha256(some.tobytes()).hexdigest()[:8]}.npy"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            create_npy(path, (len(self.images), DIMENSION), np.float16)[:] = np.nan
        return np.lib.format.open_memmap(path, mode="r+")

    def _images(self, rows, look):
        return self.images[rows] if look is None else with_look(self.images[rows], look)

    def _embeddings(self, images):
        if self._embed is None:
            options = SimpleNamespace(
                timm_model="tf_efficientnet_lite0", timm_weights=str(self.weights), timm_size=self.size
            )
            self._embed = TimmEmbedding(options, SimpleNamespace(mean=None, std=None), "cpu")
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return self._embed(pixels.contiguous(memory_format=torch.channels_last), None).numpy()
