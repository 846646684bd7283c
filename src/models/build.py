"""Building a model from its names, as a config or a checkpoint gives them."""

import hashlib
import pickle

import torch

from ..runtime.english import nearest
from ..runtime.errors import UserError
from . import cifar_resnet
from .weights import fill, load_weights, under_own_names


def build_model(arch_type, arch, num_classes):
    """A freshly initialised model with `num_classes` outputs.

    Args:
        arch_type: "cifar_resnet" (ours, for small images), "resnet" (torchvision), "pretrained_resnet" (torchvision
            with ImageNet weights and a new last layer) or "timm".
        arch: a name within the type, such as "resnet18".

    Raises:
        UserError: an unknown name (naming the nearest) or weights that are not at hand.
    """
    if arch_type == "cifar_resnet":
        _check_name(arch, list(cifar_resnet.ARCHS), arch_type)
        return cifar_resnet.cifar_resnet(arch, num_classes)
    # Late, here and below: timm takes seconds to import, torchvision half a second.
    if arch_type == "timm":
        import timm

        _check_name(arch, timm.list_models(), arch_type)
        return timm.create_model(arch, num_classes=num_classes)
    from torchvision import models as torchvision_models

    resnets = sorted(name for name in torchvision_models.list_models(torchvision_models) if "res" in name)
    _check_name(arch, resnets, arch_type)
    if arch_type == "resnet":
        return torchvision_models.get_model(arch, num_classes=num_classes)
    model = pretrained_torchvision(arch)
    model.fc = torch.nn.Linear(model.fc.in_features, num_classes)
    return model


def pretrained_torchvision(arch, **build_args):
    """A torchvision model with its ImageNet weights, from torch's hub folder or downloaded into it.

    Raises:
        UserError: an unknown name, or weights that are missing or damaged, naming the file and the folder.
    """
    from torchvision import models as torchvision_models

    _check_name(arch, torchvision_models.list_models(torchvision_models), "torchvision")
    weights = torchvision_models.get_model_weights(arch).DEFAULT
    model = torchvision_models.get_model(arch, weights=None, **build_args)
    folder = f"{torch.hub.get_dir()}/checkpoints"
    try:
        model.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    except OSError as error:  # urllib's errors are among these
        raise UserError(
            f"the torchvision weights {weights} are not in {folder} and could not be downloaded "
            f"({getattr(error, 'reason', error)}): fetch {weights.url} on another machine and put the file there"
        ) from None
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"the file of {weights} in {folder} is damaged; delete it, and fetch {weights.url}") from error
    return model


def pretrained_timm(arch, weights=None):
    """A timm model with its pretrained weights: those of a file, of a package, of the hub's cache, or downloaded.

    Args:
        weights: a file with a state dict (torch, or safetensors); None for timm's own.

    Raises:
        UserError: an unknown name, weights that are not at hand, or a file of another architecture.
    """
    import timm

    _check_name(arch.split(".")[0], timm.list_models(), "timm")
    if weights is not None:
        model = timm.create_model(arch, pretrained=False)
        found, unexpected, _ = under_own_names(load_weights(weights), model.state_dict())
        fill(model, found, unexpected, f"{weights} are not those of timm's {arch}", "give its own")
        return model
    from ..runtime.hub import without_retries
    from .lite import ARCH, has_lite_weights, lite_network

    if arch == ARCH and has_lite_weights():
        return lite_network()
    try:
        with without_retries():
            return timm.create_model(arch, pretrained=True)
    except Exception as error:  # every kind of network, proxy and disk trouble; RuntimeError: timm has no weights
        raise UserError(
            f"timm's weights of {arch} are not in the hub's cache and could not be downloaded; without a network, give "
            "a file of weights"
        ) from error


def weights_digest(model):
    """Hash of a model's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _check_name(arch, known, arch_type):
    if arch not in known:
        raise UserError(
            f"arch {arch!r} is not known for arch_type {arch_type}; "
            + nearest(arch, known, f"it has {', '.join(known[:8])} ...", most=3)
        )
