"""Standardised features, block of rows by block of rows: resident on the device where they fit, else streamed."""

import numpy as np
import torch

from ..runtime.errors import UserError
from ..runtime.moments import Moments
from .feature_chunks import FeatureChunks

BLOCK_ELEMENTS = 2**22
"""Numbers in a block of rows: 16 MiB as float32."""


class StandardizedRows:
    """`(X - mean) / std` in blocks of rows; a constant feature (std 0) is 0 everywhere.

    Args:
        X: (n, d) array, memory map, tensor or `FeatureChunks`.
        mean, std: (d,) float64 arrays.
        device: torch.device of the blocks.
        dtype: torch dtype in which the blocks are kept where they are resident.
        budget: bytes; where all rows take no more, they are kept on the device, and `resident_bytes` says how many.
    """

    def __init__(self, X, mean, std, device, dtype, budget):
        self.X, self.device, self.dtype = X, device, dtype
        self.shape = tuple(X.shape)
        needed = self.shape[0] * self.shape[1] * dtype.itemsize
        self.resident_bytes = needed if needed <= budget else 0
        self.mean = torch.from_numpy(mean).to(device)
        self.scale = torch.from_numpy(np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)).to(device)
        self._resident = None
        if self.resident_bytes:
            self._resident = torch.empty(self.shape, dtype=dtype, device=device)
            for start, stop in row_ranges(*self.shape):
                self._resident[start:stop] = self._standardize(start, stop)

    def blocks(self, dtype=None, width=0):
        """Yield (slice of rows, (rows, d) tensor); `width` is that of other blocks of the same rows, such as logits."""
        n, d = self.shape
        for start, stop in row_ranges(n, max(d, width)):
            block = self._standardize(start, stop) if self._resident is None else self._resident[start:stop]
            yield slice(start, stop), block.to(dtype or self.dtype)

    def _standardize(self, start, stop):
        # float64, so that a mean far from 0 costs no digits
        block = ((as_tensor(self.X[start:stop], self.device).double() - self.mean) * self.scale).to(self.dtype)
        if not block.isfinite().all():  # features on disk were finite when they were written
            raise UserError(f"rows {start} to {stop - 1} of the features have NaN or infinite numbers; make them again")
        return block


def row_ranges(n, width):
    """(start, stop) of blocks of rows with about BLOCK_ELEMENTS numbers each."""
    step = max(1, BLOCK_ELEMENTS // max(width, 1))
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def as_tensor(block, device="cpu"):
    """A block of rows as a tensor on the device, without a copy where there need not be one."""
    if not isinstance(block, torch.Tensor):
        block = np.ascontiguousarray(block)
        block = torch.from_numpy(block if block.flags.writeable else block.copy())
    return block.detach().to(device)


def free_memory(device):
    """Bytes of memory that are free on the device, about."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def check_features(X, what):
    """Raise `UserError` unless X is a non-empty (n, d) matrix of floats."""
    shape = tuple(getattr(X, "shape", ()))
    if len(shape) != 2:
        raise UserError(f"{what} must have the shape (examples, features), not {shape}")
    if 0 in shape:
        raise UserError(f"{what} is empty: its shape is {shape}")
    if str(X.dtype).removeprefix("torch.") not in ("float16", "float32", "float64"):
        raise UserError(f"{what} must be float16, float32 or float64, not {X.dtype}")


def check_finite(block, start, what):
    """Raise `UserError` naming the first row with a NaN or an infinite number."""
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise UserError(f"row {row} of {what} has a NaN or infinite number; mend or drop it")


def statistics(X, weights=None, what="X"):
    """Mean and population standard deviation (d,) float64 of the rows of X, weighted by `weights` (n,), in one pass.

    `FeatureChunks` were checked when they were written and know theirs.

    Raises:
        UserError: NaN or infinities.
    """
    if isinstance(X, FeatureChunks) and weights is None:
        return X.mean, X.std
    moments = Moments()
    for start, stop in row_ranges(*X.shape):
        block = as_tensor(X[start:stop]).numpy()
        check_finite(block, start, what)
        moments.update(block, None if weights is None else weights[start:stop])
    return moments.mean, moments.std()
