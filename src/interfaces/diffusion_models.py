"""Stable Diffusion 1 and 2 (Rombach et al., CVPR 2022) by way of diffusers, from a folder, a single file or the hub.

Nothing found in a model's files is run: weights are read as tensors only, and we name the classes of the parts.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from ..runtime import hub
from ..runtime.errors import UserError, one_line
from ..runtime.pt_files import check_weights_folder, load_tensors
from .defaults import DEFAULT_MODEL, SCENES_MODEL

SINGLE_FILES = (".safetensors", ".ckpt")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LOADING_ERRORS = (  # what damaged files make transformers and diffusers raise
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    safetensors.SafetensorError,
)
_PARTS = {  # what a folder holds, and what is fetched of it
    "tokenizer": ["*"],
    "text_encoder": ["config.json", "model.safetensors"],
    "vae": ["config.json", "diffusion_pytorch_model.safetensors"],
    "unet": ["config.json", "diffusion_pytorch_model.safetensors"],
    "scheduler": ["scheduler_config.json"],
}
_DIFFUSERS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
_WEIGHTS = {
    "text_encoder": ("model.safetensors", "model.safetensors.index.json"),
    "vae": _DIFFUSERS,
    "unet": _DIFFUSERS,
    "image_normalizer": _DIFFUSERS,
    "image_encoder": ("model.safetensors", "model.safetensors.index.json"),
}
_VOCABULARIES = ("tokenizer.json", "vocab.json")
SCENES_DIFFUSION = Path(__file__).resolve().parent / "scenes_diffusion"  # see scripts/train_scenes_diffusion.py
_SD1_CONFIG = Path(__file__).resolve().parent / "sd1_config"
# sd-v1-4.ckpt names this class of the library that trained it, and holds nothing of it that is needed.
_STAND_INS = [(type("Unused", (), {}), "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


@dataclass(frozen=True)
class DiffusionModel:
    """The parts of a pipeline, frozen, in evaluation mode."""

    name: str
    tokenizer: Any
    text_encoder: torch.nn.Module
    vae: torch.nn.Module
    unet: torch.nn.Module
    scheduler_config: dict

    @property
    def resolution(self):
        """Side of the images in pixels."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_model(name=DEFAULT_MODEL):
    """A `DiffusionModel` on the CPU, in single precision.

    Args:
        name: a folder as diffusers saves it; a single file, .safetensors or .ckpt, in the layout of the first releases
            (such as sd-v1-4.ckpt), whose configuration is that of Stable Diffusion 1 unless a folder with the file's
            name beside it holds another; OWNER/NAME on the hub; or "scenes", the embedded model of the drawn images.

    Raises:
        UserError: there is no such model at hand, or it is damaged or of another kind.
    """
    path = SCENES_DIFFUSION if name == SCENES_MODEL else Path(name).expanduser()
    if path.is_dir():
        folder, read = path, _from_folder
    elif path.suffix in SINGLE_FILES:
        folder, read = path, _from_single_file
    elif HUB_NAME.fullmatch(str(name)):
        folder, read = fetch(str(name), _PARTS), _from_folder
    else:
        raise UserError(
            f"the diffusion model {name} is not a folder, a {' or '.join(SINGLE_FILES)} file, OWNER/NAME on the hub or "
            f"{SCENES_MODEL}; check the path"
        )
    try:
        with hub.quiet("diffusers", "transformers"):
            model = DiffusionModel(str(name), *read(folder))
    except LOADING_ERRORS as error:
        raise UserError(f"the diffusion model {name} cannot be loaded: {one_line(error)}; get it again") from error
    width, expected = model.text_encoder.config.hidden_size, model.unet.config.cross_attention_dim
    if width != expected:
        raise UserError(
            f"the diffusion model {name} is not Stable Diffusion 1 or 2: its text encoder is {width} wide and its "
            f"U-Net reads {expected}; choose another model"
        )
    for part in (model.text_encoder, model.vae, model.unet):
        if any(weight.is_meta for weight in part.parameters()):
            raise UserError(f"the diffusion model {name} lacks weights of its {type(part).__name__}; get it again")
        part.eval().requires_grad_(False)
    return model


def fingerprint(text_encoder):
    """A string that tells text encoders apart, whatever tokens were added and in single or half precision."""
    config = text_encoder.config
    (positions,) = (
        weight for name, weight in text_encoder.state_dict().items() if name.endswith("position_embedding.weight")
    )
    digest = hashlib.sha256(repr((config.hidden_size, config.num_hidden_layers)).encode())
    digest.update(positions.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:16]


def whole(read, *args, **options):
    """A model of transformers or diffusers by its `from_pretrained`, of which no weight is left to chance.

    Raises:
        ValueError: weights of the model are not in the file, which the libraries make up.
    """
    model, found = read(*args, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(f"its file lacks {len(missing)} weights, such as {missing[0]}")
    return model


def _from_folder(folder):
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    # transformers would make a tokenizer without words of a folder without these.
    if "tokenizer" not in missing and not any((folder / "tokenizer" / name).is_file() for name in _VOCABULARIES):
        missing.append(" or ".join(f"tokenizer/{name}" for name in _VOCABULARIES))
    if missing:
        raise UserError(
            f"the folder {folder} is not a Stable Diffusion folder: {' and '.join(missing)} missing; give the folder "
            "that holds model_index.json"
        )

    return (
        load_part(CLIPTokenizer, folder, "tokenizer"),
        load_part(CLIPTextModel, folder, "text_encoder", dtype=torch.float32),
        load_part(AutoencoderKL, folder, "vae", torch_dtype=torch.float32),
        load_part(UNet2DConditionModel, folder, "unet", torch_dtype=torch.float32),
        load_scheduler(EulerDiscreteScheduler, folder, "scheduler"),
    )


def load_part(kind, folder, part, **options):
    """A part of a model's folder by its class's `from_pretrained`, its weights read as tensors only.

    Raises:
        UserError: it is missing or damaged, or lacks weights.
    """
    try:
        if part not in _WEIGHTS:
            return kind.from_pretrained(folder / part, local_files_only=True, **options)
        safe = check_weights_folder(folder / part, "weights", _WEIGHTS[part])
        return whole(kind.from_pretrained, folder / part, local_files_only=True, use_safetensors=safe, **options)
    except LOADING_ERRORS as error:
        raise _unloadable(folder, part, error) from error


def load_scheduler(kind, folder, part):
    """The config of a schedule in a model's folder, a dict; damaged, it is a `UserError`, too."""
    try:
        return kind.load_config(folder / part, local_files_only=True)
    except LOADING_ERRORS as error:
        raise _unloadable(folder, part, error) from error


def _unloadable(folder, part, error):
    return UserError(f"the {part} of the diffusion model {folder} cannot be loaded: {one_line(error)}; get it again")


def _from_single_file(path):
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from transformers import CLIPTextModel, CLIPTokenizer

    weights = load_tensors(path, "the diffusion model", stand_ins=_STAND_INS)
    weights = weights.get("state_dict", weights)
    beside = path.with_suffix("")
    config = beside if beside.is_dir() else _SD1_CONFIG
    options = {"config": str(config), "local_files_only": True}
    tokenizer = config / "tokenizer"
    return (
        CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True) if tokenizer.is_dir() else clip_tokenizer(),
        create_diffusers_clip_model_from_ldm(
            CLIPTextModel, weights, subfolder="text_encoder", torch_dtype=torch.float32, **options
        ),
        AutoencoderKL.from_single_file(weights, subfolder="vae", torch_dtype=torch.float32, **options),
        UNet2DConditionModel.from_single_file(weights, subfolder="unet", torch_dtype=torch.float32, **options),
        EulerDiscreteScheduler.load_config(config / "scheduler", local_files_only=True),
    )


def clip_tokenizer():
    """CLIP's own tokenizer, which Stable Diffusion 1 uses, from open_clip's copy of its merges."""
    import open_clip.tokenizer
    from transformers import CLIPTokenizer

    reference = open_clip.tokenizer.SimpleTokenizer()
    names = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = [*list(reference.encoder)[: -len(names)], *names]
    merges = sorted(reference.bpe_ranks, key=reference.bpe_ranks.get)
    return CLIPTokenizer(
        vocab={name: number for number, name in enumerate(vocabulary)},
        merges=merges,
        model_max_length=reference.context_length,
    )


def fetch(name, parts):
    """The folder of a model of the hub, downloaded unless it is cached.

    Args:
        name: OWNER/NAME.
        parts: dict of a folder in it -> patterns of the files that are needed.

    Raises:
        UserError: it is neither here nor to be downloaded.
    """
    import huggingface_hub

    patterns = [f"{part}/{file}" for part, files in parts.items() for file in files]
    try:
        with hub.without_retries(), hub.quiet():
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # every kind of network, proxy, access and disk trouble
        raise UserError(
            f"there is no folder {name} here, and the hub's {name} is neither in "
            f"{huggingface_hub.constants.HF_HUB_CACHE} nor to be downloaded ({hub.reason(error)}); give a folder with "
            "a Stable Diffusion model or a single file of it"
        ) from error
