"""Train the embedded diffusion model of the scenes on images drawn as it goes, and say how well it paints captions.

    python scripts/train_scenes_diffusion.py

The folder that it writes is a `StableDiffusionPipeline` for 32 x 32 images, weights in half precision: an autoencoder
with 8 x 8 latents of 16 channels, a U-Net of one resolution and a text encoder over whole words. `HELD_OUT` of the 512
combinations of shape, colour and background are never drawn in training; the captions that it is judged on are theirs.

So small a model learns colours in a minute, textures in ten, and shapes last: the mean of a shape over all places and
turns, which is all that much noise leaves of it, hardly differs from another's. What was found to help, in this order:
latents wider than the noise (`LATENT_STD`), shapes that are large and nearly upright (`POSE`), text that reaches the
U-Net by its time embedding as well as by cross-attention, more drawings without texture and more of the textures that
are learned last (`SHARES`), noise levels at which shape and texture are decided (`TIMES`).

The embedded weights were made in 20.0 minutes (37 of processor time, two cores nearly alone). In 200 images of held-out
captions the shape is right in 96.5 %, the colour in 100 %, the background in 98.0 %.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from diffusers.utils import logging as diffusers_logging
from failure_directions.data.scene_drawing import BACKGROUNDS, draw
from failure_directions.embeddings.clip import CLIPProcessor
from failure_directions.interfaces.diffusion_models import SCENES_DIFFUSION as FOLDER
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import new_folder
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from scripts.train_scenes_clip import ATTRIBUTES, SIZE, caption, check_folder, learn_merges, one_cycle, vocabulary

HELD_OUT = 40  # combinations
NAMED = (0.95, 0.9, 0.9)  # how often a caption names the shape, the colour and the background
DROPPED = 0.1  # how often there is no caption, for classifier-free guidance
CONTEXT, WIDTH = 16, 64  # of the text encoder: tokens, channels
# Variance of the noise on the drawings, on the scale -1..1, and a weight below 1 of the Kullback-Leibler term: at 1 the
# bound is the true one, but the latents then carry no speckles and no sharp corners.
NOISE_VARIANCE, KL_WEIGHT = (18 / 127.5) ** 2, 0.04
POSE = {"radius": (0.65, 0.8), "turn": 0.3}  # of the shapes that are drawn
# How often each background is drawn: shapes are learned on plain ones, and these textures are the last to be learned.
SHARES = {"plain": 0.28, "speckled": 0.18, "brick": 0.16, "grid": 0.12}  # the others share the rest
LATENT_STD = 2.0  # of the latents that the U-Net sees; at 1, textures drown in all but the weakest noise
TIMES = (0.35, 0.9)  # mean and standard deviation of the logit of t, on the scale 0..1 (Esser et al., ICML 2024)
LATENTS = 16  # channels
VAE_LR, VAE_BATCH, VAE_SHARE = 2e-3, 32, 0.25  # the last of the time limit
LR, AVERAGE = 1.5e-3, 0.998
STEPS, GUIDANCE = 20, 5.0  # of the images that are judged


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(FOLDER), help="folder to write or replace (default: the embedded one)")
    parser.add_argument("--vae-steps", type=int, default=2500, help="of the autoencoder")
    parser.add_argument("--steps", type=int, default=5000, help="of the U-Net with the text encoder")
    parser.add_argument("--drawings", type=int, default=24_000, help="on which the U-Net is trained")
    parser.add_argument("--minutes", type=float, default=20, help="on a slow machine, do fewer steps in this time")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--judged", type=int, default=200, help="images that are painted and judged in the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16", help="while training")
    args = parser.parse_args(argv)
    out = Path(args.out)
    check_folder(out, "model_index.json")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    began = time.perf_counter()
    rng = np.random.default_rng(args.seed)
    seen, held_out = combinations(rng)
    # Weights change at every step, so their copies in half precision cannot be kept.
    precision = torch.autocast("cpu", torch.bfloat16, args.precision == "bfloat16", cache_enabled=False)
    pipeline = new_pipeline()
    with precision:
        seconds = 60 * args.minutes
        train_autoencoder(pipeline.vae, rng, seen, args.vae_steps, VAE_SHARE * seconds)
        seconds -= time.perf_counter() - began
        train_denoiser(pipeline, rng, seen, args.drawings, args.steps, args.batch_size, seconds)
    with new_folder(out) as folder:
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    minutes, used = (time.perf_counter() - began) / 60, time.process_time() / 60
    print(f"trained in {minutes:.1f} minutes ({used:.1f} of processor time); {out} holds {size / 1e6:.2f} MB")

    scenes = np.resize(held_out, (args.judged, 3))
    drawings = draw_batch(scenes, np.random.default_rng([args.seed, 1]))
    painted = paint(out, scenes)
    judged = {
        "drawings that went through the autoencoder": noisy(through(pipeline.vae.float(), drawings)),
        "images of captions that were held out": noisy(painted),
        "of these images as painted, without the drawings' noise": painted,
    }
    for what, images in judged.items():
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in judge(scenes, images).items())
        print(f"right in {len(scenes)} {what}: {shares}")


def combinations(rng):
    """All scenes, as places in `ATTRIBUTES`, shuffled: (512 - HELD_OUT, 3) to train on, (HELD_OUT, 3) held out."""
    every = np.stack(np.meshgrid(*(np.arange(len(values)) for values in ATTRIBUTES)), axis=-1).reshape(-1, 3)
    rng.shuffle(every)
    return every[HELD_OUT:], every[:HELD_OUT]


def words_of(scene):
    """Shape, colour and background of a scene (3,), by name."""
    return [values[place] for values, place in zip(ATTRIBUTES, scene, strict=True)]


def drawn_scenes(scenes, count, rng):
    """Choose `count` of the scenes (N, 3), with backgrounds as often as `SHARES` says: (count, 3)."""
    rest = (1 - sum(SHARES.values())) / (len(BACKGROUNDS) - len(SHARES))
    shares = np.array([SHARES.get(background, rest) for background in BACKGROUNDS])
    share = (shares / np.bincount(scenes[:, 2]))[scenes[:, 2]]
    return scenes[rng.choice(len(scenes), count, p=share)]


def draw_batch(scenes, rng):
    """Scenes (B, 3) -> images (B, 3, SIZE, SIZE) float, -1..1."""
    images = np.stack([draw(SIZE, *words_of(scene), rng, **POSE) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---------------------------------------------------------------------------------------------------------------------
# The pipeline
# ---------------------------------------------------------------------------------------------------------------------


def new_pipeline():
    tokenizer = new_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        sample_size=SIZE,
        latent_channels=LATENTS,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=(88,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,  # the number of heads, in spite of its name
        cross_attention_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )
    scheduler = DDIMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def new_tokenizer():
    """CLIP's tokenizer over bytes, with the merges that make one token of each word of the captions."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2 and CLIP write these bytes as they are
    letters = [*map(chr, plain), *(chr(256 + place) for place in range(256 - len(plain)))]
    merges = learn_merges(vocabulary())
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=CONTEXT)


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def optimize(loss_of_step, parameters, peak_lr, steps, seconds, name):
    """AdamW for `steps`, or for fewer that fit into `seconds`; the learning rate rises and falls over either."""
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    began, losses = time.perf_counter(), []
    bar = tqdm(range(steps), desc=name, unit="step", disable=None)
    for step in bar:
        progress = max(step / steps, (time.perf_counter() - began) / seconds)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * one_cycle(progress)
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
        yield


def train_autoencoder(vae, rng, scenes, steps, seconds):
    """Maximise the evidence lower bound (see `KL_WEIGHT`) of a Gaussian likelihood with the drawings' noise; freeze."""
    channels = vae.config.latent_channels
    with torch.no_grad():
        # Begin with sharp posteriors: through wide ones, little is learned at first.
        vae.quant_conv.weight[channels:] = 0
        vae.quant_conv.bias[channels:] = -6

    def loss():
        images = draw_batch(drawn_scenes(scenes, VAE_BATCH, rng), rng)
        posterior = vae.encode(images).latent_dist
        error = F.mse_loss(vae.decode(posterior.sample()).sample.float(), images, reduction="sum")
        return (error / (2 * NOISE_VARIANCE) + KL_WEIGHT * posterior.kl().sum()) / images.numel()

    for _ in optimize(loss, list(vae.parameters()), VAE_LR, steps, seconds, "autoencoder"):
        pass
    vae.requires_grad_(False)
    latents = encode(vae, draw_batch(drawn_scenes(scenes, 256, rng), rng))
    vae.register_to_config(scaling_factor=LATENT_STD / float(latents.std()))


@torch.no_grad()
def encode(vae, images):
    """Images (B, 3, SIZE, SIZE), -1..1 -> the most probable latents (B, LATENTS, SIZE / 4, SIZE / 4) float32."""
    return vae.encode(images).latent_dist.mode().float()


def train_denoiser(pipeline, rng, scenes, drawings, steps, batch_size, seconds):
    """Train U-Net and text encoder to predict v (Salimans and Ho, ICLR 2022), and leave them at their running means."""
    vae, unet, text_encoder, schedule = pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.scheduler
    unet.set_attn_processor(AttnProcessor())  # the fused one's backward pass is slow in bfloat16 on a CPU
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    average = EMAModel(parameters, decay=AVERAGE, use_ema_warmup=True, power=0.75)

    began = time.perf_counter()
    drawn = drawn_scenes(scenes, drawings, rng)
    latents = torch.cat([encode(vae, draw_batch(batch, rng)) for batch in np.array_split(drawn, -(-drawings // 100))])
    latents *= vae.config.scaling_factor
    # v has the variance of noise and latents mixed: divided by it, all noise levels count alike.
    signal = schedule.alphas_cumprod
    weights = 1 / (signal + (1 - signal) * LATENT_STD**2)
    last = schedule.config.num_train_timesteps - 1

    def loss():
        batch = rng.integers(drawings, size=batch_size)
        captions = captions_of(drawn[batch], rng)
        tokens = pipeline.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
        x, noise = latents[batch], torch.randn_like(latents[batch])
        times = (last * torch.sigmoid(TIMES[0] + TIMES[1] * torch.randn(batch_size))).round().long()
        predicted = unet(schedule.add_noise(x, noise, times), times, text_encoder(tokens)[0]).sample
        error = (predicted.float() - schedule.get_velocity(x, noise, times)).square().mean((1, 2, 3))
        return (weights[times] * error).mean()

    for _ in optimize(loss, parameters, LR, steps, seconds - (time.perf_counter() - began), "denoiser"):
        average.step(parameters)
    average.copy_to(parameters)


def captions_of(scenes, rng):
    """A caption for each scene (B, 3) that names some of its attributes, or none."""
    named = rng.random(scenes.shape) < NAMED
    dropped = rng.random(len(scenes)) < DROPPED
    texts = [
        caption(*(word if told else None for word, told in zip(words_of(scene), tells, strict=True)))
        for scene, tells in zip(scenes, named, strict=True)
    ]
    return ["" if drop else text for drop, text in zip(dropped, texts, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Judging
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def through(vae, images):
    """Images -1..1 through the autoencoder and back, 0..1."""
    return (vae.decode(vae.encode(images).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


def paint(folder, scenes, seed=0, batch_size=50):
    """An image for the full caption of each scene (B, 3): (B, 3, SIZE, SIZE) float, 0..1."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    captions = [caption(*words_of(scene)) for scene in scenes]
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
    images = []
    for start in range(0, len(captions), batch_size):
        batch = captions[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))]
        images.append(pipeline(batch, generator=generators, **options).images)
    return torch.cat(images)


def noisy(images, seed=0):
    """Images 0..1 with the noise of the drawings.

    The decoder gives the mean of a Gaussian likelihood, which leaves the noise out. The scenes CLIP has never seen a
    drawing without: it takes a quarter of speckled ones without noise for others.
    """
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + NOISE_VARIANCE**0.5 / 2 * noise).clamp(0, 1)


def judge(scenes, images):
    """How often the scenes CLIP finds the right word for an image the most similar one: a dict attribute -> 0..1.

    The captions that it compares name the attribute, and the shape as well where that is another one.
    """
    clip = CLIPProcessor([0.0] * 3, [255.0] * 3, "scenes", device="cpu")
    latents = clip.encode_images(images).numpy()

    def share(attribute, candidates):
        texts = np.stack([clip.evaluate_clip_captions(candidates(words_of(scene)[0])) for scene in scenes])
        texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
        return float((np.einsum("nd,nkd->nk", latents, texts).argmax(1) == scenes[:, attribute]).mean())

    shapes, colours, backgrounds = ATTRIBUTES
    return {
        "shape": share(0, lambda _: [caption(shape) for shape in shapes]),
        "colour": share(1, lambda shape: [caption(shape, colour) for colour in colours]),
        "background": share(2, lambda shape: [caption(shape, None, background) for background in backgrounds]),
    }


if __name__ == "__main__":
    main()
