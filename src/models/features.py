"""Penultimate features: the input of a model's last linear layer."""

from torch import nn

from ..runtime.errors import UserError


def last_linear(model):
    """The last linear layer of a model, which gives its predictions; torchvision, timm and our models have one.

    Raises:
        UserError: there is none.
    """
    layer = model.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "fc", None)
    if isinstance(layer, nn.Sequential):
        layer = next((part for part in reversed(layer) if isinstance(part, nn.Linear)), None)
    if not isinstance(layer, nn.Linear):
        raise UserError(
            f"{type(model).__name__} has no linear layer at its end, so it has no penultimate features; "
            "choose another arch, or embedding: clip"
        )
    return layer


def find_last_linear(model):
    """The linear layer that gives a model's predictions, or None: `last_linear`, and under other names for it."""
    try:
        return last_linear(model)
    except (UserError, AttributeError):
        pass
    for name in ("classifier", "head", "heads", "fc"):
        layer = getattr(model, name, None)
        layers = [part for part in layer.modules() if isinstance(part, nn.Linear)] if layer is not None else []
        if layers:
            return layers[-1]
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    return layers[-1] if layers else None


def replace_last_linear(model, layer):
    """Put `layer` in the place of a model's last linear layer."""
    old = last_linear(model)
    name = next(name for name, module in model.named_modules() if module is old)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


class FeatureExtractor:
    """Gives predictions and penultimate features of one forward pass. Use as a context manager."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self._hook = last_linear(self.model).register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *_):
        self._hook.remove()

    def _keep(self, _, inputs):
        self._features = inputs[0]

    def __call__(self, images):
        """Logits (B, k) and features (B, d) of images (B, 3, H, W)."""
        logits = self.model(images)
        return logits, self._features
