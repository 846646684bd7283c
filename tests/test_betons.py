import multiprocessing
import os
import struct

import numpy as np
import pytest
from failure_directions.data.beton_writer import ImageOptions, write_beton
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import ImageArrays, ImageFiles
from failure_directions.runtime.errors import UserError
from ffcv.types import FieldDescType, HeaderType


def test_labels_index_and_spurious_are_read_without_decoding(pixels, pixels_beton):
    beton = open_beton(pixels_beton)
    assert beton.fields == ("image", "label", "index", "spurious")
    assert np.array_equal(beton.column("label"), pixels.labels)
    assert np.array_equal(beton.column("index"), np.arange(90))
    assert np.array_equal(beton.column("spurious"), pixels.spurious)
    assert {side.tobytes() for side in beton.image_sizes} == {np.full(90, 16).tobytes()}


def test_vector_labels_for_bce_come_back_as_written(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (20, 5)).astype(np.float32)

    class Source(ImageArrays):
        def __getitem__(self, i):
            return self.images[i], self.labels[i], None

    write_beton(tmp_path / "x.beton", Source(np.zeros((20, 8, 8, 3), np.uint8), labels, list("abcde")), workers=2)
    assert np.array_equal(open_beton(tmp_path / "x.beton").column("label"), labels)


def test_the_fingerprint_follows_the_content(pixels, pixels_beton, tmp_path):
    write_beton(tmp_path / "same.beton", pixels, workers=1)
    changed = pixels.images.copy()
    changed[50, 3, 3, 0] ^= 1
    write_beton(tmp_path / "other.beton", ImageArrays(changed, pixels.labels, ["a"], pixels.spurious), workers=1)
    write_beton(tmp_path / "again.beton", pixels, workers=1)
    same, other, again = (open_beton(tmp_path / f"{name}.beton").fingerprint for name in ("same", "other", "again"))
    assert same == again != other


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.999])
def test_a_truncated_beton_is_named(pixels_beton, tmp_path, share):
    whole = pixels_beton.read_bytes()
    (tmp_path / "cut.beton").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"cut\.beton is truncated"):
        open_beton(tmp_path / "cut.beton")


def test_other_files_and_missing_ones_are_not_taken_for_betons(tmp_path):
    (tmp_path / "noise.beton").write_bytes(np.random.default_rng(0).bytes(100_000))
    (tmp_path / "text.beton").write_text("hello " * 1000)
    for name in ("noise", "text"):
        with pytest.raises(UserError, match=f"{name}.beton is truncated or not a beton"):
            open_beton(tmp_path / f"{name}.beton")
    with pytest.raises(UserError, match="does not exist"):
        open_beton(tmp_path / "none.beton")


def test_an_index_that_does_not_count_up_is_refused(pixels_beton, tmp_path):
    content = bytearray(pixels_beton.read_bytes())
    beton = open_beton(pixels_beton)
    start = HeaderType.itemsize + 4 * FieldDescType.itemsize
    record = beton.reader.metadata.dtype
    position = start + 7 * record.itemsize + record.fields["f2"][1]
    content[position : position + 8] = struct.pack("<q", 70)
    (tmp_path / "x.beton").write_bytes(content)
    with pytest.raises(UserError, match="index 70 at position 7"):
        open_beton(tmp_path / "x.beton")


def test_a_field_that_is_not_there_is_named(pixels_beton):
    with pytest.raises(UserError, match="no field 'mask'"):
        open_beton(pixels_beton).require("image", "mask")


def test_a_broken_image_stops_the_write_and_leaves_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").write_bytes(b"not an image")
    source = ImageFiles([tmp_path / "in" / "bad.jpg"] * 200, np.zeros(200, int), ["a"])
    source.paths[0] = _png(tmp_path / "in" / "good.png")
    with pytest.raises(UserError, match=r"bad\.jpg is broken"):
        write_beton(tmp_path / "x.beton", source, workers=2)
    assert os.listdir(tmp_path) == ["in"]


def test_a_killed_worker_is_told_and_leaves_nothing(tmp_path, pixels):
    class Source(ImageArrays):
        def __getitem__(self, i):
            if i == 70:
                os.kill(os.getpid(), 9)
            return super().__getitem__(i)

    with pytest.raises(UserError, match="was killed"):
        write_beton(tmp_path / "x.beton", Source(pixels.images, pixels.labels, ["a"]), workers=2)
    assert os.listdir(tmp_path) == []


def test_no_more_processes_write_than_there_is_work_for(pixels, tmp_path, monkeypatch):
    began = []
    start = multiprocessing.Process.start
    monkeypatch.setattr(multiprocessing.Process, "start", lambda process: began.append(process) or start(process))
    write_beton(tmp_path / "x.beton", pixels, workers=100_000)
    assert len(began) == 2  # 90 images are two pieces of work


def test_images_are_stored_as_asked(tmp_path):
    image = np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3).astype(np.uint8)
    source = ImageArrays(np.stack([image] * 200), np.zeros(200, int), ["a"])
    modes = {}
    for mode in ("raw", "jpg", "proportion", "smart"):
        options = ImageOptions(mode, jpeg_quality=80, compress_probability=0.25, smart_threshold=100, max_resolution=32)
        write_beton(tmp_path / f"{mode}.beton", source, options, workers=1)
        beton = open_beton(tmp_path / f"{mode}.beton")
        widths, heights = beton.image_sizes
        assert (set(widths), set(heights)) == ({24}, {32})
        modes[mode] = (beton.reader.metadata["f0"]["mode"] == 0).mean()  # 0 is JPEG
    assert (modes["raw"], modes["jpg"], modes["smart"]) == (0, 1, 1)
    assert 0.1 < modes["proportion"] < 0.4


def _png(path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path)
    return path
