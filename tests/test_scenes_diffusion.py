"""The embedded diffusion model of the scenes paints what its captions say; the script that trains it runs."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from scripts import train_scenes_diffusion
from scripts.train_scenes_diffusion import FOLDER, combinations, draw_batch, judge, noisy, paint, through

SMALL = ["--vae-steps", "2", "--steps", "2", "--batch-size", "4", "--judged", "8", "--threads", "1"]


@pytest.fixture(scope="module")
def held_out():
    """The combinations of shape, colour and background that the model was never shown."""
    return combinations(np.random.default_rng(0))[1]


@pytest.fixture(scope="module")
def paintings(held_out):
    return paint(FOLDER, held_out)


def test_its_folder_is_small_and_in_half_precision():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 6e6
    weights = [load_file(file) for file in FOLDER.rglob("*.safetensors")]
    assert len(weights) == 3
    assert {tensor.dtype for tensors in weights for tensor in tensors.values() if tensor.is_floating_point()} == {
        torch.float16
    }


def test_combinations_are_held_out():
    seen, held_out = combinations(np.random.default_rng(0))
    assert len(np.unique(np.concatenate([seen, held_out]), axis=0)) == len(seen) + len(held_out) == 512


def test_its_autoencoder_keeps_what_is_drawn(held_out):
    vae = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True).vae
    shares = judge(held_out, noisy(through(vae, draw_batch(held_out, np.random.default_rng(0)))))
    assert min(shares.values()) >= 0.95


def test_it_paints_held_out_captions(held_out, paintings):
    shares = judge(held_out, noisy(paintings))
    assert min(shares.values()) >= 0.85


def test_the_judge_finds_paintings_of_other_captions_wrong(held_out, paintings):
    shares = judge(np.roll(held_out, 1, axis=0), noisy(paintings))
    assert max(shares.values()) <= 0.4


@pytest.mark.check
def test_the_script_writes_a_folder_that_paints(tmp_path, held_out, capsys):
    train_scenes_diffusion.main(["--out", str(tmp_path / "model"), *SMALL, "--drawings", "100"])
    assert paint(tmp_path / "model", held_out[:2]).shape == (2, 3, 32, 32)
    assert "captions that were held out" in capsys.readouterr().out


def test_the_script_replaces_no_folder_of_other_files(tmp_path, capsys):
    (tmp_path / "photo.png").touch()
    with pytest.raises(SystemExit) as stopped:
        train_scenes_diffusion.main(["--out", str(tmp_path), *SMALL])
    assert stopped.value.code == 2
    assert "is not replaced" in capsys.readouterr().err
    assert (tmp_path / "photo.png").exists()


def test_the_script_refuses_a_folder_that_it_cannot_write(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        train_scenes_diffusion.main(["--out", str(tmp_path / "file" / "model"), *SMALL])
    assert stopped.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
