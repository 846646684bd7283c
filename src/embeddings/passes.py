"""One pass of a network over any number of images: predictions, features, embeddings; on disk, and kept.

    probs, names = predict(images, "timm:resnet50")
    embeddings = embed(images, "clip:ViT-B/32")

Images are decoded by Pillow in worker processes and prepared as the network's own preprocessing says. Rows go straight
to a file, so that memory does not grow with the number of images. Results are kept in a cache folder, named by a hash
of the network's weights, its preprocessing and the images (`AnyImages.fingerprint`): the same question is answered at
once.

Several processes that torchrun started share the images; rank 0 makes the file, and each writes its own rows in it.
"""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..data.any_images import AnyImages
from ..models.own_models import ImageModel, from_module, load_model
from ..models.preprocessing import Preprocessing
from ..runtime.devices import precision, resolve_device
from ..runtime.distributed import barrier, broadcast, gather, is_main, own_device, rank, world_size
from ..runtime.english import some
from ..runtime.errors import LOST_STORAGE, UserError
from ..runtime.files import atomic_path, create_npy, open_npy, written_together
from ..runtime.progress import Progress
from ..training.run_folders import checkpoint_in

BATCH_SIZE = 64
FEW_IMAGES = 256  # fewer are read by the process itself: workers take a second to start


@dataclass(frozen=True)
class Network:
    """What runs over prepared images.

    Attributes:
        prepare: PIL image -> tensor (3, H, W).
        run: images (B, 3, H, W) on the device -> dict of name -> (B, dim) float32 tensors.
        dims: dict of name -> dim.
        fingerprint: the same for the same numbers; None where that is not known, and nothing is kept.
        module: what goes to the device, or None.
    """

    prepare: object
    run: object
    dims: dict
    fingerprint: str | None
    module: torch.nn.Module | None


@dataclass(frozen=True)
class Pass:
    """What a pass left.

    Attributes:
        arrays: dict of name -> (N, dim) float32, read-only memory maps; NaN in the rows of images that can't be read.
        problems: dict of row -> sentence, for these.
    """

    arrays: dict
    problems: dict


class PassOptions(TypedDict, total=False):
    """What `run_pass` takes beside images and network."""

    batch_size: int
    device: str | torch.device
    workers: int | None
    cache: str | Path | Literal[False] | None
    quiet: bool


def predict(
    images: Sequence[Any] | np.ndarray,
    model: str | Path | ImageModel | torch.nn.Module,
    *,
    arch: str | None = None,
    preprocess: Callable[[Image.Image], torch.Tensor] | None = None,
    conditions: bool = False,
    skip_broken: bool = False,
    **options: Unpack[PassOptions],
) -> tuple[np.ndarray, list[str]]:
    """Predicted probabilities of images, and the names of the model's outputs.

    Args:
        images: paths, PIL images, uint8 (N, H, W, 3), or a column of a `datasets.Dataset`.
        model: what `load_model` takes (then with `arch`), an `ImageModel`, or a torch module (then with `preprocess`,
            PIL image -> tensor (3, H, W), unless it is timm's).
        conditions: the outputs are independent of each other (sigmoid), not classes (softmax).
        skip_broken: give rows of NaN for images that can't be read.
        options: of `run_pass`: batch_size, device, workers, cache, quiet.

    Returns:
        probs (N, K) float32, a memory map where they are kept; list of K names, numbers where the model has none.

    Raises:
        UserError: no images, or as `load_model`; without `skip_broken` also images that can't be read, naming the
            first.
    """
    model = as_image_model(model, arch, preprocess)
    done = run_pass(images, classifier(model, conditions, features=False), **options)
    raise_problems(done, skip_broken)
    return done.arrays["probs"], model.labels or [str(i) for i in range(model.outputs)]


def embed(
    images: Sequence[Any] | np.ndarray,
    embedding: str | ImageModel | Callable[[list[Image.Image]], ArrayLike],
    *,
    skip_broken: bool = False,
    size: int | None = None,
    **options: Unpack[PassOptions],
) -> np.ndarray:
    """Embeddings (N, d), float32, of images.

    Args:
        images: as `predict` takes them.
        embedding: "timm:NAME" (pooled features of a pretrained model), "clip:NAME" (of open_clip, or "clip:scenes"), an
            `ImageModel` (its penultimate features), or a callable: list of PIL images -> (B, d). What a callable gives
            is not kept.
        size: pixels that a timm model sees, where not its own.
        skip_broken, options: as `predict` has them.
    """
    done = run_pass(images, encoder(embedding, size), **options)
    raise_problems(done, skip_broken)
    return done.arrays["embeddings"]


def as_image_model(
    model: str | Path | ImageModel | torch.nn.Module,
    arch: str | None = None,
    preprocess: Callable[[Image.Image], torch.Tensor] | None = None,
) -> ImageModel:
    """An `ImageModel` of what `predict` takes."""
    if isinstance(model, ImageModel):
        return model
    if isinstance(model, torch.nn.Module):
        return from_module(model, preprocess)
    return load_model(checkpoint_in(model), arch)


def raise_problems(done, skip_broken=False):
    """Raise `UserError` for the images that a pass could not read."""
    if done.problems and not skip_broken:
        first = next(iter(done.problems.values()))
        count = len(done.problems)
        raise UserError(first if count == 1 else f"{count} images can't be read, the first: {first}")


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


def classifier(model, conditions=False, features=True):
    """The `Network` of an `ImageModel`: probs, and its penultimate `embeddings` where it has them."""
    features = features and model.features > 0

    def run(images):
        logits, found = model.logits_and_features(images)
        probs = logits.float().sigmoid() if conditions else logits.float().softmax(1)
        return {"probs": probs} | ({"embeddings": found.float()} if features else {})

    dims = {"probs": model.outputs} | ({"embeddings": model.features} if features else {})
    fingerprint = f"{model.fingerprint} {'sigmoid' if conditions else 'softmax'}"
    return Network(model.preprocessing, run, dims, fingerprint, model.module)


def encoder(embedding, size=None):
    """The `Network` that gives `embeddings`, of what `embed` takes."""
    if isinstance(embedding, ImageModel):
        if not embedding.features:
            raise UserError(f"{embedding.name} has no linear layer at its end, and so no features; choose an embedding")
        network = classifier(embedding)
        return Network(
            network.prepare,
            lambda images: {"embeddings": network.run(images)["embeddings"]},
            {"embeddings": embedding.features},
            f"{embedding.fingerprint} features",
            embedding.module,
        )
    if callable(embedding):
        return _of_callable(embedding)
    kind, _, name = str(embedding).partition(":")
    if kind == "timm" and name:
        return _timm_encoder(name, size)
    if kind == "clip" and name:
        return _clip_encoder(name)
    raise UserError(f"the embedding {embedding} is none of timm:NAME, clip:NAME and model (the model's own features)")


def _timm_encoder(name, size):
    from ..models.build import pretrained_timm, weights_digest
    from ..models.preprocessing import timm_preprocessing

    module = pretrained_timm(name)
    module.reset_classifier(0)
    module = module.float().eval().requires_grad_(False)
    preprocessing = timm_preprocessing(module, size)
    with torch.inference_mode():
        dim = module(torch.zeros(1, 3, *preprocessing.size)).shape[1]
    fingerprint = f"timm {name} {weights_digest(module)} {preprocessing.description}"
    return Network(
        preprocessing, lambda images: {"embeddings": module(images)}, {"embeddings": dim}, fingerprint, module
    )


def _clip_encoder(name):
    from open_clip.transform import PreprocessCfg
    from torchvision.transforms.functional import pil_to_tensor

    from .clip import CLIPProcessor, preprocess

    model, _, pretrained = name.partition("@")
    clip = CLIPProcessor((0, 0, 0), (255, 255, 255), model, pretrained or "openai", "cpu")
    config = PreprocessCfg(**clip.model.visual.preprocess_cfg)

    def transform(image):
        return preprocess(pil_to_tensor(image)[None].float() / 255, config)[0]

    prepare = Preprocessing(transform, f"open_clip's: {config}")
    with torch.inference_mode():
        dim = clip.model.encode_image(prepare(Image.new("RGB", (64, 64)))[None]).shape[1]
    return Network(
        prepare,
        lambda images: {"embeddings": clip.model.encode_image(images).float()},
        {"embeddings": dim},
        clip.fingerprint,
        clip.model,
    )


def _of_callable(function):
    dim = np.asarray(function([Image.new("RGB", (64, 64))])).shape
    if len(dim) != 2 or dim[0] != 1:
        raise UserError(f"the embedding function gives the shape {dim} for one image; it must give (images, numbers)")
    return Network(None, function, {"embeddings": dim[1]}, None, None)


# ---------------------------------------------------------------------------------------------------------------------
# The pass
# ---------------------------------------------------------------------------------------------------------------------


def run_pass(images, network, *, batch_size=BATCH_SIZE, device="auto", workers=None, cache=None, quiet=False):
    """Run a `Network` over images, or find what an earlier run left; a `Pass`.

    Args:
        workers: processes that decode; by default `default_workers`.
        cache: folder that results are kept in, by default `default_cache()`; False: nothing is kept.
        quiet: without progress bar and estimate.
    """
    images = AnyImages(images)
    if len(images) == 0:
        raise UserError("there are no images")
    device = own_device(resolve_device(device))
    keep = cache is not False and network.fingerprint is not None
    place = Path(cache) if keep and cache else default_cache() if keep else None
    if place is None:
        with _temporary_folder() as folder:
            _run(images, network, folder, batch_size, device, workers, quiet)
            found = _read(folder, network.dims, len(images))
            # The folder goes: what was mapped is now held.
            return Pass({name: np.array(array) for name, array in found.arrays.items()}, found.problems)
    key = hashlib.sha256(f"{network.fingerprint} {images.fingerprint()} {device.type}".encode()).hexdigest()[:24]
    folder = place / key
    if not broadcast((folder / "problems.json").is_file()):
        _run(images, network, folder, batch_size, device, workers, quiet)
    barrier()
    return _read(folder, network.dims, len(images))


def default_cache():
    """The folder for what passes leave: FAILURE_DIRECTIONS_CACHE, else XDG's, else one in the temporary folder."""
    named = os.environ.get("FAILURE_DIRECTIONS_CACHE")
    if named:
        return Path(named)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        base = None
    if base is not None:
        there = next(folder for folder in (base, *base.parents) if folder.exists())
        if os.access(there, os.W_OK):
            return base / "failure_directions" / "passes"
    return Path(tempfile.gettempdir()) / f"failure_directions_{os.getuid()}" / "passes"


def default_workers(images, device):
    """Processes that decode: none for few images or without shared memory, else half the cores, on CUDA all (16)."""
    cores = len(os.sched_getaffinity(0))
    if images < FEW_IMAGES or not os.access("/dev/shm", os.W_OK):
        return 0
    return min(16, cores) if device.type == "cuda" else cores // 2


@contextlib.contextmanager
def _temporary_folder():
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory()) if is_main() else None
        yield Path(broadcast(name))
        barrier()


def _run(images, network, folder, batch_size, device, workers, quiet):
    """Write NAME.npy for every output of the network and problems.json to a folder; all or nothing."""
    n = len(images)
    with contextlib.ExitStack() as stack:
        targets = None
        if is_main():
            stack.enter_context(written_together())
            paths = {name: stack.enter_context(atomic_path(folder / f"{name}.npy")) for name in network.dims}
            targets = {name: (str(path), _make(path, (n, network.dims[name]))) for name, path in paths.items()}
        targets = broadcast(targets)
        # Contiguous shares, so that each process writes one piece of the file.
        ends = np.linspace(0, n, world_size() + 1).astype(int)
        rows = range(int(ends[rank()]), int(ends[rank() + 1]))
        problems = _run_rows(images, network, rows, targets, batch_size, device, workers, quiet or not is_main())
        problems = {i: told for part in gather(problems) for i, told in part.items()}
    if is_main():
        # Last, and so the sign that all is there.
        with atomic_path(folder / "problems.json") as temporary:
            temporary.write_text(json.dumps(problems))


def _make(path, shape):
    """Make a .npy file; the offset of its first number in bytes."""
    return create_npy(path, shape).offset


@torch.inference_mode()
def _run_rows(images, network, rows, targets, batch_size, device, workers, quiet):
    """Write some rows; the problems among them. As bytes: a map's pages would count as this process's memory."""
    if network.module is not None:
        network.module.to(device)
    workers = default_workers(len(rows), device) if workers is None else workers
    workers = min(workers, -(-len(rows) // batch_size))  # no more than there is work for
    loader = DataLoader(
        _Prepared(images, network.prepare, rows),
        batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None,
    )
    problems = {}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(path, "r+b")) for name, (path, _) in targets.items()}
        bar = stack.enter_context(Progress(len(rows), "images through the network", quiet=quiet))
        first = rows.start
        for count, good, batch, bad in loader:
            for position, (told, number) in bad.items():
                if number in LOST_STORAGE:
                    raise OSError(number, os.strerror(number), images.name(first + position))
                problems[first + position] = told
            outputs = _outputs(network, batch, device) if good else {}
            for name, (_, offset) in targets.items():
                block = np.full((count, network.dims[name]), np.nan, dtype=np.float32)
                if good:
                    block[good] = outputs[name]
                files[name].seek(offset + first * block.shape[1] * block.itemsize)
                files[name].write(block)
            first += count
            bar.advance(count)
    return problems


def _outputs(network, batch, device):
    if network.prepare is None:
        return {"embeddings": np.asarray(network.run(batch), dtype=np.float32)}
    batch = batch.to(device, non_blocking=True)
    with precision(device):
        outputs = network.run(batch)
    return {name: tensor.float().cpu().numpy() for name, tensor in outputs.items()}


class _Prepared(Dataset):
    """Images of some rows, prepared; of what can't be read, why."""

    def __init__(self, images, prepare, rows):
        self.images, self.prepare, self.rows = images, prepare, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, position):
        i = self.rows[position]
        try:
            image = self.images.read(i)
            return image if self.prepare is None else self.prepare(image)
        except UserError as error:
            return str(error), 0
        except OSError as error:
            return f"{self.images.name(i)}: {error}", error.errno or 0
        except (ValueError, RuntimeError, TypeError) as error:  # a transform's complaint about this image
            return f"{self.images.name(i)} can't be prepared for the network: {str(error).splitlines()[0][:200]}", 0


def _collate(items):
    """(count, positions of the good ones, these stacked, position -> why for the others)."""
    bad = {position: item for position, item in enumerate(items) if isinstance(item, tuple)}
    good = [position for position in range(len(items)) if position not in bad]
    values = [items[position] for position in good]
    if not values or not isinstance(values[0], torch.Tensor):
        return len(items), good, values, bad
    if len({value.shape for value in values}) > 1:
        shapes = some(sorted({tuple(value.shape) for value in values}), 3)
        told = f"the preprocessing gives images of several sizes ({shapes}): crop them to one", errno.EINVAL
        return len(items), [], [], bad | dict.fromkeys(good, told)
    return len(items), good, torch.stack(values), bad


def _read(folder, dims, n):
    hint = f"delete {folder}"
    arrays = {name: open_npy(folder / f"{name}.npy", "kept results", hint) for name in dims}
    try:
        problems = {int(i): str(told) for i, told in json.loads((folder / "problems.json").read_text()).items()}
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{folder / 'problems.json'} is damaged; {hint}") from None
    for name, array in arrays.items():
        if array.shape != (n, dims[name]) or array.dtype != np.float32:
            raise UserError(f"{folder / name}.npy is not what a pass leaves; {hint}")
    return Pass(arrays, problems)
