"""Training a base model: SGD with a learning rate that moves step by step, checkpoints, TensorBoard.

With several processes (see `distributed`) gradients are averaged over them, and each normalises its part of a batch by
itself (BatchNorm); the running statistics that are evaluated and kept are rank 0's.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from .augmentation import epoch_key
from .checkpoints import Checkpoint, load_checkpoint, model_names, save_checkpoint
from .devices import autocast
from .distributed import add_up, is_main, rank, take_from_main, world_size
from .errors import UserError
from .evaluation import predict
from .files import is_plain, is_plain_tensor, load_pt
from .models import build_model


def lr_factor(config, epochs_done):
    """Learning rate over `training.lr` after a (fractional) number of epochs."""
    schedule = config.lr_scheduler
    if schedule.type == "cyclic":
        return float(np.interp(epochs_done, [0, schedule.lr_peak_epoch, config.epochs], [0, 1, 0]))
    if schedule.type == "step_lr":
        return schedule.gamma ** (int(epochs_done) // schedule.step_size)
    return 1.0


def example_losses(logits, labels, bce):
    """(B,) loss of each example: cross entropy, or for BCE the mean over its conditions."""
    if bce:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    return F.cross_entropy(logits, labels, reduction="none")


def load_loss_vector(path, train):
    """A loss vector, checked against the train `Split`: (M,) float32, finite and >= 0 on the train indices."""
    vector = load_pt(path, "loss vector", "make it again as a float tensor over the train beton")
    if not is_plain_tensor(vector, 1):
        raise UserError(f"loss vector {path} is not a one-dimensional tensor; make it one weight per training image")
    needed = int(train.indices.max()) + 1
    if len(vector) < needed:
        raise UserError(
            f"loss vector {path} has {len(vector)} weights, but the train indices go up to {needed - 1}; "
            "make it for this beton and index file"
        )
    if len(vector) > len(train.beton):
        raise UserError(
            f"loss vector {path} has {len(vector)} weights, but beton {train.beton.path} has {len(train.beton)} "
            "examples; make it for this beton"
        )
    weights = vector.float()[torch.from_numpy(train.indices)]
    bad = ~(weights.isfinite() & (weights >= 0))
    if bad.any():
        first = int(train.indices[int(bad.float().argmax())])
        raise UserError(
            f"loss vector {path} is {vector[first]:g} for training image {first} (and {int(bad.sum()) - 1} more), "
            "but weights must be finite and at least 0"
        )
    if not weights.any():
        raise UserError(f"loss vector {path} is 0 for every training image, so nothing would be learned")
    return vector.float()


def extended_loss_vector(vector, splits, extra_weight):
    """Weights for a `MixedLoader`'s index: of the train beton's examples, and `extra_weight` for all extra ones.

    Args:
        vector: (M,) from `load_loss_vector`, or None for ones. splits: list of `Split`, train and extra ones.
    """
    train, *extras = splits
    weights = torch.ones(len(train.beton) + sum(len(extra.beton) for extra in extras))
    if vector is not None:
        weights[: min(len(vector), len(train.beton))] = vector[: len(train.beton)]
    weights[len(train.beton) :] = extra_weight
    return weights


@dataclass
class Trainer:
    """Trains a model on the loaders `train` and `val`; keeps `checkpoint_last.pt` and `checkpoint_best.pt`.

    Attributes:
        config: a `DatasetConfig`.
        folder: of this run, `runs/EXP/version_K`; made with the first checkpoint.
        metadata: dict that goes into the checkpoints' run_metadata.
        loss_vector: (M,) weights by `index`, or None; the loss of a batch is the plain mean of weight x loss.
        log: whether TensorBoard logs are written.
    """

    config: object
    device: torch.device
    folder: Path
    train: object
    val: object
    seed: int = 0
    metadata: dict | None = None
    loss_vector: torch.Tensor | None = None
    log: bool = True

    def fit(self, start, trained=None):
        """Train to the end. Returns the trained model.

        Args:
            start: the `Checkpoint` to begin with; from its training state, where it has one, training goes on.
            trained: the part of its model that is trained, and that the loaders' batches are for: by default all of it.

        Raises `UserError` where the loss is not finite; the checkpoints of earlier epochs stay.
        """
        torch.backends.cudnn.benchmark = True
        options = self.config.training
        model = start.model.to(self.device, memory_format=torch.channels_last)
        trained = trained or model
        stepped = DistributedDataParallel(trained) if world_size() > 1 else trained
        state, first, best = start.training_state, 0, -1.0
        optimizer = torch.optim.SGD(
            trained.parameters(),
            lr=options.lr,
            momentum=options.optimizer.momentum,
            weight_decay=options.optimizer.weight_decay,
            # The fused step looks at the scaler's verdict on the device; the plain one waits for it on the host.
            fused=self.device.type == "cuda",
        )
        scaler = torch.amp.GradScaler(enabled=self.device.type == "cuda")
        if state:
            _take_up(optimizer, scaler, state)
            first, best = start.run_metadata["epoch"], start.run_metadata["best_val"]
        else:
            # Before the first epoch is done there is already something to resume from.
            self._save("last", model, 0, best, optimizer, scaler)
        writer = self._summary_writer()
        bar = tqdm(range(first, options.epochs), desc="training", unit="epoch", initial=first, total=options.epochs,
                   disable=None)  # fmt: skip
        for epoch in bar:
            loss, accuracy = self._train_epoch(stepped, optimizer, scaler, epoch)
            take_from_main(trained)
            if not np.isfinite(loss):
                kept = f"; the checkpoints of earlier epochs are in {self.folder}" if epoch else ""
                raise UserError(
                    f"the training loss became {loss} in epoch {epoch + 1}: lower training.lr (now {options.lr:g}), or "
                    f"look at mean, std and the loss vector, and train again{kept}"
                )
            metrics = predict(trained, self.val, self.device, self.config.bce).metrics(self.config.num_classes)
            score = metrics["auroc" if self.config.bce else "accuracy"]
            if writer:
                writer.add_scalar("loss/train", loss, epoch + 1)
                writer.add_scalar("accuracy/train", accuracy, epoch + 1)
                writer.add_scalar("accuracy/val", metrics["accuracy"], epoch + 1)
                writer.add_scalar("lr", optimizer.param_groups[0]["lr"], epoch + 1)
                writer.flush()
            improved, best = score > best, max(score, best)
            # The best first: killed between the two, a resumed training does this epoch again and saves both.
            if improved:
                self._save("best", model, epoch + 1, best)
            self._save("last", model, epoch + 1, best, optimizer, scaler)
            bar.set_postfix(loss=f"{loss:.3f}", train=f"{accuracy:.3f}", val=f"{metrics['accuracy']:.3f}")
        if writer:
            writer.close()
        return model

    def checkpoint_path(self, which):
        """Path of the checkpoint `which`, "last" or "best"."""
        return self.folder / "checkpoints" / f"checkpoint_{which}.pt"

    def _train_epoch(self, model, optimizer, scaler, epoch):
        """One epoch; returns mean loss and accuracy. Nothing in a step waits for the device."""
        model.train()
        self.train.epoch = epoch
        # Of dropout and the like, so that a resumed training draws what an undisturbed one does.
        torch.manual_seed(epoch_key(self.seed + rank(), epoch))
        steps = len(self.train)
        weights = None if self.loss_vector is None else self.loss_vector.to(self.device)
        total_loss = torch.zeros((), device=self.device)
        total_correct = torch.zeros((), device=self.device)
        seen = 0
        for step, batch in enumerate(tqdm(self.train, desc=f"epoch {epoch + 1}", disable=None, leave=False)):
            for group in optimizer.param_groups:
                group["lr"] = self.config.training.lr * lr_factor(self.config.training, epoch + step / steps)
            with autocast(self.device):
                logits = model(batch.image)
                losses = example_losses(logits, batch.label, self.config.bce)
            loss = (losses if weights is None else losses * weights[batch.index]).mean()
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total_loss += loss.detach() * len(batch.label)
            right = (logits > 0) == (batch.label > 0.5) if self.config.bce else logits.argmax(1) == batch.label
            total_correct += right.float().mean() * len(batch.label)
            seen += len(batch.label)
        seen *= world_size()  # each has seen as many
        loss, correct = add_up(torch.stack([total_loss, total_correct])).tolist()
        return loss / seen, correct / seen

    def _save(self, which, model, epoch, best, optimizer=None, scaler=None):
        if not is_main():
            return
        metadata = {**(self.metadata or {}), "seed": self.seed, "epoch": epoch, "best_val": best}
        state = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()} if optimizer else None
        save_checkpoint(self.checkpoint_path(which), Checkpoint(model, model_names(self.config), metadata, state))

    def _summary_writer(self):
        if not (self.log and is_main()):
            return None
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _print_unless_lost_disk
        return SummaryWriter(self.folder)


def _print_unless_lost_disk(failure):
    """The thread that writes TensorBoard's log hands what stopped it to our next call, but Python prints it as well."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def new_checkpoint(config, seed):
    """An untrained model (or one with torchvision's weights) to start from."""
    torch.manual_seed(seed)
    names = model_names(config)
    return Checkpoint(build_model(**names), names, {})


def load_resumable(path, config, seed, metadata):
    """The checkpoint of an interrupted training, to go on from.

    Raises `UserError` where it holds no training state, or was trained in another way than `metadata` says.
    """
    checkpoint = load_checkpoint(path, config)
    state, before = checkpoint.training_state, checkpoint.run_metadata
    complete = isinstance(state, dict) and {"optimizer", "scaler"} <= set(state) and is_plain(before)
    kinds = {"seed": int, "epoch": int, "best_val": int | float}
    if not complete or not all(isinstance(before.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"checkpoint {path} holds no training state to resume from; train without --resume")
    if before["seed"] != seed:
        raise UserError(f"{path} was trained with --seed {before['seed']}; resume with the same")
    for key, was, now in _differences(before, metadata):
        raise UserError(
            f"{path} was trained with {key} {str(was)[:200]}, not {now}; resume with the same, or train anew"
        )
    return checkpoint


def _take_up(optimizer, scaler, state):
    """Give an optimizer and a scaler the state that a training was left in. Raises `UserError` where it is no such."""
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
        raise UserError("the checkpoint's training state does not fit its model; train without --resume")


def load_pretrained(path, config):
    """A trained checkpoint to train further, without its training state.

    Raises `UserError` where it was trained on other classes; one that does not say its classes is taken at its word.
    """
    checkpoint = load_checkpoint(path, config)
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
