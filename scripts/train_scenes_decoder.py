"""Train the embedded decoder of the scenes: images from the embeddings of the scenes CLIP; say how well it does.

    python scripts/train_scenes_decoder.py

The autoencoder, and the U-Net to begin with, are those of `train_scenes_diffusion.py`; what is new is that the U-Net is
told an image's embedding in place of a caption, with noise on it and how much (`LEVELS`), as in Stable unCLIP. The
folder that it writes holds the U-Net in half precision and what the embeddings' mean, deviation and CLIP were.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from diffusers.training_utils import EMAModel
from diffusers.utils import logging as diffusers_logging
from failure_directions.embeddings.clip import CLIPProcessor
from failure_directions.interfaces.diffusion_models import load_model
from failure_directions.interfaces.image_decoder import (
    SCENES_DECODER,
    ImageDecoder,
    conditioning,
    decode,
    load_decoder,
    write_clip,
)
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import new_folder

from scripts.train_scenes_clip import check_folder
from scripts.train_scenes_diffusion import (
    DROPPED,
    LATENT_STD,
    TIMES,
    combinations,
    draw_batch,
    drawn_scenes,
    encode,
    judge,
    noisy,
    optimize,
)

LR, AVERAGE = 1.2e-3, 0.998
CLEAN, LEVELS = 0.3, 800  # share of embeddings with hardly any noise; the others' levels are below this


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", default=str(SCENES_DECODER), help="folder to write or replace (default: the embedded one)"
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--drawings", type=int, default=24_000, help="on which the U-Net is trained")
    parser.add_argument("--minutes", type=float, default=20, help="on a slow machine, do fewer steps in this time")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--judged", type=int, default=200, help="images that are decoded and judged in the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="float32", help="while training")
    args = parser.parse_args(argv)
    out = Path(args.out)
    check_folder(out, "unet")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    diffusers_logging.set_verbosity_error()

    began = time.perf_counter()
    rng = np.random.default_rng(args.seed)
    seen, held_out = combinations(rng)
    clip = CLIPProcessor([0.0] * 3, [255.0] * 3, "scenes", device="cpu")
    base = load_model("scenes")
    scenes = drawn_scenes(seen, args.drawings, rng)
    latents, embeddings = embedded(base.vae, clip, scenes, rng)
    decoder = new_decoder(base, embeddings)
    with torch.autocast("cpu", torch.bfloat16, args.precision == "bfloat16", cache_enabled=False):
        seconds = 60 * args.minutes - (time.perf_counter() - began)
        train(decoder, latents * base.vae.config.scaling_factor, embeddings, args.steps, args.batch_size, seconds, rng)
    with new_folder(out) as folder:
        write(decoder, folder, clip)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    minutes, used = (time.perf_counter() - began) / 60, time.process_time() / 60
    print(f"trained in {minutes:.1f} minutes ({used:.1f} of processor time); {out} holds {size / 1e6:.2f} MB")

    scenes = np.resize(held_out, (args.judged, 3))
    _, embeddings = embedded(base.vae, clip, scenes, np.random.default_rng([args.seed, 1]))
    decoder = load_decoder(out, clip)
    for level in (0, 200, 400):
        images = decode(decoder, embeddings, range(len(scenes)), noise_level=level, batch_size=50, device="cpu")
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in judge(scenes, noisy(pixels)).items())
        print(f"right in {len(scenes)} images of embeddings of held-out scenes, noise level {level}: {shares}")


@torch.no_grad()
def embedded(vae, clip, scenes, rng):
    """Draw scenes (N, 3): the autoencoder's latents and CLIP's embeddings (N, dim), both float32."""
    latents, embeddings = [], []
    for batch in np.array_split(scenes, -(-len(scenes) // 100)):
        images = draw_batch(batch, rng)
        latents.append(encode(vae, images))
        embeddings.append(clip.encode_images((images + 1) / 2))
    return torch.cat(latents), torch.cat(embeddings)


def new_decoder(base, embeddings):
    """The text-conditioned model with a new input for embeddings, which says nothing at first."""
    dim = embeddings.shape[1]
    unet = UNet2DConditionModel.from_config(
        base.unet.config, class_embed_type="projection", projection_class_embeddings_input_dim=2 * dim
    )
    unet.load_state_dict(base.unet.state_dict(), strict=False)  # all but the new input
    torch.nn.init.zeros_(unet.class_embedding.linear_2.weight)
    torch.nn.init.zeros_(unet.class_embedding.linear_2.bias)
    tokens = base.tokenizer([""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        no_text = base.text_encoder(tokens)[0]
    noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    mean, std = embeddings.mean(0), embeddings.std(0)
    return ImageDecoder("scenes", unet, base.vae, no_text, mean, std, dict(noising.config), dict(base.scheduler_config))


def train(decoder, latents, embeddings, steps, batch_size, seconds, rng):
    """Train the U-Net to predict v (Salimans and Ho, ICLR 2022), and leave it at its running mean."""
    unet = decoder.unet.train()
    unet.set_attn_processor(AttnProcessor())  # the fused one's backward pass is slow in bfloat16 on a CPU
    average = EMAModel(unet.parameters(), decay=AVERAGE, use_ema_warmup=True, power=0.75)
    schedule = DDPMScheduler.from_config(decoder.scheduler_config)
    signal = schedule.alphas_cumprod
    weights = 1 / (signal + (1 - signal) * LATENT_STD**2)
    last = schedule.config.num_train_timesteps - 1

    def loss():
        batch = rng.integers(len(latents), size=batch_size)
        levels = torch.from_numpy(np.where(rng.random(batch_size) < CLEAN, 0, rng.integers(LEVELS, size=batch_size)))
        told = conditioning(decoder, embeddings[batch], torch.randn_like(embeddings[batch]), levels)
        told[torch.from_numpy(rng.random(batch_size) < DROPPED)] = 0
        x, noise = latents[batch], torch.randn_like(latents[batch])
        times = (last * torch.sigmoid(TIMES[0] + TIMES[1] * torch.randn(batch_size))).round().long()
        text = decoder.no_text.expand(batch_size, -1, -1)
        predicted = unet(schedule.add_noise(x, noise, times), times, text, class_labels=told).sample
        error = (predicted.float() - schedule.get_velocity(x, noise, times)).square().mean((1, 2, 3))
        return (weights[times] * error).mean()

    for _ in optimize(loss, list(unet.parameters()), LR, steps, seconds, "decoder"):
        average.step(unet.parameters())
    average.copy_to(unet.parameters())


def write(decoder, folder, clip):
    """What differs from the text-conditioned model of the scenes."""
    decoder.unet.half().save_pretrained(folder / "unet")
    normalizer = StableUnCLIPImageNormalizer(decoder.dim)
    normalizer.mean.data, normalizer.std.data = decoder.mean[None], decoder.std[None]
    normalizer.save_pretrained(folder / "image_normalizer")
    DDPMScheduler.from_config(decoder.noising).save_pretrained(folder / "image_noising_scheduler")
    write_clip(folder, clip)


if __name__ == "__main__":
    main()
