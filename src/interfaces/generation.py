"""Images of a class under a shift, from prompts such as "a photo of a <TOKEN> in the grass"."""

import functools
import math
from numbers import Integral
from pathlib import Path
from textwrap import shorten

import torch
from tqdm import tqdm

from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, memory_advice
from ..runtime.hub import quiet
from .defaults import DEFAULT_MODEL
from .diffusion_models import fingerprint, load_model
from .encoders import load_encoder
from .tokens import CLASSES_FILE, PLACEHOLDER, load_class_tokens


def generate(
    encoder_root,
    c,
    prompts,
    num_samples=10,
    random_seed=None,
    use_token=True,
    model_name=DEFAULT_MODEL,
    batch_size=4,
    *,
    num_inference_steps=50,
    guidance_scale=7.5,
    device="auto",
):
    """Generate images of class `c`.

    The pipeline is loaded once and kept. Every image has its own random generator, so that it is the same, within
    rounding, whatever the batch size is; image `i` of each prompt starts from the same noise.

    Args:
        encoder_root: folder that `create_token_dictionary` made on the same `model_name`.
        c: int, the class.
        prompts: a string or a list of strings, in which <TOKEN> stands for the class.
        num_samples: images for each prompt.
        random_seed: image `i` has seed `random_seed + i`, 0 or more; a list gives each prompt its own; None draws one.
        use_token: put the class's token in the place of <TOKEN>; else its name.
        model_name: what `load_model` takes: a folder, a single file, a name on the hub, or "scenes".
        batch_size: how many images are made at once.
        num_inference_steps, guidance_scale: of Euler's method (Karras et al., 2022) and of classifier-free guidance.
        device: "auto", "cpu", "cuda" or "cuda:N"; half precision on CUDA.

    Returns:
        A list of `num_samples` PIL images; for a list of prompts, a list of such lists.

    Raises:
        UserError: the class is out of range, a prompt has no <TOKEN> or is too long, the encoder root was made for
            another model, there are not as many seeds as prompts, or there is too little memory.
    """
    classes = load_class_tokens(encoder_root)
    if not isinstance(c, Integral) or not 0 <= c < len(classes.tokens):
        raise UserError(f"class {c} is out of range: {encoder_root} has classes 0 to {len(classes.tokens) - 1}")
    for name, number in (("num_samples", num_samples), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"{name} is {number}; give 1 or more")
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
        raise UserError(f"the guidance_scale is {guidance_scale}; give 0 or more")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    lacking = [text for text in texts if PLACEHOLDER not in text]
    if use_token and lacking:
        raise UserError(
            f'the prompt "{shorten(lacking[0], 80)}" has no {PLACEHOLDER}; put it where the class goes, or give '
            "--no-token (use_token=False)"
        )
    seeds = _seeds(random_seed, len(texts))
    word = classes.tokens[c] if use_token else classes.class_names[c]
    texts = [text.replace(PLACEHOLDER, word) for text in texts]

    pipeline = load_pipeline(model_name, encoder_root, device)
    check_request(pipeline, texts, num_inference_steps)
    jobs = [(text, seed + i) for text, seed in zip(texts, seeds, strict=True) for i in range(num_samples)]
    images = []
    with tqdm(total=len(jobs), desc="generating", unit="image", disable=None) as bar:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            images += sample(pipeline, *zip(*batch, strict=True), num_inference_steps, guidance_scale)
            bar.update(len(batch))
    if isinstance(prompts, str):
        return images
    return [images[start : start + num_samples] for start in range(0, len(images), num_samples)]


def _seeds(random_seed, count):
    """A seed for each prompt."""
    if random_seed is None:
        return [torch.Generator().seed() % 2**31] * count
    seeds = [random_seed] * count if isinstance(random_seed, Integral) else list(random_seed)
    for seed in seeds:
        check_seed(seed)
    if len(seeds) != count:
        raise UserError(
            f"there are {count} prompts and {len(seeds)} seeds; give one seed for each prompt, or one for all"
        )
    return [int(seed) for seed in seeds]


def check_seed(seed):
    if not isinstance(seed, Integral) or not 0 <= seed < 2**31:
        raise UserError(f"the seed {seed} is not a whole number from 0 to 2**31 - 1; give another")


def load_pipeline(model_name=DEFAULT_MODEL, encoder_root=None, device="auto"):
    """A `StableDiffusionPipeline` with Euler's method (Karras et al., 2022); half precision on CUDA.

    One is kept, and is given again for the same arguments. No safety checker is loaded.

    Args:
        model_name: what `load_model` takes: a folder, a single file, a name on the hub, or "scenes".
        encoder_root: a folder that `create_token_dictionary` made on the same model; with it, its tokens are known.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such model at hand, or the encoder root was made for another.
    """
    root = changed = None
    if encoder_root is not None:
        load_class_tokens(encoder_root)
        # Resolved, and with the time of its last change: a root that was made again is read again.
        root = Path(encoder_root).resolve()
        changed = (root / CLASSES_FILE).stat().st_mtime_ns
    return _load_pipeline(root, changed, str(model_name), resolve_device(device))


def sample(pipeline, prompts, seeds, num_inference_steps=50, guidance_scale=7.5):
    """One batch of images.

    Args:
        pipeline: of `load_pipeline`.
        prompts, seeds: a string and an int for each image. What other images are in the batch changes an image by
            rounding alone.
        num_inference_steps, guidance_scale: as for `generate`.

    Returns:
        A list of PIL images.

    Raises:
        UserError: too little memory; it says which batch size to try.
    """
    # Drawn here, on the CPU and in single precision: the same seed is the same image on every device.
    side = pipeline.unet.config.sample_size
    shape = (pipeline.unet.config.in_channels, side, side)
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    with memory_advice(len(prompts)):
        return pipeline(
            list(prompts),
            latents=noise.to(pipeline.device, pipeline.unet.dtype),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        ).images


def check_request(pipeline, texts, num_inference_steps):
    """Raise `UserError` where a prompt has more tokens, or sampling more steps, than the pipeline knows."""
    most = pipeline.scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= most:
        raise UserError(f"the number of steps is {num_inference_steps}; give 1 to {most}")
    most = pipeline.tokenizer.model_max_length
    for text in texts:
        length = token_count(pipeline.tokenizer, text)
        if length > most:
            raise UserError(
                f'the prompt "{shorten(text, 80)}" has {length} tokens and the model reads {most}; shorten it'
            )


def token_count(tokenizer, text):
    with quiet():  # it warns of long texts
        return len(tokenizer(text).input_ids)


@functools.lru_cache(maxsize=1)
def _load_pipeline(encoder_root, changed, model_name, device):
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    model = load_model(model_name)
    tokenizer, text_encoder = model.tokenizer, model.text_encoder
    if encoder_root is not None:
        classes = load_class_tokens(encoder_root)
        if fingerprint(text_encoder) != classes.fingerprint:
            raise UserError(
                f"the encoder root {encoder_root} was made for {classes.base_model}, whose text encoder is not that of "
                f"{model_name}; give the same model, or make the root again"
            )
        tokenizer, text_encoder = load_encoder(encoder_root)
    with quiet("diffusers"), memory_advice(1):
        pipeline = StableDiffusionPipeline(
            vae=model.vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=model.unet,
            scheduler=EulerDiscreteScheduler.from_config(model.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(device)
        if device.type == "cuda":
            pipeline.to(dtype=torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
