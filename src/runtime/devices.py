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
    """Half precision for training's forward passes on CUDA; nothing on a CPU.

    float16 with scaled gradients: bfloat16, which needs no scaling, was slower (docs/RESULTS.md, "CUDA").
    """
    import torch

    return torch.autocast("cuda", torch.float16) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def precision(device, name="float32"):
    """How a network is evaluated within the block: "float32", "bfloat16" or "float16".

    float32 is meant: on CUDA without TF32, which moves a decision value by as much as .005 of its deviation.
    """
    import torch

    if name != "float32":
        with torch.autocast(device.type, getattr(torch, name)):
            yield
    elif device.type != "cuda":
        yield
    else:
        kinds = torch.backends.cuda.matmul, torch.backends.cudnn
        before = [kind.allow_tf32 for kind in kinds]
        for kind in kinds:
            kind.allow_tf32 = False
        try:
            yield
        finally:
            for kind, allowed in zip(kinds, before, strict=True):
                kind.allow_tf32 = allowed


def read_back(tensors):
    """NumPy arrays of tensors, one after the other; from CUDA each is copied while the next one is computed.

    Args:
        tensors: an iterable, such as a generator that runs a network on batches.
    """
    import torch

    waiting = None
    for tensor in tensors:
        if tensor.device.type != "cuda":
            yield tensor.numpy()
            continue
        copy = tensor.to("cpu", non_blocking=True), torch.cuda.Event()  # into page-locked memory
        copy[1].record()
        if waiting:
            yield _awaited(*waiting)
        waiting = copy
    if waiting:
        yield _awaited(*waiting)


def _awaited(tensor, copied):
    copied.synchronize()
    return tensor.numpy().copy()  # page-locked memory is scarce
