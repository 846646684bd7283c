"""Images decoded along a direction: the way in embeddings, the decoder against diffusers' own pipeline, the command."""

import base64
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from failure_directions.commands import decode as command
from failure_directions.commands import distil, report
from failure_directions.directions.class_fit import Preprocess
from failure_directions.directions.interpolation import Origin, slerp
from failure_directions.directions.results import read_directions, read_result
from failure_directions.embeddings.clip import CLIPProcessor
from failure_directions.interfaces.diffusion_models import load_model
from failure_directions.interfaces.image_decoder import conditioning, decode, load_decoder
from failure_directions.interventions.decoding import DecodedImage, curve, read_curve, where_it_leaves
from failure_directions.runtime.errors import UserError
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from scripts.train_scenes_diffusion import new_pipeline

SVM_CONFIGS = Path(__file__).resolve().parents[1] / "svm_configs"
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
DIM = 16


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With two, the last bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the way --------------------------------------------------------------------------------------------------------


def test_points_on_a_great_circle_are_equal_angles_apart_and_in_its_plane():
    rng = np.random.default_rng(0)
    start, end = (one / np.linalg.norm(one) for one in rng.normal(size=(2, 8)))
    points = slerp(start, end, np.linspace(0, 1, 6))
    np.testing.assert_allclose(points[[0, -1]], [start, end], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    angles = np.arccos((points[1:] * points[:-1]).sum(axis=1))
    np.testing.assert_allclose(angles, np.arccos(start @ end) / 5)
    assert np.linalg.matrix_rank(np.vstack([points, start, end]), tol=1e-9) == 2


def test_a_way_that_is_none_and_one_that_is_not_unique():
    start = np.eye(3)[0]
    np.testing.assert_array_equal(slerp(start, start, [0, 0.5, 1]), np.tile(start, (3, 1)))
    with pytest.raises(UserError, match="opposite"):
        slerp(start, -start, [0.5])


@pytest.mark.parametrize("whiten", [True, False])
def test_decision_values_fall_towards_hard_and_rise_towards_easy(whiten):
    rng = np.random.default_rng(1)
    images = rng.normal(2, 3, size=(40, DIM))
    moments = (images.mean(axis=0) - 1, images.std(axis=0)) if whiten else (None, None)
    preprocess, normal = Preprocess(*moments, True), rng.normal(size=DIM)
    origin = Origin.of_images(preprocess, images)
    alphas = np.linspace(0, 1, 5)
    for side, sign in (("hard", -1), ("easy", 1)):
        embeddings = origin.towards(normal, side, alphas)
        # What the SVM sees of them is the way itself: at 0 the mean of the images, at 1 the normal.
        seen = preprocess(embeddings)
        mean = preprocess(images).mean(axis=0)
        np.testing.assert_allclose(seen[0], mean / np.linalg.norm(mean), atol=1e-12)
        np.testing.assert_allclose(seen[-1], sign * normal / np.linalg.norm(normal), atol=1e-12)
        assert (np.diff(seen @ normal) * sign > 0).all()
        # They are as far from the centre as the images are.
        lengths = np.linalg.norm(preprocess.whiten(images), axis=1)
        np.testing.assert_allclose(np.linalg.norm(preprocess.whiten(embeddings), axis=1), np.median(lengths))


def test_a_direction_without_length_is_refused():
    origin = Origin.of_images(Preprocess(None, None, True), np.eye(DIM))
    for normal in (np.zeros(DIM), np.full(DIM, np.nan)):
        with pytest.raises(UserError, match="the direction has no direction"):
            origin.towards(normal, "hard", [0.5])


# ---- the decoder, against diffusers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A vision transformer of open_clip with random weights, as a local folder, and its processor."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    folder.mkdir()
    config = {"embed_dim": DIM, "vision_cfg": VISION, "text_cfg": TEXT}
    torch.manual_seed(0)
    weights = {name: value.contiguous() for name, value in open_clip.CLIP(**config).state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return CLIPProcessor([0.0] * 3, [255.0] * 3, f"local-dir:{folder}", device="cpu")


def transformers_copy(visual):
    """open_clip's vision transformer as transformers writes it."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=DIM,
        hidden_act="gelu",
    )
    model, state = CLIPVisionModelWithProjection(config), visual.state_dict()
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    for kind in ("weight", "bias"):
        names |= {f"pre_layrnorm.{kind}": f"ln_pre.{kind}", f"post_layernorm.{kind}": f"ln_post.{kind}"}
        for i in range(2):
            ours, theirs = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            pairs = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
            pairs["self_attn.out_proj"] = "attn.out_proj"
            names |= {f"{theirs}.{a}.{kind}": f"{ours}.{b}.{kind}" for a, b in pairs.items()}
    converted = {f"vision_model.{theirs}": state[ours] for theirs, ours in names.items()}
    for i in range(2):
        for kind in ("weight", "bias"):
            parts = state[f"transformer.resblocks.{i}.attn.in_proj_{kind}"].chunk(3)
            for part, value in zip("qkv", parts, strict=True):
                converted[f"vision_model.encoder.layers.{i}.self_attn.{part}_proj.{kind}"] = value
    converted["visual_projection.weight"] = state["proj"].T.contiguous()
    model.load_state_dict(converted)
    return model.eval()


@pytest.fixture(scope="module")
def unclip(tiny_clip, tmp_path_factory):
    """A Stable unCLIP pipeline with random weights and the tiny CLIP's image encoder, and its folder."""
    torch.manual_seed(1)
    base = new_pipeline()
    unet = UNet2DConditionModel.from_config(
        base.unet.config, class_embed_type="projection", projection_class_embeddings_input_dim=2 * DIM
    )
    normalizer = StableUnCLIPImageNormalizer(DIM)
    normalizer.mean.data, normalizer.std.data = torch.randn(1, DIM), torch.rand(1, DIM) + 0.5
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(),
        image_encoder=transformers_copy(tiny_clip.model.visual),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config(base.scheduler.config),
        vae=base.vae,
    )
    pipeline.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("unclip") / "model"
    pipeline.save_pretrained(folder)
    return pipeline, folder


def test_a_stable_unclip_folder_decodes_as_diffusers_own_pipeline_does(unclip, tiny_clip, monkeypatch):
    pipeline, folder = unclip
    decoder = load_decoder(folder, tiny_clip)
    embeddings = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    seeds, noise, latents = [5, 6, 2**40], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        latents.append(torch.randn(16, 8, 8, generator=generator))
        noise.append(torch.randn(DIM, generator=generator))
    given, noise = torch.from_numpy(embeddings), torch.stack(noise)

    # First what the U-Net is told, then the sampling with it.
    told = pipeline.noise_image_embeddings(given, 300, noise)
    torch.testing.assert_close(conditioning(decoder, given, noise, torch.full((3,), 300)), told)
    monkeypatch.setattr(pipeline, "noise_image_embeddings", lambda **_: told)
    for guidance in (1.0, 4.0):
        theirs = pipeline(
            prompt=[""] * 3,
            image_embeds=given,
            latents=torch.stack(latents)
            * EulerDiscreteScheduler.from_config(decoder.scheduler_config).init_noise_sigma,
            num_inference_steps=4,
            guidance_scale=guidance,
            noise_level=300,
        ).images
        ours = decode(decoder, embeddings, seeds, 4, guidance, 300, batch_size=2, device="cpu")
        for a, b in zip(theirs, ours, strict=True):
            assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_a_decoder_of_another_clip_is_refused(unclip, tiny_clip):
    _, folder = unclip
    scenes = CLIPProcessor([0.0] * 3, [255.0] * 3, "scenes", device="cpu")
    with pytest.raises(UserError, match=r"decodes the embeddings of another CLIP than local-dir:.*scenes_clip; give"):
        load_decoder(folder, scenes)
    with pytest.raises(UserError, match="scenes decodes the embeddings of another CLIP"):
        load_decoder("scenes", tiny_clip)
    other = SimpleNamespace(**{name: getattr(tiny_clip, name) for name in ("name", "device", "image_size")})
    torch.manual_seed(9)
    other.model = open_clip.CLIP(DIM, VISION, TEXT).eval()
    with pytest.raises(UserError, match="another CLIP"):
        load_decoder(folder, other)


def test_models_that_are_not_conditioned_on_images_are_refused(tiny_clip, tmp_path):
    new_pipeline().save_pretrained(tmp_path / "text")
    for name, says in (
        (tmp_path / "text", "is not conditioned on image embeddings: it has no image_normalizer"),
        (tmp_path / "none", "is not a folder, OWNER/NAME on the hub or scenes; check the path"),
    ):
        with pytest.raises(UserError, match=says):
            load_decoder(name, tiny_clip)


def test_a_damaged_folder_is_named(unclip, tiny_clip, tmp_path):
    _, folder = unclip
    copy = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"the unet of the diffusion model .* cannot be loaded"):
        load_decoder(copy, tiny_clip)


def test_embeddings_of_another_width_are_refused(unclip, tiny_clip):
    decoder = load_decoder(unclip[1], tiny_clip)
    with pytest.raises(UserError, match=r"shape \(2, 5\) cannot be decoded by .*; it takes \(N, 16\)"):
        decode(decoder, np.zeros((2, 5)), [0, 1])


# ---- the curve ------------------------------------------------------------------------------------------------------


def rows_of(side, alpha, inside, right):
    row = DecodedImage("x.png", "cat", "", side, alpha, 0, -alpha, 1, "cat", 1)
    return [replace(row, in_class=a, right=b) for a, b in zip(inside, right, strict=True)]


def test_the_curve_counts_images_that_show_the_class_and_ends_where_they_leave():
    rows = rows_of("neutral", 0.0, [1] * 10, [1] * 9 + [0])
    rows += rows_of("hard", 0.2, [1] * 8 + [0] * 2, [1] * 4 + [0] * 4 + [1] * 2)  # .8 of the start still show it
    rows += rows_of("hard", 0.3, [1] * 7 + [0] * 3, [0] * 10)
    rows += rows_of("hard", 0.4, [1] * 10, [0] * 10)  # who has left does not come back
    rows += rows_of("easy", 0.2, [1] * 10, [1] * 10)
    points = curve(rows)
    assert [(one.side, one.alpha, one.images, one.in_class, one.left) for one in points] == [
        ("neutral", 0.0, 10, 10, 0),
        ("hard", 0.2, 10, 8, 0),
        ("hard", 0.3, 10, 7, 1),
        ("hard", 0.4, 10, 10, 1),
        ("easy", 0.2, 10, 10, 0),
    ]
    assert points[1].accuracy == 0.5
    # Wilson (JASA 1927), by the formula.
    z, n, p = 1.959963984540054, 8, 0.5
    centre, width = p + z * z / (2 * n), 1 + z * z / n
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    np.testing.assert_allclose([points[1].low, points[1].high], [(centre - half) / width, (centre + half) / width])
    assert where_it_leaves(points) == {("cat", "", "hard"): 0.3}


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(scenes_folder, trained_run, tmp_path_factory):
    return distilled("scenes", scenes_folder, trained_run, tmp_path_factory.mktemp("results") / "clip.pt")


def distilled(embedding, scenes_folder, trained_run, out):
    svm_config = SVM_CONFIGS / f"normalized_svm_{embedding}_config.yaml"
    words = ["-c", scenes_folder / "config.yaml", "-s", svm_config, "--root", scenes_folder, "--jobs", 1]
    words += ["--model-path", trained_run / "checkpoints" / "checkpoint_last.pt", "--out-file", out]
    distil.main([str(word) for word in words])
    return out


def call(result, out, *more):
    words = ["--svm", result, "--out", out, "--device", "cpu", "--batch-size", 6, *more]
    command.main([str(word) for word in words])


def a_class(result):
    return read_result(result).class_names[next(iter(np.flatnonzero(~np.isnan(read_directions(result).cv_scores))))]


@pytest.fixture(scope="module")
def decoded(result, tmp_path_factory):
    out = tmp_path_factory.mktemp("decoded") / "one"
    call(result, out, "--class", a_class(result), "--alphas", 0.3, 0, "--per-alpha", 3, "--steps", 4)
    return out


def test_a_direction_becomes_images_tables_and_figures(result, decoded):
    name = a_class(result)
    with open(decoded / "decoded.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["side"], float(row["alpha"])) for row in rows] == [
        *[("neutral", 0.0)] * 3,
        *[("hard", 0.3)] * 3,
        *[("easy", 0.3)] * 3,
    ]
    for row in rows:
        assert row["label"] == name
        assert row["right"] == str(int(row["pred"] == name))
        with Image.open(decoded / row["path"]) as image:
            assert image.size == (32, 32)
    points, images = read_curve(decoded)
    assert points == curve(images)
    assert (decoded / f"{name}.png").is_file()
    hard, easy = (one.decision_value for one in points[1:])
    assert hard < easy


def test_a_folder_that_was_interrupted_ends_up_the_same(result, decoded, tmp_path):
    name = a_class(result)
    again = tmp_path / "again"
    options = ["--class", name, "--alphas", 0.3, 0, "--per-alpha", 3, "--steps", 4]
    call(result, again, *options)
    removed = sorted(again.rglob("hard_0.3/*.png"))[1:]
    for path in removed:
        path.unlink()
    call(result, again, *options)
    for path in sorted(decoded.rglob("*/*.png")):
        assert path.read_bytes() == (again / path.relative_to(decoded)).read_bytes()


def test_the_report_shows_the_strips(result, decoded, tmp_path):
    page = tmp_path / "report.html"
    report.main(["--svm", str(result), "--decoded", str(decoded), "--report", str(page)])
    text = page.read_text()
    assert "Along the direction" in text
    strip = base64.b64encode((decoded / f"{a_class(result)}.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{strip}"' in text


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("curve.csv", None, "curve.csv does not exist; give the folder that failure-directions decode wrote"),
        ("curve.csv", "label,slice\na,b\n", "curve.csv is damaged"),
        ("decoded.csv", "path\n", "decoded.csv is damaged"),
        ("circle.png", "no figure", "circle.png is no figure of decoded images"),
    ],
)
def test_a_damaged_folder_of_decoded_images_is_named(result, decoded, tmp_path, capsys, file, content, says):
    copy = tmp_path / "copy"
    shutil.copytree(decoded, copy)
    for path in copy.glob("*.png"):
        path.rename(copy / "circle.png")
    table = (copy / "decoded.csv").read_text().replace(f"{a_class(result)}/", "circle/")
    (copy / "decoded.csv").write_text(table)
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    with pytest.raises(SystemExit) as stop:
        report.main(["--svm", str(result), "--decoded", str(copy), "--report", str(tmp_path / "report.html")])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--alphas", 0, 1.5], "--alphas has 1.5; give shares of the way, from 0 to 1"),
        (["--alphas", "nan"], "--alphas has nan"),
        (["--per-alpha", 0], "--per-alpha is 0; give 1 or more"),
        (["--noise-level", 1000], "--noise-level is 1000; give 0 to 999"),
        (["--slice", 1], "name that class with --class"),
        (["--class", "zebra"], "has no class 'zebra'"),
        (["--class", "circle", "--slice", 40], "the class circle has no slice 40; it has"),
        (["--class", "circle", "--model", "nowhere"], "the diffusion model nowhere is not a folder"),
        (["--class", "circle", "--checkpoint", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_bad_requests_are_one_sentence_and_leave_nothing(result, tmp_path, capsys, more, says):
    with pytest.raises(SystemExit) as stop:
        call(result, tmp_path / "out", "--steps", 2, *more)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))


def test_directions_of_another_space_are_refused(scenes_folder, trained_run, tmp_path, capsys):
    result = distilled("latent", scenes_folder, trained_run, tmp_path / "latent.pt")
    with pytest.raises(SystemExit):
        call(result, tmp_path / "out")
    assert "images can be decoded from CLIP's space alone" in capsys.readouterr().err


def test_the_scenes_decoder_paints_what_an_embedding_says():
    from failure_directions.data.scene_drawing import draw

    clip = CLIPProcessor([0.0] * 3, [255.0] * 3, "scenes", device="cpu")
    rng = np.random.default_rng(3)
    scenes = [("star", "red", "plain"), ("circle", "blue", "plain"), ("square", "green", "plain")] * 4
    drawn = [Image.fromarray(draw(32, *scene, rng, radius=(0.65, 0.8), turn=0.3)) for scene in scenes]
    decoder = load_decoder("scenes", clip)
    images = decode(decoder, clip.encode_pictures(drawn), range(len(scenes)), device="cpu")
    texts = clip.evaluate_clip_captions([f"a photo of a {colour} {shape}" for shape, colour, _ in scenes[:3]])
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    nearest = (clip.encode_pictures(images) @ texts.T).argmax(axis=1)
    assert (nearest == np.tile([0, 1, 2], 4)).mean() >= 0.9
    assert load_model("scenes").vae.state_dict().keys() == decoder.vae.state_dict().keys()
