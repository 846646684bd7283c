"""Textual inversion (Gal et al., ICLR 2023) with the norm held fixed, as in Dataset Interfaces (Vendrow et al., 2023).

One new word is learned from a folder of a class's images; the whole diffusion model stays as it is.
"""

import contextlib
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F
from tqdm import tqdm

from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, memory_advice
from ..runtime.files import check_writable
from ..runtime.hub import quiet
from ..runtime.pt_files import load_pt, save_pt
from .defaults import DEFAULT_MODEL
from .diffusion_models import load_model
from .generation import check_seed, token_count
from .photos import image_files, read_photo
from .tokens import check_token

TEMPLATES = tuple((Path(__file__).resolve().parent / "templates.txt").read_text().splitlines())
PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
_ENCODED_AT_ONCE = 8  # images, at most


def run_textual_inversion(
    train_path,
    token,
    class_name,
    pretrained_model_name_or_path=DEFAULT_MODEL,
    max_train_steps=3000,
    learning_rate=5e-4,
    *,
    batch_size=1,
    gradient_accumulation_steps=1,
    weight_decay=1e-2,
    pin_norm=True,
    resolution=None,
    flip=0.5,
    templates=None,
    mixed_precision=None,
    seed=0,
    device="auto",
    checkpoint=None,
    checkpoint_every=250,
):
    """Learn the embedding of a new token that stands for a class.

    It starts as the mean embedding of the class name's tokens and is trained by the diffusion model's own loss, on
    prompts such as "a photo of a TOKEN".

    Args:
        train_path: folder with images of the class; each is cropped to its central square.
        token: the new word, such as "<american-robin-15>" (see `class_token`).
        class_name: what the model would call the class, such as "american robin".
        pretrained_model_name_or_path: what `load_model` takes: a folder, a single file, a name on the hub, or "scenes".
        max_train_steps: steps of AdamW at the constant `learning_rate`.
        batch_size, gradient_accumulation_steps: a step sees their product of images; only the first takes memory.
        pin_norm: hold the embedding's norm at that of the mean it starts from, so that only its direction is learned.
            Unpinned embeddings grow, and then outweigh the rest of the prompt.
        resolution: side of the images in pixels, a multiple of 8 (default: the model's own).
        flip: how often an image is mirrored, 0..1.
        templates: prompts with {} in the place of the token (default: those of our 27 that the model reads whole).
        mixed_precision: "no", "fp16" or "bf16" (default: fp16 on CUDA, no on a CPU).
        seed: non-negative int; the same seed gives the same embedding on the same machine, interrupted or not.
        device: "auto", "cpu", "cuda" or "cuda:N".
        checkpoint: a file that keeps the state every `checkpoint_every` steps and at the end; where it is there
            already, training goes on from it, or is found to be done.

    Returns:
        (d,) float32 tensor on the CPU, d the width of the model's token embeddings.

    Raises:
        UserError: no images, a broken one, a token that is not new or not well formed, a model that cannot be loaded,
            a checkpoint of another training, or too little memory.
    """
    check_token(token)
    numbers = {
        "max_train_steps": max_train_steps,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "checkpoint_every": checkpoint_every,
    }
    _check_settings(numbers, learning_rate, weight_decay, resolution, flip, templates, mixed_precision, seed)
    device = resolve_device(device)
    dtype = PRECISIONS[mixed_precision or ("fp16" if device.type == "cuda" else "no")]
    files = image_files(train_path)
    settings = {
        "token": token,
        "class_name": class_name,
        "images": {str(file.relative_to(train_path)): file.stat().st_size for file in files},
        "model": str(pretrained_model_name_or_path),
        "learning_rate": learning_rate,
        "images_per_step": batch_size * gradient_accumulation_steps,
        "weight_decay": weight_decay,
        "pin_norm": pin_norm,
        "resolution": resolution,
        "flip": flip,
        "templates": None if templates is None else list(templates),
        "seed": seed,
    }
    state = _begun(checkpoint, settings, max_train_steps)
    if state and state["step"] == max_train_steps:
        return state["embedding"]

    model = load_model(pretrained_model_name_or_path)
    prompts = _tokenized(model.tokenizer, token, templates)
    learner = _Learner(model, mean_embedding(model, class_name), pin_norm, learning_rate, weight_decay, device, dtype)
    if state:
        learner.take_up(state, checkpoint)
    done = state["step"] if state else 0
    steps = tqdm(
        range(done, max_train_steps), f"learning {token}", max_train_steps, initial=done, unit="step", disable=None
    )
    placeholder = model.tokenizer.convert_tokens_to_ids(token)
    with memory_advice(batch_size), learned_token(learner.text_encoder, placeholder, learner.embedding):
        latents = learner.encode(files, resolution or model.resolution, min(batch_size, _ENCODED_AT_ONCE))
        for step in steps:
            draws = _draw(seed, step, settings["images_per_step"], latents, prompts, flip, learner.noising)
            learner.step(list(zip(*(part.split(batch_size) for part in draws), strict=True)))
            if step + 1 < max_train_steps and (not checkpoint or (step + 1) % checkpoint_every):
                continue
            embedding = learner.embedding().detach().float().cpu()
            if not embedding.isfinite().all():
                raise UserError(f"the training of {token} diverged; use a lower learning_rate than {learning_rate}")
            if checkpoint:
                begun = {"settings": settings, "step": step + 1, "embedding": embedding}
                save_pt(begun | learner.state(), checkpoint)
    return embedding


class _Learner:
    """One embedding that is trained, (d,), and the frozen model by whose loss it is."""

    def __init__(self, model, start, pin_norm, learning_rate, weight_decay, device, dtype):
        from diffusers import DDPMScheduler

        # Frozen parts may be in half precision as a whole; the embeddings, from which the gradient comes, may not.
        with quiet("diffusers"), memory_advice(1):
            self.text_encoder, self.vae = model.text_encoder.to(device), model.vae.to(device)
            self.unet = model.unet.to(device, dtype)
        self.noising = DDPMScheduler.from_config(model.scheduler_config)
        self.device, self.dtype = device, dtype
        self.vector = torch.nn.Parameter(start.to(device))
        self.norm = self.vector.detach().norm() if pin_norm else None
        self.optimizer = torch.optim.AdamW([self.vector], lr=learning_rate, weight_decay=weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def embedding(self):
        """The vector, of the norm at which it is held."""
        return self.vector if self.norm is None else self.vector * (self.norm / self.vector.norm())

    def encode(self, files, resolution, at_once):
        """See `_encode`."""
        with self._half():
            return _encode(self.vae, files, resolution, self.device, at_once)

    def step(self, batches):
        """One step of the optimizer on several batches: latents, noise, times and tokens, as `_draw` gives them."""
        for batch in batches:
            with self._half():
                on_device = (part.to(self.device) for part in batch)
                loss = _denoising_loss(self.unet, self.text_encoder, self.noising, *on_device)
            self.scaler.scale(loss / len(batches)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def state(self):
        """What a checkpoint keeps of it."""
        return {
            "vector": self.vector.detach().cpu(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def take_up(self, state, checkpoint):
        """Go on from the `state` of a checkpoint, which the error names.

        Raises:
            UserError: it is the state of something else.
        """
        try:
            with torch.no_grad():
                self.vector.copy_(state["vector"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:  # empty where there was none
                self.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise _not_a_checkpoint(checkpoint) from error

    def _half(self):
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)


def mean_embedding(model, class_name):
    """(d,) the mean embedding of the tokens of a class's name in a `DiffusionModel`."""
    ids = model.tokenizer(class_name, add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f'the class name "{class_name}" is empty; say what the images show')
    return model.text_encoder.get_input_embeddings().weight[ids].float().mean(0)


@contextlib.contextmanager
def learned_token(text_encoder, placeholder, vector):
    """Within the block, the embedding of token number `placeholder`, new to the text encoder, is `vector()`, (d,)."""
    places = []

    def hide(module, args):
        places.append(args[0] == placeholder)
        return (args[0].masked_fill(places[-1], 0),)

    def show(module, args, output):
        return torch.where(places.pop()[..., None], vector().to(output.dtype), output)

    embeddings = text_encoder.get_input_embeddings()
    hooks = embeddings.register_forward_pre_hook(hide), embeddings.register_forward_hook(show)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _denoising_loss(unet, text_encoder, noising, clean, noise, times, tokens):
    """Mean squared error of what the U-Net was trained to predict: the noise, or v (Salimans and Ho, ICLR 2022)."""
    noisy = noising.add_noise(clean, noise, times).to(unet.dtype)
    predicted = unet(noisy, times, text_encoder(tokens)[0].to(unet.dtype)).sample
    if noising.config.prediction_type == "v_prediction":
        noise = noising.get_velocity(clean, noise, times)
    return F.mse_loss(predicted.float(), noise)


def _check_settings(numbers, learning_rate, weight_decay, resolution, flip, templates, mixed_precision, seed):
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name} is {number}; give 1 or more")
    if not 0 < learning_rate <= 1e6:
        raise UserError(f"the learning_rate is {learning_rate}; give one above 0, such as 5e-4")
    if not 0 <= weight_decay <= 1e6:
        raise UserError(f"the weight_decay is {weight_decay}; give 0 or more")
    if not 0 <= flip <= 1:
        raise UserError(f"flip is {flip}; give one from 0 to 1")
    check_seed(seed)
    if resolution is not None and (resolution < 8 or resolution % 8):
        raise UserError(f"the resolution {resolution} is no multiple of 8; give one, such as 512")
    if mixed_precision not in (None, *PRECISIONS):
        raise UserError(f"mixed_precision {mixed_precision} is not known; choose one of {', '.join(PRECISIONS)}")
    if templates is not None and (not templates or not all("{}" in template for template in templates)):
        raise UserError('every template needs {} in the place of the token, as in "a photo of a {}"')


def _tokenized(tokenizer, token, templates):
    """Add the token to the tokenizer, and give the templates with it, (T, context) int64.

    Of our own templates, those that are too long for the model are left out.
    """
    if token in tokenizer.get_vocab():
        raise UserError(f"the token {token} is in the model's vocabulary already; choose another")
    tokenizer.add_tokens([token])
    texts = [template.replace("{}", token) for template in templates or TEMPLATES]
    too_long = {text for text in texts if token_count(tokenizer, text) > tokenizer.model_max_length}
    if templates is None:
        texts = [text for text in texts if text not in too_long]
    if too_long and (templates or not texts):
        raise UserError(
            f'the template "{shorten(min(too_long), 80)}" is longer than the {tokenizer.model_max_length} tokens that '
            "the model reads; shorten it"
        )
    return tokenizer(texts, padding="max_length", return_tensors="pt").input_ids


def _begun(checkpoint, settings, steps):
    """The state of a training with these settings and at most so many steps; None where it has not begun."""
    if not checkpoint:
        return None
    if not Path(checkpoint).exists():
        check_writable(checkpoint)
        return None
    state = load_pt(checkpoint, "the checkpoint", "remove it")
    try:
        differing = [key for key, value in settings.items() if state["settings"][key] != value]
        usable = isinstance(state["step"], int) and state["embedding"].isfinite().all()
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_a_checkpoint(checkpoint) from error
    if differing:
        raise UserError(
            f"the checkpoint {checkpoint} is of a training with another {' and '.join(differing)}; remove it or name "
            "another file"
        )
    if not usable:
        raise _not_a_checkpoint(checkpoint)
    if state["step"] > steps:
        raise UserError(
            f"the checkpoint {checkpoint} has {state['step']} steps already, more than {steps}; remove it or give as "
            "many"
        )
    return state


def _not_a_checkpoint(path):
    return UserError(f"{path} is not a checkpoint of textual inversion; remove it")


@torch.no_grad()
def _encode(vae, files, resolution, device, at_once=_ENCODED_AT_ONCE):
    """The latents' distribution of all images and of their mirror images: mean and deviation, (2, N, C, h, w) each.

    On the CPU: a thousand images of 512 pixels have 130 MB.
    """
    means, deviations = [], []
    starts = range(0, len(files), at_once)
    small = 0
    for start in tqdm(starts, desc="encoding images", unit="batch", disable=None, leave=False):
        images = [read_photo(file) for file in files[start : start + at_once]]
        small += sum(min(image.size) < resolution for image in images)
        images = [ImageOps.fit(image, (resolution, resolution), Image.Resampling.BICUBIC) for image in images]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        both = [vae.encode(view).latent_dist for view in (pixels, pixels.flip(-1))]
        means.append(torch.stack([part.mean for part in both]).float().cpu())
        deviations.append(torch.stack([part.std for part in both]).float().cpu())
    if small:
        tqdm.write(f"{small} of {len(files)} images have less than {resolution} pixels and are enlarged")
    factor = vae.config.scaling_factor
    return torch.cat(means, 1) * factor, torch.cat(deviations, 1) * factor


def _draw(seed, step, count, latents, prompts, flip, noising):
    """Everything random of one step: latents, noise, times and tokens, `count` of each, on the CPU.

    The generator follows from seed and step alone, so that nothing of it needs to be kept for resuming.
    """
    generator = torch.Generator().manual_seed((seed << 32) + step)
    mean, deviation = latents
    images = torch.randint(mean.shape[1], (count,), generator=generator)
    mirrored = (torch.rand(count, generator=generator) < flip).long()
    shape = (count, *mean.shape[2:])
    clean = torch.randn(shape, generator=generator) * deviation[mirrored, images] + mean[mirrored, images]
    noise = torch.randn(shape, generator=generator)
    times = torch.randint(noising.config.num_train_timesteps, (count,), generator=generator)
    return clean, noise, times, prompts[torch.randint(len(prompts), (count,), generator=generator)]
