"""Deep features on disk: extracted once, in chunks that are mapped into memory, with their statistics."""

from pathlib import Path

import numpy as np
import torch

from ..runtime.errors import UserError
from ..runtime.files import atomic_path, create_npy, open_npy
from ..runtime.moments import Moments
from ..runtime.pt_files import FLOATS, is_plain_tensor, load_pt, save_pt

META_FILE = "features.pt"
CHUNK_BYTES = 2**27
"""Bytes of a chunk file, about; `FeatureChunks.write` holds one chunk in memory."""


class FeatureChunks:
    """A read-only (n, d) matrix in a folder: `chunk_0000.npy`, `chunk_0001.npy`, ... and `features.pt`.

    Slices and index arrays of rows give NumPy arrays of the stored dtype, read from the memory maps when asked for:

        features = FeatureChunks.write("features/train", batches, fingerprint="resnet50, places10 train")
        features = FeatureChunks.open("features/train")
        features[:100], features[np.array([5, 17])]

    Attributes:
        shape: (n, d).
        dtype: float16 or float32.
        mean, std: (d,) float64, over the rows as they are stored; the standard deviation is the population's.
        fingerprint: what the caller said the features come from (model, data, preprocessing).
    """

    def __init__(self, folder, chunks, mean, std, fingerprint):
        self.folder, self._chunks = Path(folder), chunks
        self.mean, self.std, self.fingerprint = mean, std, fingerprint
        self._ends = np.cumsum([len(chunk) for chunk in chunks])
        self.shape = (int(self._ends[-1]), chunks[0].shape[1])
        self.dtype = chunks[0].dtype

    def __len__(self):
        return self.shape[0]

    def chunks(self):
        """The memory maps, (n_i, d) each, in the order of the rows."""
        return iter(self._chunks)

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._range(start, stop)
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows)
        out = np.empty((*rows.shape, self.shape[1]), self.dtype)
        chunk_of_row = np.searchsorted(self._ends, rows, side="right")
        for i in np.unique(chunk_of_row):
            inside = chunk_of_row == i
            chunk = self._chunks[i]  # an IndexError for a row beyond the last
            out[inside] = chunk[rows[inside] - (self._ends[i] - len(chunk))]
        return out

    def _range(self, start, stop):
        pieces = []
        for chunk, end in zip(self._chunks, self._ends, strict=True):
            first = end - len(chunk)
            if start < end and stop > first:
                pieces.append(chunk[max(start - first, 0) : stop - first])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.shape[1]), self.dtype)

    @classmethod
    def write(cls, folder, batches, fingerprint="", dtype=np.float16):
        """Write `batches`, an iterable of (n_i, d) arrays or tensors, and give the `FeatureChunks`.

        One pass, one chunk in memory. The file that makes the folder complete is written last: what a killed run
        leaves behind is never taken for features. Features of an earlier run in the folder are replaced.

        Raises:
            UserError: NaN, numbers beyond the dtype, batches of different widths, or no rows at all.
        """
        folder = Path(folder)
        (folder / META_FILE).unlink(missing_ok=True)
        for old in folder.glob("chunk_*.npy"):
            old.unlink()
        moments, dim, rows, buffered, row_counts = Moments(), None, [], 0, []

        def flush():
            chunk = np.concatenate(rows)
            with atomic_path(folder / _chunk_name(len(row_counts))) as temporary:
                create_npy(temporary, chunk.shape, chunk.dtype)[:] = chunk
            row_counts.append(len(chunk))
            rows.clear()

        for batch in batches:
            batch = _to_dtype(batch, dtype, first_row=sum(row_counts) + buffered)
            if not len(batch):
                continue
            if dim is None:
                dim = batch.shape[1]
                chunk_rows = max(1, CHUNK_BYTES // (dim * batch.itemsize))
            elif batch.shape[1] != dim:
                raise UserError(
                    f"a batch has {batch.shape[1]} features where those before have {dim}; "
                    f"all batches must come from one layer of one model"
                )
            moments.update(batch)
            rows.append(batch)
            buffered += len(batch)
            if buffered >= chunk_rows:
                flush()
                buffered = 0
        if dim is None:
            raise UserError(f"there are no features to write to {folder}: the data set is empty")
        if rows:
            flush()
        meta = {
            "rows": row_counts,
            "dim": dim,
            "dtype": np.dtype(dtype).name,
            "mean": torch.from_numpy(moments.mean),
            "std": torch.from_numpy(moments.std()),
            "fingerprint": fingerprint,
        }
        save_pt(meta, folder / META_FILE)
        return cls.open(folder)

    @classmethod
    def open(cls, folder, fingerprint=None):
        """Open a folder that `write` completed.

        Raises:
            UserError: it is incomplete or damaged, or was written with another `fingerprint` than the one that is
                given.
        """
        folder = Path(folder)
        hint = "delete the folder and extract the features again"
        if not (folder / META_FILE).is_file():
            raise UserError(f"{folder} has no complete features (no {META_FILE}); {hint}")
        meta = load_pt(folder / META_FILE, "feature file", hint)
        if not _is_meta(meta):
            raise UserError(f"{folder / META_FILE} does not describe features; {hint}")
        found, dtype, dim = meta["fingerprint"], np.dtype(meta["dtype"]), meta["dim"]
        if fingerprint is not None and found != fingerprint:
            raise UserError(
                f'the features in {folder} are those of "{found}", not of "{fingerprint}"; '
                f"give another folder or delete this one"
            )
        chunks = []
        for i, rows in enumerate(meta["rows"]):
            path = folder / _chunk_name(i)
            chunk = open_npy(path, "chunk of features", hint)
            if chunk.shape != (rows, dim) or chunk.dtype != dtype:
                raise UserError(f"{path} is not the chunk that {META_FILE} describes; {hint}")
            chunks.append(chunk)
        return cls(folder, chunks, meta["mean"].numpy(), meta["std"].numpy(), found)


def _is_meta(meta):
    """Whether this is what `FeatureChunks.write` saves beside the chunks."""
    if not isinstance(meta, dict) or not {"rows", "dim", "dtype", "mean", "std", "fingerprint"} <= set(meta):
        return False
    rows, dim, moments = meta["rows"], meta["dim"], [meta["mean"], meta["std"]]
    return (
        isinstance(rows, list)
        and len(rows) > 0
        and all(isinstance(count, int) and count > 0 for count in rows)
        and isinstance(dim, int)
        and meta["dtype"] in ("float16", "float32")
        and isinstance(meta["fingerprint"], str)
        and all(is_plain_tensor(column, 1, FLOATS) and len(column) == dim for column in moments)
        and all(bool(column.isfinite().all()) for column in moments)
        and bool((meta["std"] >= 0).all())
    )


def _chunk_name(i):
    return f"chunk_{i:04d}.npy"


def _to_dtype(batch, dtype, first_row):
    """The batch as a NumPy array of `dtype`; every number finite."""
    if isinstance(batch, torch.Tensor):
        batch = batch.detach().float().cpu().numpy()
    batch = np.asarray(batch)
    if batch.ndim != 2:
        raise UserError(f"a batch of features has the shape {batch.shape}; it must be (rows, features)")
    with np.errstate(over="ignore"):
        stored = batch.astype(dtype)
    finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        if np.isfinite(batch[row]).all():
            raise UserError(
                f"row {first_row + row} has a feature beyond the range of {np.dtype(dtype).name}; write float32"
            )
        raise UserError(f"row {first_row + row} of the features has a NaN or infinite number; look at its input")
    return stored
