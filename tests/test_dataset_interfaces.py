"""Dataset interfaces: tokens, images and scores, on a tiny diffusion model and the tiny CLIP of the scenes.

The diffusion model is that of the scenes with random weights: nothing here asks what its images show.
"""

import csv
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from failure_directions.commands.interfaces import main
from failure_directions.data.scene_drawing import draw
from failure_directions.embeddings.clip import SCENES_CLIP
from failure_directions.interfaces import diffusion_models, encoders, generation, inference_utils, textual_inversion
from failure_directions.interfaces.benchmark import timm_classifier
from failure_directions.interfaces.photos import image_files, read_photo
from failure_directions.interfaces.tokens import load_class_tokens, save_token
from failure_directions.runtime import errors, hub
from failure_directions.runtime.errors import entry_point, memory_advice
from failure_directions.runtime.files import check_space, new_folder
from failure_directions.runtime.pt_files import load_tensors
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

import dataset_interfaces
from dataset_interfaces import (
    UserError,
    class_token,
    create_imagenet_star_encoder,
    create_token_dictionary,
    generate,
    load_shifts,
    run_textual_inversion,
)
from scripts.train_scenes_diffusion import new_pipeline

ROOT = Path(__file__).resolve().parents[1]
TEMPORARY = tempfile.TemporaryDirectory()
MODEL = str(Path(TEMPORARY.name) / "model")
CLIP = {"clip_model": f"local-dir:{SCENES_CLIP}", "device": "cpu"}
FAST = {"model_name": MODEL, "num_inference_steps": 4, "guidance_scale": 2.0, "device": "cpu"}
TEMPLATES = ("a photo of a {}",)


@pytest.fixture(scope="module", autouse=True)
def tiny_model():
    """Saves the model, and keeps to one thread: with two, the last bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    new_pipeline().save_pretrained(MODEL)
    yield
    torch.set_num_threads(before)
    TEMPORARY.cleanup()


@pytest.fixture(scope="module")
def model():
    return diffusion_models.load_model(MODEL)


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    """A folder with 12 drawn red stars."""
    folder = tmp_path_factory.mktemp("photos") / "red_star"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(draw(32, "star", "red", "plain", rng)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def encoder_root(tmp_path_factory, model):
    """Two classes whose embeddings are those of known words."""
    root = tmp_path_factory.mktemp("encoder") / "root"
    embeds = [textual_inversion.mean_embedding(model, name) for name in ("star", "circle")]
    create_token_dictionary(embeds, ["<star-0>", "<circle-1>"], ["star", "circle"], root, MODEL)
    return root


def learn(folder, token="<red-star-0>", name="red star", **options):
    options = {"max_train_steps": 4, "batch_size": 4, "templates": TEMPLATES, "device": "cpu"} | options
    return run_textual_inversion(folder, token, name, MODEL, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The package
# ---------------------------------------------------------------------------------------------------------------------


def test_the_published_names_are_there():
    assert inference_utils.create_token_dictionary is create_token_dictionary
    assert callable(inference_utils.clip_similarity)
    assert {"run_textual_inversion", "create_token_dictionary", "generate"} <= set(dataset_interfaces.__all__)
    assert UserError is errors.UserError


def test_importing_it_does_not_import_what_generates():
    """The libraries take seconds; a command that only shows its help should not."""
    heavy = "diffusers", "transformers", "timm", "open_clip", "matplotlib"
    program = (
        "import sys, dataset_interfaces, dataset_interfaces.inference_utils, failure_directions.interfaces.benchmark\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# ---------------------------------------------------------------------------------------------------------------------
# Tokens and textual inversion
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "index", "token"),
    [
        ("American robin", 15, "<american-robin-15>"),
        ("jack-o'-lantern", 607, "<jack-o-lantern-607>"),
        ("Crème_brûlée", None, "<crème-brûlée>"),
        ("  5th  wheel ", 0, "<5th-wheel-0>"),
    ],
)
def test_a_class_name_becomes_a_token_in_lower_case_with_hyphens(name, index, token):
    assert class_token(name, index) == token


@pytest.mark.parametrize("token", ["robin", "<Robin>", "<american robin>", "<>", "<a><b>"])
def test_a_malformed_token_is_refused(stars, token):
    with pytest.raises(UserError, match="not in lower case, without spaces, in angle brackets"):
        learn(stars, token=token)


def test_the_hook_gives_the_new_token_its_embedding_as_a_larger_table_would(model):
    width, size = model.text_encoder.config.hidden_size, model.text_encoder.config.vocab_size
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[size - 2, 5, size, 7, size - 1]])
    with textual_inversion.learned_token(model.text_encoder, size, lambda: vector):
        hooked = model.text_encoder(tokens)[0]
    larger = diffusion_models.load_model(MODEL).text_encoder
    with torch.no_grad():
        larger.resize_token_embeddings(size + 1, mean_resizing=False).weight[-1] = vector
    assert torch.equal(hooked, larger(tokens)[0])


def test_learning_changes_nothing_of_the_model(stars, model, monkeypatch):
    monkeypatch.setattr(textual_inversion, "load_model", lambda name: fresh)
    fresh = diffusion_models.load_model(MODEL)
    learn(stars)
    for part in ("text_encoder", "vae", "unet"):
        before, after = getattr(model, part).state_dict(), getattr(fresh, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_norm_is_that_of_the_class_names_mean_embedding_unless_it_is_let_go(stars, model):
    start = textual_inversion.mean_embedding(model, "red star")
    rows = model.text_encoder.get_input_embeddings().weight[model.tokenizer("red star").input_ids[1:-1]]
    torch.testing.assert_close(start, rows.mean(0))
    pinned, free = learn(stars, learning_rate=0.05), learn(stars, learning_rate=0.05, pin_norm=False)
    torch.testing.assert_close(pinned.norm(), start.norm())
    assert torch.cosine_similarity(pinned, start, 0) < 0.999
    assert abs(free.norm() / start.norm() - 1) > 0.01


def test_accumulated_batches_are_one_large_batch(stars):
    torch.testing.assert_close(
        learn(stars, batch_size=6), learn(stars, batch_size=2, gradient_accumulation_steps=3), rtol=0, atol=1e-5
    )


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(stars, tmp_path):
    file = tmp_path / "state.pt"
    learn(stars, max_train_steps=3, checkpoint=file)
    assert torch.load(file, weights_only=True)["step"] == 3
    assert torch.equal(learn(stars, max_train_steps=6, checkpoint=file), learn(stars, max_train_steps=6))
    with pytest.raises(UserError, match="has 6 steps already, more than 5"):
        learn(stars, max_train_steps=5, checkpoint=file)
    with pytest.raises(UserError, match="cannot write"):
        learn(stars, checkpoint=stars / "00.png" / "state.pt")
    with pytest.raises(UserError, match="another learning_rate"):
        learn(stars, learning_rate=1.0, checkpoint=file)
    torch.save([1, 2], file)
    with pytest.raises(UserError, match="not a checkpoint"):
        learn(stars, checkpoint=file)


def test_a_training_that_is_done_is_not_done_again(stars, tmp_path, monkeypatch):
    first = learn(stars, checkpoint=tmp_path / "state.pt")
    monkeypatch.setattr(textual_inversion, "load_model", None)
    assert torch.equal(learn(stars, checkpoint=tmp_path / "state.pt"), first)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_train_steps": 0}, "max_train_steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"flip": 2.0}, "flip is 2"),
        ({"seed": -1}, "the seed -1 is not"),
        ({"resolution": 30}, "no multiple of 8"),
        ({"templates": ["a photo"]}, "every template needs"),
        ({"templates": ["on a grid " * 9 + "{}"]}, "shorten it"),
        ({"token": "<|endoftext|>"}, "in the model's vocabulary already"),
        ({"name": " "}, "is empty"),
    ],
)
def test_settings_that_cannot_be_are_told_in_one_sentence(stars, setting, message):
    with pytest.raises(UserError, match=message):
        learn(stars, **setting)


def test_of_our_own_templates_those_that_a_model_reads_whole_are_taken(model):
    tokenizer = diffusion_models.load_model(MODEL).tokenizer
    prompts = textual_inversion._tokenized(tokenizer, "<new-0>", None)
    assert 0 < len(prompts) < len(textual_inversion.TEMPLATES) == 27
    assert ((prompts == tokenizer.convert_tokens_to_ids("<new-0>")).sum(1) == 1).all()


def test_learning_works_in_mixed_precision(stars):
    half, whole = learn(stars, mixed_precision="bf16"), learn(stars)
    assert torch.cosine_similarity(half, whole, 0) > 0.99


def test_learning_lowers_the_loss_on_the_images(stars, model):
    """Compared on one fixed set of draws: single ones are noisy."""
    device, tokenizer = torch.device("cpu"), diffusion_models.load_model(MODEL).tokenizer
    prompts = textual_inversion._tokenized(tokenizer, "<new-0>", TEMPLATES)
    noising = DDPMScheduler.from_config(model.scheduler_config)
    latents = textual_inversion._encode(model.vae, image_files(stars), 32, device)
    draws = textual_inversion._draw(99, 0, 64, latents, prompts, 0.5, noising)

    @torch.no_grad()
    def loss(vector):
        with textual_inversion.learned_token(model.text_encoder, len(model.tokenizer), lambda: vector):
            return textual_inversion._denoising_loss(model.unet, model.text_encoder, noising, *draws).item()

    start = textual_inversion.mean_embedding(model, "blue circle")
    learned = learn(stars, name="blue circle", learning_rate=0.02, max_train_steps=20, batch_size=8)
    assert loss(learned) < loss(start)


# ---------------------------------------------------------------------------------------------------------------------
# Images that come in
# ---------------------------------------------------------------------------------------------------------------------


def test_images_of_any_kind_are_read_as_rgb(tmp_path):
    grey = Image.fromarray(np.full((20, 30), 77, np.uint8))
    grey.save(tmp_path / "grey.png")
    Image.fromarray(np.full((20, 30), 77 * 256, np.uint16)).save(tmp_path / "grey16.png")
    grey.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    grey.convert("P").save(tmp_path / "palette.gif")
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "transparent.png")
    for name, value in {
        "grey.png": 77,
        "grey16.png": 77,
        "cmyk.jpg": 77,
        "palette.gif": 77,
        "transparent.png": 255,
    }.items():
        image = read_photo(tmp_path / name)
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - value).max() <= 2, name


def test_folders_and_images_that_cannot_be_learned_from_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        learn(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no images"):
        learn(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"a\.png is broken"):
        learn(tmp_path)
    Image.new("RGB", (3, 40)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="3 x 40 pixels"):
        learn(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Encoder roots
# ---------------------------------------------------------------------------------------------------------------------


def test_an_encoder_root_adds_one_row_a_class_and_leaves_the_others_alone(encoder_root, model):
    tokenizer, text_encoder = encoders.load_encoder(encoder_root)
    before = model.text_encoder.get_input_embeddings().weight
    after = text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    torch.testing.assert_close(after[len(before)], textual_inversion.mean_embedding(model, "star"), rtol=0, atol=0)
    assert tokenizer("a photo of a <star-0> on a grid").input_ids[5] == len(before)
    rest, expected = text_encoder.state_dict(), model.text_encoder.state_dict()
    assert all(torch.equal(rest[name], expected[name]) for name in expected if "token_embedding" not in name)


def test_diffusers_own_loader_reads_a_saved_token(tmp_path, model):
    vector = torch.arange(model.text_encoder.config.hidden_size, dtype=torch.float32)
    save_token("<star-0>", vector, tmp_path / "star.safetensors")
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, local_files_only=True)
    pipeline.load_textual_inversion(str(tmp_path / "star.safetensors"))
    number = pipeline.tokenizer.convert_tokens_to_ids("<star-0>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[number].float(), vector)


@pytest.mark.parametrize(
    ("tokens", "names", "message"),
    [
        (["<a-0>", "<a-0>"], ["apple", "ant"], "apple and ant have one token"),
        (["<a-0>", "<B-1>"], ["apple", "bee"], "write <b-1>"),
        (["<a-0>"], ["apple", "bee"], "1 tokens and 2 class names"),
    ],
)
def test_token_lists_that_do_not_fit_are_refused(tmp_path, tokens, names, message):
    with pytest.raises(UserError, match=message):
        create_token_dictionary(torch.zeros(2, 64), tokens, names, tmp_path / "root", MODEL)
    assert not (tmp_path / "root").exists()


def test_embeddings_that_do_not_fit_are_refused(tmp_path, encoder_root):
    with pytest.raises(UserError, match="64 wide"):
        create_token_dictionary(torch.zeros(1, 768), ["<a-0>"], ["apple"], tmp_path / "root", MODEL)
    with pytest.raises(UserError, match="embedding of apple is not finite"):
        create_token_dictionary(torch.full((1, 64), np.nan), ["<a-0>"], ["apple"], tmp_path / "root", MODEL)
    known = shutil.copytree(MODEL, tmp_path / "known")
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(encoder_root / part, known / part, dirs_exist_ok=True)
    with pytest.raises(UserError, match="<star-0> is in the vocabulary"):
        create_token_dictionary(torch.zeros(1, 64), ["<star-0>"], ["star"], tmp_path / "root", known)


def test_a_folder_with_other_files_is_never_replaced_by_an_encoder_root(tmp_path, encoder_root):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"")
    embed, root = torch.ones(1, 64), tmp_path / "root"
    with pytest.raises(UserError, match="not an encoder root's; name a new folder"):
        create_token_dictionary(embed, ["<a-0>"], ["apple"], tmp_path / "photos", MODEL)
    assert (tmp_path / "photos" / "mine.png").exists()
    with pytest.raises(UserError, match="cannot write"):
        create_token_dictionary(embed, ["<a-0>"], ["apple"], tmp_path / "photos" / "mine.png", MODEL)
    shutil.copytree(encoder_root, root)
    create_token_dictionary(embed, ["<a-0>"], ["apple"], root, MODEL)
    assert load_class_tokens(root).tokens == ["<a-0>"]
    (root / "made").mkdir()
    with pytest.raises(UserError, match="not an encoder root's; name a new folder"):
        create_token_dictionary(embed, ["<a-0>"], ["apple"], root, MODEL)


def test_a_folder_that_cannot_take_the_place_of_another_leaves_it(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    rename = Path.rename

    def interrupted(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "x"):
        pass
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["x", "x/old"]


def test_a_damaged_encoder_root_is_told(encoder_root, tmp_path):
    def nan(root):
        file = root / "text_encoder" / "model.safetensors"
        weights = safetensors.torch.load_file(file)
        next(weight for name, weight in weights.items() if "token_embedding" in name)[-1] = np.nan
        safetensors.torch.save_file(weights, file, {"format": "pt"})

    changes = {
        "nan": nan,
        "cut": lambda root: (root / "text_encoder" / "model.safetensors").write_bytes(b"12345"),
        "other tokenizer": lambda root: shutil.copytree(f"{MODEL}/tokenizer", root / "tokenizer", dirs_exist_ok=True),
        "other encoder": lambda root: shutil.copytree(
            f"{MODEL}/text_encoder", root / "text_encoder", dirs_exist_ok=True
        ),
        "no classes": lambda root: (root / "classes.json").write_text("[]"),
    }
    for name, change in changes.items():
        root = shutil.copytree(encoder_root, tmp_path / name)
        change(root)
        with pytest.raises(UserError, match="is damaged; make"):
            generate(root, 0, "a <TOKEN>", 1, **FAST)


def test_a_full_disk_is_known_before_writing(tmp_path):
    with pytest.raises(UserError, match="free some space"):
        check_space(tmp_path / "new" / "root", 10**18)


def test_imagenet_star_needs_all_thousand_tokens_and_a_model_of_their_width(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for i in range(999):
        torch.save({f"<thing-{i}>": torch.full((64,), float(i))}, tokens / f"{i}.pt")
    with pytest.raises(UserError, match="class 999 is missing"):
        create_imagenet_star_encoder(tokens, tmp_path / "root", MODEL)
    safetensors.torch.save_file({"emb": torch.full((1, 64), 999.0)}, tokens / "<old-thing-999>.safetensors")
    create_imagenet_star_encoder(tokens, tmp_path / "root", MODEL)
    classes = load_class_tokens(tmp_path / "root")
    assert (classes.tokens[15], classes.class_names[999]) == ("<thing-15>", "old thing")
    _, text_encoder = encoders.load_encoder(tmp_path / "root")
    assert text_encoder.get_input_embeddings().weight[-985:-984].unique().item() == 15
    for file in tokens.iterdir():
        file.unlink()
    for i in range(1000):
        safetensors.torch.save_file({f"<thing-{i}>": torch.zeros(1024)}, tokens / f"{i}.safetensors")
    with pytest.raises(UserError, match="1,024 wide, need a Stable Diffusion 2 folder"):
        create_imagenet_star_encoder(tokens, tmp_path / "root", MODEL)


# ---------------------------------------------------------------------------------------------------------------------
# Generation
# ---------------------------------------------------------------------------------------------------------------------


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_an_image_is_the_same_whatever_the_batch_size(encoder_root):
    prompts = "a photo of a <TOKEN> on a striped background"
    alone = pixels(generate(encoder_root, 0, prompts, 5, 7, batch_size=1, **FAST))
    assert alone.shape == (5, 32, 32, 3)
    for batch_size in (2, 5, 16):
        assert (
            np.abs(pixels(generate(encoder_root, 0, prompts, 5, 7, batch_size=batch_size, **FAST)) - alone).max() <= 2
        )
    assert np.abs(pixels(generate(encoder_root, 0, prompts, 1, 11, **FAST))[0] - alone[4]).max() <= 2


def test_a_list_of_prompts_gives_a_list_of_lists_with_its_own_seeds(encoder_root):
    prompts = ["a red <TOKEN>", "a blue <TOKEN>"]
    first, second = generate(encoder_root, 1, prompts, 2, [3, 40], **FAST)
    np.testing.assert_array_equal(pixels(first), pixels(generate(encoder_root, 1, prompts[0], 2, 3, **FAST)))
    assert np.abs(pixels(second) - pixels(generate(encoder_root, 1, prompts[1], 2, 40, **FAST))).max() <= 2


def test_the_token_or_the_name_stands_in_the_prompt(encoder_root):
    """The token's embedding is that of the word "star", so that both say the same."""
    by_token = generate(encoder_root, 0, "a photo of a <TOKEN>", 2, 0, **FAST)
    by_name = generate(encoder_root, 0, "a photo of a <TOKEN>", 2, 0, use_token=False, **FAST)
    written = generate(encoder_root, 1, "a photo of a star", 2, 0, use_token=False, **FAST)
    assert np.array_equal(pixels(by_token), pixels(by_name))
    assert np.array_equal(pixels(by_name), pixels(written))


def test_the_pipeline_is_loaded_once(encoder_root, monkeypatch):
    generation._load_pipeline.cache_clear()
    loads = []
    load = generation.load_model
    monkeypatch.setattr(generation, "load_model", lambda name: loads.append(name) or load(name))
    for seed in range(3):
        generate(str(encoder_root), 0, "a <TOKEN>", 1, seed, **FAST)
    assert loads == [MODEL]


def test_a_pipeline_without_class_tokens_says_words_as_with_them(encoder_root):
    settings = FAST["num_inference_steps"], FAST["guidance_scale"]
    prompts = ["a photo of a red star", "a photo of a circle"]
    plain, with_tokens = (
        pixels(generation.sample(generation.load_pipeline(MODEL, root, "cpu"), prompts, [3, 4], *settings))
        for root in (None, encoder_root)
    )
    np.testing.assert_array_equal(plain, with_tokens)
    expected = generate(encoder_root, 1, prompts[1], 1, 4, use_token=False, **FAST)
    assert np.abs(plain[1] - pixels(expected)[0]).max() <= 2


def test_bad_requests_for_images_are_told_in_one_sentence(encoder_root, tmp_path):
    cases = [
        ({"c": 2}, "classes 0 to 1"),
        ({"c": -1}, "out of range"),
        ({"prompts": ["a <TOKEN>", "a star"]}, '"a star" has no <TOKEN>'),
        ({"prompts": ["a <TOKEN>", "the <TOKEN>"], "random_seed": [1]}, "2 prompts and 1 seeds"),
        ({"prompts": "a <TOKEN> " + "on a grid " * 9}, "shorten it"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 5000}, "give 1 to 1000"),
        ({"guidance_scale": np.nan}, "guidance_scale is nan"),
        ({"random_seed": -1}, "the seed -1 is not"),
        ({"prompts": ["a <TOKEN>"], "random_seed": [1.5]}, "the seed 1.5 is not"),
        ({"encoder_root": tmp_path}, "not an encoder root"),
        ({"model_name": "nowhere"}, "is not a folder"),
        ({"device": "tpu"}, "not supported"),
    ]
    for change, message in cases:
        request = {"encoder_root": encoder_root, "c": 0, "prompts": "a <TOKEN>", "num_samples": 1} | FAST | change
        with pytest.raises(UserError, match=message):
            generate(**request)


def test_an_encoder_root_of_another_model_is_refused(encoder_root, tmp_path):
    other = Path(shutil.copytree(MODEL, tmp_path / "other"))
    file = other / "text_encoder" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: weight + 1 for name, weight in weights.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="was made for"):
        generate(encoder_root, 0, "a <TOKEN>", 1, **FAST | {"model_name": str(other)})


def test_out_of_memory_says_the_batch_size_to_try(capsys):
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("you tried to allocate memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ):
        with pytest.raises(UserError, match="try batch_size=4"), memory_advice(8):
            raise error
    with pytest.raises(UserError, match="smaller model"), memory_advice(1):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(8):
        raise RuntimeError("shapes differ")
    with pytest.raises(SystemExit) as stopped:
        entry_point(lambda: torch.empty(2**60))()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "there is not enough memory" in error
    assert error.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# Models from files
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classic_folder(tmp_path_factory):
    """A tiny model whose U-Net is built as that of Stable Diffusion 1 is, which the scenes' is not."""
    folder = tmp_path_factory.mktemp("classic") / "tiny"
    pipeline = new_pipeline()
    pipeline.unet = UNet2DConditionModel(
        sample_size=pipeline.unet.config.sample_size,
        in_channels=pipeline.unet.config.in_channels,
        out_channels=pipeline.unet.config.out_channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=pipeline.unet.config.cross_attention_dim,
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classic(classic_folder):
    return diffusion_models.load_model(classic_folder)


@pytest.fixture(scope="module")
def original_layout(classic):
    """The classic model's weights by the names of the first releases of Stable Diffusion."""
    per_level = classic.unet.config.layers_per_block + 1
    top = len(classic.vae.config.block_out_channels) - 1

    def unet_name(name):
        def down(match):
            i, j = int(match[1]), int(match[3])
            last = per_level - 1 if match[2] == "downsamplers" else j
            place = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[match[2]]
            return f"input_blocks.{1 + i * per_level + last}.{place}."

        def up(match):
            i, j = int(match[1]), int(match[3])
            last = per_level - 1 if match[2] == "upsamplers" else j
            attention = "attentions" if hasattr(classic.unet.up_blocks[i], "attentions") else "resnets"
            place = {"resnets": "0", "attentions": "1", "upsamplers": "2" if attention == "attentions" else "1"}[
                match[2]
            ]
            return f"output_blocks.{i * per_level + last}.{place}."

        name = (
            re.sub(r"^down_blocks\.(\d)\.(\w+)\.(\d)\.(conv\.(?=\w+$))?", down, name)
            if "downsamplers" in name
            else (re.sub(r"^down_blocks\.(\d)\.(\w+)\.(\d)\.", down, name))
        )
        name = re.sub(r"^up_blocks\.(\d)\.(\w+)\.(\d)\.", up, name)
        name = name.replace("mid_block.resnets.0.", "middle_block.0.").replace(
            "mid_block.resnets.1.", "middle_block.2."
        )
        name = name.replace("mid_block.attentions.0.", "middle_block.1.")
        if re.match(r"(input|output|middle)_block", name) and ".transformer_blocks." not in name:
            for ours, theirs in {
                "norm1": "in_layers.0",
                "conv1": "in_layers.2",
                "time_emb_proj": "emb_layers.1",
                "norm2": "out_layers.0",
                "conv2": "out_layers.3",
                "conv_shortcut": "skip_connection",
            }.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
        for ours, theirs in {
            "time_embedding.linear_1": "time_embed.0",
            "time_embedding.linear_2": "time_embed.2",
            "conv_in": "input_blocks.0.0",
            "conv_norm_out": "out.0",
            "conv_out": "out.2",
        }.items():
            name = re.sub(f"^{ours}", theirs, name)
        return f"model.diffusion_model.{name}"

    def vae_name(name):
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{top - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{top - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        return f"first_stage_model.{name.replace('conv_norm_out', 'norm_out').replace('conv_shortcut', 'nin_shortcut')}"

    weights = {unet_name(name): weight for name, weight in classic.unet.state_dict().items()}
    weights |= {vae_name(name): weight for name, weight in classic.vae.state_dict().items()}
    for name, weight in classic.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = weight
    return {name: weight.contiguous() for name, weight in weights.items()}


def test_a_single_file_is_the_same_model_as_its_folder(tmp_path, classic, classic_folder, original_layout, monkeypatch):
    shutil.copytree(classic_folder, tmp_path / "tiny")
    safetensors.torch.save_file(original_layout, tmp_path / "tiny.safetensors")
    # As sd-v1-4.ckpt does it: the weights among other things, one of them a class of a library that is not installed.
    module = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": module})
    for name in (module, "pytorch_lightning.callbacks", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules[module].ModelCheckpoint = callback
    torch.save({"global_step": 1, "callbacks": {callback: {}}, "state_dict": original_layout}, tmp_path / "tiny.ckpt")
    monkeypatch.undo()
    for file in ("tiny.safetensors", "tiny.ckpt"):
        single = diffusion_models.load_model(tmp_path / file)
        for part in ("text_encoder", "vae", "unet"):
            expected, found = getattr(classic, part).state_dict(), getattr(single, part).state_dict()
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[name], found[name]) for name in expected), part


class _Runs:
    def __reduce__(self):
        return print, ("this was run",)


def test_files_that_would_run_code_or_are_damaged_are_refused(tmp_path, capsys, classic_folder, original_layout):
    torch.save({"state_dict": _Runs()}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="could run code"):
        diffusion_models.load_model(tmp_path / "bad.ckpt")
    assert "this was run" not in capsys.readouterr().out
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(original_layout)[:5000])
    with pytest.raises(UserError, match="damaged"):
        load_tensors(tmp_path / "cut.safetensors", "the model")
    shutil.copytree(classic_folder, tmp_path / "part")
    lacking = {name: weight for name, weight in original_layout.items() if "middle_block" not in name}
    safetensors.torch.save_file(lacking, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"part\.safetensors (lacks|cannot be loaded)"):
        diffusion_models.load_model(tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    ("part", "file"),
    [("text_encoder", "model.safetensors"), ("unet", "diffusion_pytorch_model.safetensors")],
)
def test_a_model_of_which_weights_are_missing_is_not_made_up(tmp_path, part, file):
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    weights = safetensors.torch.load_file(folder / part / file)
    half = dict(list(weights.items())[::2])
    safetensors.torch.save_file(half, folder / part / file, {"format": "pt"})
    with pytest.raises(UserError, match=f"the {part} of .* lacks {len(weights) - len(half)} weights"):
        diffusion_models.load_model(folder)


def test_a_model_that_is_not_at_hand_is_told_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda: False)
    with pytest.raises(UserError, match=r"neither in .* nor to be downloaded .* give a folder"):
        diffusion_models.load_model("nobody/no-such-model")
    with pytest.raises(UserError, match=r"no\.ckpt does not exist"):
        diffusion_models.load_model(tmp_path / "no.ckpt")
    with pytest.raises(UserError, match="tokenizer and text_encoder"):
        diffusion_models.load_model(tmp_path)
    wordless = shutil.copytree(MODEL, tmp_path / "wordless")
    (wordless / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer/vocab\.json missing"):
        diffusion_models.load_model(wordless)


def test_the_bundled_configuration_is_stable_diffusion_1():
    """By the numbers of parameters that its parts are known to have."""
    folder = ROOT / "src" / "interfaces" / "sd1_config"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (unet, vae, text_encoder)]
    assert sizes == [859_520_964, 83_653_863, 123_060_480]


def test_the_tokenizer_of_single_files_is_clips_own():
    texts = ["a photo of a cat, jack-o'-lantern", "Ünïcode & 123 tokens!", "an oil painting of a  STREETCAR"]
    ours, reference = diffusion_models.clip_tokenizer(), open_clip.tokenizer.SimpleTokenizer()
    for text in texts:
        assert ours(text).input_ids[1:-1] == reference.encode(" ".join(text.lower().split()))


# ---------------------------------------------------------------------------------------------------------------------
# Scores, shifts, benchmark
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    """20 red stars on stripes, then 20 blue circles on a grid."""
    rng = np.random.default_rng(1)
    kinds = [("star", "red", "striped")] * 20 + [("circle", "blue", "grid")] * 20
    return [Image.fromarray(draw(32, *kind, rng)) for kind in kinds]


def test_similarity_is_the_cosine_that_open_clip_gives(drawn, monkeypatch):
    monkeypatch.chdir(SCENES_CLIP)  # where open_clip looks for the tokenizer's merges
    name = f"local-dir:{SCENES_CLIP}"
    clip, _, preprocess = open_clip.create_model_and_transforms(name)
    clip.eval()
    with torch.no_grad():
        images = clip.encode_image(torch.stack([preprocess(image) for image in drawn]))
        text = clip.encode_text(open_clip.get_tokenizer(name)(["a photo of a star"]))
        expected = torch.cosine_similarity(images, text).numpy()
    found = inference_utils.clip_similarity(drawn, "a photo of a star", **CLIP)
    assert found.shape == (40,)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert inference_utils.clip_similarity([], "a photo of a star", **CLIP).shape == (0,)
    both = inference_utils.clip_similarity(drawn, ["a photo of a circle", "a photo of a star"], **CLIP)
    assert both.shape == (40, 2)
    np.testing.assert_array_equal(both[:, 1], found)
    assert inference_utils.clip_similarity([], ["a", "b"], **CLIP).shape == (0, 2)


def test_filtering_asks_for_object_and_shift_apart(drawn):
    texts = "a photo of a star", "a photo of a shape on a striped background"
    rng = np.random.default_rng(2)
    backgrounds = ["plain", "dotted", "brick", "checkered", "wavy"]
    real = [Image.fromarray(draw(32, "star", "red", backgrounds[i % 5], rng)) for i in range(40)]
    thresholds = inference_utils.calibrate_thresholds(real, *texts, quantile=0.1, **CLIP)
    kept = inference_utils.clip_similarity(real, texts[0], **CLIP) >= thresholds.object
    assert kept.sum() == 36
    assert (inference_utils.clip_similarity(real, texts[1], **CLIP) >= thresholds.shift).sum() == 4
    mask = inference_utils.filter_images(drawn, *texts, thresholds, **CLIP)
    assert mask[:20].mean() > 0.7
    assert not mask[20:].any()
    circles = inference_utils.filter_images(drawn, "a photo of a circle", None, (thresholds.object, 9.0), **CLIP)
    assert circles[20:].mean() > 0.7


def test_a_clip_that_is_not_at_hand_is_told_with_the_way_out(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda: False)
    with pytest.raises(UserError, match=r"incomplete: open_clip_config\.json is missing"):
        inference_utils.clip_similarity(drawn, "a", f"local-dir:{tmp_path}")
    with pytest.raises(UserError, match=r"the hub cannot be reached.*local-dir:FOLDER"):
        inference_utils.clip_similarity(drawn, "a", "RN50-quickgelu", "yfcc15m")
    with pytest.raises(UserError, match="trained with QuickGELU"):
        inference_utils.clip_similarity(drawn, "a", "RN50", "yfcc15m")
    with pytest.raises(UserError, match="local-dir:FOLDER"):
        inference_utils.clip_similarity(drawn, "a", "no-such-model", "no-tag")


def test_the_shifts_are_the_23_and_the_base():
    shifts = load_shifts()
    groups = [shift.group for shift in shifts]
    counts = {group: groups.count(group) for group in dict.fromkeys(groups)}
    assert counts == {"base": 1, "background": 7, "weather and light": 6, "colour": 5, "co-occurrence": 2, "style": 3}
    assert all(shift.caption and "<TOKEN>" not in shift.caption for shift in shifts[1:])


@pytest.mark.parametrize(
    "text",
    [
        "- {name: a, prompt: no token}",
        "- {name: ../a, prompt: a <TOKEN>}",
        "- {nome: a, prompt: a <TOKEN>}",
        "- {name: 5, prompt: a <TOKEN>}",
        "[]",
        "- {name: a, prompt: a <TOKEN>}\n- {name: a, prompt: the <TOKEN>}",
        "- {name: in red, prompt: a <TOKEN>}\n- {name: in_red, prompt: the <TOKEN>}",  # of one folder
        "- {name: In red, prompt: a <TOKEN>}\n- {name: in red, prompt: the <TOKEN>}",
        "{name: a, prompt: a <TOKEN>}",
        f"- &a [{'x,' * 40}]\n" + "\n".join(f"- &{b} [{f'*{a},' * 40}]" for a, b in itertools.pairwise("abcdef")),
        "just words",
        "{a: [}",
    ],
)
def test_shifts_that_cannot_be_used_are_refused(tmp_path, text):
    (tmp_path / "shifts.yaml").write_text(text)
    with pytest.raises(UserError):
        load_shifts(tmp_path / "shifts.yaml")


def test_a_timm_classifier_says_what_the_model_says(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda: False)
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet", num_classes=5).eval()
    torch.save({"state_dict": {f"module.{name}": w for name, w in reference.state_dict().items()}}, tmp_path / "w.pt")
    classify = timm_classifier("test_resnet", tmp_path / "w.pt", "cpu")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=reference))
    with torch.no_grad():
        expected = reference(torch.stack([transform(image) for image in drawn])).argmax(1)
    np.testing.assert_array_equal(classify(drawn), expected)
    with pytest.raises(UserError, match="not a model of timm"):
        timm_classifier("no_such_model")
    with pytest.raises(UserError, match="the hub cannot be reached"):
        timm_classifier("resnet18.a1_in1k")
    with pytest.raises(UserError, match="cannot be loaded"):
        timm_classifier("test_vit", tmp_path / "w.pt")


def test_the_commands_lead_from_images_to_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    for name in ("red_star", "blue_circle"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            colour, shape = name.split("_")
            Image.fromarray(draw(32, shape, colour, "plain", rng)).save(tmp_path / "photos" / name / f"{i}.png")
    Path("templates.txt").write_text("a photo of a {}\n")
    Path("shifts.yaml").write_text(
        "- {name: base, prompt: a photo of a <TOKEN>}\n"
        "- {name: on a grid, prompt: a <TOKEN> on a grid background, caption: a photo on a grid background}\n"
    )
    sampling = ["--model", MODEL, "--encoder-root", "encoder", "--steps", "3", "--guidance", "2", "--device", "cpu"]
    clip = ["--clip-model", f"local-dir:{SCENES_CLIP}", "--device", "cpu"]
    learn_command = [
        "learn",
        "--images",
        "photos",
        "--classes",
        "red_star",
        "blue_circle",
        "--templates",
        "templates.txt",
    ]
    learn_command += ["--steps", "3", "--batch-size", "2", "--model", MODEL, "--encoder-root", "encoder"]
    main(learn_command)
    assert "<red-star-0> <blue-circle-1>" in capsys.readouterr().out
    learned = {path: path.read_bytes() for path in Path("encoder_tokens").iterdir()}
    main(learn_command)
    assert learned == {path: path.read_bytes() for path in Path("encoder_tokens").iterdir()}
    capsys.readouterr()

    main(
        [
            "generate",
            *sampling,
            "--class",
            "blue circle",
            "--prompt",
            "a <TOKEN>",
            "--num-samples",
            "3",
            "--out",
            "made",
        ]
    )
    assert sorted(path.name for path in Path("made").iterdir()) == ["0.png", "1.png", "2.png"]

    main(["score", *clip, "--images", "made", "--object", "a circle", "--real", "photos/blue_circle", "--out", "s.csv"])
    assert "images kept" in capsys.readouterr().out
    with open("s.csv") as stream:
        assert list(next(csv.DictReader(stream))) == ["image", "object", "kept"]

    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=2).state_dict(), "weights.pt")
    command = [
        "benchmark",
        *sampling,
        *clip,
        "--classifier",
        "test_resnet",
        "--weights",
        "weights.pt",
        "--per-class",
        "2",
    ]
    command += ["--shifts", "shifts.yaml", "--out", "bench"]
    with pytest.raises(SystemExit):
        main([*command, "--steps", "5000"])  # leaves nothing that would stop the next call
    long = Path("shifts.yaml").read_text() + f"- {{name: far, prompt: a <TOKEN> {'in a forest ' * 9}}}\n"
    Path("long.yaml").write_text(long)
    with pytest.raises(SystemExit):
        main([*command, "--shifts", "long.yaml"])
    assert not Path("bench").exists()
    main(command)
    printed = capsys.readouterr().out
    assert "on a grid" in printed
    times = {path: path.stat().st_mtime_ns for path in Path("bench").rglob("[0-9].png")}
    assert len(times) == 8
    main([*command, "--real", "photos"])
    assert times == {path: path.stat().st_mtime_ns for path in times}
    with open("bench/accuracy.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["shift"], row["class"], row["made"]) for row in rows] == [
        ("base", "red star", "2"),
        ("base", "blue circle", "2"),
        ("on a grid", "red star", "2"),
        ("on a grid", "blue circle", "2"),
    ]
    assert all(int(row["right"]) <= int(row["kept"]) <= 2 for row in rows)
    assert Image.open("bench/accuracy.png").size[0] > 300

    for bad, message in [
        (["generate", *sampling, "--class", "dog", "--prompt", "a <TOKEN>", "--out", "o"], 'no class "dog"'),
        (["benchmark", *sampling, "--classes", "7", "--classifier", "test_resnet", "--out", "o"], 'no class "7"'),
        ([*command, "--labels", "0", "2"], "has the labels 0 to 1, not 2"),
        ([*command, "--per-class", "0"], "per_class is 0"),
        (["learn", "--images", "nowhere", "--encoder-root", "e"], "does not exist"),
        (["learn", "--images", "photos", "--encoder-root", "photos"], "name a new folder"),
        ([*learn_command, "--steps", "2"], "has 3 steps already"),
        ([*learn_command, "--learning-rate", "1e-2"], "another learning_rate"),
        ([*command, "--guidance", "5"], "images made with another guidance_scale"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(bad)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_the_shipped_models_are_found_by_name_and_sampled_as_suits_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    star = textual_inversion.mean_embedding(diffusion_models.load_model("scenes"), "star")
    create_token_dictionary([star], ["<star-0>"], ["star"], "encoder", "scenes")
    prompt = "a photo of a <TOKEN>"
    words = ["--model", "scenes", "--encoder-root", "encoder", "--class", "star", "--prompt", prompt, "--device", "cpu"]
    main(["generate", *words, "--num-samples", "2", "--out", "made"])
    made = [read_photo(file) for file in image_files("made")]
    sampling = {"num_inference_steps": 20, "guidance_scale": 3.0, "device": "cpu"}
    asked = generate("encoder", 0, prompt, 2, 0, model_name=str(diffusion_models.SCENES_DIFFUSION), **sampling)
    for image, other in zip(made, asked, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(other))
    for shape in ("star", "heart"):
        words = ["--images", "made", "--object", f"a photo of a {shape}", "--clip-model", "scenes", "--device", "cpu"]
        main(["score", *words, "--out", f"{shape}.csv"])
    scores = [list(csv.DictReader(Path(f"{name}.csv").read_text().splitlines())) for name in ("star", "heart")]
    assert all(float(star["object"]) > float(heart["object"]) for star, heart in zip(*scores, strict=True))


@pytest.mark.check
def test_the_notebook_runs():
    from test_notebooks import execute

    printed = execute("analysis_nbs/dataset_interfaces.ipynb", MODEL=MODEL, STEPS=2, IMAGES=1, SAMPLING_STEPS=3)
    assert "<red-star-0>" in printed
