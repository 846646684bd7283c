"""Is a command that is killed at any moment, and called again, as if nothing had happened? SIGKILL at random moments.

    OMP_NUM_THREADS=1 python -m tests.trials.kill_trials --kills 60 --out OUT

Each trial calls one command on small scenes in a new folder, kills its whole process group at a moment that is drawn
from the time of an undisturbed call, and looks at every file that is there by then: whatever has its final name must be
what the undisturbed call wrote (of checkpoints and tables that grow, a state on the way there). Then the command is
called again, a training with --resume where it has a checkpoint, and must end with the same files of the same content.
Prints a Markdown table, leaves OUT/kill_trials.csv, a row a trial, and exits with 1 where a trial failed.

Commands run in forks of one process that has imported everything, so that the kills fall into their work.
"""

import argparse
import contextlib
import csv
import importlib
import os
import pkgutil
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import failure_directions
import numpy as np
import torch
import yaml
from failure_directions.commands import (
    betons,
    compare,
    distil,
    find,
    generate,
    interfaces,
    intervene,
    read_sparse,
    report,
    sparse,
    train,
)
from failure_directions.data.betons import open_beton
from failure_directions.data.checksums import check_content
from failure_directions.data.scenes import SceneSetting, make_split
from failure_directions.directions.galleries import StoredImages
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.pt_files import load_pt
from failure_directions.training.run_folders import latest_version
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
IGNORED = re.compile(r"\.lock|\..*|events\.out\.tfevents\..*|environment\.yaml")
"""Names of files that are not compared: temporary ones, and those that hold dates."""
GROWING = re.compile(r"checkpoint_(last|best)\.pt|.*\.checkpoint\.pt|attempts\.csv")
"""Names of files that are written anew as the work goes on."""
DATED = {"args", "arguments", "environment", "date", "made_from", "uses"}
"""Keys in .pt files that say how, when and how often."""
CONFIG = {
    **{f"{split}_beton": f"scenes_{split}.beton" for split in ("train", "val", "test", "unlabeled")},
    "imgsz": 32,
    "arch": "resnet10thin",
    "arch_type": "cifar_resnet",
    "num_classes": 8,
    "class_names": list(SceneSetting().classes),
    "mean": [127.0] * 3,
    "std": [60.0] * 3,
    "batch_size": 32,
    "train_aug": "cifar_train_aug",
    "training": {"epochs": 6, "lr": 0.1, "lr_scheduler": {"type": "cyclic", "lr_peak_epoch": 2}},
}


@dataclass(frozen=True)
class Stage:
    """A command to kill.

    Attributes:
        main: its `main(argv)`.
        words: a function of the output folder that gives the argv.
        compared: what was compared, for the table.
        resumes: whether a checkpoint is gone on from with --resume, in the latest version of a run.
        signal: what it is killed by. SIGTERM lets it clean up: then no temporary file may stay.
    """

    main: Callable
    words: Callable
    compared: str
    resumes: bool = False
    signal: int = signal.SIGKILL

    def call(self, out):
        """The argv of a call, the first one or another after a kill, and the folder of its files."""
        words = [str(word) for word in self.words(out)]
        if not self.resumes:
            return words, out
        latest = latest_version(out / "run")
        if latest is not None and (out / "run" / f"version_{latest}" / "checkpoints" / "checkpoint_last.pt").exists():
            return [*words, "--resume"], out / "run" / f"version_{latest}"
        return words, out / "run" / f"version_{0 if latest is None else latest + 1}"


def stages(data):
    """name -> `Stage`, all on what `prepare` left in the folder `data`."""
    common = ["-c", data / "config.yaml", "--root", data, "--device", "cpu"]
    checkpoint = data / "runs" / "base" / "version_0" / "checkpoints" / "checkpoint_last.pt"
    clip = [*common, "-s", ROOT / "svm_configs" / "normalized_svm_scenes_config.yaml"]
    training = Stage(
        train.main,
        lambda out: [*common, "--runs", out, "--exp-name", "run"],
        "weights, optimizer and epochs of both checkpoints bit for bit; predictions, metrics",
        resumes=True,
    )
    model = ["--model", checkpoint, "--embedding", "model", "--image-size", 32, "--device", "cpu"]
    return {
        "betons": Stage(
            betons.main,
            lambda out: [*SCENES, "--out", out, "--workers", 2],
            "labels, attributes and pixels of every beton; CSVs byte for byte",
        ),
        "training": training,
        "training, by SIGTERM": replace(training, signal=signal.SIGTERM),
        "last layer, extra images": Stage(
            train.main,
            lambda out: [
                *common,
                "--runs",
                out,
                "--exp-name",
                "run",
                "--finetune-from",
                checkpoint,
                "--freeze",
                "--extra-images",
                data / "generated" / "manifest.csv",
            ],
            "the same, and the beton of the images; embeddings",
            resumes=True,
        ),
        "embeddings, SVMs, captions": Stage(
            distil.main,
            lambda out: [
                *clip,
                "--model-path",
                checkpoint,
                "--captions",
                "SCENES",
                "--spurious",
                "--unlabeled",
                "--cache",
                out / "cache",
                "--out-file",
                out / "svm.pt",
                "--jobs",
                2,
            ],
            "OUT.pt, OUT_model.pt and embeddings number for number; CSVs byte for byte",
        ),
        "sparse path": Stage(
            sparse.main,
            lambda out: [*common, "--dataset", "beton", "--model-path", checkpoint, "-k", 15, "--out-path", out],
            "features, layers and run.pt number for number; path.csv, path.png byte for byte",
        ),
        "report": Stage(
            report.main,
            lambda out: ["--svm", data / "svm.pt", "--report", out / "report.html", "--figures", out / "figures"],
            "HTML and figures byte for byte",
        ),
        "generated images": Stage(
            generate.main,
            lambda out: [
                "--svm",
                data / "svm.pt",
                "--captions",
                "hard",
                "--out",
                out,
                "--model",
                data / "diffusion",
                "--steps",
                3,
                "--per-class",
                4,
                "--batch-size",
                2,
                "--device",
                "cpu",
            ],
            "images and CSVs byte for byte",
        ),
        "find": Stage(
            find.main,
            lambda out: [
                *("--images", data / "photos", *model),
                *("--cache", out / "cache", "--out", out / "found.pt", "--report", out / "report.html"),
            ],
            "result and embeddings number for number; CSVs and HTML byte for byte",
        ),
        "intervene": Stage(
            intervene.main,
            lambda out: ["add", "--svm", data / "svm.pt", "--per-class", 2, "--unconfirmed", "--out", out / "index.pt"],
            "index file number for number",
        ),
        "compare": Stage(
            compare.main,
            lambda out: [data / "runs" / "base", "--svm", data / "svm.pt", "--out", out / "table"],
            "table and figure byte for byte",
        ),
        "read-sparse": Stage(
            read_sparse.main,
            lambda out: ["misclassified", "--sparse", data / "sparse", "--out", out, "--device", "cpu"],
            "CSVs and figures byte for byte",
        ),
        "textual inversion": Stage(
            interfaces.main,
            lambda out: [
                *("learn", "--images", data / "photos", "--classes", "circle", "heart", "--steps", 8),
                *("--model", data / "diffusion", "--encoder-root", out / "encoder", "--device", "cpu"),
            ],
            "tokens and encoder number for number",
        ),
    }


SCENES = [
    "scenes",
    "--plant",
    "correlation:circle:colour=red:0.9",
    "--train",
    30,
    "--val",
    30,
    "--test",
    30,
    "--unlabeled",
    10,
]


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="in all (default: 60)")
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="kill these only (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", required=True, help="folder for everything; must not exist")
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    chosen = stages(out / "data")
    unknown = set(args.stages or ()) - set(chosen)
    if unknown:
        raise UserError(f"--stages {min(unknown)} is none of {', '.join(chosen)}")
    if out.exists():
        raise UserError(f"--out {out} exists; name a new folder")
    chosen = {name: stage for name, stage in chosen.items() if name in (args.stages or chosen)}
    torch.set_num_threads(1)
    import_everything()
    prepare(out / "data", chosen)
    rng = np.random.default_rng(args.seed)
    share = np.diff(np.linspace(0, args.kills, len(chosen) + 1).round().astype(int))
    rows = []
    for (name, stage), kills in zip(chosen.items(), share.tolist(), strict=True):
        rows += run_stage(name, stage, kills, out / name.replace(" ", "_"), rng)
        write_csv(out / "kill_trials.csv", rows[0], [row.values() for row in rows])
    print(summary(rows, chosen))
    for row in rows:
        if row["problem"]:
            print(f"{row['stage']}, killed after {row['moment']:.2f} s: {row['problem']}")
    sys.exit(any(row["problem"] for row in rows))


def import_everything():
    """Import what commands import late, so that forks begin with the work."""
    for module in pkgutil.walk_packages(failure_directions.__path__, "failure_directions."):
        importlib.import_module(module.name)


def prepare(data, names):
    """What the stages called `names` start from: betons, a base model, its result with captions, generated images."""
    data.mkdir(parents=True)
    (data / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    log, every = data / "log.txt", stages(data)
    undisturbed(betons.main, [*map(str, SCENES), "--out", str(data), "--workers", "1"], log)
    if set(names) <= {"betons", "training", "training, by SIGTERM"}:
        return
    words, _ = every["training"].call(data / "runs")
    undisturbed(train.main, ["base" if word == "run" else word for word in words], log)
    for what, made in (("read-sparse", "sparse path"), ("", "embeddings, SVMs, captions")):
        if what in ("", *names):
            words, _ = every[made].call(data / "sparse" if what else data)
            undisturbed(every[made].main, words, log)
    photos = make_split(SceneSetting(train=40, seed=1), "train")
    for i in range(len(photos)):
        image, _, _ = photos[i]
        path = data / "photos" / photos.shape[i] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    undisturbed(make_diffusion_model, data / "diffusion", log)
    words, _ = every["generated images"].call(data / "generated")
    undisturbed(generate.main, words, log)


def make_diffusion_model(folder):
    from scripts.train_scenes_diffusion import new_pipeline

    torch.manual_seed(0)
    new_pipeline().save_pretrained(folder)


def run_stage(name, stage, kills, folder, rng):
    """Kill a stage at `kills` moments, spread over its time. Returns a dict a kill."""
    reference, log = folder / "undisturbed", folder / "log.txt"
    reference.mkdir(parents=True)
    words, expected = stage.call(reference)
    seconds = undisturbed(stage.main, words, log)
    rows = []
    moments = seconds * (np.arange(kills) + rng.random(kills)) / kills
    for number, moment in enumerate(tqdm(moments.tolist(), desc=name, unit="kill", disable=None)):
        out = folder / f"killed_{number}"
        out.mkdir()
        words, found = stage.call(out)
        while not killed(stage, words, log, moment):  # it was faster than the undisturbed call
            moment *= 0.9
            out = folder / f"{out.name}_again"
            out.mkdir()
            words, found = stage.call(out)
        there = sum(1 for _ in finals(found))
        problem = ""
        try:
            left = [path.name for path in out.rglob(".*.tmp")] if stage.signal == signal.SIGTERM else []
            assert not left, f"it left {left} behind"
            for path in finals(found):
                check_whole(path, expected / path.relative_to(found))
            words, found = stage.call(out)
            undisturbed(stage.main, words, log)
            check_same(found, expected)
        except (AssertionError, UserError, RuntimeError) as error:
            problem = str(error) or repr(error)
        rows.append({"stage": name, "seconds": seconds, "moment": moment, "files": there, "problem": problem})
    return rows


def summary(rows, chosen):
    """The trials as a Markdown table."""
    lines = []
    for name, stage in chosen.items():
        own = [row for row in rows if row["stage"] == name]
        if own:
            amid = sum(row["files"] > 0 for row in own)
            survived = sum(not row["problem"] for row in own)
            lines.append([name, f"{own[0]['seconds']:.1f} s", len(own), amid, survived, stage.compared])
    lines.append(["all", "", *(sum(line[k] for line in lines) for k in (2, 3, 4)), ""])
    header = ["stage", "undisturbed", "kills", "with files there", "survived", "compared with an undisturbed call"]
    return tabulate(lines, header, tablefmt="github")


# ---- processes ------------------------------------------------------------------------------------------------------


def start(command, words, log):
    """Fork a process that runs a command in a process group of its own. Returns its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process, process)  # the child does it too: whoever is first
        return process
    status = 1
    try:
        os.setpgid(0, 0)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        print("\n$", command.__module__, words, flush=True)
        command(words)
        status = 0
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def undisturbed(command, words, log):
    """Run a command to its end; returns the seconds it took. Raises `RuntimeError` where it fails."""
    began = time.perf_counter()
    process = start(command, words, log)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # joblib's workers, which wait for more
    if status:
        last = Path(log).read_text(errors="replace").splitlines()[-1:]
        raise RuntimeError(f"{command.__module__} ended with status {os.waitstatus_to_exitcode(status)}: {last}")
    return time.perf_counter() - began


def killed(stage, words, log, moment):
    """Start a stage's command and kill it after `moment` seconds; whether it was still running.

    SIGKILL reaches its whole process group, SIGTERM the process itself, which ends with exit code 143.
    """
    process = start(stage.main, words, log)
    time.sleep(moment)
    if stage.signal == signal.SIGKILL:
        os.killpg(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        return os.WIFSIGNALED(status)
    os.kill(process, stage.signal)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if status and os.waitstatus_to_exitcode(status) != 128 + stage.signal:
        raise RuntimeError(f"{stage.main.__module__} ended with status {status} after a signal: see {log}")
    return status != 0


# ---- files ----------------------------------------------------------------------------------------------------------


def finals(folder):
    """Files under their final names, by path."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(IGNORED.fullmatch, path.relative_to(folder).parts))
    )


def check_whole(path, expected):
    """A file that is there after a kill is whole: the expected one, or of growing ones a state before."""
    if not GROWING.fullmatch(path.name):
        return check_equal(path, expected)
    if path.suffix == ".pt":
        steps = [_steps(load_pt(file, "checkpoint")) for file in (path, expected)]
        assert steps[0] <= steps[1], f"{path} is of step {steps[0]}"
    else:
        rows, whole = ([*csv.reader(file.open(newline=""))] for file in (path, expected))
        assert rows == whole[: len(rows)], f"{path} holds other rows"


def _steps(checkpoint):
    """How far a training, or a textual inversion, was."""
    return checkpoint["run_metadata"]["epoch"] if "run_metadata" in checkpoint else checkpoint["step"]


def check_same(found, expected):
    """Two folders have the same files of the same content."""
    names = [{str(path.relative_to(folder)) for path in finals(folder)} for folder in (found, expected)]
    assert names[0] == names[1], f"these files are in one of {found} and {expected} only: {names[0] ^ names[1]}"
    for name in names[0]:
        check_equal(found / name, expected / name)


def check_equal(path, expected):
    """Two files hold the same: byte for byte, or what they were read as where these hold dates or an order."""
    assert expected.is_file(), f"{path} is not among the files of an undisturbed call"
    if path.read_bytes() == expected.read_bytes():
        return
    if path.suffix in (".pt", ".pth"):
        one, other = (load_pt(file, "file") for file in (path, expected))
        assert equal(one, other), f"{path} does not hold what {expected} does"
    elif path.name.endswith(".beton.sha256"):
        assert check_content(path.with_suffix("")), f"{path} is gone"
    elif path.suffix == ".beton":
        one, other = open_beton(path), open_beton(expected)
        for field in set(other.fields) - {"image"}:
            assert np.array_equal(one.column(field), other.column(field)), f"{field} of {path} differs"
        images = StoredImages(one), StoredImages(other)
        for i in range(len(other)):
            assert np.array_equal(images[0][i], images[1][i]), f"image {i} of {path} differs"
    else:
        # The page names its own result; all else must be equal.
        texts = [
            file.read_bytes().replace(b"<wbr>", b"").replace(str(file.parent).encode(), b"")
            for file in (path, expected)
        ]
        assert texts[0] == texts[1], f"{path} differs from {expected}"


def equal(one, other):
    """Whether two contents of .pt files are equal, NaN for NaN, but for the keys in `DATED`."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() - DATED
        return keys == other.keys() - DATED and all(equal(one[key], other[key]) for key in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    return one == other or (one != one and other != other)


def _bits(tensor):
    return tensor.contiguous().numpy().tobytes()


if __name__ == "__main__":
    main()
