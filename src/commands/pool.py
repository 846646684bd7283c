"""A folder of images without labels, seen as a result's own images were: by its model, and in its embedding."""

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.english import some
from ..runtime.errors import UserError

BY_ARRAYS = "failure_directions.load(...).score(embeddings, predictions) tells what arrays of one's own belong to"


@dataclass(frozen=True)
class Seen:
    """The images of a pool.

    Attributes:
        paths: list of N.
        guesses: int (N,), the model's predictions, in the result's class numbers.
        embeddings: float (N, d), of the result's embedding.
        notes: sentences on what was left out.
    """

    paths: list
    guesses: np.ndarray
    embeddings: np.ndarray
    notes: tuple = ()


def look_at(folder, result, path, device):
    """`Seen` of the images in a folder.

    Args:
        folder: any images in it and in its folders.
        result: `Result` of failure-directions distil or find.
        path: of the result, for messages.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: no images; a result that does not say by which model and embedding it was made, or of conditions.
    """
    from ..data.class_folders import list_images

    if not Path(folder).is_dir():
        raise UserError(f"--pool {folder} is no folder; give one of images")
    paths, notes = list_images(folder)
    if not paths:
        raise UserError(f"--pool {folder} holds no images that can be read")
    see = _as_find_did if result.dataset_config is None else _as_distil_did
    seen = see(paths, result, path, device)
    left_out = len(paths) - len(seen.paths)
    if not seen.paths:
        raise UserError(f"none of the {len(paths)} images of --pool {folder} can be read")
    notes = [*notes, *seen.notes]
    if left_out:
        notes.append(f"{left_out} image(s) of {folder} can't be read and are left out")
    return Seen(seen.paths, seen.guesses, seen.embeddings, tuple(notes))


def _as_distil_did(paths, result, path, device):
    """By the checkpoint, the embedding and the decoder that the result's configs name."""
    from ..data.extra_images import split_of_files
    from ..data.image_sources import ImageFiles, without_broken
    from ..embeddings.cache import EmbeddingCache
    from ..embeddings.spaces import make_embedding
    from ..loaders import make_loader
    from ..models.checkpoints import load_checkpoint
    from ..runtime.devices import resolve_device
    from ..runtime.distributed import own_device

    config, device = result.dataset_config, own_device(resolve_device(device))
    if config.bce:
        raise UserError(f"{path} is of one condition, and so are its failures; --pool takes a result on classes")
    checkpoint = result.args.get("model_path")
    if not isinstance(checkpoint, str) or not Path(checkpoint).is_file():
        raise UserError(f"the model of {path} is not at {checkpoint}; put it there, or make the result again")
    source, broken = without_broken(ImageFiles(paths, np.zeros(len(paths), int), config.names))
    if not len(source):
        return Seen([], np.array([], int), np.zeros((0, 1)))
    model = load_checkpoint(checkpoint, config).model
    embedding = make_embedding(result.svm_config, config, device)
    model = model.to(device)
    with tempfile.TemporaryDirectory() as temporary:
        split = split_of_files(source, config, Path(temporary) / "pool.beton")
        cache = EmbeddingCache(temporary, model, embedding, config, device, result.svm_config.precision)
        found, embeddings = cache.get(make_loader(split, config, device))
        embeddings = np.array(embeddings)  # the folder goes
    notes = tuple(f"{name}: {why}" for name, why in broken[:3])
    return Seen(list(source.paths), found.preds, embeddings, notes)


def _as_find_did(paths, result, path, device):
    """By the model and the embedding of the command that made the result."""
    from ..embeddings.passes import classifier, run_pass
    from ..models.own_models import load_model
    from ..training.run_folders import checkpoint_in
    from . import find

    words = shlex.split(result.made_from.get("command", ""))
    if words[:2] != ["failure-directions", "find"]:
        raise UserError(f"{path} does not say by which model and embedding it was made; {BY_ARRAYS}")
    args = find.parse_arguments(words[2:])
    if args.model is None:
        raise UserError(f"{path} was made from predictions, so that its model is not known; {BY_ARRAYS}")
    if args.embeddings is not None:
        raise UserError(f"{path} was made from embeddings in {args.embeddings}, and how is not known; {BY_ARRAYS}")
    model = load_model(checkpoint_in(args.model), args.arch, args.image_size, args.mean, args.std)
    if model.outputs != len(result.class_names):
        raise UserError(
            f"{model.name} has {model.outputs} outputs, and {path} is of {len(result.class_names)} classes: it is of "
            "conditions, or the model is another now"
        )
    own = result.made_from.get("embedding", "").startswith(find.OWN_FEATURES)
    looks = [classifier(model, features=own)]
    if not own:
        looks.append(_encoder(result, path))
    arrays, bad = {}, set()
    for network in looks:
        done = run_pass(
            [str(one) for one in paths], network, batch_size=args.batch_size, device=device, cache=args.cache
        )
        arrays, bad = arrays | done.arrays, bad | set(done.problems)
        notes = tuple(done.problems.values())[:3]
    good = np.setdiff1d(np.arange(len(paths)), list(bad))
    return Seen([paths[i] for i in good], arrays["probs"][good].argmax(axis=1), arrays["embeddings"][good], notes)


def _encoder(result, path):
    """The `Network` of the embedding that the result names, which prepares images as it says."""
    from ..embeddings.passes import encoder
    from .find import SMALL

    told = result.made_from.get("embedding", "")
    name = told.split(";")[0]
    for size in (None, SMALL) if name.startswith("timm:") else (None,):
        network = encoder(name, size)
        if told.endswith(getattr(network.prepare, "description", "as it prepares them")):
            return network
    raise UserError(
        f"{path} was made in the embedding {some([told])}, which prepares images otherwise by now; make it again"
    )
