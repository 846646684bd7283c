"""Where a training starts: anew, from a trained model, or where an interrupted one stopped."""

from pathlib import Path

import torch

from ..models.build import build_model
from ..models.checkpoints import Checkpoint, about_training, load_checkpoint, model_names
from ..models.input_sizes import check_input
from ..runtime.errors import UserError
from ..runtime.pt_files import is_plain


def new_checkpoint(config, seed):
    """An untrained model (or one with torchvision's weights) to start from."""
    torch.manual_seed(seed)
    names = model_names(config)
    start = Checkpoint(build_model(**names), names, {})
    check_input(start.model, f"{names['arch_type']} {names['arch']}", config.imgsz)
    return start


def load_resumable(path, config, seed, metadata):
    """The checkpoint of an interrupted training, to go on from.

    Raises:
        UserError: it holds no training state, or was trained in another way than `metadata` says.
    """
    checkpoint = load_checkpoint(path, config)
    state, before = checkpoint.training_state, checkpoint.run_metadata
    complete = isinstance(state, dict) and {"optimizer", "scaler"} <= set(state) and is_plain(before)
    kinds = {"seed": int, "epoch": int, "best_val": int | float}
    if not complete or not all(isinstance(before.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"checkpoint {path} holds no training state to resume from; {_anew(path)}")
    if before["seed"] != seed:
        raise UserError(f"{path} was trained with --seed {before['seed']}; resume with the same")
    for key, was, now in _differences(before, metadata):
        raise UserError(
            f"{path} was trained with {key} {str(was)[:200]}, not {now}; resume with the same, or {_anew(path)}"
        )
    return checkpoint


def _anew(path):
    # What the loop's users can do, too, who never said --resume.
    return f"remove the run's folder {Path(path).parents[1]} to train anew"


def take_up(optimizer, scaler, state):
    """Give an optimizer and a scaler the state that a training was left in.

    Raises:
        UserError: the state is none of this model's.
    """
    options = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
    own = [optimizer.param_groups[0][option] for option in options]
    try:
        fused = optimizer.param_groups[0]["fused"]
        optimizer.load_state_dict(state["optimizer"])
        (group,) = optimizer.param_groups
        group["fused"] = fused  # it belongs to the device, which may be another one now
        if state["scaler"]:  # empty on a CPU
            scaler.load_state_dict(state["scaler"])
        buffers = [(optimizer.state.get(weight, {}).get("momentum_buffer"), weight) for weight in group["params"]]
        fits = [group[option] for option in options] == own and is_plain(state["scaler"])
        fits = fits and all(buffer is None or buffer.shape == weight.shape for buffer, weight in buffers)
    except Exception:  # a state that was tampered with raises any kind
        fits = False
    if not fits:
        raise UserError("the checkpoint's training state does not fit its model; remove the run's folder to train anew")


def load_pretrained(path, config):
    """A trained checkpoint to train further, without its training state.

    One that does not say its classes is taken at its word.

    Raises:
        UserError: it was trained on other classes, or not at all.
    """
    checkpoint = load_checkpoint(path, config)
    if interrupted := about_training(path, checkpoint):
        print(interrupted)
    if not all(weight.isfinite().all() for weight in checkpoint.model.state_dict().values()):
        raise UserError(f"checkpoint {path} has weights that are NaN or infinite; train it again")
    before = checkpoint.run_metadata.get("config")
    if not isinstance(before, dict):
        print(f"{path} does not say how it was trained, so its classes are taken to be those of the config")
    elif config.class_names and before.get("class_names") not in (None, config.class_names):
        raise UserError(f"{path} was trained on other classes than the config names; give the config it came from")
    return Checkpoint(checkpoint.model, checkpoint.build_params, {})


def _differences(before, now):
    """(key, value before, value now) of what a resumed training must not change; more epochs are allowed."""
    config, arguments = (before[key] if isinstance(before.get(key), dict) else {} for key in ("config", "arguments"))
    for key, value in now.get("config", {}).items():
        was = config.get(key, value)
        if key == "training" and isinstance(was, dict):
            was, value = ({**options, "epochs": None} for options in (was, value))
        if was != value:
            yield key, was, value
    for key in ("indices_file", "loss_vec_file", "finetune_from", "freeze", "extra_images", "extra_weight"):
        value = now.get("arguments", {}).get(key)
        was = arguments.get(key, value)  # not there: trained before the option was
        if was != value:
            yield f"--{key.replace('_', '-')}", was, value
    contents = before["contents"] if isinstance(before.get("contents"), dict) else {}
    for key, value in now.get("contents", {}).items():
        was = contents.get(key, value)
        if was != value:
            yield f"a {key} of other contents, SHA-256", was, value
