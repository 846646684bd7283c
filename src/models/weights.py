"""Files of weights, as we, torch, timm and the published code write them."""

import torch

from ..runtime.errors import UserError
from ..runtime.pt_files import load_tensors

_WRAPPERS = ("module.", "model.")  # of torch's DataParallel, and of what models were trained in


def load_weights(path, what="weights", hint="give a file with a state dict"):
    """The state dict of a file, .safetensors or torch's: name -> tensor, by the names of the bare model.

    `what` and `hint` word the error. Raises `UserError` where there is none, and as `load_tensors`.
    """
    state = weights_in(load_tensors(path, what, hint))
    if state is None:
        raise UserError(f"{what} {path} holds no state dict; {hint}")
    return state


def weights_in(content):
    """The state dict in what a file holds: all of it, or what is under "state_dict" or "model"; None for no such.

    Prefixes that all names share, of wrappers that the model was trained in, are left out.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()):
        return None
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content
