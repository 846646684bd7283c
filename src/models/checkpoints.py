"""Checkpoints: `{build_params, state_dict, run_metadata}`, and what a resumed training needs beside it."""

from dataclasses import dataclass

from torch import nn

from ..runtime.errors import UserError
from ..runtime.pt_files import load_pt, save_pt
from .build import build_model
from .input_sizes import check_input
from .weights import fill, under_own_names, weights_in


@dataclass
class Checkpoint:
    """A model and where it came from.

    Attributes:
        build_params: dict `arch_type`, `arch`, `num_classes`: the arguments of `build_model`.
        run_metadata: dict of the run: config, seed, epoch, validation accuracy, ...
        training_state: optimizer state and the like, for `--resume`; None in files that can't be resumed.
    """

    model: nn.Module
    build_params: dict
    run_metadata: dict
    training_state: dict | None = None


def save_checkpoint(path, checkpoint):
    """Write a checkpoint, atomically."""
    content = {
        "build_params": checkpoint.build_params,
        "state_dict": {key: value.cpu() for key, value in checkpoint.model.state_dict().items()},
        "run_metadata": checkpoint.run_metadata,
    }
    if checkpoint.training_state:
        content["training_state"] = checkpoint.training_state
    save_pt(content, path)


def load_checkpoint(path, config=None):
    """Read a checkpoint and build its model, on the CPU.

    Args:
        config: a `DatasetConfig`; it gives the model's names where the file has no build_params, and must agree with
            them where it has.

    Raises:
        UserError: the file is missing, truncated, hostile or of another architecture.
    """
    content = load_pt(path, "checkpoint", "train it again with failure-directions train")
    state = weights_in(content) if isinstance(content, dict) and "state_dict" in content else None
    if state is None:
        raise UserError(f"checkpoint {path} has no state_dict; give a checkpoint_last.pt or checkpoint_best.pt")
    wanted = model_names(config) if config else None
    names = content.get("build_params") or wanted
    types = {"arch_type": str, "arch": str, "num_classes": int}
    if not isinstance(names, dict) or not all(isinstance(names.get(key), kind) for key, kind in types.items()):
        raise UserError(f"checkpoint {path} does not say its architecture (build_params); give the config it came from")
    # A layer with as many outputs must be in the file before room is made for it.
    if not any(names["num_classes"] in weight.shape[:1] for weight in state.values()):
        raise UserError(f"the weights in checkpoint {path} are not those of {_describe(names)}; train it again")
    if wanted and any(names[key] != wanted[key] for key in wanted):
        raise UserError(f"checkpoint {path} holds {_describe(names)}, but the config asks for {_describe(wanted)}")
    # Weights come from the file, so pretrained ones need not be fetched.
    arch_type = "resnet" if names["arch_type"] == "pretrained_resnet" else names["arch_type"]
    try:
        model = build_model(arch_type, names["arch"], names["num_classes"])
    except UserError as error:
        raise UserError(f"checkpoint {path} cannot be built: {error}") from error
    found, unexpected, _ = under_own_names(state, model.state_dict())
    fits = f"checkpoint {path} do not fit {_describe(names)}"
    fill(model, found, unexpected, fits, "give the config that it was trained with")
    if config:
        check_input(model, f"{names['arch_type']} {names['arch']}", config.imgsz)
    metadata = content.get("run_metadata")
    return Checkpoint(model, dict(names), metadata if isinstance(metadata, dict) else {}, content.get("training_state"))


def about_training(path, checkpoint):
    """A sentence where the training of a `Checkpoint` was interrupted, else None.

    Raises:
        UserError: it has finished no epoch, so that its failures would be those of a network that is not trained.
    """
    epoch, config = checkpoint.run_metadata.get("epoch"), checkpoint.run_metadata.get("config")
    if epoch == 0:
        raise UserError(f"checkpoint {path} is of 0 finished epochs, a network that is not trained: train it first")
    training = config.get("training") if isinstance(config, dict) else None
    epochs = training.get("epochs") if isinstance(training, dict) else None
    # The best checkpoint is of an earlier epoch in a finished run, too; the last is what --resume goes on from.
    if isinstance(epoch, int) and isinstance(epochs, int) and epoch < epochs and checkpoint.training_state:
        return f"checkpoint {path} is of an interrupted run: {epoch} of {epochs} epochs; --resume finishes it"
    return None


def model_names(config):
    """The arguments of `build_model` that a config gives, as a dict."""
    return {"arch_type": config.arch_type, "arch": config.arch, "num_classes": config.num_classes}


def _describe(names):
    return f"a {names['arch_type'][:80]} {names['arch'][:80]} with {names['num_classes']} outputs"
