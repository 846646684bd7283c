"""Betons, FFCV's data-set files: opening one with every check that FFCV leaves out, and reading its small fields.

FFCV reads a damaged file without complaint or dies in a thread; here a `UserError` says what is wrong first.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from ..runtime.files import file_digest
from . import (
    MOST_PIXELS,
    ffcv_patches,  # noqa: F401 (first: it changes how ffcv behaves)
)

# isort: split
from ffcv.fields import NDArrayField, RGBImageField
from ffcv.fields.basics import FloatField, IntField
from ffcv.reader import Reader
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType

from .checksums import check_content, checksum_beside
from .run_files import existing_beton


@dataclass(frozen=True)
class Beton:
    """An opened beton: a whole file of `len(beton)` examples whose `index` field is 0..N-1.

    Make it with `open_beton`.
    """

    path: Path
    reader: Reader

    def __len__(self):
        return int(self.reader.num_samples)

    @property
    def fields(self):
        """Names of the fields, in the file's order."""
        return tuple(self.reader.field_names)

    def require(self, *fields):
        """Raise `UserError` unless the beton has all of `fields`."""
        for field in fields:
            if field not in self.fields:
                raise UserError(
                    f"beton {self.path} has no field {field!r} (it has {', '.join(self.fields)}); "
                    "write it again with failure-directions betons"
                )

    def column(self, field):
        """All values of a number field (N,), or of a vector field (N, k), without decoding any image."""
        self.require(field)
        handler = self.reader.handlers[field]
        stored = self.reader.metadata[f"f{self.fields.index(field)}"]
        if isinstance(handler, IntField | FloatField):
            return np.array(stored)
        if isinstance(handler, NDArrayField):
            data = np.memmap(self.path, np.uint8, "r")
            nbytes = int(handler.element_size)
            rows = [data[ptr : ptr + nbytes] for ptr in stored.tolist()]
            return np.stack(rows).view(handler.dtype).reshape(len(self), *handler.shape)
        raise UserError(f"field {field!r} of beton {self.path} holds neither numbers nor vectors")

    @cached_property
    def image_sizes(self):
        """Widths and heights of the images, `(N,)` and `(N,)`, pixels."""
        self.require("image")
        stored = self.reader.metadata[f"f{self.fields.index('image')}"]
        return stored["width"].astype(int), stored["height"].astype(int)

    @property
    def is_small(self):
        """Whether all of it is read for its fingerprint: up to 1 GiB."""
        return self.path.stat().st_size <= 1 << 30

    def check_content(self, whole=False):
        """Compare the content with the checksum beside the beton, where there is one; above 1 GiB only if `whole`.

        Args:
            whole: read all of a beton of any size; that there is no checksum is an error then.

        Raises:
            UserError: the beton is damaged.
        """
        known = self.fingerprint if self.is_small else None
        if (known or whole) and not check_content(self.path, known) and whole:
            raise UserError(
                f"beton {self.path} has no checksum beside it to compare it with: write it again with "
                f"failure-directions betons, or make one: sha256sum {self.path} > {checksum_beside(self.path)}"
            )

    @cached_property
    def fingerprint(self):
        """Hash of the content; above 1 GiB of the metadata, 1,024 spread blocks and the time of the last change."""
        digest = hashlib.sha256()
        status = self.path.stat()
        if self.is_small:
            return file_digest(self.path)[:32]
        with open(self.path, "rb") as stream:
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            digest.update(self.reader.metadata.tobytes())
            for start in np.linspace(0, status.st_size - 4096, 1024).astype(int):
                stream.seek(int(start))
                digest.update(stream.read(4096))
        return digest.hexdigest()[:32]

    @cached_property
    def labels_digest(self):
        """Hash of the labels in their order: the same for the same data set, however its images are stored."""
        return hashlib.sha256(np.ascontiguousarray(self.column("label")).tobytes()).hexdigest()[:32]


def open_beton(path):
    """Open a beton.

    Returns:
        `Beton`.

    Raises:
        UserError: it is missing, empty or not whole, or its `index` does not count 0..N-1.
    """
    path = existing_beton(path)
    beton = Beton(path, _read_header(path))
    if len(beton) == 0:
        raise UserError(f"beton {path} holds no examples; write it again with failure-directions betons")
    if not _is_whole(beton):
        raise UserError(f"beton {path} is truncated or damaged; write it again with failure-directions betons")
    index = beton.column("index")
    if not np.array_equal(index, np.arange(len(beton))):
        wrong = int(np.argmax(index != np.arange(len(beton))))
        raise UserError(
            f"beton {path} has index {index[wrong]} at position {wrong}, but the index field must count 0..N-1; "
            "write it again with failure-directions betons"
        )
    return beton


def _read_header(path):
    damaged = f"beton {path} is truncated or not a beton; write it again with failure-directions betons"
    size = path.stat().st_size
    if size < HeaderType.itemsize:
        raise UserError(damaged)
    header = np.fromfile(path, HeaderType, count=1)[0]
    metadata_start = HeaderType.itemsize + int(header["num_fields"]) * FieldDescType.itemsize
    table_start, page_size = int(header["alloc_table_ptr"]), int(header["page_size"])
    # The header is written last, so that a beton that was not finished has a null pointer here.
    if not metadata_start < table_start <= size or (size - table_start) % ALLOC_TABLE_TYPE.itemsize:
        raise UserError(damaged)
    # FFCV makes room for as much as the header says; a field takes 8 bytes of an example's metadata or more.
    if 8 * int(header["num_fields"]) * int(header["num_samples"]) > table_start - metadata_start:
        raise UserError(damaged)
    if page_size.bit_count() != 1 or page_size > max(size, 2**26):
        raise UserError(damaged)
    try:
        return Reader(str(path))
    except Exception as error:  # a damaged header raises any kind
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(damaged) from error


def _is_whole(beton):
    """Whether all is so that FFCV trusts: the fields' types, pointers into the file, the sizes of what lies there.

    It copies a block of the file into the place of an image or vector without looking at its size.
    """
    reader, table, end = beton.reader, beton.reader.alloc_table, np.uint64(beton.reader.header["alloc_table_ptr"])
    if len(reader.metadata) != len(beton) or len(reader.handlers) < len(reader.field_names):
        return False
    order = np.argsort(table["ptr"])
    starts, sizes = table["ptr"][order], table["size"][order]
    if (sizes > end).any() or (starts > end - sizes).any() or (starts[1:] == starts[:-1]).any():
        return False
    for number, name in enumerate(beton.fields):
        stored, handler = reader.metadata[f"f{number}"], reader.handlers[name]
        if name in _TYPES and not isinstance(handler, _TYPES[name]):
            return False
        if isinstance(handler, RGBImageField):
            pixels = stored["width"].astype(np.uint64) * stored["height"]
            if (stored["mode"] > _RAW).any() or pixels.min() == 0 or pixels.max() > MOST_PIXELS:
                return False
            pointers, nbytes, known = stored["data_ptr"], 3 * pixels, stored["mode"] == _RAW
        elif isinstance(handler, NDArrayField):
            pointers, nbytes, known = stored, math.prod(map(int, handler.shape)) * handler.dtype.itemsize, True
            if len(handler.shape) != 1 or handler.dtype.kind not in "biuf" or nbytes != handler.element_size:
                return False
        else:
            continue
        at = np.searchsorted(starts, pointers)
        if at.max() == len(starts) or (starts[at] != pointers).any() or (known & (sizes[at] != nbytes)).any():
            return False
    return True


_TYPES = {"image": RGBImageField, "index": IntField, "label": IntField | NDArrayField}
_RAW = 1  # else 0: a JPEG, whose size only its block tells
