"""Where the SVMs of the classes are fitted: processes of this machine, or a Dask or Ray cluster, by joblib's backends.

What `train_svms.py --jobs-backend` is made of; other programs may as well use `joblib.parallel_config` themselves.

    backend = JobsBackend.parse("dask://scheduler:8786")
    with backend.connected():
        fitter.fit(preds=val_preds, ys=val_labels, latents=val_latents)
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pkgutil import resolve_name

from ..runtime.errors import UserError
from ..runtime.extras import pip_line

CONNECT_SECONDS = 5
# Of the first task. A cluster that grows on demand starts a machine only when there is a task, and takes minutes for
# it; in one that has no workers and gets none, a task would wait forever.
WORKER_SECONDS = 300

_PACKAGES = {"dask": "distributed", "ray": "ray"}
_WORK = f"{__package__}.class_fit:fit_classes"  # what a worker must be able to import


@dataclass(frozen=True)
class JobsBackend:
    """What `--jobs-backend` says: `name` is local, dask or ray; `address` is (host, port) or None.

    Without an address Dask and Ray decide: the cluster that DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, else one that
    they start on this machine.
    """

    name: str
    address: tuple[str, int] | None = None

    @classmethod
    def parse(cls, text):
        """`local`, `dask`, `dask://HOST:PORT`, `ray` or `ray://HOST:PORT`, checked without starting anything.

        Raises:
            UserError: another text, a package that is missing, or an address at which nothing answers.
        """
        found = re.fullmatch(r"(local)|(dask|ray)(?:://([^/\s]+):(\d{1,5}))?", text)
        if not found:
            raise UserError(
                f"--jobs-backend {text} is unknown; give local, dask, dask://HOST:PORT, ray, ray://HOST:PORT"
            )
        local, name, host, port = found.groups()
        if local:
            return cls("local")
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise UserError(f"--jobs-backend {text} needs {name}, which is not installed: {pip_line('cluster')}")
        backend = cls(name, (host.strip("[]"), int(port)) if host else None)
        if backend.address:
            try:
                socket.create_connection(backend.address, CONNECT_SECONDS).close()
            except (OSError, OverflowError) as error:
                raise UserError(f"nothing answers at {text} ({error}); start the cluster, or correct it") from None
        return backend

    def __str__(self):
        return self.name if self.address is None else f"{self.name}://{self.address[0]}:{self.address[1]}"

    @contextlib.contextmanager
    def connected(self):
        """Connect, and make this backend joblib's inside the block.

        Raises:
            UserError: a cluster that refuses, has no workers, or cannot import this package.
        """
        if self.name == "local":
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_dask(self.address) if self.name == "dask" else _ray(self.address and str(self)))
            except Exception as error:  # whatever the other side makes of it
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise UserError(
                    f"no SVM can be fitted on {self} ({reason}); see that its scheduler and workers run, in an "
                    f"environment like this one, where `import {__package__}` works"
                ) from error
            from joblib import parallel_config

            stack.enter_context(parallel_config(self.name))
            yield


@contextlib.contextmanager
def _dask(address):
    import dask
    import distributed

    address = f"tcp://{address[0]}:{address[1]}" if address else dask.config.get("scheduler-address", None)
    if address:
        with ThreadPoolExecutor(1) as aside:  # where a notebook has a loop of its own, another thread has none
            aside.submit(asyncio.run, asyncio.wait_for(_greet(address), CONNECT_SECONDS)).result()
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    else:
        # One thread a process: the number of BLAS's threads, which the fits set, belongs to the process.
        client = distributed.Client(threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with client:
        client.run_on_scheduler(resolve_name, _WORK)
        client.submit(resolve_name, _WORK).result(timeout=WORKER_SECONDS)
        yield


async def _greet(address):
    """Shake hands with a scheduler: where another server keeps silent, a client would wait forever."""
    from distributed.comm import connect

    (await connect(address)).abort()


@contextlib.contextmanager
def _ray(address):
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers
    import ray
    from ray.util.joblib import register_ray

    ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.get(ray.remote(resolve_name).remote(_WORK), timeout=WORKER_SECONDS)
        register_ray()
        yield
    finally:
        ray.shutdown()
