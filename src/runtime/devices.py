"""The device of a run."""

import contextlib

from .errors import UserError


def resolve_device(name="auto"):
    """torch.device for "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".

    "cuda:N" becomes the current device, on which FFCV makes its streams.

    Raises:
        UserError: another kind of device, or one that this machine does not have.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"the device {name} is not supported; give auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"the device {name} was asked for, but this machine has no usable CUDA device; give cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"the device {name} does not exist: this machine has {torch.cuda.device_count()} of CUDA")
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def autocast(device):
    """Half precision for the forward pass on CUDA; nothing on a CPU."""
    import torch

    return torch.autocast("cuda", torch.float16) if device.type == "cuda" else contextlib.nullcontext()
