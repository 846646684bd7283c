"""Importing ffcv without losing torch's threads.

ffcv calls `torch.set_num_threads(num_workers)` on import, for every loader and for every epoch, so that with one
decoding worker torch would compute on one core. Its own threads are numba's; these alone are set here.
Every module that uses ffcv imports it through this one.
"""

import numba
import torch

_torch_threads = torch.get_num_threads()

import ffcv  # noqa: E402 (torch's threads are read before ffcv changes them)
from ffcv.pipeline.compiler import Compiler  # noqa: E402

torch.set_num_threads(_torch_threads)


def _set_decoding_threads(n):
    Compiler.num_threads = max(1, min(n, numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(Compiler.num_threads)


Compiler.set_num_threads = _set_decoding_threads

__all__ = ["ffcv"]
