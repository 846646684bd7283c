"""Writing betons: FFCV's format and encoders, with workers that report what went wrong.

FFCV's own writer waits forever when a worker fails (a broken image, a full disk). Here the first failure stops all
workers and is raised, and the file appears under its name only when it is whole.
"""

import errno
import multiprocessing
import os
import queue
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..runtime.errors import UserError
from . import ffcv_patches  # noqa: F401 (first: it changes how ffcv behaves)

# isort: split
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.memory_allocator import MemoryAllocator
from ffcv.types import ALLOC_TABLE_TYPE
from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter, handle_sample

from ..runtime.files import atomic_path

_CHUNK = 64  # examples that a worker takes at a time


@dataclass(frozen=True)
class ImageOptions:
    """How images are stored, as FFCV offers.

    Attributes:
        write_mode: `raw` pixels, `jpg`, `proportion` (a random share `compress_probability` as JPEG) or `smart`
            (JPEG where raw pixels would take more than `smart_threshold` bytes).
        jpeg_quality: 1 to 100.
        max_resolution: images with a longer side than this are scaled down to it, pixels; None keeps all.
    """

    write_mode: str = "raw"
    jpeg_quality: int = 90
    compress_probability: float = 0.5
    smart_threshold: int | None = None
    max_resolution: int | None = None

    def field(self):
        return RGBImageField(
            write_mode=self.write_mode,
            jpeg_quality=self.jpeg_quality,
            compress_probability=self.compress_probability,
            smart_threshold=self.smart_threshold,
            max_resolution=self.max_resolution,
        )


def write_beton(path, source, image_options=ImageOptions(), workers=-1):
    """Write an image source as a beton with the fields image, label, index and, where it has one, spurious.

    Args:
        path: where the beton goes.
        source: has `len`, and `source[i]` gives `(image uint8 (H, W, 3), label, spurious)`; `label` is an int, or a
            float32 vector for BCE; `spurious` is an int, or None throughout.
        workers: processes; -1 for one a core.

    Raises `UserError` where an image can't be read (naming it) or the file can't be written.
    """
    path = Path(path)
    if len(source) == 0:
        raise UserError(f"there are no images for {path}; check the folder or manifest")
    fields = {"image": image_options.field()}
    _, label, spurious = source[0]
    fields["label"] = NDArrayField(np.dtype("float32"), label.shape) if isinstance(label, np.ndarray) else IntField()
    fields["index"] = IntField()
    if spurious is not None:
        fields["spurious"] = IntField()
    with atomic_path(path) as temporary:
        _Writer(str(temporary), fields, page_size=4 * MIN_PAGE_SIZE, num_workers=workers).write(source, path)


class _Writer(DatasetWriter):
    """FFCV's writer with supervised workers."""

    def write(self, source, name):
        self.num_samples = len(source)
        self.prepare()
        chunks, done = multiprocessing.Queue(), multiprocessing.Queue()
        for start in range(0, self.num_samples, _CHUNK):
            chunks.put(range(start, min(start + _CHUNK, self.num_samples)))
        for _ in range(self.num_workers):
            chunks.put(None)
        allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
        arguments = (chunks, done, self.metadata_sm, self.metadata_type, self.fields, allocator, source)
        processes = [multiprocessing.Process(target=_work, args=arguments) for _ in range(self.num_workers)]
        try:
            for process in processes:
                process.start()
            allocations = self._collect(done, processes, name)
            self.finalize(allocations)
            # On a disk that is nearly full, FFCV's write of a page may end half-way without an error.
            pages = allocator.offset + int(allocator.next_page_allocated.value) * self.page_size
            if os.path.getsize(self.fname) != pages + len(allocations) * ALLOC_TABLE_TYPE.itemsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(name))
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                process.join()
            self.metadata_sm.close()
            self.metadata_sm.unlink()

    def _collect(self, done, processes, name):
        """Wait for all workers and return their allocations; raise the first failure of one."""
        allocations, finished = [], 0
        with tqdm(total=self.num_samples, desc=f"writing {name.name}", unit="img", disable=None) as progress:
            while finished < len(processes):
                try:
                    kind, content = done.get(timeout=1)
                except queue.Empty:
                    if any(process.exitcode not in (0, None) for process in processes):
                        raise UserError(
                            f"a process that wrote {name} was killed, most likely for want of memory; "
                            "run again with fewer --workers"
                        ) from None
                    continue
                if kind == "error":
                    raise content
                if kind == "count":
                    progress.update(content)
                else:
                    allocations.extend(content)
                    finished += 1
        return allocations


def _work(chunks, done, metadata_memory, metadata_type, fields, allocator, source):
    """A worker: encode chunks of examples until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    metadata = np.frombuffer(metadata_memory.buf, metadata_type)
    try:
        with allocator:
            for chunk in iter(chunks.get, None):
                for i in chunk:
                    image, label, spurious = source[i]
                    shortest = min(image.shape[:2])
                    if fields["image"].max_resolution and shortest * fields["image"].max_resolution < max(image.shape):
                        raise UserError(
                            f"image {i} has {image.shape[1]} x {image.shape[0]} pixels, of which --max-resolution "
                            "leaves none on the short side; leave it out"
                        )
                    sample = (image, label, i) if spurious is None else (image, label, i, spurious)
                    np.random.seed(i)  # noqa: NPY002 (FFCV draws from it which images become JPEGs)
                    try:
                        handle_sample(sample, i, metadata_type.names, metadata, allocator, fields)
                    except ValueError as error:
                        if not str(error).startswith("Tried allocating"):
                            raise
                        raise UserError(
                            f"image {i} of {image.shape[1]} x {image.shape[0]} pixels takes more than the "
                            f"{allocator.page_size >> 20} MiB that a beton has for one; give --max-resolution, or "
                            "--image-format jpg"
                        ) from None
                done.put(("count", len(chunk)))
        done.put(("allocations", allocator.allocations))
    except Exception as error:
        done.put(("error", error))
        done.close()
        done.join_thread()
        sys.exit(1)  # so that the parent does not wait where the error could not be sent


def _end_with_parent():
    """A worker whose parent was killed would wait for chunks forever."""
    multiprocessing.parent_process().join()
    os._exit(1)
