"""Training a base model: SGD with a learning rate that moves step by step, checkpoints, TensorBoard.

With several processes (see `distributed`) gradients are averaged over them, and each normalises its part of a batch by
itself (BatchNorm); the running statistics that are evaluated and kept are rank 0's.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..data.augmentation import epoch_key
from ..models.checkpoints import Checkpoint, model_names, save_checkpoint
from ..runtime.devices import autocast
from ..runtime.distributed import add_up, broadcast_buffers, is_main, rank, world_size
from ..runtime.errors import UserError
from ..runtime.progress import duration
from .estimates import seconds_an_epoch
from .evaluation import predict
from .losses import example_losses
from .resuming import take_up


def lr_factor(config, epochs_done):
    """Learning rate over `training.lr` after a (fractional) number of epochs."""
    schedule = config.lr_scheduler
    if schedule.type == "cyclic":
        return float(np.interp(epochs_done, [0, schedule.lr_peak_epoch, config.epochs], [0, 1, 0]))
    if schedule.type == "step_lr":
        return schedule.gamma ** (int(epochs_done) // schedule.step_size)
    return 1.0


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
        """Train to the end.

        Args:
            start: the `Checkpoint` to begin with; from its training state, where it has one, training goes on.
            trained: the part of its model that is trained, and that the loaders' batches are for: by default all of it.

        Returns:
            The trained model.

        Raises:
            UserError: the loss is not finite; the checkpoints of earlier epochs stay.
        """
        # The fastest algorithm is looked for, which may be another one in another run, unless that is not wanted.
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
        options = self.config.training
        model = start.model.to(self.device, memory_format=torch.channels_last)
        trained = trained or model
        stepped = trained
        if world_size() > 1:
            # Batch norm's running statistics are rank 0's: they are handed out once an epoch, not before each step.
            stepped = DistributedDataParallel(trained, broadcast_buffers=False, gradient_as_bucket_view=True)
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
            take_up(optimizer, scaler, state)
            first, best = start.run_metadata["epoch"], start.run_metadata["best_val"]
        else:
            # Before the first epoch is done there is already something to resume from.
            self._save("last", model, 0, best, optimizer, scaler)
        if self.device.type == "cpu" and trained is model and is_main():
            self._estimate(model, options.epochs - first)
        writer = self._summary_writer()
        bar = tqdm(
            range(first, options.epochs),
            desc="training",
            unit="epoch",
            initial=first,
            total=options.epochs,
            disable=None,
        )
        for epoch in bar:
            loss, accuracy = self._train_epoch(stepped, optimizer, scaler, epoch)
            broadcast_buffers(trained)
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

    def _estimate(self, model, epochs):
        """Say how long it will take."""
        train, val = len(self.train) * self.config.batch_size, len(self.val.split)
        seconds = seconds_an_epoch(model, self.config, self.device, train, val)
        whole = duration(seconds * epochs)
        print(f"training on a CPU: an epoch takes about {duration(seconds)}, {epochs} epochs {whole}", flush=True)

    def checkpoint_path(self, which):
        """Path of the checkpoint `which`, "last" or "best"."""
        return self.folder / "checkpoints" / f"checkpoint_{which}.pt"

    def _train_epoch(self, model, optimizer, scaler, epoch):
        """Mean loss and accuracy of one epoch. Nothing in a step waits for the device."""
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
