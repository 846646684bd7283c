"""Standardised features, block of rows by block of rows: resident on the device where they fit, else streamed."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ..runtime.errors import UserError
from ..runtime.moments import Moments
from .feature_chunks import FeatureChunks

BLOCK_ELEMENTS = 2**22
"""Numbers in a block of rows: 16 MiB as float32."""

CUDA_BLOCKS = 8
"""As many times larger are blocks on CUDA, where small products leave the card idle."""

READ_AHEAD = 4
"""Blocks that threads read and copy to CUDA while one is worked on: one thread fills a quarter of the bus."""


class StandardizedRows:
    """`(X - mean) / std` in blocks of rows; a constant feature (std 0) is 0 everywhere.

    Args:
        X: (n, d) array, memory map, tensor or `FeatureChunks`.
        mean, std: (d,) float64 arrays.
        device: torch.device of the blocks.
        dtype: torch dtype in which the blocks are kept where they are resident.
        budget: bytes; where all rows take no more, they are kept on the device, and `resident_bytes` says how many.

    Raises:
        UserError: NaN or infinite numbers, at the latest when all blocks were asked for.
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
            for where, block in self._read(self._ranges()):
                self._resident[where] = block

    def blocks(self, dtype=None, width=0):
        """Yield (slice of rows, (rows, d) tensor); `width` is that of other blocks of the same rows, such as logits."""
        ranges = self._ranges(width)
        blocks = self._read(ranges) if self._resident is None else ((rows, self._resident[rows]) for rows in ranges)
        for where, block in blocks:
            yield where, block.to(dtype or self.dtype)

    def _ranges(self, width=0):
        n, d = self.shape
        factor = CUDA_BLOCKS if self.device.type == "cuda" else 1
        return [slice(*ends) for ends in row_ranges(n, max(d, width), factor)]

    def _read(self, ranges):
        """Standardised blocks of the rows. Nothing waits for a block before the next one is under way."""
        seen = None
        fetch = self._fetch_ahead if self.device.type == "cuda" else self._fetch
        for where, block in zip(ranges, fetch(ranges), strict=True):
            # float64, so that a mean far from 0 costs no digits
            block = ((block.double() - self.mean) * self.scale).to(self.dtype)
            finite = block.isfinite().all()
            yield where, block
            self._check(seen)
            seen = where, finite
        self._check(seen)

    def _fetch(self, ranges):
        return (as_tensor(self.X[where]).to(self.device) for where in ranges)

    def _fetch_ahead(self, ranges):
        """Blocks on CUDA: threads read the next ones into page-locked memory and have them copied meanwhile."""
        stream = torch.cuda.Stream(self.device)

        def fetch(where):
            block = as_tensor(self.X[where])
            with torch.cuda.stream(stream):
                if block.device.type == "cpu":
                    block = block.pin_memory()
                block = block.to(self.device, non_blocking=True)
            return block, stream.record_event()

        with ThreadPoolExecutor(READ_AHEAD) as readers:
            ahead = deque()
            for i in range(len(ranges) + READ_AHEAD):
                if i < len(ranges):
                    ahead.append(readers.submit(fetch, ranges[i]))
                if i >= READ_AHEAD:
                    block, copied = ahead.popleft().result()
                    worker = torch.cuda.current_stream(self.device)
                    worker.wait_event(copied)
                    block.record_stream(worker)  # its memory serves the next copy once this work is done
                    yield block

    def _check(self, seen):
        # Features on disk were finite when they were written.
        if seen and not seen[1]:
            rows = seen[0]
            raise UserError(
                f"rows {rows.start} to {rows.stop - 1} of the features have NaN or infinite numbers; make them again"
            )


def row_ranges(n, width, factor=1):
    """(start, stop) of blocks of rows with about `factor` times BLOCK_ELEMENTS numbers each."""
    step = max(1, factor * BLOCK_ELEMENTS // max(width, 1))
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def as_tensor(block):
    """A block of rows as a tensor, without a copy where there need not be one."""
    if not isinstance(block, torch.Tensor):
        block = np.ascontiguousarray(block)
        block = torch.from_numpy(block if block.flags.writeable else block.copy())
    return block.detach()


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
        block = as_tensor(X[start:stop]).cpu().numpy()
        check_finite(block, start, what)
        moments.update(block, None if weights is None else weights[start:stop])
    return moments.mean, moments.std()
