"""What we change in ffcv is still needed: each test shows a fault as it is without the change.

Where one fails, ffcv or numba has moved on: see whether the change in src/data/ffcv_patches.py may go.
"""

import ast
import inspect
import json
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from failure_directions.data import ffcv_patches

ROOT = Path(__file__).resolve().parents[1]


def plain_ffcv(program, *words):
    """Run a program in which ffcv is as it comes."""
    words = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def printed(program, *words):
    found = plain_ffcv(program, *words)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@pytest.mark.parametrize(("package", "known"), [("ffcv", "1.0.2"), ("numba", "0.68")])
def test_the_changes_are_for_the_installed_versions(package, known):
    assert f"{package} {known}" in ffcv_patches.__doc__
    assert f"{version(package)}.".startswith(f"{known}."), (
        f"{package} {version(package)} is installed, and src/data/ffcv_patches.py is for {known}: see which tests of "
        "this file still pass, take away the changes of those that do not, and name the version in both files"
    )


def test_every_module_that_uses_ffcv_imports_the_changes_first():
    users = []
    for path in (ROOT / "src").rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        uses = [node.lineno for node in imports if (node.module or "").split(".")[0] == "ffcv"]
        if not uses or path.name == "ffcv_patches.py":
            continue
        users.append(path.stem)
        changes = [
            node.lineno
            for node in imports
            if "ffcv_patches" in f"{node.module}.{'.'.join(alias.name for alias in node.names)}".split(".")
        ]
        assert changes, f"{path} imports ffcv without ffcv_patches"
        assert min(changes) < min(uses), f"{path} imports ffcv before ffcv_patches"
    assert {"betons", "beton_writer", "loaders"} <= set(users)


def test_with_the_changes_torch_keeps_its_threads():
    program = """
import torch
torch.set_num_threads(3)
import failure_directions.data.betons
from ffcv.pipeline.compiler import Compiler
Compiler.set_num_threads(1)
print(torch.get_num_threads(), Compiler.num_threads)
"""
    assert printed(program) == ["3", "1"]


@pytest.fixture(scope="module")
def habits():
    """What ffcv does by itself, found in one process: importing it takes seconds."""
    program = """
import json
import torch
torch.set_num_threads(3)
import ffcv
found = {"threads after import": torch.get_num_threads()}
torch.set_num_threads(3)
from ffcv.fields.rgb_image import IMAGE_MODES
found["modes"] = [type(IMAGE_MODES).__module__, dict(IMAGE_MODES)]
from ffcv.memory_managers.os_cache import OSCacheManager
from ffcv.pipeline.compiler import Compiler
Compiler.set_num_threads(1)
found["threads after set_num_threads"] = torch.get_num_threads()
def make():
    return lambda x: x + 1
found["compiles equal code once"] = Compiler.compile(make()) is Compiler.compile(make())
import numba
shared = numba.uint8[::1]
found["mutable before"] = shared.mutable
OSCacheManager.state_type.fget(None)
found["mutable after"] = shared.mutable
print(json.dumps(found))
"""
    return json.loads(" ".join(printed(program)))


@pytest.mark.check
def test_without_them_it_loses_its_threads(habits):
    after = [habits["threads after import"], habits["threads after set_num_threads"]]
    assert after == [1, 1], "ffcv leaves torch's threads alone: `_set_decoding_threads` may go"


@pytest.mark.check
def test_without_them_numba_compiles_a_dict(habits):
    module, content = habits["modes"]
    assert module.startswith("numba"), "ffcv's dict is a plain one: `mock.patch` may go"
    program = """
import failure_directions.data.betons
from ffcv.fields.rgb_image import IMAGE_MODES
print(type(IMAGE_MODES).__name__, *IMAGE_MODES, *IMAGE_MODES.values())
"""
    assert printed(program) == ["dict", *content, *map(str, content.values())]


@pytest.mark.check
def test_without_them_equal_code_is_compiled_again(habits):
    assert not habits["compiles equal code once"], "ffcv compiles equal code once: `_compile_once` may go"


@pytest.mark.check
def test_without_them_numbas_shared_type_is_changed(habits):
    assert habits["mutable before"]
    assert not habits["mutable after"], "ffcv leaves the type alone: the line on `state_type` may go"


@pytest.mark.check
def test_without_them_the_same_seed_gives_other_crops(pixels_beton):
    program = """
import sys
import numpy as np
from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
def first_batch():
    pipelines = {"image": [RandomResizedCropRGBImageDecoder((8, 8))], "label": None, "index": None, "spurious": None}
    loader = Loader(sys.argv[1], 8, num_workers=1, order=OrderOption.SEQUENTIAL, seed=0, pipelines=pipelines)
    np.random.seed(0)
    return np.array(next(iter(loader))[0])
print(np.array_equal(first_batch(), first_batch()))
"""
    assert printed(program, pixels_beton) == ["False"], "crops can be seeded: `SeededRandomResizedCrop` may go"


@pytest.mark.check
def test_without_them_an_error_while_decoding_is_waited_for_forever(pixels_beton):
    program = """
import signal
import sys
from ffcv.loader import Loader
def fail(**_):
    raise RuntimeError("no such page")
loader = Loader(sys.argv[1], 8, num_workers=1, pipelines=dict.fromkeys(["image", "label", "spurious"]))
loader.code = ([(fail, [])], [])
batches = iter(loader)
signal.alarm(5)
next(batches)
"""
    found = plain_ffcv(program, pixels_beton)
    assert "no such page" in found.stderr
    assert found.returncode == -signal.SIGALRM, "the loop ends: `run` and `__next__` of `_Epoch` may go"


def test_without_them_the_decoding_thread_does_not_wait_for_copies_to_cuda():
    source = inspect.getsource(ffcv_patches.EpochIterator.run_pipeline)
    assert "cuda_event.wait()" in source, "ffcv waits otherwise: look whether `_Epoch.run_pipeline` may go"
    assert "synchronize" not in source, "the host waits: `_Epoch.run_pipeline` may go"
