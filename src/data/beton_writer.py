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
from . import (
    MOST_PIXELS,
    ffcv_patches,  # noqa: F401 (first: it changes how ffcv behaves)
)

# isort: split
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.fields.rgb_image import encode_jpeg, resizer
from ffcv.memory_allocator import MemoryAllocator
from ffcv.types import ALLOC_TABLE_TYPE
from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter, handle_sample

from ..runtime.files import atomic_path, file_digest, written_together
from .checksums import checksum_beside, write_checksum

_CHUNK = 64  # examples that a worker takes at a time
_PAGE = 4 * MIN_PAGE_SIZE  # bytes, of which an image has one at most
_LONGEST_SIDE, _LONGEST_JPEG = 65_535, 65_500  # pixels: 16 bits in the file; libjpeg's limit
_SHORTEST_SIDE = 2  # pixels: FFCV cuts 7/8 or 3/4 of the short side, and ends the process where that is nothing


def _scaled_down(sides, longest):
    """Width and height (2,), as FFCV scales them down to a longest side."""
    ratio = longest / sides.max() if longest else 1
    return (ratio * sides).astype(int) if ratio < 1 else sides


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

    def misfit(self, image):
        """Why an image, uint8 (H, W, 3), can't be stored so or be decoded again: a part of a sentence; or None."""
        sides = np.array(image.shape[1::-1])
        stored = _scaled_down(sides, self.max_resolution)
        told = "has {:,} x {:,} pixels".format(*sides)
        if stored.min() < _SHORTEST_SIDE:
            scaled = "" if sides.min() < _SHORTEST_SIDE else f", of which --max-resolution leaves {stored.min()}"
            return f"{told}{scaled}, too few on the short side for FFCV to cut anything from; leave it out"
        longest = _LONGEST_SIDE if self.write_mode == "raw" else _LONGEST_JPEG
        if stored.max() > longest:
            return f"{told}, more than the {longest:,} a side that FFCV can store; give --max-resolution"
        if stored.prod() > MOST_PIXELS:
            return f"{told}, more than the {MOST_PIXELS / 1e6:.0f} million that are read again; give --max-resolution"
        raw = 3 * int(stored.prod())
        if raw <= _PAGE or self._bytes_stored(image, raw) <= _PAGE:
            return None
        return (
            f"{told} and takes more than the {_PAGE >> 20} MiB that a beton has for one; give --max-resolution, or "
            "--image-format jpg"
        )

    def _bytes_stored(self, image, raw):
        """Bytes of an image; of `proportion`, which draws, those of the raw pixels."""
        if self.write_mode == "jpg" or (self.write_mode == "smart" and raw > (self.smart_threshold or np.inf)):
            return len(encode_jpeg(resizer(image, self.max_resolution), self.jpeg_quality))
        return raw

    def field(self):
        """FFCV's field of images that are stored so."""
        return RGBImageField(
            write_mode=self.write_mode,
            jpeg_quality=self.jpeg_quality,
            compress_probability=self.compress_probability,
            smart_threshold=self.smart_threshold,
            max_resolution=self.max_resolution,
        )


def write_beton(path, source, image_options=ImageOptions(), workers=-1):
    """Write an image source as a beton with the fields image, label, index and, where it has one, spurious.

    Its checksum is written beside it (see `checksums`).

    Args:
        path: where the beton goes.
        source: has `len`, and `source[i]` gives `(image uint8 (H, W, 3), label, spurious)`; `label` is an int, or a
            float32 vector for BCE; `spurious` is an int, or None throughout.
        image_options: how images are stored.
        workers: processes; -1 for one a core.

    Raises:
        UserError: there is no image, one can't be read (it is named), or the file can't be written.
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
    # No more than there is work for.
    workers = min(os.cpu_count() if workers < 1 else workers, -(-len(source) // _CHUNK))
    with written_together(old=[checksum_beside(path)]):
        with atomic_path(path) as temporary:
            _Writer(str(temporary), fields, page_size=_PAGE, num_workers=workers).write(source, path, image_options)
            digest = file_digest(temporary)
        write_checksum(path, digest)


class _Writer(DatasetWriter):
    """FFCV's writer with supervised workers."""

    def write(self, source, name, options):
        self.num_samples = len(source)
        self.prepare()
        chunks, done = multiprocessing.Queue(), multiprocessing.Queue()
        for start in range(0, self.num_samples, _CHUNK):
            chunks.put(range(start, min(start + _CHUNK, self.num_samples)))
        for _ in range(self.num_workers):
            chunks.put(None)
        allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
        arguments = (chunks, done, self.metadata_sm, self.metadata_type, self.fields, allocator, source, options)
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


def _work(chunks, done, metadata_memory, metadata_type, fields, allocator, source, options):
    """A worker: encode chunks of examples until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    metadata = np.frombuffer(metadata_memory.buf, metadata_type)
    try:
        with allocator:
            for chunk in iter(chunks.get, None):
                for i in chunk:
                    image, label, spurious = source[i]
                    if why := options.misfit(image):
                        raise UserError(f"image {_name(source, i)} {why}")
                    sample = (image, label, i) if spurious is None else (image, label, i, spurious)
                    np.random.seed(i)  # noqa: NPY002 (FFCV draws from it which images become JPEGs)
                    handle_sample(sample, i, metadata_type.names, metadata, allocator, fields)
                done.put(("count", len(chunk)))
        done.put(("allocations", allocator.allocations))
    except Exception as error:
        done.put(("error", error))
        done.close()
        done.join_thread()
        sys.exit(1)  # so that the parent does not wait where the error could not be sent


def _name(source, i):
    """What messages call an image: its file, where it has one."""
    return source.name(i) if hasattr(source, "name") else i


def _end_with_parent():
    """A worker whose parent was killed would wait for chunks forever."""
    multiprocessing.parent_process().join()
    os._exit(1)
