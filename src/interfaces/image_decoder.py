"""Images decoded from CLIP image embeddings: Stable unCLIP (Ramesh et al., 2022; diffusers' `StableUnCLIP` layout).

The U-Net is told, beside the time, an embedding to which noise was added and how much: with more noise, images differ
more from one another and keep less of the embedding. The embedding must be of the CLIP that the decoder was trained
with; it is checked.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..runtime import hub
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, memory_advice, one_line
from .defaults import SCENES_MODEL
from .diffusion_models import HUB_NAME, LOADING_ERRORS, SCENES_DIFFUSION, fetch, load_part, load_scheduler

SCENES_DECODER = Path(__file__).resolve().parent / "scenes_decoder"  # see scripts/train_scenes_decoder.py
CLIP_FILE = "clip.json"  # of the scenes' decoder, in place of an image encoder: the fingerprint of its CLIP
SAME_CLIP = 0.99  # least cosine of two encoders' embeddings of the same images
OWN_PARTS = ("unet", "image_normalizer", "image_noising_scheduler")
SHARED_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")  # with a model that paints captions
ENCODER_PARTS = ("image_encoder", "feature_extractor")


@dataclass(frozen=True)
class ImageDecoder:
    """A diffusion model of images, given CLIP image embeddings.

    Attributes:
        name: as it was loaded.
        unet, vae: modules, frozen, in evaluation mode.
        no_text: (1, L, d) float32, what the text encoder makes of an empty prompt.
        mean, std: (dim,) float32, of the embeddings that it was trained with.
        noising, scheduler_config: dicts, the schedules of the embedding's noise and of the image's.
    """

    name: str
    unet: torch.nn.Module
    vae: torch.nn.Module
    no_text: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    noising: dict
    scheduler_config: dict
    _schedules: dict = field(default_factory=dict, repr=False)

    @property
    def dim(self):
        """Numbers of an embedding."""
        return len(self.mean)

    @property
    def device(self):
        return next(self.unet.parameters()).device


def load_decoder(name, clip):
    """An `ImageDecoder` on the CPU, in single precision.

    Args:
        name: a folder as diffusers saves a `StableUnCLIPPipeline` or `StableUnCLIPImg2ImgPipeline`, OWNER/NAME on the
            hub, or "scenes", the embedded decoder of the drawn images.
        clip: the `CLIPProcessor` whose embeddings are to be decoded.

    Raises:
        UserError: there is no such model at hand, it is damaged, it is not conditioned on image embeddings, or it is
            for another CLIP.
    """
    folder = SCENES_DECODER if name == SCENES_MODEL else Path(name).expanduser()
    if not folder.is_dir():
        if not HUB_NAME.fullmatch(str(name)):
            raise UserError(
                f"the diffusion model {name} is not a folder, OWNER/NAME on the hub or {SCENES_MODEL}; check the path"
            )
        folder = fetch(str(name), {part: ["*"] for part in (*OWN_PARTS, *SHARED_PARTS, *ENCODER_PARTS)})
    if not (folder / "image_normalizer").is_dir():
        raise UserError(
            f"the diffusion model {name} is not conditioned on image embeddings: it has no image_normalizer; give a "
            "Stable unCLIP model, such as stabilityai/stable-diffusion-2-1-unclip-small for ViT-L/14"
        )
    # What the scenes' decoder shares with their model of captions is there alone.
    shared = SCENES_DIFFUSION if (folder / CLIP_FILE).is_file() else folder
    parts = [*(folder / part for part in OWN_PARTS), *(shared / part for part in SHARED_PARTS)]
    if missing := [part.name for part in parts if not part.is_dir()]:
        raise UserError(f"the diffusion model {name} is incomplete: {' and '.join(missing)} missing; get it again")
    try:
        with hub.quiet("diffusers", "transformers"):
            decoder = _read(str(name), folder, shared)
    except LOADING_ERRORS as error:
        raise UserError(f"the diffusion model {name} cannot be loaded: {one_line(error)}; get it again") from error
    _check_clip(decoder, folder, clip)
    return decoder


def _read(name, folder, shared):
    """A decoder from a folder; what it has in common with a text-conditioned model is in the folder `shared`."""
    from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextModel, CLIPTokenizer

    numbers = {"torch_dtype": torch.float32}
    unet = load_part(UNet2DConditionModel, folder, "unet", **numbers)
    normalizer = load_part(StableUnCLIPImageNormalizer, folder, "image_normalizer", **numbers)
    vae = load_part(AutoencoderKL, shared, "vae", **numbers)
    tokenizer = load_part(CLIPTokenizer, shared, "tokenizer")
    text_encoder = load_part(CLIPTextModel, shared, "text_encoder", dtype=torch.float32)
    mean, std = normalizer.mean.detach()[0], normalizer.std.detach()[0]
    if unet.config.class_embed_type != "projection" or unet.config.projection_class_embeddings_input_dim != 2 * len(
        mean
    ):
        raise UserError(
            f"the U-Net of {name} does not read embeddings of {len(mean)} numbers; get the model again, or give another"
        )
    tokens = tokenizer([""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        no_text = text_encoder.eval()(tokens)[0]
    for part in (unet, vae):
        part.eval().requires_grad_(False)
    noising = load_scheduler(DDPMScheduler, folder, "image_noising_scheduler")
    scheduler = load_scheduler(EulerDiscreteScheduler, shared, "scheduler")
    return ImageDecoder(name, unet, vae, no_text, mean, std, dict(noising), dict(scheduler))


def write_clip(folder, clip):
    """Keep in a decoder's folder which CLIP it is for, in place of a copy of its image encoder."""
    (folder / CLIP_FILE).write_text(json.dumps({"fingerprint": clip.fingerprint}) + "\n", encoding="utf-8")


def _check_clip(decoder, folder, clip):
    """Raise `UserError` unless the decoder was made for the embeddings of `clip`."""
    if (folder / CLIP_FILE).is_file():
        same = json.loads((folder / CLIP_FILE).read_text(encoding="utf-8")).get("fingerprint") == clip.fingerprint
    else:
        same = _same_embeddings(decoder, folder, clip)
    if not same:
        raise UserError(
            f"{decoder.name} decodes the embeddings of another CLIP than {clip.name}; give the --model that belongs to "
            f"it, or distil with the CLIP of {decoder.name}"
        )


def _same_embeddings(decoder, folder, clip):
    """Whether the folder's own image encoder gives what `clip` gives, on two images of noise."""
    from transformers import CLIPVisionModelWithProjection

    with hub.quiet("transformers"):
        encoder = load_part(CLIPVisionModelWithProjection, folder, "image_encoder", dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, *[encoder.config.image_size] * 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = encoder(pixels).image_embeds
        if theirs.shape[1] != decoder.dim or clip.image_size != encoder.config.image_size:
            return False
        ours = clip.model.encode_image(pixels.to(clip.device)).float().cpu()
    return theirs.shape == ours.shape and bool((torch.cosine_similarity(theirs, ours) >= SAME_CLIP).all())


# ---------------------------------------------------------------------------------------------------------------------
# Decoding
# ---------------------------------------------------------------------------------------------------------------------


def conditioning(decoder, embeddings, noise, levels):
    """What the U-Net is told of embeddings: (B, 2 dim), the embeddings with noise, and how much of it.

    Args:
        embeddings: (B, dim) float32, as CLIP gives them.
        noise: (B, dim), standard normal.
        levels: int (B,), 0 (hardly any noise) to 999 (nothing but noise), places in the noising schedule.
    """
    from diffusers import DDPMScheduler
    from diffusers.models.embeddings import get_timestep_embedding

    if "noising" not in decoder._schedules:
        decoder._schedules["noising"] = DDPMScheduler.from_config(decoder.noising)
    mean, std = decoder.mean.to(embeddings.device), decoder.std.to(embeddings.device)
    noised = decoder._schedules["noising"].add_noise((embeddings - mean) / std, noise, levels)
    times = get_timestep_embedding(levels, decoder.dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([noised * std + mean, times.to(noised.dtype)], dim=1)


@torch.no_grad()
def decode(decoder, embeddings, seeds, steps=20, guidance=3.0, noise_level=0, batch_size=16, device="auto"):
    """An image for each embedding, by Euler's method (Karras et al., 2022) with classifier-free guidance.

    Args:
        decoder: of `load_decoder`.
        embeddings: float (N, dim), as CLIP gives images' (not normalised).
        seeds: N ints; the same seed is the same noise, on every device and in every batch.
        steps, guidance: of the sampling; a guidance of 1 or less leaves the second pass without an embedding out.
        noise_level: 0 to 999, how much noise is added to the embeddings.
        batch_size: images at once.
        device: "auto", "cpu", "cuda" or "cuda:N"; half precision on CUDA.

    Returns:
        A list of N PIL images.

    Raises:
        UserError: embeddings of another width, or too little memory.
    """
    from diffusers import EulerDiscreteScheduler
    from diffusers.image_processor import VaeImageProcessor

    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.shape[1] != decoder.dim:
        raise UserError(
            f"embeddings of shape {embeddings.shape} cannot be decoded by {decoder.name}; it takes (N, {decoder.dim})"
        )
    device = resolve_device(device)
    numbers = torch.float16 if device.type == "cuda" else torch.float32
    with hub.quiet("diffusers"):
        unet, vae = decoder.unet.to(device, numbers), decoder.vae.to(device, numbers)
    text = decoder.no_text.to(device, numbers)
    side = unet.config.sample_size
    images = []
    with tqdm(total=len(seeds), desc="decoding", unit="image", disable=None, leave=False) as bar:
        for start in range(0, len(seeds), batch_size):
            batch = seeds[start : start + batch_size]
            generators = [torch.Generator().manual_seed(int(seed)) for seed in batch]
            latents = torch.stack([torch.randn(unet.config.in_channels, side, side, generator=g) for g in generators])
            noise = torch.stack([torch.randn(decoder.dim, generator=g) for g in generators])
            given, levels = torch.from_numpy(embeddings[start : start + len(batch)]), [noise_level] * len(batch)
            told = conditioning(decoder, given, noise, torch.tensor(levels)).to(device, numbers)
            if guidance > 1:
                told = torch.cat([torch.zeros_like(told), told])
            scheduler = EulerDiscreteScheduler.from_config(decoder.scheduler_config)
            scheduler.set_timesteps(steps, device=device)
            latents = latents.to(device, numbers) * scheduler.init_noise_sigma
            with memory_advice(len(batch)):
                for time in scheduler.timesteps:
                    twice = torch.cat([latents, latents]) if guidance > 1 else latents
                    twice = scheduler.scale_model_input(twice, time)
                    predicted = unet(twice, time, text.expand(len(twice), -1, -1), class_labels=told).sample
                    if guidance > 1:
                        without, with_embedding = predicted.chunk(2)
                        predicted = without + guidance * (with_embedding - without)
                    latents = scheduler.step(predicted, time, latents).prev_sample
                pixels = vae.decode(latents / vae.config.scaling_factor).sample
            images += VaeImageProcessor().postprocess(pixels.float().cpu(), output_type="pil")
            bar.update(len(batch))
    return images
