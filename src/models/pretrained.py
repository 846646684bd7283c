"""Pretrained models by name, and models of one's own from files of weights."""

import timm
import torch
from torchvision import models as torchvision_models
from torchvision.transforms import v2

from ..runtime.errors import UserError
from ..runtime.pt_files import load_tensors
from .build import build_model, pretrained_timm, pretrained_torchvision
from .checkpoints import load_checkpoint
from .features import last_linear
from .weights import fitted_model, weights_in

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_image_model(arch=None, model_path=None):
    """A torchvision or timm model on the CPU, its `build_params`, and how a PIL image is prepared for it."""
    if model_path is None:
        if arch.startswith("timm:"):
            model = pretrained_timm(arch.removeprefix("timm:"))
            build_params = {"arch_type": "timm", "arch": arch.removeprefix("timm:"), "num_classes": model.num_classes}
        else:
            model = pretrained_torchvision(arch)
            return (
                model.eval(),
                {"arch_type": "resnet", "arch": arch, "num_classes": last_linear(model).out_features},
                torchvision_models.get_model_weights(arch).DEFAULT.transforms(),
            )
    else:
        model, build_params = _from_file(arch, model_path)
    if build_params["arch_type"] == "timm":
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    else:
        transform = v2.Compose(
            [
                v2.Resize(256),
                v2.CenterCrop(224),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
    return model.eval(), build_params, transform


def _from_file(arch, path):
    content = load_tensors(path, "checkpoint", "give a state dict, or a checkpoint of failure-directions train")
    if isinstance(content, dict) and "build_params" in content:
        checkpoint = load_checkpoint(path)
        if "config" in checkpoint.run_metadata:
            raise UserError(
                f"checkpoint {path} was trained on betons, which say how its images are prepared: give --dataset beton "
                "and its --config"
            )
        return checkpoint.model, checkpoint.build_params
    if arch is None:
        raise UserError(f"checkpoint {path} does not say its architecture; add --arch, such as resnet50 or timm:NAME")
    state = weights_in(content)
    if state is None:
        raise UserError(f"checkpoint {path} holds no state dict; give a file with one")
    arch_type, arch = ("timm", arch.removeprefix("timm:")) if arch.startswith("timm:") else ("resnet", arch)
    fits = f"checkpoint {path} are not those of a {arch}"
    model, _ = fitted_model(lambda outputs: build_model(arch_type, arch, outputs), state, fits)
    return model, {"arch_type": arch_type, "arch": arch, "num_classes": last_linear(model).out_features}
