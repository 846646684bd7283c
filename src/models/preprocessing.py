"""How a model wants its images: from the model itself, in words, and with another size, mean or std where asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..runtime.errors import UserError


@dataclass(frozen=True)
class Preprocessing:
    """A PIL image (RGB) -> float32 tensor (3, H, W).

    Attributes:
        transform: the callable.
        description: it in words, everything that decides on the pixels in it.
        size: (height, width) of what comes out, or None where it depends on the image.
    """

    transform: Callable
    description: str
    size: tuple | None = None

    def __call__(self, image):
        return self.transform(image)


def _check(size, mean, std):
    if size is not None and not (isinstance(size, int) and 1 <= size <= 10_000):
        raise UserError(f"the image size is {size}; give a number of pixels, such as 224")
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is None:
            continue
        if (
            len(numbers) != 3
            or not all(0 <= number <= 1 for number in numbers)
            or (name == "std" and min(numbers) == 0)
        ):
            raise UserError(f"the images' {name} is {list(numbers)}; give three numbers between 0 and 1 (not 0 to 255)")


def _colours(mean, std):
    return "mean " + " ".join(f"{m:.4g}" for m in mean) + ", std " + " ".join(f"{s:.4g}" for s in std)


def timm_preprocessing(module, size=None, mean=None, std=None):
    """timm's own evaluation transform, of a model's `pretrained_cfg`."""
    from timm.data import create_transform, resolve_model_data_config

    _check(size, mean, std)
    config = resolve_model_data_config(module)
    if size is not None:
        config["input_size"] = (3, size, size)
    config |= {key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    height, width = config["input_size"][1:]
    description = (
        f"timm's: {height} x {width} pixels, {config['crop_mode']} crop of {config['crop_pct']:.4g}, "
        f"{config['interpolation']}, {_colours(config['mean'], config['std'])}"
    )
    return Preprocessing(create_transform(**config, is_training=False), description, (height, width))


def torchvision_preprocessing(weights, size=None, mean=None, std=None):
    """The transform that torchvision's weights come with (an entry of a weights enum)."""
    _check(size, mean, std)
    own = weights.transforms()
    changes = {key: list(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    if size is not None:
        changes |= {"crop_size": size, "resize_size": round(size * own.resize_size[0] / own.crop_size[0])}
    transform = weights.transforms(**changes)
    crop = transform.crop_size[0]
    description = (
        f"torchvision's: shorter side to {transform.resize_size[0]} pixels, centre {crop} x {crop}, "
        f"{transform.interpolation.value}, {_colours(transform.mean, transform.std)}"
    )
    return Preprocessing(transform, description, (crop, crop))


def hf_preprocessing(processor, size=None, mean=None, std=None):
    """The image processor that a model of transformers comes with."""
    _check(size, mean, std)
    changes = {f"image_{key}": list(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    if size is not None:
        square = {"height": size, "width": size}
        own = dict(getattr(processor, "size", None) or square)
        changes["size"] = square if "height" in own else dict.fromkeys(own, size)
        if getattr(processor, "do_center_crop", False):
            changes["crop_size"] = square

    def transform(image):
        return processor(image, return_tensors="pt", **changes)["pixel_values"][0].float()

    told = {
        key: changes.get(key, getattr(processor, key, None))
        for key in ("size", "crop_size", "crop_pct", "resample", "rescale_factor", "image_mean", "image_std")
        if getattr(processor, key, None) is not None
    }
    # Options that are off say nothing.
    for switch, keys in (
        ("do_resize", ("size", "crop_pct", "resample")),
        ("do_center_crop", ("crop_size",)),
        ("do_rescale", ("rescale_factor",)),
        ("do_normalize", ("image_mean", "image_std")),
    ):
        if not getattr(processor, switch, True):
            told = {key: value for key, value in told.items() if key not in keys}
    words = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in told.items())
    return Preprocessing(transform, f"{type(processor).__name__}: {words}")


def _plain(value):
    if hasattr(value, "items"):
        return " x ".join(str(number) for number in dict(value).values() if number is not None)
    if isinstance(value, list | tuple):
        return " ".join(f"{number:.4g}" for number in value)
    return f"{value:.4g}" if isinstance(value, float) else str(getattr(value, "name", value)).lower()


# Decoders of a config that crop: the share of the shorter side that is kept.
_CROPS = {"center_crop_256": 224 / 256, "center_crop_75": 64 / 75, "center_crop_full": 1.0}


def of_checkpoint(config, size=None, mean=None, std=None):
    """What a config of ours says (a dict, maybe empty): the centre crop of its decoder, or the whole image squeezed."""
    from torchvision.transforms import v2

    _check(size, mean, std)
    pixels = size or config.get("imgsz") or 32
    mean = list(mean) if mean is not None else [number / 255 for number in config.get("mean") or (0, 0, 0)]
    std = list(std) if std is not None else [number / 255 for number in config.get("std") or (255, 255, 255)]
    ratio = _CROPS.get(config.get("val_img_decoder"))
    if ratio:
        geometry = [v2.Resize(round(pixels / ratio), antialias=True), v2.CenterCrop(pixels)]
        words = f"shorter side to {round(pixels / ratio)} pixels, centre {pixels} x {pixels}"
    else:
        # Images of the size that the model was trained on come through as they are.
        geometry, words = [v2.Resize((pixels, pixels), antialias=True)], f"{pixels} x {pixels} pixels"
    transform = v2.Compose(
        [v2.PILToTensor(), *geometry, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    )
    return Preprocessing(transform, f"the config's: {words}, {_colours(mean, std)}", (pixels, pixels))
