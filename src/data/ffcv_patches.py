"""ffcv with some of its habits changed. A module that uses ffcv imports this one first.

Every change is for ffcv 1.0.2 with numba 0.68; tests/test_ffcv_patches.py has one test for each, which fails where
another version is installed or the fault is gone, and then the change may go. (The writer's are in `beton_writer`.)

On import of this module, in ffcv itself:

- Import. ffcv keeps two numbers in a typed dict of numba, for which numba compiles for 2 seconds in every process. Here
  it is a plain one.
- Threads. ffcv calls `torch.set_num_threads(num_workers)` on import, for every loader and for every epoch, so that with
  one decoding worker torch would compute on one core. ffcv's own threads are numba's; these alone are set here.
- Compilation. ffcv compiles its decoders anew for every loader, 1 to 4 seconds each. Here equal code is compiled once.
- Types. ffcv marks numba's shared uint8 array type as immutable in place, after which numba no longer finds what it
  keeps under that type (a KeyError in a later compilation). The only use is the signature of a function that compiles
  as well without one.

By classes that are used in place of ffcv's:

- `SeededRandomResizedCrop`. ffcv's random crop cannot be seeded.
- `PatchedLoader`, its epochs. An error of ffcv's decoding thread is never seen and the loop waits forever; on CUDA the
  thread decodes over memory that is still being copied.
"""

import functools
from importlib.metadata import version
from unittest import mock

import numpy as np
import torch

from ..runtime import compiling  # noqa: F401 (before numba)
from ..runtime.distributed import world_size

_version = version("ffcv")  # where ffcv is not installed, the error is about it and not about numba
_torch_threads = torch.get_num_threads()

import numba  # noqa: E402

# ffcv writes two entries into the dict and reads them, never in compiled code.
with mock.patch("numba.typed.Dict", dict if _version == "1.0.2" else numba.typed.Dict):
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader  # noqa: E402
from ffcv.loader.epoch_iterator import EpochIterator  # noqa: E402
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


class SeededRandomResizedCrop(RandomResizedCropRGBImageDecoder):
    """ffcv's random crop, with numbers that depend on a `PatchedLoader.key` and the image's place in the file alone."""

    def generate_code(self):
        read = self.memory_read

        def seeded_read(address, state):
            key = state[1][-1]  # see PatchedLoader
            np.random.seed((address * np.uint64(0x9E3779B97F4A7C15) ^ key) >> np.uint64(32))  # noqa: NPY002 (numba's)
            return read(address, state)

        self.memory_read = Compiler.compile(seeded_read)
        return super().generate_code()


class PatchedLoader(Loader):
    """ffcv's loader, whose epochs pass on an error of the decoding thread instead of waiting forever.

    `key` reaches compiled decoders as the last of the sorted addresses of the file's blocks, beyond any real one: the
    only numbers that ffcv hands to them anew in every epoch.
    """

    key = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._addresses = self.memory_manager.ptrs

    def __len__(self):
        # With several processes as many batches as with one: an example that comes twice does not make up another.
        together = self.batch_size * (world_size() if self.distributed else 1)
        return len(self.indices) // together if self.drop_last else -(-len(self.indices) // together)

    def __iter__(self):
        order = self.next_traversal_order()[: len(self) * self.batch_size]
        self.memory_manager.ptrs = np.append(self._addresses, np.uint64((1 << 63) | (self.key << 31)))
        return _Epoch(self, order)


class _Epoch(EpochIterator):
    error = None

    def run_pipeline(self, b_ix, batch_indices, batch_slot, cuda_event):
        # On CUDA ffcv has the slot's stream wait for its last batch; the host would decode over memory that is still
        # being copied. This is ffcv's own thread: training does not wait.
        if cuda_event:
            cuda_event.synchronize()
        return super().run_pipeline(b_ix, batch_indices, batch_slot, cuda_event)

    def run(self):
        try:
            super().run()
        except BaseException as error:
            self.error = error
            self.output_queue.put(None)

    def __next__(self):
        try:
            return super().__next__()
        except StopIteration:
            if self.error:
                raise self.error from None
            raise
