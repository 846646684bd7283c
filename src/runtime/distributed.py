"""Several processes of one command, as torchrun starts them. In a single process nothing here does anything.

Every process runs the whole command on its share of the batches; rank 0 alone prints and writes files, and the others
read what it wrote: on several nodes the folders lie on a file system that all of them see. Tensors on CUDA travel by
NCCL, all else by gloo. A single process does not import torch for any of this.
"""

import contextlib
import os
import signal
import sys
from datetime import timedelta

import numpy as np

from .errors import UserError

TIMEOUT = timedelta(hours=6)  # others wait while rank 0 writes a beton; a process that dies is noticed at once


def _joined():
    """torch.distributed, where this process has joined the others by it."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_initialized() else None


def rank():
    """This process's number, 0 to `world_size() - 1`."""
    dist = _joined()
    return dist.get_rank() if dist else 0


def world_size():
    """The number of processes."""
    dist = _joined()
    return dist.get_world_size() if dist else 1


def is_main():
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


@contextlib.contextmanager
def process_group():
    """For the block, or the decorated function, be one of the processes that torchrun started, where it did.

    An error in one process ends all: the first to fail passes its exception on, the others exit with code 2, silently.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets it
        yield
        return
    import torch
    from torch import distributed as dist

    store, number, size = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=TIMEOUT)
    # Where one process is gone, torchrun sends this signal to the others: they, too, clean up behind them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with contextlib.nullcontext() if is_main() else _silence():
            yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:  # --help
            raise
        for signal_number in (signal.SIGTERM, signal.SIGINT):  # this process is about to leave
            signal.signal(signal_number, signal.SIG_IGN)
        if not _is_first_failure(store):
            raise SystemExit(2) from None
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _is_first_failure(store):
    from torch.distributed import DistError

    try:
        return store.add("failures", 1) == 1
    except DistError:  # the node of the store has left
        return False


def own_device(device):
    """The device of this process: of several on CUDA, each has that of its LOCAL_RANK.

    Args:
        device: `torch.device` that was asked for.

    Raises:
        UserError: several processes were given one device, or there are more of them than devices.
    """
    if world_size() == 1 or device.type != "cuda":
        return device
    import torch

    if device.index is not None:
        raise UserError(f"--device {device} is one device for {world_size()} processes; give --device cuda")
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UserError(f"torchrun started more processes than the {there} CUDA device(s) here: lower --nproc-per-node")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def broadcast(value):
    """Rank 0's `value`, any that can be pickled, on every rank; who needs it waits for it."""
    if world_size() == 1:
        return value
    box = [value]
    _joined().broadcast_object_list(box, src=0)
    return box[0]


def barrier():
    """Wait until every process is here."""
    gather(None)


@contextlib.contextmanager
def main_first():
    """Rank 0 runs the block, then the others do: for what it writes and they read."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def gather(value):
    """List of every process's `value`, any that can be pickled, in the order of the ranks, on every rank."""
    values = [value]
    if world_size() > 1:
        values *= world_size()
        _joined().all_gather_object(values, value)
    return values


def gather_to_main(value):
    """The same on rank 0 alone; on the others an empty list."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size() if is_main() else None
    _joined().gather_object(value, values)
    return values or []


def gather_arrays(array):
    """Every process's rows in the order of the ranks, on every rank; None where no process has any.

    Args:
        array: (n, ...), n may differ from rank to rank; or None.
    """
    parts = [part for part in gather(array) if part is not None]
    return np.concatenate(parts) if parts else None


def add_up(tensor):
    """The sum of every process's `tensor`, in its place."""
    if world_size() > 1:
        _joined().all_reduce(tensor)
    return tensor


def broadcast_buffers(model):
    """Give every process rank 0's buffers: the running statistics of BatchNorm, of which each has its own."""
    if world_size() > 1:
        for buffer in model.buffers():
            _joined().broadcast(buffer, src=0)
