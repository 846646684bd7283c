"""Files of weights, as we, torch, timm and the published code write them, and as wrappers leave them.

torch.compile puts `_orig_mod.` into the names of weights, DataParallel `module.`, Lightning the attribute that holds
the network (`model.`, `net.`, `backbone.`), and these nest. What all names of a file share of that is taken off; where
the model is known, it is asked: the prefix under which most of its own names are found is the one.
"""

import re
from collections import Counter

import torch

from ..runtime.errors import UserError
from ..runtime.pt_files import load_tensors
from .features import find_last_linear

# Where files keep weights, the most telling first.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "state_dict_ema", "ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")  # of wrappers, and of what models were trained in
_COMPILED = re.compile(r"(^|\.)(?:_orig_mod\.)+")  # wherever a part of a model was compiled
_AUXILIARY = re.compile(r"(AuxLogits|aux\d?|aux_classifier)\.")  # heads for training, of Inception and GoogLeNet
_WRAPPERS = re.compile(r"(^|\.)(?:(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")


def load_weights(path, what="weights", hint="give a file with a state dict"):
    """The state dict of a file, .safetensors or torch's: name -> tensor, by the names of the bare model.

    Args:
        path: of the file.
        what: names it in the error.
        hint: what to do, for the error.

    Raises:
        UserError: there is none, or the file is not to be loaded (`load_tensors`).
    """
    state = weights_in(load_tensors(path, what, hint))
    if state is None:
        raise UserError(f"{what} {path} holds no state dict; {hint}")
    return state


def weights_in(content):
    """The state dict in what a file holds: all of it, or what is under "state_dict" or the like; None for no such.

    Prefixes that all names share, of wrappers that the model was trained in, are left out.
    """
    for _ in _PLACES:
        inner = next((content[key] for key in _PLACES if key in content), None) if isinstance(content, dict) else None
        if not isinstance(inner, dict):
            break
        content = inner
    if not isinstance(content, dict):
        return None
    # Beside its weights, a module may save numbers of its own.
    state = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not state or not all(isinstance(name, str) for name in content):
        return None
    state = {_COMPILED.sub(r"\1", name): value for name, value in state.items()}
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def fitted_model(build, state, what, hint="correct --arch"):
    """A model with as many outputs as the weights are for, with these weights; and the names of those left over.

    Args:
        build: number of outputs -> a model, freshly initialised.
        state: dict of tensors, under any wrappers' names.
        what: names file and architecture, such as "w.pt do not fit resnet18", for the error.
        hint: what to do, for the error.

    Returns:
        (model, list of str): the names sorted.

    Raises:
        UserError: some weights do not fit; the first are named.
    """
    model = build(1)
    layer = find_last_linear(model)
    head = next((name for name, part in model.named_modules() if part is layer), None)
    found, unexpected, left_over = under_own_names(state, model.state_dict(), head)
    # Whatever has one row for the one output, and more in the file: a linear layer, or a convolution (SqueezeNet).
    outputs = [
        len(found[key])
        for key, value in model.state_dict().items()
        if value.shape[:1] == (1,) and key in found and found[key].shape[1:] == value.shape[1:] and value.dim() > 1
    ]
    if outputs and outputs[-1] != 1:
        model = build(outputs[-1])
    fill(model, found, unexpected, what, hint)
    return model, sorted(left_over)


def under_own_names(state, wanted, head=None):
    """Weights under the model's own names, unexpected ones beside them, and those of something else.

    Args:
        state: dict of tensors, under any wrappers' names.
        wanted: the model's names.
        head: name of the model's last linear layer. Where only its weights are not found, and the file has one other
            linear layer, as where a `backbone.` and a `head.` are trained together, that is it.

    Returns:
        Three dicts of tensors: the first may lack some of `wanted`; the second are more weights under the same prefix,
        as those of a deeper network; the third lie elsewhere in the file, as those of a loss.
    """
    wanted = set(wanted)
    cleaned = {key if key in wanted else _WRAPPERS.sub(r"\1", key): value for key, value in state.items()}
    counts = Counter(key[:i] for key in cleaned for i in _starts(key) if key[i:] in wanted)
    # Of equal ones the shortest: nothing is taken off that need not be.
    prefix = max(sorted(counts, key=len), key=counts.get, default="")
    found = {name: cleaned[prefix + name] for name in wanted if prefix + name in cleaned}
    rest = {key: value for key, value in cleaned.items() if key.removeprefix(prefix) not in found}
    if head and wanted - set(found) == {f"{head}.weight", f"{head}.bias"} & wanted:
        _take_head(found, rest, head, wanted)
    unexpected = {
        key: value
        for key, value in rest.items()
        # Numbers alone are counters, as of averaged weights.
        if key.startswith(prefix) and value.dim() and not _AUXILIARY.match(key[len(prefix) :])
    }
    return found, unexpected, {key: value for key, value in rest.items() if key not in unexpected}


def _starts(key):
    """Where a name may begin within a longer one: at the front, and after each dot."""
    return [0, *(match.end() for match in re.finditer(r"\.", key))]


def _take_head(found, rest, head, wanted):
    linear = [key for key, value in rest.items() if key.endswith(".weight") and value.dim() == 2]
    if len(linear) != 1:
        return
    name = linear[0].removesuffix("weight")
    if (f"{head}.bias" in wanted) != (f"{name}bias" in rest):
        return
    for part in ("weight", "bias"):
        if f"{head}.{part}" in wanted:
            found[f"{head}.{part}"] = rest.pop(name + part)


def fill(model, found, unexpected, what, hint="correct --arch"):
    """Put the weights that `under_own_names` gave into a model.

    Args:
        model: has its weights changed.
        found, unexpected: dicts of tensors, the first two that `under_own_names` gave.
        what, hint: word the error, as in `fitted_model`.

    Raises:
        UserError: some do not fit; the first are named.
    """
    own = model.state_dict()
    # Counters of batches, which older files lack and nothing depends on.
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} is {tuple(value.shape)} in the file and {tuple(own[key].shape)} in the model"
        for key, value in found.items()
        if value.shape != own[key].shape
    ]
    told = {"missing: ": _first(missing), "unexpected: ": _first(unexpected), "": _first(other, 2)}
    if any(told.values()):
        misfits = "; ".join(kind + names for kind, names in told.items() if names)
        raise UserError(f"the weights in {what} ({misfits}): {hint}")
    model.load_state_dict(found, strict=False)


def _first(names, most=3):
    names = list(names)
    return ", ".join(name[:120] for name in names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
