"""Weights as they were saved, by whatever wrapper: found in a file and fitted to a model.

torch.compile puts `_orig_mod.` into the names of weights, DataParallel `module.`, Lightning the attribute that holds
the network (`model.`, `net.`, `backbone.`), and these nest. Which weights are meant is therefore asked of the model:
the prefix under which most of its names are found is the one.
"""

import re
from collections import Counter

import torch

from ..runtime.errors import UserError
from ..runtime.pt_files import load_pt

# Where files keep weights, the most telling first.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "state_dict_ema", "ema")
_WRAPPERS = re.compile(r"(^|\.)(?:(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
_HINT = (
    "save the weights alone, where you trust the file, with torch.save(model.state_dict(), 'weights.pt'), and give "
    "those and --arch"
)


def read_weights(path):
    """What a file of weights holds, a dict: .safetensors, or a torch file, of which nothing is run.

    Raises `UserError` for files that are missing, damaged, or hold more than tensors and numbers.
    """
    if str(path).lower().endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"the weights {path} are missing or damaged ({error}); check the path") from None
    content = load_pt(path, "weights", _HINT)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, no state dict; {_HINT}")
    return content


def find_state_dict(content, path):
    """The state dict in a file's content: it itself, or what its `state_dict`, `model` or the like holds."""
    for _ in range(3):
        inner = next((content[key] for key in _PLACES if isinstance(content.get(key), dict)), None)
        if inner is None or not any(isinstance(value, torch.Tensor | dict) for value in inner.values()):
            break
        content = inner
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not state:
        raise UserError(f"{path} holds no weights; {_HINT}")
    return state


def without_wrappers(state, wanted, head=None):
    """Weights under the model's own names, and those that are left over.

    Args:
        state: dict of tensors, under any wrappers' names. wanted: the model's names.
        head: name of the model's last linear layer. Where only its weights are not found, and the file has one other
            linear layer, as where a `backbone.` and a `head.` are trained together, that is it.

    Returns:
        Two dicts of tensors; the first may lack some of `wanted`.
    """
    wanted = set(wanted)
    plain = {key: value for key, value in state.items() if key in wanted}
    if len(plain) == len(wanted):
        return plain, {key: value for key, value in state.items() if key not in wanted}
    cleaned = {key if key in wanted else _WRAPPERS.sub(r"\1", key): value for key, value in state.items()}
    counts = Counter(key[:i] for key in cleaned for i in _starts(key) if key[i:] in wanted)
    # Of equal ones the shortest: nothing is taken off that need not be.
    prefix = max(sorted(counts, key=len), key=counts.get, default="")
    found = {name: cleaned[prefix + name] for name in wanted if prefix + name in cleaned}
    rest = {key: value for key, value in cleaned.items() if key.removeprefix(prefix) not in found}
    if head and wanted - set(found) == {f"{head}.weight", f"{head}.bias"} & wanted:
        _take_head(found, rest, head, wanted)
    return found, rest


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


def load_weights(model, found, rest, what):
    """Put weights that `without_wrappers` gave into a model, all of them. Raises `UserError` naming the first misfits.

    Args:
        what: names file and architecture in the message, such as "w.pt do not fit timm:resnet18".
    """
    own = model.state_dict()
    # Counters of batches, which older files lack and nothing depends on.
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} is {tuple(value.shape)} in the file and {tuple(own[key].shape)} in the model"
        for key, value in found.items()
        if value.shape != own[key].shape
    ]
    if missing or other:
        parts = [f"missing: {_first(missing)}"] if missing else []
        parts += [f"unexpected: {_first(rest)}"] if missing and rest else []
        parts += [_first(other, 2)] if other else []
        raise UserError(
            f"the weights in {what} ({'; '.join(parts)}): correct --arch{' or --image-size' if other else ''}"
        )
    model.load_state_dict(found, strict=False)


def _first(names, most=3):
    names = list(names)
    return ", ".join(name[:120] for name in names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
