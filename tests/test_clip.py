"""CLIP embeddings: the same as open_clip's own, errors that say what to do, and a scenes CLIP that knows its scenes."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from failure_directions.data.scene_drawing import BACKGROUNDS, COLOURS, SHAPES, draw
from failure_directions.embeddings import clip as clip_module
from failure_directions.embeddings.clip import CONFIG_FILE, SCENES_CLIP, WEIGHTS_FILE, CLIPProcessor, preprocess
from failure_directions.runtime.errors import UserError
from failure_directions.svm_utils import SVMFitter
from PIL import Image
from safetensors.torch import save_file

MEAN, STD = [127.0, 120.0, 110.0], [60.0, 55.0, 50.0]
Batch = namedtuple("Batch", ("image",))


@pytest.fixture(scope="module")
def scenes_clip():
    return CLIPProcessor(MEAN, STD, arch="scenes", device="cpu")


@pytest.fixture(scope="module")
def scenes():
    """320 new scenes: attributes (N, 3) as numbers, pixels (N, 32, 32, 3) uint8."""
    rng = np.random.default_rng(2024)
    attributes = rng.integers(0, 8, (320, 3))
    images = [draw(32, SHAPES[s], COLOURS[c], BACKGROUNDS[b], rng) for s, c, b in attributes]
    return attributes, np.stack(images)


def batches_of(images, size=100):
    """Batches as our loaders give them: normalised by mean and std."""
    normalised = (torch.from_numpy(images).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    return [Batch(part) for part in normalised.permute(0, 3, 1, 2).split(size)]


@pytest.fixture
def folder(tmp_path):
    """A copy of the scenes CLIP, to be damaged."""
    return Path(shutil.copytree(SCENES_CLIP, tmp_path / "my_clip"))


def changed_config(folder, change):
    config = json.loads((folder / CONFIG_FILE).read_text())
    change(config)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


# ---- embeddings -----------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_open_clip_on_the_same_pixels(scenes_clip, scenes):
    _, images = scenes
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{SCENES_CLIP}")
    with torch.no_grad():
        theirs = model.eval().encode_image(torch.stack([transform(Image.fromarray(image)) for image in images[:150]]))
    ours = scenes_clip.evaluate_clip_images(batches_of(images[:150]))
    assert ours.shape == (150, 128)
    assert ours.dtype == np.float32
    # PIL rounds to whole pixel values after resizing, and the weights are the same.
    assert np.abs(ours - theirs.numpy()).max() < 0.02 * theirs.std()


class _Runs:
    def __reduce__(self):
        return print, ("run",)


def test_fetched_weights_that_would_run_code_are_refused(tmp_path, monkeypatch, capsys):
    torch.save({"a": torch.zeros(2), "b": _Runs()}, tmp_path / "weights.bin")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda tagged: str(tmp_path / "weights.bin"))
    with pytest.raises(UserError, match=r"weights\.bin .*run code"):
        CLIPProcessor(MEAN, STD, "RN50-quickgelu", "yfcc15m", "cpu")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 61), (300, 211)])
def test_preprocessing_is_that_of_open_clip(mode, height, width):
    y, x = np.mgrid[:height, :width] / 20
    image = (127 + 120 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)).astype(np.uint8)
    config = open_clip.transform.PreprocessCfg(size=64, resize_mode=mode, interpolation="bicubic")
    theirs = open_clip.transform.image_transform_v2(config, is_train=False)(Image.fromarray(image))
    ours = preprocess(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, config)[0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.02


def test_captions_keep_their_order_and_are_encoded_once(scenes_clip, monkeypatch):
    captions = ["a photo of a red star", "a photo of a cross", "a photo of a red star"]
    first = scenes_clip.evaluate_clip_captions(captions)
    assert first.shape == (3, 128)
    assert np.array_equal(first[0], first[2])
    assert not np.allclose(first[0], first[1])
    monkeypatch.setattr(scenes_clip.model, "encode_text", None)
    other = CLIPProcessor([0, 0, 0], [255, 255, 255], arch=f"local-dir:{SCENES_CLIP}", device="cpu")
    assert np.array_equal(other.evaluate_clip_captions(captions[::-1]), first[::-1])


def test_a_context_as_short_as_the_longest_text_gives_the_same_embeddings():
    """On a text encoder of CLIP's architecture and context of 77 tokens, with random weights."""
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3}
    model = open_clip.CLIP(32, {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32}, text).eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a cat", "a photo of a white cat on the grass", ""])
    with torch.no_grad():
        whole = model.encode_text(tokens)
        with clip_module._short_context(model, tokens) as short:
            assert short.shape == (3, 11)
            cut = model.encode_text(short)
        assert torch.equal(model.encode_text(tokens), whole)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_a_text_longer_than_the_context_is_cut_and_said_once(scenes_clip, recwarn):
    fits, long = "a photo of a heart", "a photo of a heart" + " on a plain background" * 5
    with pytest.warns(UserWarning, match="16 tokens") as told:
        scenes_clip.evaluate_clip_captions([fits, long])
    assert len(told) == 1
    assert long[:60] in str(told[0].message)
    recwarn.clear()
    scenes_clip.evaluate_clip_captions([fits, long])
    assert not recwarn.list


def test_the_model_is_frozen_and_loaded_once(scenes_clip):
    assert not scenes_clip.model.training
    assert not any(weight.requires_grad for weight in scenes_clip.model.parameters())
    assert CLIPProcessor(MEAN, STD, arch=f"local-dir:{SCENES_CLIP}", device="cpu").model is scenes_clip.model


def test_the_fingerprint_is_of_the_weights_and_not_of_the_place(scenes_clip, folder):
    copied = CLIPProcessor(MEAN, STD, arch=f"local-dir:{folder}", device="cpu")
    assert copied.fingerprint == scenes_clip.fingerprint
    other = folder.rename(folder.with_name("other"))
    weights = open_clip.factory.load_state_dict(str(other / WEIGHTS_FILE))
    weights["positional_embedding"][0, 0] += 1
    save_file(weights, other / WEIGHTS_FILE)
    assert CLIPProcessor(MEAN, STD, arch=f"local-dir:{other}", device="cpu").fingerprint != scenes_clip.fingerprint


def test_caption_scores_are_decision_values_of_differences(scenes_clip, scenes):
    attributes, images = scenes
    latents = scenes_clip.evaluate_clip_images(batches_of(images))
    labels, red = attributes[:, 0] % 2, attributes[:, 1] < 4
    fitter = SVMFitter()
    fitter.set_preprocess(latents)
    fitter.fit(preds=np.where(red, labels, 1 - labels), ys=labels, latents=latents)
    captions = [f"a photo of a {colour} circle" for colour in COLOURS]
    scores, texts = scenes_clip.get_caption_scores(captions, "a photo of a circle", fitter, 1)
    differences = texts - scenes_clip.evaluate_clip_captions(["a photo of a circle"])
    whitened = (differences - fitter.mean) / fitter.std
    whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
    assert scores == pytest.approx(whitened @ fitter.coef[1] + fitter.intercept[1])
    # The "model" is wrong on the last four colours: their captions are the hard ones.
    assert scores[4:].max() < scores[:4].min()


# ---- the scenes CLIP ------------------------------------------------------------------------------------------------


def test_the_scenes_clip_names_shape_colour_and_background(scenes_clip, scenes):
    attributes, images = scenes
    latents = scenes_clip.evaluate_clip_images(batches_of(images))

    def accuracy(template, values, truth):
        """Zero-shot, the shape given."""
        right = []
        for s, shape in enumerate(SHAPES):
            texts = scenes_clip.evaluate_clip_captions([template.format(shape=shape, value=value) for value in values])
            texts /= np.linalg.norm(texts, axis=1, keepdims=True)
            right.append(((latents @ texts.T).argmax(1) == truth)[attributes[:, 0] == s])
        return np.concatenate(right).mean()

    assert accuracy("a photo of a {value}", SHAPES, attributes[:, 0]) >= 0.95
    assert accuracy("a photo of a {value} {shape}", COLOURS, attributes[:, 1]) >= 0.95
    assert accuracy("a photo of a {shape} on a {value} background", BACKGROUNDS, attributes[:, 2]) >= 0.95


def test_an_image_lies_near_its_caption(scenes_clip, scenes):
    attributes, images = scenes
    latents = scenes_clip.evaluate_clip_images(batches_of(images))
    texts = scenes_clip.evaluate_clip_captions(
        [f"a photo of a {COLOURS[c]} {SHAPES[s]} on a {BACKGROUNDS[b]} background" for s, c, b in attributes]
    )
    cosines = torch.nn.functional.cosine_similarity(
        torch.from_numpy(latents)[:, None], torch.from_numpy(texts)[None], dim=2
    )
    rank = (cosines > cosines.diagonal()[:, None]).sum(1)
    assert (rank < 3).float().mean() > 0.9


def test_the_scenes_clip_is_small_and_loads_from_any_directory():
    assert sum(file.stat().st_size for file in SCENES_CLIP.iterdir()) < 4 * 2**20
    code = (
        "from failure_directions import CLIPProcessor\n"
        f"clip = CLIPProcessor([0, 0, 0], [255, 255, 255], arch='local-dir:{SCENES_CLIP}', device='cpu')\n"
        "print(clip.evaluate_clip_captions(['a photo of a star']).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert result.stdout.strip() == "(1, 128)"
    assert result.stderr == ""


# ---- what can go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std", "key"), [(None, STD, "mean"), (MEAN, None, "std")])
def test_a_missing_mean_or_std_is_named(mean, std, key):
    with pytest.raises(UserError, match=rf"dataset config, where {key} is missing"):
        CLIPProcessor(mean, std, arch="scenes", device="cpu")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    clip_module._load.cache_clear()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("arch", ["ViT-B-32-quickgelu", "ViT-B/32", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
def test_weights_that_are_not_at_hand_are_told_in_one_sentence(arch, tmp_path, capfd):
    with pytest.raises(UserError) as told:
        CLIPProcessor(MEAN, STD, arch=arch, device="cpu")
    sentence = str(told.value)
    name = "ViT-B-32-quickgelu / openai" if arch.startswith("ViT") else arch
    for part in (name, str(tmp_path), "local-dir:FOLDER", "normalized_svm_latent_config.yaml"):
        assert part in sentence
    assert "\n" not in sentence
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arch", "pretrained", "said"),
    [
        ("ViT-B-32", "openai", "trained with QuickGELU.*set clip_model: ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "trained with GELU.*set clip_model: ViT-B-32$"),
        ("ViT-B-32-quickgelu", None, "clip_pretrained None is no tag.*openai"),
        ("ViT-B-32-quickgelu", "opanai", "clip_pretrained opanai is no tag.*openai"),
        ("ViT-B-33", "openai", "clip_model ViT-B-33 is not a model.*did you mean"),
        ("scene", "openai", "did you mean scenes"),
        ("local-dir:/no/such/folder", None, "/no/such/folder does not exist"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_one(arch, pretrained, said):
    with pytest.raises(UserError, match=said):
        CLIPProcessor(MEAN, STD, arch=arch, pretrained=pretrained, device="cpu")


def _no_merges(folder):
    (folder / "bpe_merges.txt.gz").unlink()


def _truncated(folder):
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:10000])


def _pickled(folder):
    (folder / WEIGHTS_FILE).unlink()
    torch.save({"weight": Path("x")}, folder / "open_clip_pytorch_model.bin")


def _narrower(folder):
    changed_config(folder, lambda config: config["model_cfg"].update(embed_dim=64))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / CONFIG_FILE).unlink(), f"incomplete: {CONFIG_FILE} is missing"),
        (lambda folder: (folder / CONFIG_FILE).write_text('{"model_cfg": {'), "not a config of open_clip"),
        (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "not a config of open_clip"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{}"), "no model_cfg"),
        (lambda folder: changed_config(folder, lambda c: c["model_cfg"].pop("text_cfg")), "no text_cfg"),
        (lambda folder: changed_config(folder, lambda c: c["model_cfg"].pop("embed_dim")), "no embed_dim"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), f"no weights, {WEIGHTS_FILE}"),
        (_no_merges, "tokenizer's bpe_merges.txt.gz is missing"),
        (_truncated, "cannot be loaded from .*my_clip"),
        (_pickled, "could run code"),
        (_narrower, r"do not fit the config \(size mismatch for "),
    ],
)
def test_an_incomplete_folder_is_told_in_one_sentence(folder, damage, said):
    damage(folder)
    with pytest.raises(UserError, match=said) as told:
        CLIPProcessor(MEAN, STD, arch=f"local-dir:{folder}", device="cpu")
    assert str(folder) in str(told.value)
    assert "\n" not in str(told.value)
