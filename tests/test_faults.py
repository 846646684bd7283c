"""What goes wrong around the commands: full disks, lost mounts, clocks, damaged and hostile files."""

import contextlib
import errno
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.commands import (
    betons as make_betons,
)
from failure_directions.commands import (
    compare as compare_runs,
)
from failure_directions.commands import distil as train_svms
from failure_directions.commands import export, report
from failure_directions.commands import (
    index as make_index_files,
)
from failure_directions.commands import (
    intervene as make_intervention,
)
from failure_directions.commands import sparse as sparse_main
from failure_directions.commands import train as ffcv_main
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data import images
from failure_directions.data.beton_writer import ImageOptions, write_beton
from failure_directions.data.betons import Beton, open_beton
from failure_directions.data.extra_images import extra_images_split
from failure_directions.data.image_sources import ImageArrays, ImageFiles, manifest_sources, without_broken
from failure_directions.data.images import read_image
from failure_directions.data.index_files import load_index_file
from failure_directions.directions.galleries import StoredImages, SVMProcessor
from failure_directions.directions.results import OutputFiles
from failure_directions.interventions.comparison import load_run
from failure_directions.runtime.errors import LOST_STORAGE, UserError, entry_point
from failure_directions.runtime.pt_files import load_pt, save_pt
from failure_directions.sparse.feature_chunks import FeatureChunks
from failure_directions.svm_utils import SVMFitter
from failure_directions.training.evaluation import Predictions, save_predictions
from failure_directions.training.run_folders import latest_version
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType
from PIL import Image

import visualization_utils

ROOT = Path(__file__).resolve().parents[1]
LATENT = ROOT / "svm_configs" / "normalized_svm_latent_config.yaml"


@pytest.fixture(scope="module")
def result(scenes_folder, trained_run, tmp_path_factory):
    """A result on the penultimate features, with its attributes."""
    out = tmp_path_factory.mktemp("result") / "svm.pt"
    train_svms.main(
        words(
            *of_scenes(scenes_folder),
            "-s",
            LATENT,
            "--model-path",
            last(trained_run),
            "--jobs",
            1,
            "--unlabeled",
            "--spurious",
            "--out-file",
            out,
        )
    )
    return out


def words(*values):
    return [str(value) for value in values]


def of_scenes(folder):
    return "-c", folder / "config.yaml", "--root", folder, "--device", "cpu"


def last(run):
    return run / "checkpoints" / "checkpoint_last.pt"


def refusal(capsys, main, *arguments):
    """The one line that a command says as it ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words(*arguments))
    assert stop.value.code == 2
    lines = re.split(r"[\r\n]+", capsys.readouterr().err.strip())
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


# ---- killed


@pytest.mark.check
@pytest.mark.parametrize("stage", ["training", "training, by SIGTERM"])
def test_what_is_killed_and_called_again_ends_as_if_nothing_had_happened(tmp_path, stage):
    command = [sys.executable, "-m", "tests.trials.kill_trials", "--stages", stage, "--kills", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        words(*command, "--out", tmp_path / "out"), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"\| all +\| +\| +3 \| +\d \| +3 \|", found.stdout)


# ---- full disks and places that cannot be written


@pytest.fixture
def commands(scenes_folder, trained_run, result):
    """name -> (main, a function of a folder that gives the argv of a call that writes there)."""
    common = of_scenes(scenes_folder)
    model = ("--model-path", last(trained_run))
    scenes = ("scenes", "--train", 10, "--val", 5, "--test", 5, "--unlabeled", 0, "--workers", 2)
    return {
        "make_betons": (make_betons.main, lambda out: (*scenes, "--out", out)),
        "ffcv_main": (ffcv_main.main, lambda out: (*common, "--runs", out, "--exp-name", "x")),
        "train_svms": (
            train_svms.main,
            lambda out: (
                *common,
                *model,
                "-s",
                LATENT,
                "--jobs",
                1,
                "--cache",
                out / "cache",
                "--out-file",
                out / "x.pt",
            ),
        ),
        "sparse_main": (
            sparse_main.main,
            lambda out: (*common, *model, "--dataset", "beton", "-k", 3, "--out-path", out),
        ),
        "report": (visualization_utils.main, lambda out: ("--svm", result, "--report", out / "x.html")),
        "figures": (visualization_utils.main, lambda out: ("--svm", result, "--figures", out / "figures")),
        "make_intervention": (
            make_intervention.main,
            lambda out: ("add", "--svm", result, "--per-class", 2, "--out", out / "x.pt"),
        ),
        "compare_runs": (compare_runs.main, lambda out: (trained_run.parent, "--svm", result, "--out", out / "x")),
        "make_index_files": (
            make_index_files.main,
            lambda out: ("--beton", scenes_folder / "scenes_train.beton", "--out", out / "x.pt"),
        ),
    }


COMMANDS = [
    "make_betons",
    "ffcv_main",
    "train_svms",
    "sparse_main",
    "report",
    "figures",
    "make_intervention",
    "compare_runs",
    "make_index_files",
]


@contextlib.contextmanager
def full_disk(limit):
    """Inside, no file can grow beyond `limit` bytes: a disk that is full, for what pytest writes as well."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(commands, name, tmp_path, capsys):
    main, arguments = commands[name]
    arguments = arguments(tmp_path)
    with full_disk(200):
        sentence = refusal(capsys, main, *arguments)
    assert "the disk is full" in sentence
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["train_svms", "sparse_main", "report", "make_intervention", "compare_runs"])
def test_on_a_full_disk_an_earlier_result_stays_as_it_is(commands, name, tmp_path, capsys):
    main, arguments = commands[name]
    main(words(*arguments(tmp_path)))
    before = contents(tmp_path)
    with full_disk(200):
        assert "the disk is full" in refusal(capsys, main, *arguments(tmp_path))
    assert contents(tmp_path) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_is_told_before_any_work(commands, name, monkeypatch, tmp_path, capsys):
    main, arguments = commands[name]
    denied = os.access

    # Root may write anywhere, so that modes alone would not show it.
    def access(path, mode, **options):
        return denied(path, mode, **options) and not (mode == os.W_OK and str(path).startswith(str(tmp_path)))

    monkeypatch.setattr(os, "access", access)
    assert "is not a folder you may write to" in refusal(capsys, main, *arguments(tmp_path / "new"))
    assert os.listdir(tmp_path) == []


def test_a_page_of_a_beton_that_was_written_half_is_a_full_disk(monkeypatch, tmp_path, pixels):
    from ffcv import memory_allocator

    class Nearly(memory_allocator.MemoryAllocator):
        def flush_page(self):
            size, self.page_data = self.page_data, self.page_data[:-4096]  # as a raw write does, without an error
            super().flush_page()
            self.page_data = size

    monkeypatch.setattr("failure_directions.data.beton_writer.MemoryAllocator", Nearly)
    with pytest.raises(OSError, match="No space left"):
        write_beton(tmp_path / "x.beton", pixels, workers=1)
    assert os.listdir(tmp_path) == []


def test_a_worker_ends_with_the_process_that_it_writes_for(tmp_path):
    program = """
import os, sys, time
import numpy as np
from failure_directions.data.beton_writer import write_beton
class Source:
    def __len__(self): return 10**6
    def __getitem__(self, i):
        print(os.getpid(), flush=True)
        if i == 3: os.kill(os.getppid(), 9)
        time.sleep(0.01)
        return np.zeros((4, 4, 3), np.uint8), 0, None
write_beton(sys.argv[1], Source(), workers=1)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x.beton"], cwd=ROOT, capture_output=True, text=True
    )
    # The pipe closes when the last process that holds it has ended, so that it did.
    assert found.returncode == -9
    assert 4 <= len(found.stdout.split()) < 400


# ---- lost mounts


@pytest.mark.parametrize("number", LOST_STORAGE)
def test_a_mount_that_is_gone_is_no_broken_image(monkeypatch, tmp_path, capsys, number):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")

    def gone(*arguments, **options):
        raise OSError(number, os.strerror(number), str(tmp_path / "x.png"))

    monkeypatch.setattr(images.Image, "open", gone)
    source = ImageFiles([tmp_path / "x.png"], np.zeros(1, int), ["a"])
    with pytest.raises(OSError, match=os.strerror(number)):
        without_broken(source, workers=1)  # --skip-broken would leave all of them out
    assert "a disk does not answer" in refusal(capsys, entry_point(lambda argv: read_image(tmp_path / "x.png")))


def test_a_file_that_cannot_be_read_is_told_from_a_damaged_one(monkeypatch, tmp_path):
    save_pt({"a": 1}, tmp_path / "x.pt")

    def gone(*arguments, **options):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("builtins.open", gone)
    with pytest.raises(UserError, match=r"result .*x\.pt cannot be read \(Stale file handle\); check its disk"):
        load_pt(tmp_path / "x.pt", "result")


# ---- clocks


def test_of_two_versions_the_later_counts_whatever_the_clock_said(tmp_path):
    for version, pred in ((9, 0), (10, 1)):
        found = Predictions(np.arange(2), np.zeros(2, int), np.full(2, pred), np.ones(2, np.float32))
        path = tmp_path / f"version_{version}" / "predictions.pt"
        save_predictions(path, {"test": found}, 0, ["a", "b"])
        os.utime(path, (2e9 - version, 2e9 - version))
    assert load_run(tmp_path)[0]["preds"].tolist() == [1, 1]


def test_versions_are_told_by_their_number_whatever_else_lies_beside_them(tmp_path):
    for name in ("version_9", "version_10", "version_", "version_\N{SUPERSCRIPT TWO}", "version_-1", "11"):
        (tmp_path / name).mkdir()
    assert latest_version(tmp_path) == 10


def test_a_beton_is_known_by_its_content_and_not_by_its_date(pixels_beton, tmp_path):
    copy = Path(shutil.copy(pixels_beton, tmp_path))
    os.utime(copy, (1, 1))
    assert open_beton(copy).fingerprint == open_beton(pixels_beton).fingerprint


# ---- hostile .pt files


class Calls:
    """A pickle that calls a function as it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, compression=zipfile.ZIP_STORED, **records):
    """A torch file of {"train_indices": arange(4)} with other bytes in some records."""
    torch.save({"train_indices": torch.arange(4)}, path)
    with zipfile.ZipFile(path) as old:
        contents = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in contents.items():
            part = name.partition("/")[2].replace("/", "_").replace(".", "_")
            new.writestr(name, records.get(part, content))


def bomb(path):
    archive(path, zipfile.ZIP_DEFLATED, data_0=b"\0" * 10**8)


def laughs():
    nested = ["ha"]
    for _ in range(60):
        nested = [nested, nested]
    return nested


HOSTILE_PT = {
    "code": lambda path: torch.save({"x": Calls(os.system, "touch pwned")}, path),
    "code, as a plain pickle": lambda path: path.write_bytes(pickle.dumps(Calls(os.system, "touch pwned"), 2)),
    "ten billion bytes by a call that torch allows": lambda path: torch.save({"x": Calls(bytearray, 10**10)}, path),
    "the same in the old format": lambda path: torch.save(
        {"x": Calls(bytearray, 10**10)}, path, _use_new_zipfile_serialization=False
    ),
    "a zip bomb": bomb,
    "a trillion numbers of which one is stored": lambda path: torch.save(torch.zeros(1).expand(10**12), path),
    "a sparse tensor": lambda path: torch.save(torch.eye(3).to_sparse(), path),
    "a tensor without numbers": lambda path: torch.save(torch.zeros(10**6, 10**6, device="meta"), path),
    "a truncated archive": lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 100),
    "an endless nest": lambda path: path.write_bytes(b"\x80\x02" + b"]" * 100_000 + b"."),
    "laughs": lambda path: torch.save({"train_indices": laughs()}, path),
    "a list in itself": lambda path: torch.save((lambda own: own.append(own) or own)([]), path),
}


# Seen before anything is unpacked or made; all else "is not loaded".
REASONS = {
    "a zip bomb": "is compressed",
    "a trillion numbers of which one is stored": "is larger than the numbers stored for it",
    "a truncated archive": "is truncated",
    "an endless nest": "is truncated",
    "laughs": "train_indices is not",
    "a list in itself": "holds a list",
}


@pytest.mark.parametrize("what", HOSTILE_PT)
def test_a_hostile_pt_file_is_refused_for_what_it_is_and_runs_nothing(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    HOSTILE_PT[what](tmp_path / "x.pt")
    with pytest.raises(UserError, match=rf"index file .*x\.pt.* {REASONS.get(what, 'it is not loaded')}"):
        load_index_file(tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"]


def with_value(content, path, value):
    """A copy of nested dicts with another value at a path of keys."""
    key, *rest = path
    return {**content, key: with_value(content[key], rest, value) if rest else value}


DAMAGED_RESULTS = {
    "train_metrics/looks_like_values": [torch.zeros(3)],
    "train_metrics/looks_like": [torch.full((480,), 99)],
    "test_metrics/spuriouses": [torch.zeros(3, dtype=torch.int64), torch.zeros(320)],
    "test_metrics/hard_similarity": [torch.zeros(320)],
    "test_metrics/confs": [torch.full((320,), torch.nan)],
    "test_metrics/ytrue": [torch.full((320,), 7)],
    "test_metrics/preds": [torch.full((320,), -1)],
    "test_metrics/indices": [torch.tensor(3), torch.arange(320) * 10**12],
    "test_metrics/skipped_classes": [{"circle": "x"}, laughs()],
    "test_metrics": [torch.zeros(3)],
    "cv_scores": [torch.zeros(8, requires_grad=True), torch.zeros(8, dtype=torch.bfloat16)],
    "class_names": [["circle"] * 8, ["\ud800", *"abcdefg"]],
    "args": [laughs(), {"x": laughs()}],
    "args/root": [3],
    "dataset_config/train_beton": [["x"]],
    "dataset_config/minority": [{"circle": "red"}],
    "dataset_config/mean": [torch.zeros(3)],
    "svm_config/embedding": [None],
    "extra_indices": [torch.zeros(3)],
    "train_labels_digest": [5],
}


@pytest.mark.parametrize("place", DAMAGED_RESULTS)
def test_a_damaged_value_of_a_result_is_named(result, tmp_path, place):
    for value in DAMAGED_RESULTS[place]:
        torch.save(with_value(load_pt(result, "result"), place.split("/"), value), tmp_path / "x.pt")
        with pytest.raises(UserError, match=rf"x\.pt is (damaged|not an SVM result): .*{place.split('/')[0]}"):
            SVMProcessor(tmp_path / "x.pt")


DAMAGED_DIRECTIONS = {
    "mean": torch.zeros(3),
    "std": torch.zeros(64),
    "coef": None,
    "method": ["SVM"],
    "cv": "2",
    "skipped": {"x": 1},
    "svm_args": laughs(),
    "C": torch.zeros(8, requires_grad=True),
}


@pytest.mark.parametrize("key", DAMAGED_DIRECTIONS)
def test_damaged_directions_are_named(result, tmp_path, key):
    contents = load_pt(result.with_name("svm_model.pt"), "model")
    torch.save(contents | {key: DAMAGED_DIRECTIONS[key]}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt is (damaged|not an SVM model): "):
        SVMFitter.load(tmp_path / "x.pt")


DAMAGED_FEATURES = {
    "rows": ["many", [], [3, -1], [10**12]],
    "mean": [torch.zeros(3), torch.full((5,), torch.nan)],
    "std": [-torch.ones(5)],
    "dtype": ["object"],
    "dim": [4, None],
    "fingerprint": [3],
}


@pytest.mark.parametrize("key", DAMAGED_FEATURES)
def test_damaged_features_are_named(tmp_path, key):
    FeatureChunks.write(tmp_path / "f", [np.random.default_rng(0).normal(size=(20, 5))], "x", np.float32)
    meta = load_pt(tmp_path / "f" / "features.pt", "features")
    for value in DAMAGED_FEATURES[key]:
        torch.save(meta | {key: value}, tmp_path / "f" / "features.pt")
        with pytest.raises(UserError, match=r"does not describe features|is not the chunk that"):
            FeatureChunks.open(tmp_path / "f")


DAMAGED_CHECKPOINTS = {
    "run_metadata/epoch": "x",
    "run_metadata/seed": None,
    "run_metadata/config": laughs(),
    "training_state/optimizer": {},
    "training_state/optimizer/param_groups": [1],
    "training_state/optimizer/state": {0: {"momentum_buffer": torch.ones(3)}},
    "build_params/num_classes": 10**9,
}


@pytest.mark.parametrize("place", DAMAGED_CHECKPOINTS)
def test_a_damaged_checkpoint_is_not_resumed(scenes_folder, trained_run, tmp_path, place, capsys):
    folder = tmp_path / "x" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    damaged = with_value(load_pt(last(trained_run), "checkpoint"), place.split("/"), DAMAGED_CHECKPOINTS[place])
    torch.save(damaged, folder / "checkpoint_last.pt")
    refusal(
        capsys,
        ffcv_main.main,
        *of_scenes(scenes_folder),
        "--runs",
        tmp_path,
        "--exp-name",
        "x",
        "--resume",
        "--disable-logging",
        "--override",
        "training.epochs=9",
    )


# ---- hostile arrays


HOSTILE_LABELS = {
    "code": lambda path: np.save(path.open("wb"), np.array([Calls(os.system, "touch pwned")]), allow_pickle=True),
    "a pipe, which would be waited for": os.mkfifo,
    "none": lambda path: np.save(path, np.zeros(0, int)),
    "below 0": lambda path: np.save(path, np.full(9, -1)),
}


@pytest.mark.parametrize("what", HOSTILE_LABELS)
def test_labels_that_are_none_are_refused(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    HOSTILE_LABELS[what](tmp_path / "x.npy")
    sentence = refusal(capsys, make_index_files.main, "--labels", tmp_path / "x.npy", "--out", tmp_path / "x.pt")
    assert "x.npy" in sentence
    assert os.listdir(tmp_path) == ["x.npy"]


# ---- hostile betons


@pytest.fixture(scope="module")
def beton_bytes(pixels_beton):
    return pixels_beton.read_bytes()


def header_with(content, **values):
    header = np.frombuffer(content[: HeaderType.itemsize], HeaderType).copy()
    for name, value in values.items():
        header[name] = value
    return header.tobytes() + content[HeaderType.itemsize :]


def table_with(content, **values):
    start = int(np.frombuffer(content[: HeaderType.itemsize], HeaderType)["alloc_table_ptr"][0])
    table = np.frombuffer(content[start:], ALLOC_TABLE_TYPE).copy()
    for name, value in values.items():
        table[name][7] = value
    return content[:start] + table.tobytes()


def image_with(content, **values):
    start = HeaderType.itemsize + 4 * FieldDescType.itemsize
    kind = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
    image = np.frombuffer(content[start : start + kind.itemsize], kind).copy()
    for name, value in values.items():
        image[name] = value
    return content[:start] + image.tobytes() + content[start + kind.itemsize :]


HOSTILE_BETONS = {
    "10**18 examples": lambda content: header_with(content, num_samples=10**18),
    "65,535 fields": lambda content: header_with(content, num_fields=65_535),
    "pages of 2 GiB": lambda content: header_with(content, page_size=2**31),
    "pages of nothing": lambda content: header_with(content, page_size=0),
    "a table in the header": lambda content: header_with(content, alloc_table_ptr=1),
    "a block beyond the file": lambda content: table_with(content, size=10**9),
    "a block whose end overflows": lambda content: table_with(content, size=2**64 - 1),
    "a block that is larger than its image": lambda content: table_with(content, size=769),
    "an image that is larger than its block": lambda content: image_with(content, width=17),
    "an image of 4 billion pixels": lambda content: image_with(content, mode=0, width=65_535, height=65_535),
    "an image that lies nowhere": lambda content: image_with(content, data_ptr=5),
    "an image of an unknown kind": lambda content: image_with(content, mode=9),
}


@pytest.mark.parametrize("what", HOSTILE_BETONS)
def test_a_beton_that_lies_about_itself_is_refused(what, beton_bytes, tmp_path):
    (tmp_path / "x.beton").write_bytes(HOSTILE_BETONS[what](beton_bytes))
    with pytest.raises(UserError, match=r"x\.beton is truncated"):
        open_beton(tmp_path / "x.beton")


def test_any_bytes_in_the_tables_of_a_beton_are_refused_or_harmless(beton_bytes, tmp_path):
    rng = np.random.default_rng(0)
    table = int(np.frombuffer(beton_bytes[: HeaderType.itemsize], HeaderType)["alloc_table_ptr"][0])
    places = [*range(HeaderType.itemsize + 4 * FieldDescType.itemsize + 100), *range(table, len(beton_bytes))]
    path, opened = tmp_path / "x.beton", 0
    path.write_bytes(beton_bytes)
    with open(path, "r+b", buffering=0) as stream:
        for _ in range(300):
            changed = rng.choice(places, 3).tolist()
            for place in changed:
                stream.seek(place)
                stream.write(rng.bytes(1))
            try:
                images = StoredImages(open_beton(path))
                opened += 1
                assert all(images[i].shape == (16, 16, 3) for i in range(0, 90, 30))
            except UserError:
                pass
            for place in changed:
                stream.seek(place)
                stream.write(beton_bytes[place : place + 1])
    assert 0 < opened < 300


def test_an_image_that_no_page_can_hold_is_named(tmp_path):
    source = ImageArrays(np.zeros((1, 2000, 1500, 3), np.uint8), np.zeros(1, int), ["a"])
    with pytest.raises(
        UserError, match=r"image 0 has 1,500 x 2,000 pixels and takes more than the 8 MiB .* --max-resolution"
    ):
        write_beton(tmp_path / "x.beton", source, workers=1)


# ---- hostile images and manifests


def png_of(side, path):
    """A PNG of side x side black pixels, in a few KB."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj()
    row = b"\0" * (1 + side // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000])
def test_an_image_that_unpacks_to_gigabytes_is_refused(tmp_path, side):
    png_of(side, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 100_000
    with pytest.raises(UserError, match=r"image .*x\.png is too large .*pixels.*: scale it down"):
        read_image(tmp_path / "x.png")


def test_no_program_is_started_on_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **options: pytest.fail("Ghostscript was called"))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="is broken"):
        read_image(tmp_path / "x.png")


def test_what_is_no_file_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "x.png")  # which would be waited for
    with pytest.raises(UserError, match="is no ordinary file"):
        read_image(tmp_path / "x.png")
    os.symlink("/dev/zero", tmp_path / "y.png")
    with pytest.raises(UserError, match="is no ordinary file"):
        read_image(tmp_path / "y.png")


def test_a_number_of_thousands_of_digits_is_no_label(tmp_path):
    (tmp_path / "m.csv").write_text(f"path,label\na.png,0\nb.png,{'9' * 5000}\n")
    with pytest.raises(UserError, match=r"label is '9{80}' in some line"):
        manifest_sources(tmp_path / "m.csv")


def test_extra_images_of_other_splits_are_counted_as_they_are_left_out(scenes_folder, tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{i}.png")
    (tmp_path / "m.csv").write_text("path,label,split\n0.png,circle,train\n1.png,circle,val\n2.png,heart,val\n")
    config = load_dataset_config(scenes_folder / "config.yaml")
    assert len(extra_images_split(tmp_path / "m.csv", config, tmp_path / "x.beton")) == 1
    assert "left out: 2 of val" in capsys.readouterr().out


def test_extra_images_outside_of_class_folders_are_told_from_none(scenes_folder, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"has images, but not in class folders: lay them out"):
        extra_images_split(tmp_path, load_dataset_config(scenes_folder / "config.yaml"), tmp_path / "x.beton")


def test_a_config_whose_aliases_stand_for_billions_is_refused(tmp_path):
    lines = ["a0: &a0 [ha, ha, ha]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="its aliases stand for more than 1,000,000 words"):
        load_dataset_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("a: " + "x" * 5_000_000)
    with pytest.raises(UserError, match="larger than 4 MB"):
        load_dataset_config(tmp_path / "c.yaml")


@pytest.fixture
def jpeg_beton(pixels, tmp_path):
    """A function that writes a beton of JPEGs and gives its path, a byte within an image turned where asked."""

    def write(damaged=True):
        path = tmp_path / "x.beton"
        write_beton(path, pixels, ImageOptions("jpg"), workers=1)
        if damaged:
            with open(path, "r+b") as stream:
                stream.seek(int(open_beton(path).reader.metadata["f0"]["data_ptr"][40]) + 400)
                (byte,) = stream.read(1)
                stream.seek(-1, os.SEEK_CUR)
                stream.write(bytes([byte ^ 1]))
        return path

    return write


def test_a_jpeg_that_was_damaged_in_a_beton_is_noticed(jpeg_beton, monkeypatch):
    open_beton(jpeg_beton(damaged=False)).check_content(whole=True)
    beton = open_beton(jpeg_beton())
    with pytest.raises(UserError, match=r"beton .*x\.beton is damaged"):
        beton.check_content()
    monkeypatch.setattr(Beton, "is_small", False)
    beton.check_content()  # too large to be read without being asked
    with pytest.raises(UserError, match="is damaged"):
        beton.check_content(whole=True)


def test_a_checksum_is_one_of_sha256sum_and_goes_with_its_beton(jpeg_beton, pixels, tmp_path):
    path = jpeg_beton(damaged=False)
    checksum = tmp_path / "x.beton.sha256"
    found = subprocess.run(
        ["sha256sum", "-c", checksum.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.stdout == "x.beton: OK\n"
    write_beton(path, ImageArrays(pixels.images[::-1], pixels.labels, pixels.class_names), workers=1)
    open_beton(path).check_content(whole=True)
    checksum.write_text("what somebody noted\n")
    with pytest.raises(UserError, match=r"x\.beton\.sha256 is no checksum"):
        open_beton(path).check_content()
    checksum.unlink()
    open_beton(path).check_content()
    with pytest.raises(UserError, match="has no checksum beside it"):
        open_beton(path).check_content(whole=True)


@pytest.mark.parametrize("command", ["train", "distil", "sparse", "report"])
def test_commands_that_read_a_damaged_beton_say_so(scenes_folder, trained_run, result, tmp_path, capsys, command):
    data = tmp_path / "data"
    shutil.copytree(scenes_folder, data)
    with open(data / "scenes_test.beton", "r+b") as stream:
        stream.seek(int(open_beton(data / "scenes_test.beton").reader.metadata["f0"]["data_ptr"][3]))
        stream.write(b"\x80" * 40)
    model = ["--model-path", last(trained_run)]
    main, *options = {
        "train": (ffcv_main.main, *of_scenes(data), "--runs", tmp_path / "runs", "--exp-name", "x"),
        "distil": (train_svms.main, *of_scenes(data), "-s", LATENT, *model, "--out-file", tmp_path / "x.pt"),
        "sparse": (sparse_main.main, *of_scenes(data), "--dataset", "beton", *model, "--out-path", tmp_path / "x"),
        "report": (report.main, "--svm", result, "--root", data, "--report", tmp_path / "report.html"),
    }[command]
    assert "scenes_test.beton is damaged" in refusal(capsys, main, *options)
    assert os.listdir(tmp_path) == ["data"]


def test_neither_report_nor_export_nor_result_replaces_what_it_is_made_from(result, scenes_folder, trained_run, capsys):
    files = [path for path in OutputFiles(result).all() if path.exists()]
    assert len(files) > 4
    before = {path: path.read_bytes() for path in [*files, last(trained_run)]}
    for path in files:
        assert "would be written, but is read" in refusal(capsys, report.main, "--svm", result, "--report", path)
        assert "would be written, but is read" in refusal(capsys, export.main, "--to", "csv", "--svm", result, path)
    model = ["-s", LATENT, "--model-path", last(trained_run), "--out-file", last(trained_run)]
    assert "would be written, but is read" in refusal(capsys, train_svms.main, *of_scenes(scenes_folder), *model)
    assert {path: path.read_bytes() for path in before} == before


def test_betons_are_not_hidden_by_their_name(tmp_path, capsys):
    said = refusal(capsys, make_betons.main, "scenes", "--out", tmp_path / "out", "--name", "..")
    assert "'..' is not a plain name" in said
    assert os.listdir(tmp_path) == []
