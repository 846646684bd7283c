"""Importing ffcv, with three of its habits changed. Every module that uses ffcv imports it through this one.

Threads: ffcv calls `torch.set_num_threads(num_workers)` on import, for every loader and for every epoch, so that with
one decoding worker torch would compute on one core. ffcv's own threads are numba's; these alone are set here.

Compilation: ffcv compiles its decoders anew for every loader, 1 to 4 seconds each. Here equal code is compiled once.

Types: ffcv marks numba's shared uint8 array type as immutable in place, after which numba no longer finds what it keeps
under that type (a KeyError in a later compilation). The only use is the signature of a function that compiles as well
without one.
"""

import functools

import numba
import numpy as np
import torch

_torch_threads = torch.get_num_threads()

import ffcv  # noqa: E402 (torch's threads are read before ffcv changes them)
from ffcv.memory_managers.os_cache import OSCacheManager  # noqa: E402
from ffcv.pipeline.compiler import Compiler  # noqa: E402

torch.set_num_threads(_torch_threads)

_compile_afresh = Compiler.compile
_compiled = {}


def _set_decoding_threads(n):
    Compiler.num_threads = max(1, min(n, numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(Compiler.num_threads)


@functools.wraps(_compile_afresh)
def _compile_once(function, signature=None):
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    cells = [(value.dtype.str, value.tobytes()) if isinstance(value, np.ndarray) else value for value in cells]
    key = (function.__code__, *cells, function.__defaults__, Compiler.num_threads > 1)
    try:
        if key not in _compiled:
            _compiled[key] = _compile_afresh(function)
    except TypeError:  # something in the closure can't be a key
        return _compile_afresh(function)
    return _compiled[key]


Compiler.set_num_threads = _set_decoding_threads
Compiler.compile = _compile_once
OSCacheManager.state_type = numba.types.none

__all__ = ["ffcv"]
