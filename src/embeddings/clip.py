"""CLIP (Radford et al., ICML 2021): images and captions in one space, by way of open_clip.

    clip = CLIPProcessor(config.mean, config.std)              # or arch="scenes": small, embedded, needs no download
    latents = clip.evaluate_clip_images(loader)                # (N, d)
    texts = clip.evaluate_clip_captions(["a photo of a cat"])  # (1, d)

Embeddings are CLIP's outputs as they come, not normalised: `SVMFitter` does that.
"""

import contextlib
import functools
import hashlib
import json
import logging
import pickle
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from open_clip.transform import PreprocessCfg, center_crop_or_pad, image_transform_v2
from torch.nn import functional as F
from tqdm import tqdm

from ..runtime import hub
from ..runtime.devices import precision, read_back, resolve_device
from ..runtime.english import nearest
from ..runtime.errors import UserError
from ..runtime.pt_files import check_tensor_file, check_weights_folder

SCENES_CLIP = Path(__file__).resolve().parent / "scenes_clip"  # made by scripts/train_scenes_clip.py
CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"  # of a local folder, by open_clip

_SHORT_NAMES = {
    "scenes": f"local-dir:{SCENES_CLIP}",
    # The names that the papers use, for the models that their weights belong to.
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu",
}
_LOCAL, _HUB = "local-dir:", "hf-hub:"
_OFFLINE = (
    f"without a network, set clip_model: local-dir:FOLDER, a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
    "or use svm_configs/normalized_svm_latent_config.yaml, which needs no CLIP"
)
_OTHERWISE = f"see open_clip.list_models(), or give {_LOCAL}FOLDER"
_TEXTS_PER_BATCH = 256
_IMAGES_PER_BATCH = 32


class CLIPProcessor:
    """A frozen CLIP for the images of one data set.

    A model is loaded once a process, and nothing in its files is run as code.

    Args:
        ds_mean, ds_std: three numbers each, red, green, blue, on the 0..255 scale: how the data set's images are
            normalised (`mean` and `std` of its config).
        arch: an open_clip model name, `hf-hub:NAME`, `local-dir:FOLDER`, a paper's name such as ViT-B/32, or `scenes`.
        pretrained: open_clip's tag of the weights, or a file of weights; only a plain model name needs it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        numbers: the precision of images' embeddings, as `precision` takes it; texts are always in float32.

    Raises:
        UserError: no mean or std, an unknown name or tag, weights that are not at hand, do not belong to the model (a
            QuickGELU mismatch is one case), or are damaged.
    """

    def __init__(
        self,
        ds_mean: Sequence[float],
        ds_std: Sequence[float],
        arch: str = "ViT-B-32-quickgelu",
        pretrained: str | None = "openai",
        device: str = "auto",
        numbers: str = "float32",
    ) -> None:
        self.device, self.numbers = resolve_device(device), numbers
        mean, std = _colour(ds_mean, "mean"), _colour(ds_std, "std")
        if std.min() <= 0:
            raise UserError(f"the images' std is {std.tolist()}; every channel must be above 0")
        self._mean, self._std = ((numbers[:, None, None] / 255).to(self.device) for numbers in (mean, std))
        self._clip = load_clip(arch, pretrained, self.device)

    @property
    def model(self) -> Any:
        """The open_clip model, frozen, in evaluation mode."""
        return self._clip.model

    @property
    def name(self) -> str:
        """open_clip's name of the model."""
        return self._clip.name

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model reads, an int."""
        size = self._clip.preprocessing.size
        return size if isinstance(size, int) else size[0]

    @property
    def fingerprint(self) -> str:
        """A string that is the same for the same embeddings: a hash of the architecture, weights and preprocessing."""
        return self._clip.fingerprint

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Embed a batch: (B, 3, H, W) float, normalised by the data set's mean and std -> (B, d) float32.

        Both are on the processor's device. Resized, cropped and normalised as the model's own preprocessing says.
        """
        images = preprocess(images * self._std + self._mean, self._clip.preprocessing)
        with precision(self.device, self.numbers):
            return self.model.encode_image(images).float()

    def encode_pictures(self, images: Sequence[Any]) -> np.ndarray:
        """Embed a list of N PIL images of any sizes: (N, d) float32."""
        return self._clip.encode_pictures(images)

    def evaluate_clip_images(self, loader: Iterable[Any]) -> np.ndarray:
        """Embed all images of a loader, whose batches have a field `image`, in its order; (N, d) float32."""
        batches = tqdm(loader, desc="encoding images", unit="batch", disable=None, leave=False)
        latents = list(read_back(self.encode_images(batch.image.to(self.device)) for batch in batches))
        if not latents:
            raise UserError("there are no images to encode: the loader has no batches")
        return np.concatenate(latents)

    def evaluate_clip_captions(self, captions: Iterable[str]) -> np.ndarray:
        """Embed a list of M strings; (M, d) float32. A caption that was embedded before is not embedded again.

        Warns of captions that have more tokens than the model reads: the rest of them is not read.
        """
        if isinstance(captions, str):
            raise UserError(f'captions must be a list of strings; write ["{captions}"]')
        captions = list(captions)
        if not captions:
            raise UserError("there are no captions to encode; give at least one")
        known = self._clip.texts
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        new.sort(key=len)  # so that a batch's texts are about as long as each other
        starts = range(0, len(new), _TEXTS_PER_BATCH)
        cut = []
        for start in tqdm(starts, desc="encoding captions", unit="batch", disable=None, leave=False):
            batch = new[start : start + _TEXTS_PER_BATCH]
            known |= zip(batch, self._encode_texts(batch), strict=True)
            cut += self._clip.too_long(batch)
        if cut:
            others = f" and {len(cut) - 1} more captions" if len(cut) > 1 else ""
            warnings.warn(
                f'the caption "{textwrap.shorten(cut[0], 80)}"{others}: longer than the '
                f"{self._clip.context_length} tokens that {self._clip.name} reads, so cut",
                stacklevel=2,
            )
        return np.stack([known[caption] for caption in captions])

    @torch.no_grad()
    def _encode_texts(self, texts):
        tokens = self._clip.tokenizer(texts)
        with precision(self.device), _short_context(self.model, tokens) as tokens:
            return self.model.encode_text(tokens.to(self.device)).float().cpu().numpy()

    def get_caption_scores(
        self, captions: Sequence[str], reference_caption: str, svm_fitter: Any, target_c: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Place captions along a class's failure direction (Jain et al., ICLR 2023).

        Args:
            captions: M strings.
            reference_caption: what they are compared with, such as "a photo of a cat".
            svm_fitter: a fitted `SVMFitter`, on embeddings of this CLIP.
            target_c: int, the class.

        Returns:
            (M,) float64 scores, each the decision value of text(caption) - text(reference): the lower, the more the
            caption tells of what the model fails on (the rank counts, the sign does not); and the captions' own
            embeddings (M, d) float32.
        """
        latents = self.evaluate_clip_captions([reference_caption, *captions])
        return svm_fitter.caption_scores(target_c, latents[1:], latents[0]), latents[1:]


@contextlib.contextmanager
def _short_context(model, tokens):
    """Within the block the model reads no more tokens than the longest of these texts has; gives the tokens, cut.

    Nothing changes but the time: in a text encoder that reads from left to right, as CLIP's own does, what follows a
    text's end has no part in its embedding. Another kind of encoder is left as it is.
    """
    mask, positions = getattr(model, "attn_mask", None), getattr(model, "positional_embedding", None)
    if mask is None or positions is None or getattr(model, "text_pool_type", None) != "argmax":
        yield tokens
        return
    longest = int(tokens.argmax(dim=1).max()) + 1  # the end of a text has the highest number
    model.attn_mask = mask[:longest, :longest]
    model.positional_embedding = torch.nn.Parameter(positions[:longest], requires_grad=False)
    try:
        yield tokens[:, :longest]
    finally:
        model.attn_mask, model.positional_embedding = mask, positions


def clip_name(svm_config):
    """open_clip's name and tag of the CLIP that an `SVMConfig` names, as `full_name` gives them."""
    return full_name(svm_config.clip_model, svm_config.clip_pretrained)


def clip_of(svm_config, dataset_config, device="auto"):
    """The `CLIPProcessor` that an `SVMConfig` names, for images that are normalised as a `DatasetConfig` says."""
    return CLIPProcessor(dataset_config.mean, dataset_config.std, *clip_name(svm_config), device, svm_config.precision)


def preprocess(images, config):
    """What open_clip's transforms do to one PIL image, for a batch on any device.

    Args:
        images: (B, 3, H, W) float, on the 0..1 scale.
        config: open_clip's `PreprocessCfg`: size, interpolation, resize_mode, fill_color, mean and std.

    Returns:
        (B, 3, h, w), resized with antialiasing, cropped or padded about the centre, normalised.
    """
    size = config.size if isinstance(config.size, tuple | list) else (config.size, config.size)
    resized = _resized(images.shape[-2:], size, config.resize_mode)
    mode = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    images = F.interpolate(images, size=resized, mode=mode, antialias=True, align_corners=False)
    images = center_crop_or_pad(images.clamp(0, 1), size, fill=config.fill_color / 255)
    mean, std = (torch.tensor(numbers, device=images.device)[:, None, None] for numbers in (config.mean, config.std))
    return (images - mean) / std


def _resized(size, target, mode):
    """Height and width to resize to, before the crop."""
    (height, width), (rows, columns) = size, target
    if mode == "squash":
        return rows, columns
    if mode == "longest":
        factor = min(rows / height, columns / width)
        return round(height * factor), round(width * factor)
    # The shorter side, exactly; the other is rounded down, as torchvision does.
    if rows * width > columns * height:
        return rows, rows * width // height
    return columns * height // width, columns


def _colour(numbers, key):
    if numbers is None:
        raise UserError(
            "CLIP must undo the normalisation of the images and so needs their mean and std: set mean and std (of red, "
            f"green, blue, on the 0..255 scale) in the dataset config, where {key} is missing"
        )
    numbers = torch.tensor(numbers, dtype=torch.float32)
    if numbers.shape != (3,):
        raise UserError(f"{key} has the shape {tuple(numbers.shape)}; give three numbers, for red, green and blue")
    return numbers


# ---------------------------------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedCLIP:
    """A model, frozen, in evaluation mode, and what goes with it; shared by all that use it in the process."""

    name: str
    model: torch.nn.Module
    tokenizer: Any
    device: torch.device
    texts: dict = field(default_factory=dict)  # caption -> (d,) float32

    @functools.cached_property
    def transform(self):
        """What open_clip does to one PIL image before it is embedded: a float tensor (3, h, w)."""
        return image_transform_v2(self.preprocessing, is_train=False)

    @property
    def preprocessing(self):
        """open_clip's `PreprocessCfg`: size, interpolation, mean and std."""
        return PreprocessCfg(**self.model.visual.preprocess_cfg)

    @torch.no_grad()
    def encode_pictures(self, images, normalize=False):
        """Embed a list of N PIL images of any sizes: (N, d) float32; of length 1 where `normalize` says so."""
        parts = []
        for start in range(0, len(images), _IMAGES_PER_BATCH):
            batch = torch.stack([self.transform(image) for image in images[start : start + _IMAGES_PER_BATCH]])
            parts.append(self.model.encode_image(batch.to(self.device), normalize=normalize).float().cpu())
        return torch.cat(parts).numpy()

    @property
    def context_length(self):
        """How many tokens of a text the model reads."""
        return self.tokenizer.context_length

    def too_long(self, texts):
        """Those of `texts` that have more tokens than the model reads."""
        # Where a text fits, what lies beyond the context is the padding that an empty text has there, too.
        beyond = self.tokenizer(["", *texts], context_length=2 * self.context_length)[:, self.context_length :]
        return [text for text, tokens in zip(texts, beyond[1:], strict=True) if not torch.equal(tokens, beyond[0])]

    @functools.cached_property
    def fingerprint(self):
        """See `CLIPProcessor.fingerprint`."""
        digest = hashlib.sha256(repr((str(self.model), self.preprocessing)).encode())
        for name, weight in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy().tobytes())
        return f"clip {digest.hexdigest()[:16]}"


def full_name(arch, pretrained):
    """open_clip's name and tag; None for a tag where the name says it all, and nothing relative to a folder."""
    name = _SHORT_NAMES.get(arch, arch)
    if name.startswith(_LOCAL):
        return f"{_LOCAL}{Path(name.removeprefix(_LOCAL)).expanduser().resolve()}", None
    if name.startswith(_HUB):
        return name, None
    if pretrained is not None and Path(pretrained).is_file():
        pretrained = str(Path(pretrained).resolve())
    return name, pretrained


def load_clip(arch, pretrained=None, device="auto"):
    """A CLIP, loaded once a process.

    Args:
        arch, pretrained, device: as for `CLIPProcessor`.

    Returns:
        `LoadedCLIP`.

    Raises:
        UserError: an unknown name or tag, weights that are not at hand, do not belong to the model or are damaged.
    """
    return _load(*full_name(arch, pretrained), resolve_device(device))


@functools.cache
def _load(name, pretrained, device):
    """`LoadedCLIP` for what `full_name` gave."""
    with _quiet():
        if name.startswith(_LOCAL):
            source = name.removeprefix(_LOCAL)
            _check_folder(Path(source))
        elif name.startswith(_HUB):
            source = f"the hub's {name.removeprefix(_HUB)}"
            _fetch(name, functools.partial(_fetch_from_hub, name.removeprefix(_HUB)))
        else:
            source = pretrained
            _check_name(name, pretrained)
            if Path(pretrained).is_file() and not pretrained.endswith(".safetensors"):
                check_tensor_file(pretrained, "CLIP weights")
            if not Path(pretrained).is_file():
                tagged = open_clip.get_pretrained_cfg(name, pretrained)
                _fetch(f"{name} / {pretrained}", functools.partial(open_clip.download_pretrained, tagged))
        try:
            with hub.without_retries(local=name.startswith(_LOCAL)), hub.without_remote_code():
                model = open_clip.create_model(name, pretrained, device=device, require_pretrained=True)
                tokenizer = open_clip.get_tokenizer(name, **_tokenizer_options(name))
        except ModuleNotFoundError as error:
            raise UserError(f"the CLIP model {name} needs another package: pip install {error.name}") from error
        except Exception as error:  # whatever open_clip, timm, safetensors and torch make of files that do not fit
            raise UserError(f"the CLIP model {name} cannot be loaded from {source}: {_reason(error)}") from error
    return LoadedCLIP(name, model.eval().requires_grad_(False), tokenizer, device)


def _check_name(name, tag):
    """Raise `UserError` unless `tag` are weights of the model `name`, trained with its activation function."""
    if name not in open_clip.list_models():
        hint = nearest(name, [*_SHORT_NAMES, *open_clip.list_models()], _OTHERWISE, most=3)
        raise UserError(f"clip_model {name} is not a model of open_clip; {hint}")
    if tag is not None and Path(tag).is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    plain, quick = name.removesuffix("-quickgelu"), f"{name.removesuffix('-quickgelu')}-quickgelu"
    config = open_clip.get_pretrained_cfg(plain, tag or "")
    trained_quick = config.get("quick_gelu", False)
    if config and trained_quick != open_clip.get_model_config(name).get("quick_gelu", False):
        used, right = ("QuickGELU", quick) if trained_quick else ("GELU", plain)
        if right in open_clip.list_models():
            raise UserError(
                f"the weights {tag} were trained with {used}, and {name} computes another activation function; "
                f"set clip_model: {right}"
            )
    if not open_clip.get_pretrained_cfg(name, tag or ""):
        known = f"give one of {', '.join(tags)}" if tags else "give a file of weights"
        raise UserError(f"clip_pretrained {tag} is no tag of weights for {name}, nor a file; {known}")


def _check_folder(folder):
    """Raise `UserError` unless a local folder has all parts of a CLIP."""
    parts = f"a CLIP folder holds {CONFIG_FILE}, {WEIGHTS_FILE} and the files of its tokenizer"
    if not folder.is_dir():
        raise UserError(f"the CLIP folder {folder} does not exist; check the path after {_LOCAL}")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"the CLIP folder {folder} is incomplete: {CONFIG_FILE} is missing ({parts})")
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]
        merges = None if missing else _bpe_path(model)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "it has no model_cfg" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(f"{path} is not a config of open_clip: {reason}") from error
    if missing:
        raise UserError(f"{path} is not a config of open_clip: its model_cfg has no {' and no '.join(missing)}")
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise UserError(f"the CLIP folder {folder} is incomplete: there are no weights, {WEIGHTS_FILE} ({parts})")
    check_weights_folder(folder, "CLIP weights", safe=())
    if merges and not (folder / merges).is_file():
        raise UserError(f"the CLIP folder {folder} is incomplete: the tokenizer's {merges} is missing ({parts})")


def _bpe_path(model):
    """The merges file that a model's config names, or mostly None: the tokenizer then has CLIP's own."""
    return (model["text_cfg"].get("tokenizer_kwargs") or {}).get("bpe_path")


def _tokenizer_options(name):
    """What open_clip's tokenizer must be told beside the model's name."""
    model = open_clip.get_model_config(name)
    if model["text_cfg"].get("hf_tokenizer_name"):
        return {"trust_remote_code": False}
    if name.startswith(_LOCAL) and _bpe_path(model):
        # open_clip looks for a relative path in the working directory.
        return {"bpe_path": str(Path(name.removeprefix(_LOCAL)) / _bpe_path(model))}
    return {}


def _fetch(what, download):
    """Have open_clip download weights into its cache, unless they are there, and look through them."""
    try:
        with hub.without_retries(local=what.startswith(_LOCAL)):
            weights = download()
    except Exception as error:  # every kind of network, proxy and disk trouble
        raise UserError(
            f"the weights of the CLIP model {what} are not in {constants.HF_HUB_CACHE} and could not be "
            f"downloaded ({hub.reason(error)}); {_OFFLINE}"
        ) from error
    if not str(weights).endswith(".safetensors"):
        check_tensor_file(weights, "CLIP weights", "take weights that are safetensors")


def _fetch_from_hub(repository):
    open_clip.download_pretrained_from_hf(repository, filename=CONFIG_FILE)
    return open_clip.download_pretrained_from_hf(repository)


@contextlib.contextmanager
def _quiet():
    """Without open_clip's log and warnings: what matters in them is an error here."""
    # A handler of its own keeps open_clip's logging from installing one that prints.
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(handler)


def _reason(error):
    """One line of what went wrong."""
    if isinstance(error, pickle.UnpicklingError):
        return "the weights hold more than tensors, and loading them could run code"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict"):
        return f"the weights do not fit the config ({lines[1].rstrip('. ')[:200]})"
    return lines[0][:300]
