"""Two processes, as torchrun starts them, against one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.commands import distil as train_svms
from failure_directions.commands import train as ffcv_main
from failure_directions.config_parsing import DatasetConfig
from failure_directions.data.betons import open_beton
from failure_directions.data.scenes import SceneSetting, make_split
from failure_directions.data.splits import Split
from failure_directions.loaders import make_loader
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.runtime.pt_files import load_pt, save_pt
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LATENT = str(ROOT / "svm_configs" / "normalized_svm_latent_config.yaml")
SHORT = ["--override", "training.epochs=3", "--override", "training.lr_scheduler.lr_peak_epoch=1", "--disable-logging"]

# Each command runs in a fork of each of torchrun's processes, so that torch is imported once.
WORKER = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
from failure_directions.commands import distil, train
from failure_directions.runtime.errors import UserError
from failure_directions.training.trainer import Trainer

def second_epoch_fails(rank):
    def train_epoch(trainer, model, optimizer, scaler, epoch, real=Trainer._train_epoch):
        if epoch == 1 and os.environ["RANK"] == rank:
            raise UserError("this is told once")
        return real(trainer, model, optimizer, scaler, epoch)
    Trainer._train_epoch = train_epoch

def own_keys(name):
    def rendezvous(url, real=dist.rendezvous):
        store, rank, size = next(real(url))
        yield dist.PrefixStore(name, store), rank, size
    dist.rendezvous = rendezvous

folder, codes = Path(sys.argv[1]), {}
for name, command, words, fails in json.loads((folder / "commands.json").read_text()):
    child = os.fork()
    if child == 0:
        own_keys(name)
        for stream in (1, 2):
            where = folder / f"{name}.{os.environ['RANK']}.{('out', 'err')[stream - 1]}"
            os.dup2(os.open(where, os.O_WRONLY | os.O_CREAT), stream)
        if fails:
            second_epoch_fails(fails)
        code = 0
        try:
            {"ffcv_main": train, "train_svms": distil}[command].main(words)
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
        os._exit(code)
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
(folder / f"codes.{os.environ['RANK']}.json").write_text(json.dumps(codes))
"""


CPU = torch.device("cpu")


@pytest.fixture
def loaders(pixels_beton, monkeypatch):
    """A function that makes the loader of each of some processes, of 45 examples in batches of 12."""
    split = Split("train", open_beton(pixels_beton), np.arange(0, 90, 2))
    names = {"arch": "resnet10thin", "arch_type": "cifar_resnet", "train_beton": "a", "test_beton": "b"}

    def make(processes, train, **options):
        config = DatasetConfig(num_classes=3, imgsz=16, batch_size=12, train_aug="cifar_train_aug", **names, **options)
        for rank in range(processes):
            for name, value in (("is_initialized", True), ("get_rank", rank), ("get_world_size", processes)):
                monkeypatch.setattr(f"torch.distributed.{name}", lambda *_, value=value: value)
            yield list(make_loader(split, config, CPU, train=train, seed=4))

    return make


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_out_every_training_batch(loaders, processes):
    (one,) = loaders(1, train=True, drop_last=False)
    images = {int(i): image for batch in one for i, image in zip(batch.index, batch.image, strict=True)}
    shares = list(loaders(processes, train=True, drop_last=False))
    for step, parts in enumerate(zip(*shares, strict=True)):
        assert len({len(part.index) for part in parts}) == 1
        together = torch.cat([part.index for part in parts]).tolist()
        assert len(set(together)) == 12 if step < 3 else len(together) >= 9
        for part in parts:
            for i, image in zip(part.index, part.image, strict=True):
                assert torch.equal(image, images[int(i)])
    seen = torch.cat([batch.index for share in shares for batch in share]).tolist()
    assert set(seen) == set(images)
    assert len(seen) < 45 + processes
    assert [len(share) for share in loaders(processes, train=True, drop_last=True)] == [3] * processes


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_evaluate_the_batches_of_a_single_one(loaders, processes):
    (one,) = loaders(1, train=False)
    together = [batch for share in loaders(processes, train=False) for batch in share]
    assert len(one) == 4
    for expected, batch in zip(one, together, strict=True):
        assert torch.equal(batch.index, expected.index)
        assert torch.equal(batch.image, expected.image)


def torchrun(*words, processes=2, **options):
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder CLASS/*.png of 8 extra images."""
    folder = tmp_path_factory.mktemp("drawn")
    source = make_split(SceneSetting(train=5, seed=9), "train")
    for name, count in (("circle", 5), ("heart", 3)):
        (folder / name).mkdir()
        for i in np.flatnonzero(source.shape == name)[:count]:
            Image.fromarray(source[i][0]).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def words(scenes_folder, trained_run, drawn, tmp_path_factory):
    """Commands by name, as functions of the number of processes that will run them."""
    folder = tmp_path_factory.mktemp("words")
    save_pt(torch.rand(480, generator=torch.Generator().manual_seed(0)), folder / "weights.pt")
    (folder / "broken" / "circle").mkdir(parents=True)
    (folder / "broken" / "circle" / "a.png").write_bytes(b"no image")
    checkpoint = trained_run / "checkpoints" / "checkpoint_last.pt"
    data = ["-c", scenes_folder / "config.yaml", "--root", scenes_folder]
    more = ["--extra-images", drawn, "--loss-vec-file", folder / "weights.pt", "--extra-weight", 2]

    def train(name, *words):
        return lambda out: [*data, "--runs", out / "runs", "--exp-name", name, *SHORT, *words]

    def svms(out):
        where = ["--model-path", checkpoint, "--cache", out / "cache", "--out-file", out / "svm.pt", "--jobs", 1]
        return [*data, "-s", LATENT, "--unlabeled", *where]

    return {
        "frozen": train("frozen", "--finetune-from", checkpoint, "--freeze", *more),
        "whole": train("whole", *more),
        "resumed": train("whole", *more, "--resume"),
        "uneven": train("uneven", "--override", "batch_size=63"),
        "broken": train("broken", "--extra-images", folder / "broken"),
        "svms": svms,
    }


@pytest.fixture(scope="module")
def together(words, tmp_path_factory):
    """The folder of what two processes made: runs, SVMs, and of each command, codes and what each process said."""
    out = tmp_path_factory.mktemp("together")
    order = {"frozen": None, "whole": "1", "resumed": None, "uneven": None, "broken": None, "svms": None}
    commands = [(name, command(name), [str(word) for word in words[name](out)], fails) for name, fails in order.items()]
    (out / "commands.json").write_text(json.dumps(commands))
    (out / "worker.py").write_text(WORKER)
    done = torchrun(out / "worker.py", out, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


def command(name):
    return "train_svms" if name == "svms" else "ffcv_main"


def alone(words, name, out):
    {"ffcv_main": ffcv_main, "train_svms": train_svms}[command(name)].main([str(word) for word in words[name](out)])


def said(out, name):
    """Exit codes and what was said on stderr, of rank 0 and of rank 1."""
    codes = [json.loads((out / f"codes.{rank}.json").read_text())[name] for rank in (0, 1)]
    return codes, [(out / f"{name}.{rank}.err").read_text() for rank in (0, 1)]


def assert_same(one, other):
    """Equal dicts of tensors and numbers, to the last bit; NaN where the other has NaN."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[key])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for part, counterpart in zip(value, other[key], strict=True):
                assert_same(part, counterpart)
        elif isinstance(value, torch.Tensor):
            np.testing.assert_array_equal(value, other[key])
        else:
            np.testing.assert_equal(value, other[key])


def test_a_frozen_training_gives_the_same_layer_with_two_processes(words, together, trained_run, tmp_path):
    """Without BatchNorm and augmentation the mean of two half batches' gradients is that of the whole batch."""
    alone(words, "frozen", tmp_path)
    path = "runs/frozen/version_0/checkpoints/checkpoint_last.pt"
    one, two = (load_checkpoint(folder / path).model.state_dict() for folder in (tmp_path, together))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5)
    before = load_checkpoint(trained_run / "checkpoints" / "checkpoint_last.pt").model.state_dict()
    assert (one["fc.weight"] - before["fc.weight"]).abs().max() > 0.01


def test_an_error_of_one_process_ends_both_and_is_told_once(together):
    codes, errors = said(together, "whole")
    assert codes == [2, 2]
    assert errors == ["", "error: this is told once\n"]
    codes, errors = said(together, "broken")  # found by rank 0, while the other waits for the extra images
    assert codes == [2, 2]
    assert re.fullmatch(r"error: [^\n]*a\.png is broken[^\n]*\n", errors[0])
    assert errors[1] == ""
    assert not (together / "runs" / "broken").exists()


def test_an_error_of_every_process_is_told_once(together):
    codes, errors = said(together, "uneven")
    assert codes == [2, 2]
    assert sorted(errors) == [
        "",
        "error: a batch_size of 63 can't be shared out equally among 2 processes: set it to a multiple, or start "
        "another number of processes\n",
    ]
    assert not (together / "runs" / "uneven").exists()


def test_a_training_is_resumed_by_two_processes_of_which_one_speaks_and_writes(together):
    codes, _ = said(together, "resumed")
    assert codes == [0, 0]
    assert "run: " in (together / "resumed.0.out").read_text()
    assert (together / "resumed.1.out").read_text() == ""
    assert [path.name for path in (together / "runs" / "whole").iterdir()] == ["version_0"]
    checkpoint = load_checkpoint(together / "runs" / "whole" / "version_0" / "checkpoints" / "checkpoint_last.pt")
    assert checkpoint.run_metadata["epoch"] == 3
    assert not any(name.startswith("module.") for name in checkpoint.model.state_dict())


def test_two_processes_predict_what_one_does(words, together):
    """A run that is resumed after its last epoch is evaluated again: here by one process."""
    folder = together / "runs" / "whole" / "version_0"
    two = {name: load_pt(folder / name, "result") for name in ("predictions.pt", "metrics.pt")}
    for name in two:
        (folder / name).unlink()
    alone(words, "resumed", together)
    for name, content in two.items():
        assert_same(content, load_pt(folder / name, "result"))


def test_two_processes_find_the_directions_that_one_does(words, together, tmp_path):
    alone(words, "svms", tmp_path)
    for path in ("svm.pt", "svm_model.pt"):
        one, two = (load_pt(folder / path, "result") for folder in (tmp_path, together))
        for content in (one, two):
            content.pop("args", None)
            content.pop("environment", None)
        assert_same(one, two)
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len([name for name in names if not name.endswith(".json")]) == 8
    assert sorted(path.name for path in (together / "cache").iterdir()) == names
    for name in names:
        assert (tmp_path / "cache" / name).read_bytes() == (together / "cache" / name).read_bytes()


def test_torchrun_of_the_entry_script_fails_as_it_does(scenes_folder, tmp_path):
    words = ["ffcv_main.py", "-c", scenes_folder / "config.yaml", "--root", scenes_folder, "--runs", tmp_path / "runs"]
    done = torchrun(*words, "--exp-name", "x", "--override", "training.epoch=1", timeout=300)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert done.stderr.count("did you mean training.epochs?") == 1
    assert re.findall(r"exitcode +: (-?\d+)", done.stderr) == ["2", "2"]
    assert os.listdir(tmp_path) == []
