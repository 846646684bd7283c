"""Does every bad input end in one sentence, exit code 2, and leave all files as they were? Real commands, real files.

    OMP_NUM_THREADS=1 python -m tests.trials.bad_inputs --out OUT

Every input file of every command is replaced in turn by what does not belong there: nothing, an empty file, a folder,
noise, half of it, a link to nowhere, an endless device, a pipe; and by files of the right kind that are wrong or
hostile. The command runs in a fork, in a folder that holds what an undisturbed call left there. It must end with exit
code 2 and one line on stderr that begins with "error: " and names the file, with no traceback, within a minute and
without much more memory than the undisturbed call, and the folder must be as before.

With --trials files places (as root, on Linux) also places: little memory, few open files, no shared memory, which may
end well or with the sentence; a disk too small for the output, after which the same call
with more room must end like an undisturbed one; mounts that are read-only; and mounts that vanish, and betons that
shrink, while a command runs, which may end well or with the sentence.

Prints every trial that failed as it ends, a Markdown table, and those that failed once more; leaves OUT/bad_inputs.csv,
a row a trial. Exits with 1 where one failed.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
import io
import itertools
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from failure_directions.commands import (
    betons,
    compare,
    distil,
    export,
    find,
    generate,
    index,
    interfaces,
    intervene,
    read_sparse,
    report,
    sparse,
    train,
)
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.pt_files import load_pt
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType
from tabulate import tabulate
from tqdm import tqdm

from tests.trials.kill_trials import check_same, check_whole, finals, import_everything, prepare, stages

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = (0.5,)  # of an undisturbed call's time, at which disks vanish
SECONDS = 60  # after which a command is said to hang
MEMORY = 700 << 10  # KB more than undisturbed that a command may take


@dataclass(frozen=True)
class Command:
    """A command to give bad inputs to.

    Attributes:
        main: its `main(argv)`.
        words: its argv but for the place of its output.
        output: a function of a folder that gives the argv that says to write there.
        inputs: role -> the path of the file that it reads.
        unread: what may be wrong with these because it does not look there; not tried.
    """

    main: Callable
    words: list
    output: Callable
    inputs: dict
    unread: tuple = ()

    def argv(self, out):
        return [str(word) for word in (*self.words, *self.output(out))]


def commands(data):
    """name -> `Command`, on what `prepare_all` leaves in the folder `data`."""
    common = ["-c", data / "config.yaml", "--root", data, "--device", "cpu"]
    checkpoint = data / "runs" / "base" / "version_0" / "checkpoints" / "checkpoint_last.pt"
    beton_files = {f"{split} beton": data / f"scenes_{split}.beton" for split in ("train", "val", "test")}
    of_model = {"dataset config": data / "config.yaml", **beton_files, "checkpoint": checkpoint}
    of_result = {"result": data / "svm.pt", "test beton": beton_files["test beton"]}
    of_text = ("text_encoder/model.safetensors", "tokenizer/tokenizer.json")
    of_images = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors")
    diffusion = {f"diffusion model's {file}": data / "diffusion" / file for file in (*of_images, *of_text)}
    encoder = {f"encoder root's {file}": data / "encoder" / file for file in ("classes.json", *of_text)}
    without_betons = ("a beton outside of its folder", "a beton that is /dev/zero", "a root that does not exist")
    return {
        "betons manifest": Command(
            betons.main,
            ["manifest", "--data", data / "images" / "manifest.csv", "--workers", 1],
            lambda out: ["--out", out],
            {"manifest": data / "images" / "manifest.csv", "image": data / "images" / "circle" / "00000001.png"},
        ),
        "betons folder": Command(
            betons.main,
            ["folder", "--data", data / "split_images", "--workers", 1],
            lambda out: ["--out", out],
            {"image": data / "split_images" / "train" / "circle" / "00000001.png"},
            ("missing", "a folder"),  # which are read as they are: fewer images, a folder more
        ),
        "ffcv_main": Command(
            train.main,
            [
                *common,
                "--indices-file",
                data / "index.pt",
                "--loss-vec-file",
                data / "weights.pt",
                "--finetune-from",
                checkpoint,
                "--extra-images",
                data / "images" / "extra.csv",
            ],
            lambda out: ["--runs", out, "--exp-name", "x"],
            {
                **of_model,
                "index file": data / "index.pt",
                "loss weights": data / "weights.pt",
                "extra images' manifest": data / "images" / "extra.csv",
                "extra image": data / "images" / "circle" / "00000001.png",
            },
        ),
        "train_svms": Command(
            distil.main,
            [
                *common,
                "-s",
                data / "svm.yaml",
                "--model-path",
                checkpoint,
                "--captions",
                data / "captions.yaml",
                "--jobs",
                1,
                "--spurious",
                "--unlabeled",
            ],
            lambda out: ["--cache", out / "cache", "--out-file", out / "svm.pt"],
            {
                **of_model,
                "unlabeled beton": data / "scenes_unlabeled.beton",
                "SVM config": data / "svm.yaml",
                "captions": data / "captions.yaml",
            },
            ("folds of 10^6",),  # no class has as many images: all are skipped, and the table says so
        ),
        "sparse_main": Command(
            sparse.main,
            [*common, "--dataset", "beton", "--model-path", checkpoint, "-k", 5],
            lambda out: ["--out-path", out],
            of_model,
        ),
        "report": Command(
            report.main,
            ["--svm", data / "svm.pt", "--compared", data / "compared", "--sparse", data / "sparse"],
            lambda out: ["--report", out / "report.html"],
            {
                "result": data / "svm.pt",
                "comparison": data / "compared.csv",
                "sparse path": data / "sparse" / "run.pt",
                "sparse features": data / "sparse" / "features" / "test" / "features.pt",
            },
            # Without the betons the report is one without images.
            ("a beton that is /dev/zero", "a root that does not exist"),
        ),
        "figures": Command(
            report.main,
            ["--svm", data / "svm.pt", "--rows", 1, "--columns", 2],
            lambda out: ["--figures", out / "figures"],
            of_result,
            ("class names that leave the folder",),  # their files are called by number
        ),
        "generate_images": Command(
            generate.main,
            [
                "--svm",
                data / "svm.pt",
                "--captions",
                "hard",
                "--model",
                data / "diffusion",
                "--steps",
                1,
                "--per-class",
                1,
                "--device",
                "cpu",
            ],
            lambda out: ["--out", out],
            {"result": data / "svm.pt", **diffusion},
            (
                "no test metrics",
                "a beton outside of its folder",
                "a beton that is /dev/zero",
                "a root that does not exist",
            ),
        ),
        "intervene add": Command(
            intervene.main,
            ["add", "--svm", data / "svm.pt", "--per-class", 2],
            lambda out: ["--out", out / "index.pt"],
            {"result": data / "svm.pt"},
            (
                "no test metrics",
                "class names that leave the folder",
                "a beton outside of its folder",
                "a beton that is /dev/zero",
                "a root that does not exist",
            ),
        ),
        "index": Command(
            index.main,
            ["--beton", beton_files["train beton"]],
            lambda out: ["--out", out / "index.pt"],
            {"train beton": beton_files["train beton"]},
            ("a label beyond the classes", "a negative label"),
        ),
        "index --labels": Command(
            index.main,
            ["--labels", data / "labels.npy"],
            lambda out: ["--out", out / "index.pt"],
            {"labels": data / "labels.npy"},
        ),
        "compare": Command(
            compare.main,
            [data / "runs" / "base", "--svm", data / "svm.pt"],
            lambda out: ["--out", out / "table"],
            {"result": data / "svm.pt", "predictions": data / "runs" / "base" / "version_0" / "predictions.pt"},
            (
                "class names that leave the folder",
                "a beton outside of its folder",
                "a beton that is /dev/zero",
                "a root that does not exist",
            ),
        ),
        "find": Command(
            find.main,
            [
                *("--images", data / "images" / "manifest.csv", "--model", checkpoint, "--embedding", "model"),
                # A pass with an image that is broken is kept, too.
                *("--image-size", 32, "--no-splits", "--device", "cpu", "--cache", data / "cache of find"),
            ],
            lambda out: ["--out", out / "found.pt", "--report", out / "report.html"],
            {
                "manifest": data / "images" / "manifest.csv",
                "image": data / "images" / "circle" / "00000001.png",
                "checkpoint": checkpoint,
            },
        ),
        "find, arrays": Command(
            find.main,
            ["--predictions", data / "predictions.csv", "--embeddings", data / "embeddings.npy"],
            lambda out: ["--out", out / "found.pt", "--report", out / "report.html"],
            {"table": data / "predictions.csv", "embeddings": data / "embeddings.npy"},
        ),
        "export csv": Command(
            export.main,
            ["--to", "csv", "--svm", data / "svm.pt"],
            lambda out: [out / "images.csv"],
            {"result": data / "svm.pt"},
            ("no test metrics", "class names that leave the folder", *without_betons),
        ),
        "export fiftyone": Command(
            export.main,
            ["--to", "fiftyone", "--svm", data / "svm.pt"],
            lambda out: [out / "images"],
            of_result,
            ("no test metrics", "class names that leave the folder"),
        ),
        "read-sparse": Command(
            read_sparse.main,
            ["misclassified", "--sparse", data / "sparse", "--device", "cpu"],
            lambda out: ["--out", out],
            {
                "sparse path": data / "sparse" / "run.pt",
                "sparse features": data / "sparse" / "features" / "test" / "features.pt",
                "checkpoint": checkpoint,
            },
        ),
        "interfaces learn": Command(
            interfaces.main,
            [
                *("learn", "--images", data / "photos", "--classes", "circle", "--steps", 1),
                *("--model", data / "diffusion", "--device", "cpu"),
            ],
            lambda out: ["--encoder-root", out / "encoder"],
            {"photo": sorted((data / "photos" / "circle").glob("*"))[0] if data.exists() else data, **diffusion},
            ("missing", "a folder"),  # one photo fewer
        ),
        "interfaces generate": Command(
            interfaces.main,
            [
                *("generate", "--encoder-root", data / "encoder", "--class", 0, "--prompt", "a <TOKEN> in the snow"),
                *("--num-samples", 1, "--steps", 1, "--model", data / "diffusion", "--device", "cpu"),
            ],
            lambda out: ["--out", out],
            {**encoder, **diffusion},
        ),
    }


# ---- bad files ------------------------------------------------------------------------------------------------------

# What is wrong -> a function of the path, at which nothing lies, and of the bytes that belong there.
ANY_KIND = {
    "missing": lambda path, good: None,
    "empty": lambda path, good: path.touch(),
    "a folder": lambda path, good: path.mkdir(),
    "noise": lambda path, good: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "zeros": lambda path, good: path.write_bytes(bytes(len(good))),
    "a link to nowhere": lambda path, good: path.symlink_to(path.with_name("nowhere")),
    "a link to itself": lambda path, good: path.symlink_to(path),
    "an endless device": lambda path, good: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, good: os.mkfifo(path),
}
CUT = {"cut in half": lambda path, good: path.write_bytes(good[: len(good) // 2])}


class Calls:
    """A pickle that calls a function as it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def of_torch(change):
    """A bad file that is `change` of what torch loads from the good one."""
    return lambda path, good: torch.save(change(torch.load(io.BytesIO(good), weights_only=True)), path)


def zip_bomb(path, good):
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(10**9) if name.endswith("/data/0") else old.read(name))


def laughs():
    nested = ["ha"]
    for _ in range(60):
        nested = [nested, nested]
    return nested


def put(*path, value):
    """A bad torch file: the good one with another value at a path of keys (without a value: without the key)."""

    def change(content):
        *above, key = path
        inner = content
        for step in above:
            inner = inner[step]
        inner.pop(key) if value is None else inner.update({key: value(inner[key]) if callable(value) else value})
        return content

    return of_torch(change)


TORCH = {
    "runs code": lambda path, good: torch.save({"x": Calls(os.system, f"touch {path}.ran")}, path),
    "a pickle that runs code": lambda path, good: path.write_bytes(pickle.dumps(Calls(os.system, f"touch {path}.ran"))),
    "asks for 10 GB": lambda path, good: torch.save({"x": Calls(bytearray, 10**10)}, path),
    "unpacks to 1 GB": zip_bomb,
    "a tensor of 10^12 numbers of which one is stored": of_torch(lambda _: torch.zeros(1).expand(10**12)),
    "2^60 words": of_torch(lambda _: laughs()),
    "another dict": of_torch(lambda _: {"a": 1}),
    "a number": of_torch(lambda _: 3),
}
CHECKPOINT = {
    "no weights": put("state_dict", value=None),
    "weights of another shape": put("state_dict", value=lambda state: {key: torch.ones(3) for key in state}),
    "a weight missing": put("state_dict", value=lambda state: dict(list(state.items())[1:])),
    "NaN weights": put(
        "state_dict",
        value=lambda state: {
            key: weight * torch.nan if weight.is_floating_point() else weight for key, weight in state.items()
        },
    ),
    "10^9 classes": put("build_params", "num_classes", value=10**9),
    "another architecture": put("build_params", "arch", value="../../etc"),
}
INDEX = {
    "index beyond the beton": put("train_indices", value=torch.tensor([10**6])),
    "negative index": put("train_indices", value=torch.tensor([-1])),
    "index twice": put("train_indices", value=torch.tensor([1, 1])),
    "no indices": put("train_indices", value=torch.zeros(0, dtype=torch.int64)),
    "floats": put("train_indices", value=torch.rand(3)),
    "two dimensions": put("train_indices", value=torch.zeros(2, 2, dtype=torch.int64)),
    "of another beton": put("train_labels_digest", value="0" * 32),
}
WEIGHTS = {
    "NaN": of_torch(lambda vector: vector * torch.nan),
    "negative": of_torch(lambda vector: -vector),
    "all 0": of_torch(lambda vector: vector * 0),
    "too short": of_torch(lambda vector: vector[:3]),
    "two dimensions": of_torch(lambda vector: vector[None]),
    "complex": of_torch(lambda vector: vector.to(torch.complex64)),
}
RESULT = {
    "no test metrics": put("test_metrics", value=None),
    "decision values of another length": put("test_metrics", "decision_values", value=torch.zeros(3)),
    "NaN scores": put("test_metrics", "confs", value=lambda confs: confs * torch.nan),
    "labels beyond the classes": put("test_metrics", "ytrue", value=lambda labels: labels + 99),
    "indices beyond the beton": put("test_metrics", "indices", value=lambda indices: indices + 10**9),
    "class names that are numbers": put("class_names", value=[1] * 8),
    "class names that leave the folder": put("class_names", value=[f"../../{i}" for i in range(8)]),
    "a beton outside of its folder": put("dataset_config", "test_beton", value="../" * 20 + "etc/passwd"),
    "a beton that is /dev/zero": put("dataset_config", "test_beton", value="/dev/zero"),
    "a root that does not exist": put("args", "root", value="/nowhere"),
    "laughs as arguments": put("args", value=laughs()),
    "a config of another kind": put("dataset_config", value=3),
}
PREDICTIONS = {
    "no seed": put("seed", value=None),
    "no test split": put("test", value=None),
    "columns of other lengths": put("test", "preds", value=torch.zeros(3, dtype=torch.int64)),
    "floats for classes": put("test", "preds", value=lambda preds: preds.float()),
    "of other images": put("test", "indices", value=lambda indices: indices + 5),
}


def of_yaml(**changes):
    return lambda path, good: path.write_text(yaml.safe_dump(yaml.safe_load(good) | changes))


def of_text(change):
    return lambda path, good: path.write_bytes(change(good))


YAML = {
    "UTF-16": of_text(lambda good: good.decode().encode("utf-16")),
    "a list": of_text(lambda good: b"- 1\n"),
    "a tag that runs code": of_text(lambda good: good + b"\nx: !!python/object/apply:os.system ['touch pwned']\n"),
    "aliases for 9^11 words": of_text(
        lambda good: (
            "a0: &a0 [ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
        ).encode()
    ),
    "unknown key": of_yaml(colour="red"),
    "5 MB": of_text(lambda good: good + b"#" * 5_000_000),
}
CONFIG = {
    "the same key twice": of_text(lambda good: good + b"\nimgsz: 40\n"),
    "0 pixels": of_yaml(imgsz=0),
    "10^9 pixels": of_yaml(imgsz=10**9),
    "half a class": of_yaml(num_classes=7.5),
    "one class fewer": of_yaml(num_classes=7),
    "10^9 classes": of_yaml(num_classes=10**9),
    "class name twice": of_yaml(class_names=["circle"] * 8),
    "batches of 0": of_yaml(batch_size=0),
    "batches of 10^12": of_yaml(batch_size=10**12),
    "NaN for the mean": of_yaml(mean=[float("nan")] * 3),
    "no spread": of_yaml(std=[0.0] * 3),
    "an unknown augmentation": of_yaml(train_aug="mirror"),
    "an architecture that is a path": of_yaml(arch="../../etc/passwd"),
    "a list for a path": of_yaml(test_beton=["x"]),
    "a beton that is /etc/passwd": of_yaml(test_beton="/etc/passwd"),
    "a beton that is a device": of_yaml(test_beton="/dev/zero"),
}
TRAINING = {
    "no epochs": of_yaml(training={"epochs": 0}),
    "a rate of NaN": of_yaml(training={"lr": float("nan")}),
    "a rate of 10^30": of_yaml(training={"lr": 1e30}),
}
SVM_CONFIG = {
    "another method": of_yaml(method="magic"),
    "another embedding": of_yaml(embedding="../x"),
    "a text for a truth value": of_yaml(whiten="perhaps"),
    "folds of 10^6": of_yaml(svm_args={"cv": 10**6}),
    "one fold": of_yaml(svm_args={"cv": 1}),
}
CAPTIONS = {
    "a class missing": of_text(lambda good: re.sub(rb"circle", b"ring", good)),
    "no classes": of_yaml(classes={}),
    "millions of captions": of_yaml(
        adjectives=[f"a{i}" for i in range(3000)], prepositions=[f"b{i}" for i in range(3000)]
    ),
}
MANIFEST = {
    "a column twice": of_text(lambda good: good.replace(b"path,label", b"path,label,label", 1)),
    "no column of labels": of_text(lambda good: good.replace(b"label", b"lable", 1)),
    "the header alone": of_text(lambda good: good.splitlines()[0] + b"\n"),
    "a path out of the folder": of_text(lambda good: good.replace(b"\ncircle/", b"\n../x.png,circle\ncircle/", 1)),
    "an absolute path": of_text(lambda good: good.replace(b"\ncircle/", b"\n/etc/passwd,circle\ncircle/", 1)),
    "an image that is not there": of_text(lambda good: good.replace(b"\ncircle/", b"\nnone.png,circle\ncircle/", 1)),
    "a folder for an image": of_text(lambda good: good.replace(b"\ncircle/", b"\ncircle,circle\ncircle/", 1)),
    "a label that is empty": of_text(lambda good: re.sub(rb"(png),circle", rb"\1,", good, count=1)),
    "null bytes": of_text(lambda good: good.replace(b"circle", b"cir\0cle")),
    "a number of 5,000 digits": of_text(lambda good: re.sub(rb"(png),\w+", rb"\1," + b"9" * 5000, good)),
    "a line too many cells": of_text(lambda good: good.replace(b"\n", b",1,2,3,4,5,6,7,8,9,10,11,12,13\n", 2)),
}
IMAGE = {
    "text": of_text(lambda good: b"not an image\n"),
    "a program for Ghostscript": of_text(lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    "a size of 10^9 pixels a side": of_text(lambda good: good[:16] + (10**9).to_bytes(4) * 2 + good[24:]),
}
LABELS = {
    "a pickle that runs code": lambda path, good: np.save(
        path.open("wb"), np.array([Calls(os.system, f"touch {path}.ran")]), allow_pickle=True
    ),
    "floats": lambda path, good: np.save(path.open("wb"), np.random.default_rng(0).random(9)),
    "two dimensions": lambda path, good: np.save(path.open("wb"), np.zeros((3, 3), int)),
    "negative": lambda path, good: np.save(path.open("wb"), np.full(9, -1)),
    "none": lambda path, good: np.save(path.open("wb"), np.zeros(0, int)),
    "10^15 of which nine are there": of_text(lambda good: re.sub(rb"\(\d+,\), \}", b"(10**15,), }", good)),
}
WEIGHTS_FILE = {
    "a header of 10^18 bytes": of_text(lambda good: (10**18).to_bytes(8, "little") + good[8:]),
    "a tensor beyond the file": of_text(lambda good: good[:-1000]),
}
JSON = {
    "a list": of_text(lambda good: b"[1]"),
    "names code": of_text(lambda good: b'{"_class_name": "os.system", "unet": ["os", "system"]}'),
}


def header_with(**values):
    def change(good):
        header = np.frombuffer(good[: HeaderType.itemsize], HeaderType).copy()
        for name, value in values.items():
            header[name] = value
        return header.tobytes() + good[HeaderType.itemsize :]

    return of_text(change)


def table_with(**values):
    def change(good):
        begin = int(np.frombuffer(good[: HeaderType.itemsize], HeaderType)["alloc_table_ptr"][0])
        table = np.frombuffer(good[begin:], ALLOC_TABLE_TYPE).copy()
        for name, value in values.items():
            table[name][7] = value
        return good[:begin] + table.tobytes()

    return of_text(change)


_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("place", "<u8")])
_METADATA = np.dtype([("image", _IMAGE), ("label", "<i8"), ("index", "<i8"), ("spurious", "<i8")], align=True)


def first_with(**values):
    """The beton with other values in its first example's metadata."""

    def change(good):
        begin = HeaderType.itemsize + 4 * FieldDescType.itemsize
        first = np.frombuffer(good[begin : begin + _METADATA.itemsize], _METADATA).copy()
        for name, value in values.items():
            (first["image"] if name in _IMAGE.names else first)[name] = value
        return good[:begin] + first.tobytes() + good[begin + _METADATA.itemsize :]

    return of_text(change)


BETON = {
    "10^18 examples": header_with(num_samples=10**18),
    "no examples": header_with(num_samples=0),
    "65,535 fields": header_with(num_fields=65_535),
    "pages of 2 GiB": header_with(page_size=2**31),
    "no pages": header_with(page_size=0),
    "a table in the header": header_with(alloc_table_ptr=1),
    "a table beyond the file": header_with(alloc_table_ptr=2**62),
    "a block beyond the file": table_with(size=10**9),
    "a block whose end overflows": table_with(size=2**64 - 1),
    "an image larger than its block": first_with(width=33),
    "4 billion pixels": first_with(mode=0, width=65_535, height=65_535),
    "an image that lies nowhere": first_with(place=5),
    "a label beyond the classes": first_with(label=99),
    "a negative label": first_with(label=-1),
    "an index that does not count": first_with(index=7),
    "one byte missing": of_text(lambda good: good[:-1]),
}
TABLE = {
    "UTF-16": of_text(lambda good: good.decode().encode("utf-16")),
    "a column missing": of_text(lambda good: good.replace(b"measure", b"masure", 1)),
    "text for numbers": of_text(lambda good: re.sub(rb"0\.\d+", b"many", good)),
}

_OF_MANIFESTS = ("no column of labels", "the header alone", "null bytes", "a label that is empty")
PREDICTED = {
    **{what: MANIFEST[what] for what in _OF_MANIFESTS},
    "predictions twice": of_text(lambda good: good.replace(b"path,label,pred", b"label,pred,pred", 1)),
    "no predictions": of_text(lambda good: good.replace(b",pred", b",prediction", 1)),
    "a split that is none": of_text(lambda good: good.replace(b"path,label,pred", b"split,label,pred", 1)),
    "a line twice as long": of_text(lambda good: re.sub(rb"circle(\r?\n)", rb"circle,1,2,3\1", good, count=1)),
    "a quotation mark that stays open": of_text(lambda good: re.sub(rb"circle(\r?\n)", rb'"circle\1', good, count=1)),
    "one class": of_text(lambda good: b"".join(line for line in good.splitlines(True) if b"heart" not in line)[:40]),
}


def of_array(change):
    return lambda path, good: np.save(path.open("wb"), change(np.load(io.BytesIO(good))))


EMBEDDINGS = {
    "a pickle that runs code": LABELS["a pickle that runs code"],
    "one dimension": of_array(lambda rows: rows[:, 0]),
    "no columns": of_array(lambda rows: rows[:, :0]),
    "a row fewer": of_array(lambda rows: rows[1:]),
    "NaN": of_array(lambda rows: np.where(rows > 1, np.nan, rows)),
    "infinity": of_array(lambda rows: np.where(rows > 1, np.inf, rows)),
    "words": of_array(lambda rows: rows.astype(str)),
    "complex": of_array(lambda rows: rows.astype(complex)),
    "10^15 of which few are there": of_text(lambda good: re.sub(rb"\(\d+, 8\), \}", b"(10**15, 8), }", good)),
    "a negative number of rows": of_text(lambda good: re.sub(rb"\((\d+), 8\)", rb"(-\1,8)", good)),
}
KINDS = {
    "checkpoint": TORCH | CUT | CHECKPOINT,
    "index file": TORCH | CUT | INDEX,
    "loss weights": TORCH | CUT | WEIGHTS,
    "result": TORCH | CUT | RESULT,
    "predictions": TORCH | CUT | PREDICTIONS,
    "sparse path": TORCH | CUT,
    "sparse features": TORCH | CUT,
    "dataset config": YAML | CONFIG,
    "SVM config": YAML | SVM_CONFIG,
    "captions": YAML | CAPTIONS,
    "manifest": MANIFEST,
    "extra images' manifest": MANIFEST,
    "image": CUT | IMAGE,
    "extra image": CUT | IMAGE,
    "labels": CUT | LABELS,
    "photo": CUT | IMAGE,
    "table": PREDICTED,
    "embeddings": CUT | EMBEDDINGS,
    "comparison": TABLE,
}


def bad_files(command, role, first_beton):
    """What is wrong -> how to make it, for an input of a command; of its betons the first alone is given everything."""
    if role.endswith("beton"):
        return ANY_KIND | CUT | (BETON if first_beton else {})
    if role.startswith(("diffusion", "encoder")):
        return ANY_KIND | CUT | (WEIGHTS_FILE if role.endswith("safetensors") else JSON)
    return ANY_KIND | KINDS[role] | (TRAINING if (command, role) == ("ffcv_main", "dataset config") else {})


# ---- trials ---------------------------------------------------------------------------------------------------------


def prepare_all(data):
    """What `kill_trials.prepare` makes, and the other files that `commands` reads."""
    prepare(data, list(stages(data)))
    for checksum in data.glob("*.sha256"):  # else it is what notices whatever is wrong with a beton
        checksum.unlink()
    shutil.copy(ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml", data / "svm.yaml")
    shutil.copy(ROOT / "src" / "captions" / "configs" / "scenes.yaml", data / "captions.yaml")
    labels = torch.arange(240) // 30
    torch.save(torch.ones(240), data / "weights.pt")
    np.save(data / "labels.npy", labels.numpy())
    torch.save(
        {
            "train_indices": torch.arange(240),
            "train_labels_digest": load_pt(data / "svm.pt", "result")["train_labels_digest"],
        },
        data / "index.pt",
    )
    shutil.copytree(data / "generated", data / "images", ignore=shutil.ignore_patterns("*.yaml", "attempts.csv"))
    names = sorted(str(path.relative_to(data / "images")) for path in (data / "images").rglob("*.png"))
    for file, split in (("manifest.csv", True), ("extra.csv", False)):
        rows = [[name, name.partition("/")[0]] + [("train", "test")[i % 2]] * split for i, name in enumerate(names)]
        write_csv(data / "images" / file, ["path", "label", "split"][: 2 + split], rows)
    for split in ("train", "test"):
        shutil.copytree(data / "images", data / "split_images" / split, ignore=shutil.ignore_patterns("*.csv"))
    rng = np.random.default_rng(0)
    true = np.repeat(["circle", "heart"], 60)
    table = zip(map("{}.png".format, range(120)), true, np.where(rng.random(120) < 0.2, true[::-1], true), strict=True)
    write_csv(data / "predictions.csv", ["path", "label", "pred"], table)
    np.save(data / "embeddings.npy", rng.normal(size=(120, 8)))
    learn = ["learn", "--images", data / "photos", "--classes", "circle", "--steps", 1, "--device", "cpu"]
    learn += ["--model", data / "diffusion", "--encoder-root", data / "encoder"]
    call(interfaces.main, [str(word) for word in learn], data)
    every = commands(data)
    for name, out in (("compare", data), ("sparse_main", data / "sparse")):
        words = every[name].argv(out)
        call(every[name].main, [word.replace(str(data / "table"), str(data / "compared")) for word in words], data)


@dataclass(frozen=True)
class Outcome:
    """How a call ended: exit code (negative: a signal, None: it hung), its stderr, the most memory it had (KB)."""

    code: int | None
    stderr: str
    memory: int

    def problem(self, most_memory=None):
        """What is wrong with it as the end of a call with bad input; "" where nothing is."""
        errors = [line for line in re.split(r"[\r\n]+", self.stderr) if line.startswith("error: ")]
        if self.code is None:
            return f"hung for {SECONDS} s"
        if self.code != 2:
            return f"exit code {self.code}: {self.stderr.strip()[-300:]}"
        if "Traceback" in self.stderr or len(errors) != 1 or len(errors[0]) > 1000:
            return f"not one sentence: {self.stderr.strip()[-300:]}"
        if most_memory and self.memory > most_memory:
            return f"took {self.memory >> 10} MB"
        return ""


def call(main, words, folder, during=None, after=0.0, tmp=None, first=None):
    """Run a command in a fork, in a process group of its own, to its end.

    Args:
        during: called once, `after` seconds after the start. tmp: the command's TMPDIR.
        first: called in the fork before the command, such as to take something away from it.
    """
    log = folder / "stderr.txt"
    log.unlink(missing_ok=True)
    sys.stdout.flush()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(folder / "stdout.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
            if tmp:
                os.environ["TMPDIR"], tempfile.tempdir = str(tmp), None
            if first:
                first()
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    began = time.monotonic()
    done = 0
    while not done and time.monotonic() < began + SECONDS:
        time.sleep(0.005)
        if during and time.monotonic() > began + after:
            during = during()
        done, status, usage = os.wait4(process, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # it hangs, or joblib's workers wait for more
    if not done:
        os.wait4(process, 0)
    code = os.waitstatus_to_exitcode(status) if done else None
    return Outcome(code, log.read_text(errors="replace"), usage.ru_maxrss)


def state(folder):
    """The files in a folder and what is in them: path -> digest, None for a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


def try_bad_files(data, out, wanted):
    """Give every bad file to every command. Yields a dict a trial."""
    for name, command in commands(data).items():
        if not re.search(wanted, name):
            continue
        folder = out / name.replace(" ", "_")
        folder.mkdir(parents=True)
        good = call(command.main, command.argv(folder / "out"), folder)
        if good.code:
            raise RuntimeError(f"{name} fails undisturbed: {good.stderr[-2000:]}")
        # With what they make there already, they would not look at their inputs.
        if name in ("generate_images", "export fiftyone", "interfaces learn"):
            shutil.rmtree(folder / "out")
            (folder / "out").mkdir()
        before = state(folder / "out")
        first_beton = next((role for role in command.inputs if role.endswith("beton")), None)
        trials = [
            (role, what, make)
            for role in command.inputs
            for what, make in bad_files(name, role, role == first_beton).items()
            if what not in command.unread
        ]
        for role, what, make in tqdm(trials, desc=name, unit="trial", disable=None):
            path = command.inputs[role]
            kept = path.with_name(f"{path.name}.kept")
            path.rename(kept)
            try:
                make(path, kept.read_bytes())
                found = call(command.main, command.argv(folder / "out"), folder)
                problem = found.problem(good.memory + MEMORY)
                named = f"beton|class|image|run|{path.parent.name} of|{path.name}|{role.split()[-1]}"
                if not problem and not re.search(named, found.stderr):
                    problem = f"the sentence does not name it: {found.stderr.strip()[-300:]}"
                if Path(f"{path}.ran").exists() or Path("pwned").exists():
                    problem = "RAN CODE"
            finally:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
                kept.rename(path)
            after = state(folder / "out")
            if not problem and after != before:
                changed = [file for file in {**before, **after} if before.get(file, 0) != after.get(file, 0)]
                problem = f"changed {', '.join(changed[:5])}"
            before = after
            yield {
                "command": name,
                "input": role,
                "what": what,
                "said": found.stderr.strip()[-1000:],
                "problem": problem,
            }


# ---- places ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder, options):
    """An empty file system of memory on a folder, with these options of mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, options)
    try:
        yield folder
    finally:
        unmount(folder)


def mount(folder, options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)


def unmount(folder):
    """Take a mount away, in use or not; that there is none is no error."""
    subprocess.run(["umount", "-l", folder], stderr=subprocess.DEVNULL, check=False)


def limit_memory(room):
    """Let this process have `room` MB of address space more than it has by now: `ulimit -v`."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + (room << 20),) * 2)


def without_shared_memory():
    """Take /dev/shm away from this process and its children alone, by a mount of their own that cannot be written."""
    new_mounts = 0x20000  # CLONE_NEWNS
    if ctypes.CDLL(None, use_errno=True).unshare(new_mounts):
        raise OSError(ctypes.get_errno(), "no mounts of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "/dev/shm"], check=True)


def try_places(data, out, wanted):
    """Take the disk away from every command, in every way. Yields a dict a trial."""
    for name, command in commands(data).items():
        if not re.search(wanted, name):
            continue
        folder = out / f"{name} places".replace(" ", "_")
        folder.mkdir(parents=True)
        began = time.monotonic()
        good = call(command.main, command.argv(folder / "good"), folder)
        seconds = time.monotonic() - began
        if good.code:
            raise RuntimeError(f"{name} fails undisturbed: {good.stderr[-2000:]}")
        needed = sum(path.stat().st_blocks * 512 for path in (folder / "good").rglob("*"))
        for role, what, trial in places(command, data, folder, needed, seconds):
            try:
                found, problem = trial()
            except AssertionError as error:
                found, problem = None, str(error)
            yield {
                "command": name,
                "input": role,
                "what": what,
                "said": found.stderr.strip()[-1000:] if found else "",
                "problem": problem,
            }


def places(command, data, folder, needed, seconds):
    """Triples: what is bad, how, and a function that tries it and gives its `Outcome` and the problem with it."""
    run = functools.partial(call, command.main, folder=folder)

    def full(share):
        with mounted(folder / "small", f"size={max(4096, int(share * needed))}") as disk:
            found = run(command.argv(disk / "out"))
            if found.code == 0:  # it is so small that it went in
                check_same(disk / "out", folder / "good")
                return found, ""
            said = re.search("the disk is full|free some space", found.stderr)
            problem = found.problem() or ("" if said else f"said: {found.stderr.strip()}")
            for path in finals(disk):
                if command.main is not train.main:  # whose checkpoints are written anew each epoch
                    check_whole(path, folder / "good" / path.relative_to(disk / "out"))
            mount_again = ["mount", "-o", f"remount,size={10 * needed + 2**26}", disk]
            subprocess.run(mount_again, check=True)
            again = run(command.argv(disk / "out"))
            assert again.code == 0, f"with more room: {again.stderr.strip()[-300:]}"
            if command.main is not train.main:  # which begins another version
                check_same(disk / "out", folder / "good")
        return found, problem

    def no_room_for_temporary_files():
        with mounted(folder / "tmp", "size=4096") as tmp:
            (tmp / "x").write_bytes(bytes(4096))
            found = run(command.argv(folder / "with_full_tmp"), tmp=tmp)
        return found, "" if found.code == 0 else found.problem()

    def read_only():
        with mounted(folder / "fixed", "ro") as disk:
            found = run(command.argv(disk / "out"))
        return found, found.problem()

    def read_only_inputs():
        subprocess.run(["mount", "--bind", data, data], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", data], check=True)
        try:
            found = run(command.argv(folder / "from_fixed"))
        finally:
            unmount(data)
        assert found.code == 0, found.stderr.strip()[-300:]
        check_same(folder / "from_fixed", folder / "good")
        return found, ""

    def ended(found):
        return found, "" if found.code == 0 else found.problem()

    def output_vanishes(moment):
        with mounted(folder / "leaving", "size=1g") as disk:
            return ended(run(command.argv(disk / "out"), during=lambda: unmount(disk), after=moment))

    def inputs_vanish(moment):
        try:
            outcome = run(command.argv(folder / f"vanish_{moment}"), during=lambda: mount(data, "ro"), after=moment)
        finally:
            unmount(data)
        return ended(outcome)

    def betons_shrink(moment):
        kept = {path: path.read_bytes() for role, path in command.inputs.items() if role.endswith("beton")}

        def shrink():
            for path in kept:
                os.truncate(path, 5000)

        try:
            return ended(run(command.argv(folder / f"shrink_{moment}"), during=shrink, after=moment))
        finally:
            for path, content in kept.items():
                path.write_bytes(content)

    def two_at_once():
        argv, beside = command.argv(folder / "both"), folder / "beside"
        beside.mkdir()
        found = []
        found.append(run(argv, during=lambda: found.append(call(command.main, argv, beside)), after=0.3 * seconds))
        for version in (0, 1):
            check_same(folder / "both" / "x" / f"version_{version}", folder / "good" / "x" / "version_0")
        return found[-1], "".join(outcome.stderr for outcome in found if outcome.code)

    def short_of(what, first):
        """Something is taken away: it ends like an undisturbed call, or with the sentence and leaves nothing."""
        out = folder / what.replace(" ", "_").replace("/", "_")
        found = run(command.argv(out), first=first)
        if found.code == 0 and command.main is not train.main:
            check_same(out, folder / "good")
        left = [path.name for path in finals(out)] if found.code and out.exists() else []
        return found, ended(found)[1] or (f"left {left[:5]}" if left and command.main is not train.main else "")

    for what, first in (
        *((f"{room} MB of memory more", functools.partial(limit_memory, room)) for room in (20, 100, 300)),
        ("64 open files", functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64))),
        ("no /dev/shm", without_shared_memory),
    ):
        yield "the process", what, functools.partial(short_of, what, first)
    for share in (0, 0.5):
        yield "output on a full disk", f"{share:.0%} of the room", functools.partial(full, share)
    yield "TMPDIR", "full", no_room_for_temporary_files
    yield "output", "on a read-only mount", read_only
    yield "inputs", "on a read-only mount", read_only_inputs
    if command.main is train.main:
        yield "--exp-name", "that of a run that is under way", two_at_once
    for at in MOMENTS:
        moment = at * seconds
        yield "output", f"its mount vanishes at {at:.0%} of the time", functools.partial(output_vanishes, moment)
        yield "inputs", f"their mount vanishes at {at:.0%}", functools.partial(inputs_vanish, moment)
        if any(role.endswith("beton") for role in command.inputs):
            yield "betons", f"cut to 5,000 bytes at {at:.0%}", functools.partial(betons_shrink, moment)


TRIALS = {"files": try_bad_files, "places": try_places}


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default="", metavar="REGEX", help="those to try, by their names (default: all)")
    parser.add_argument(
        "--trials",
        nargs="+",
        choices=TRIALS,
        default=["files"],
        help="bad files, or bad places, which takes root and mounts (default: files)",
    )
    parser.add_argument("--out", required=True, help="folder for everything; must not exist")
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    if out.exists():
        raise UserError(f"--out {out} exists; name a new folder")
    torch.set_num_threads(1)
    import_everything()
    prepare_all(out / "data")
    rows = []
    for row in itertools.chain(*(TRIALS[kind](out / "data", out, args.commands) for kind in args.trials)):
        rows.append(row)
        if row["problem"]:
            print(described(row), flush=True)
        write_csv(out / "bad_inputs.csv", rows[0], [row.values() for row in rows])
    print(summary(rows))
    failed = [row for row in rows if row["problem"]]
    print(*map(described, failed), sep="\n")  # last, where the end of a long log shows them
    sys.exit(bool(failed))


def described(row):
    """A trial that failed, in one line."""
    return f"{row['command']}, {row['input']}, {row['what']}: {row['problem']}"


def summary(rows):
    """The trials as a Markdown table: a row for what was wrong with which input."""
    lines = []
    for role in dict.fromkeys(row["input"] for row in rows):
        own = [row for row in rows if row["input"] == role]
        whats = list(dict.fromkeys(row["what"] for row in own))
        names = list(dict.fromkeys(row["command"] for row in own))
        good = sum(not row["problem"] for row in own)
        lines.append([role, "; ".join(whats), ", ".join(names), len(own), good])
    lines.append(["all", "", "", sum(line[3] for line in lines), sum(line[4] for line in lines)])
    return tabulate(lines, ["input", "what was wrong with it", "commands", "trials", "as they should"], "github")


if __name__ == "__main__":
    main()
