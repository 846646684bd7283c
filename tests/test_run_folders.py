import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from failure_directions.commands import train as ffcv_main
from failure_directions.runtime.errors import UserError
from failure_directions.training.run_folders import LAST, checkpoint_in, run_folder
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

# Holds `version_0`, with a checkpoint, until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from src.training.run_folders import LAST, run_folder
with run_folder(sys.argv[1], "x") as folder:
    (folder / LAST).parent.mkdir()
    (folder / LAST).touch()
    print("here", flush=True)
    time.sleep(600)
"""


def begun(folder):
    (folder / LAST).parent.mkdir(parents=True)
    (folder / LAST).touch()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(folder):
    (folder / "extra_images.beton").touch()
    raise KeyboardInterrupt


def claim(runs, name="x", resume=False, work=begun):
    """A run whose work is `work(folder)`."""
    with run_folder(runs, name, resume) as folder:
        work(folder)
        return folder


def test_runs_that_start_at_once_get_a_version_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(claim, [tmp_path] * 24))
    assert sorted(claimed) == sorted(tmp_path / "x" / f"version_{k}" for k in range(24))


def test_a_start_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        claim(tmp_path / "runs", "a/x", work=fail)
    assert names(tmp_path) == []


def test_a_start_that_fails_leaves_other_runs_alone(tmp_path):
    claim(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        claim(tmp_path, work=fail)
    assert names(tmp_path / "x") == ["version_0"]


def test_a_run_that_fails_after_its_first_checkpoint_stays_and_is_resumed(tmp_path):
    folder = claim(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        claim(tmp_path, resume=True, work=fail)
    assert (folder / LAST).exists()
    assert claim(tmp_path, resume=True, work=lambda _: None) == folder


def test_a_version_that_was_only_begun_is_named_when_it_is_to_be_resumed(tmp_path):
    claim(tmp_path)
    (tmp_path / "x" / "version_1").mkdir()  # what a start that was killed leaves
    with pytest.raises(UserError, match="version_1 was begun but has no checkpoint to resume from: delete it"):
        claim(tmp_path, resume=True)
    assert claim(tmp_path).name == "version_2"


def test_a_run_is_not_resumed_while_another_process_is_at_it(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "here\n"
            with pytest.raises(UserError, match="version_0 is being written by another process: wait until it ends"):
                claim(tmp_path, resume=True)
        finally:
            process.kill()
    assert claim(tmp_path, resume=True, work=lambda _: None).name == "version_0"


@pytest.mark.parametrize("change", ["batch_size=1000", "train_img_decoder=simple", "arch=resnet19"])
def test_a_training_that_is_refused_leaves_no_extra_images(scenes_folder, tmp_path, capsys, change):
    """Whether it is refused before the folder is made, or after the extra images were written into it."""
    images = tmp_path / "images" / "circle"
    images.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(images / "a.png")
    words = [
        "-c",
        scenes_folder / "config.yaml",
        "--root",
        scenes_folder,
        "--runs",
        tmp_path / "runs",
        "--exp-name",
        "x",
        "--extra-images",
        images.parent,
        "--override",
        "imgsz=40",
        "--override",
        "train_img_decoder=center_crop_full",
        "--override",
        "val_img_decoder=center_crop_full",
        "--override",
        change,
    ]
    with pytest.raises(SystemExit) as stop:
        ffcv_main.main([str(word) for word in words])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert names(tmp_path) == ["images"]


# ---- the checkpoint that a folder names -----------------------------------------------------------------------------


def begun(folder, *, finished):
    (folder / LAST).parent.mkdir(parents=True)
    (folder / LAST).touch()
    if finished:
        (folder / "predictions.pt").touch()
    return folder


def test_a_run_s_folder_stands_for_its_newest_finished_version(tmp_path, capsys):
    for number, finished in ((2, True), (10, True), (11, False)):
        begun(tmp_path / "mine" / f"version_{number}", finished=finished)
    newest = str(tmp_path / "mine" / "version_10" / LAST)
    assert checkpoint_in(tmp_path / "mine") == newest
    assert newest in capsys.readouterr().out
    assert checkpoint_in(tmp_path / "mine" / "version_2") == str(tmp_path / "mine" / "version_2" / LAST)
    assert checkpoint_in("timm:resnet18") == "timm:resnet18"
    with pytest.raises(UserError, match="name one of the runs in it: mine"):
        checkpoint_in(tmp_path)


def test_a_run_that_was_interrupted_is_named_as_such(tmp_path):
    begun(tmp_path / "mine" / "version_0", finished=False)
    with pytest.raises(UserError, match=r"interrupted: go on with --resume, or name .*version_0.*checkpoint_last\.pt"):
        checkpoint_in(tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not the folder of a run; give runs/EXP_NAME, or a checkpoint"):
        checkpoint_in(tmp_path / "empty")
