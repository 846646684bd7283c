"""Embeddings on disk, computed once per model, space and images."""

import contextlib
import functools
import hashlib
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from ..models.build import weights_digest
from ..runtime.distributed import barrier, broadcast, is_main
from ..runtime.errors import UserError
from ..runtime.files import atomic_path, create_npy
from ..runtime.pt_files import load_pt, save_pt
from ..training.evaluation import Predictions, predict


def cache_folder(checkpoint_path, otherwise):
    """`embeddings/` in the checkpoint's run; in the folder `otherwise` where it is in none, or its run is read-only."""
    folder = Path(checkpoint_path).absolute().parent
    run = folder.parent if Path(checkpoint_path).is_absolute() else Path(os.path.relpath(folder.parent))
    of_run = folder.name == "checkpoints" and os.access(run, os.W_OK)
    return (run if of_run else Path(otherwise)) / "embeddings"


class EmbeddingCache:
    """Predictions and embeddings of splits, kept on disk and memory-mapped.

    A file each a split, named by a hash of all that it depends on: the beton's content, the indices, how images are
    prepared, the device's kind, the precision, and the model's weights or the embedding (both, where the embedding is
    the model's).
    Each is written under a temporary name.

    The features of sparse layers (`sparse.deep_features.cached_features`) are kept in another way, for they are another
    thing: of texts and folders of images, too, which have no beton; in half precision and in chunks, since they may be
    too large for one file and for memory; with the moments that the solver standardises by; and in a folder of the
    result, which holds one model's and refuses another's. Here many models and spaces share a folder, unasked.
    """

    def __init__(self, folder, model, embedding, config, device, precision="float32"):
        self.folder, self.model, self.embedding = Path(folder), model, embedding
        self.config, self.device, self.precision = config, device, precision
        how = (config.imgsz, config.val_img_decoder, config.val_aug, config.mean, config.std, config.bce, device.type)
        how += () if precision == "float32" else (precision,)
        self._of_model = f"{how} {weights_digest(model)} {[field.name for field in fields(Predictions)]}"
        self._of_embedding = f"{self._of_model if embedding.of_model else how} {embedding.name}"

    def get(self, loader):
        """`Predictions` and (N, d) float32 embeddings (a read-only memory map) of a loader's split."""
        predictions_path = self._path(loader.split, self._of_model, "predictions.pt")
        embeddings_path = self._path(loader.split, self._of_embedding, "embeddings.npy")
        # Where rank 0 lacks a file, all processes compute it together, and rank 0 writes it.
        if not broadcast(embeddings_path.exists()):
            with atomic_path(embeddings_path) if is_main() else contextlib.nullcontext() as temporary:
                allocate = functools.partial(create_npy, temporary)
                self._predict(loader, predictions_path, self.embedding, allocate)
        if not broadcast(predictions_path.exists()):
            self._predict(loader, predictions_path)
        barrier()
        content = load_pt(predictions_path, "cached predictions", f"delete {self.folder}")
        try:
            arrays = {name: None if value is None else value.numpy() for name, value in content.items()}
            found, embeddings = Predictions(**arrays), np.load(embeddings_path, mmap_mode="r")
        except (AttributeError, TypeError, ValueError, EOFError):
            raise UserError(
                f"{embeddings_path} or the predictions beside it are damaged; delete {self.folder}"
            ) from None
        if not self._fits(found, embeddings, loader.split):
            raise UserError(f"{embeddings_path} or the predictions beside it are damaged; delete {self.folder}")
        return found, embeddings

    def _fits(self, found, embeddings, split):
        """Whether predictions and embeddings are of these images and of this number of classes."""
        labels, n, k = split.column("label"), len(split), self.config.num_classes
        per_image = [found.confs] + ([] if self.config.bce else [found.preds, found.highest])
        return (
            embeddings.ndim == 2
            and len(embeddings) == n
            and embeddings.dtype == np.float32
            and np.array_equal(found.indices, split.indices)
            and np.array_equal(found.labels, labels)
            and all(array is not None and array.shape == labels.shape for array in per_image)
            and (self.config.bce or bool(((found.preds >= 0) & (found.preds < k)).all()))
        )

    def _path(self, split, of, ending):
        digest = hashlib.sha256(f"{of} {split.beton.fingerprint}".encode())
        digest.update(split.indices.tobytes())
        return self.folder / f"{split.name}_{digest.hexdigest()[:16]}_{ending}"

    def _predict(self, loader, path, *embedding_and_place):
        found = predict(self.model, loader, self.device, self.config.bce, *embedding_and_place, numbers=self.precision)
        tensors = {name: None if array is None else torch.from_numpy(array) for name, array in vars(found).items()}
        if is_main():
            save_pt(tensors, path)
