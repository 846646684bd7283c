"""What `sparse_main.py` can work on: betons, folders of images and tables of text, each with its kind of model."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..data.image_sources import folder_sources
from ..data.images import read_image
from ..data.names import clean_name
from ..data.text_data import JIGSAW_LABELS, csv_sources, jigsaw_sources, sst_sources
from ..models.build import weights_digest
from ..models.checkpoints import about_training, load_checkpoint
from ..models.features import last_linear
from ..models.pretrained import load_image_model
from ..runtime.errors import UserError
from .deep_features import ModelInputs, SparseTask, dense_layer

PLACES_10 = (
    "airport_terminal",
    "boat_deck",
    "bridge",
    "butchers_shop",
    "church-outdoor",
    "hotel_room",
    "laundromat",
    "river",
    "ski_slope",
    "volcano",
)

DEFAULT_TEXT_MODELS = {
    "sst": "barissayil/bert-sentiment-analysis-sst",
    "jigsaw": "unitary/toxic-bert",
    "jigsaw-alt": "unitary/unbiased-toxic-roberta",
}

# The same condition has another name in unbiased-toxic-roberta.
_JIGSAW_OUTPUTS = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}


# Splits


def held_out_positions(labels, fraction, seed):
    """Positions of a random `fraction` of the examples of each class, rounded, ascending."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    return np.sort(np.concatenate([rng.permutation(m)[: round(fraction * len(m))] for m in members]))


def balanced_positions(labels, seed):
    """Positions of as many random examples of every class as the rarest one has, ascending."""
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    members = [rng.permutation(np.flatnonzero(labels == c))[: counts.min()] for c in classes]
    return np.sort(np.concatenate(members))


def _check_classes(labels, class_names):
    """Every class must have training examples, and there must be two."""
    if len(class_names) < 2:
        raise UserError(f"the data set has one class only ({class_names[0]}); a decision layer needs two")
    absent = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if len(absent):
        raise UserError(f"class {class_names[absent[0]]} has no training examples; add some, or leave the class out")


def _cut(sources, val_frac, balance, seed):
    """train, val, test of what a reader of `text_data` or `image_sources` gave."""
    names = sources["train"].class_names
    _check_classes(sources["train"].labels, names)
    splits = dict(sources)
    if "val" not in splits:
        train = splits["train"]
        held_out = held_out_positions(train.labels, val_frac, seed)
        splits["train"] = train.keep(np.setdiff1d(np.arange(len(train)), held_out))
        splits["val"] = train.keep(held_out)
        _check_classes(splits["train"].labels, names)
    for name in ("val", "test"):
        if not len(splits[name]):
            raise UserError(f"{name} has no examples; give a larger --val-frac or more data")
        if balance:
            _check_balance(name, splits[name].labels, names)
            splits[name] = splits[name].keep(balanced_positions(splits[name].labels, seed))
    return {name: splits[name] for name in ("train", "val", "test")}


def _check_balance(split, labels, class_names):
    absent = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if len(absent):
        raise UserError(f"--balance: {split} has no examples of class {class_names[absent[0]]}; leave --balance out")


# Betons


def beton_task(config, root, indices_file, model_path, device, balance=False, seed=0, verify=False):
    """Betons of a `DatasetConfig` with a checkpoint of ours; images are delivered on `device`."""
    from ..data.splits import open_splits
    from ..loaders import make_loader

    if config.bce:
        raise UserError("the config says bce: true, but a sparse decision layer needs classes; take another config")
    splits = open_splits(config, root, indices_file, verify=verify)
    splits = {name: splits[name] for name in ("train", "val", "test")}
    _check_classes(splits["train"].column("label"), config.names)
    checkpoint = load_checkpoint(model_path, config)
    if interrupted := about_training(model_path, checkpoint):
        print(interrupted)
    how = (config.imgsz, config.val_img_decoder, config.val_aug, config.mean, config.std)

    def inputs(split):
        def batches():
            start = 0
            for batch in make_loader(split, config, device, fields=("image",)):
                yield batch.image, np.arange(start, start + len(batch.image))
                start += len(batch.image)

        digest = hashlib.sha256(repr((split.beton.fingerprint, how)).encode() + split.indices.tobytes())
        fingerprint = f"{split.beton.path.name} ({len(split)} images, {digest.hexdigest()[:12]})"
        return ModelInputs(split.column("label").astype(np.int64), batches, fingerprint)

    for name in ("val", "test") if balance else ():
        labels = splits[name].column("label")
        _check_balance(name, labels, config.names)
        splits[name] = replace(splits[name], indices=splits[name].indices[balanced_positions(labels, seed)])
    return SparseTask(
        model=checkpoint.model,
        name=f"{config.arch} ({weights_digest(checkpoint.model)})",
        class_names=config.names,
        inputs={name: inputs(split) for name, split in splits.items()},
        dense=dense_layer(last_linear(checkpoint.model), range(config.num_classes)),
        build_params=checkpoint.build_params,
    )


# Folders of images


def image_task(
    folder, arch=None, model_path=None, class_names=None, val_frac=0.1, balance=False, seed=0, batch_size=256, workers=0
):
    """Images under `folder/{train,val,test}/CLASS/` with a model of torchvision or timm, pretrained or from a file.

    Without `test`, `val` is the test set. Without `val` beside `test`, validation is `val_frac` of train.

    Args:
        folder: path.
        arch: a torchvision ResNet such as resnet50, or timm:NAME.
        model_path: a file of weights (a state dict, or a checkpoint of ours); None for those pretrained on ImageNet.
        class_names: the classes that the folder must have; by default any.
        val_frac: 0..1, of each class.
        balance: take as many of every training class as the rarest has.
        seed: of what is drawn.
        batch_size: images.
        workers: processes that read images; 0 for none beside this one.

    Returns:
        `SparseTask`.

    Raises:
        UserError: there is nothing to test on, a class is missing or another is there, an image or the weights can't
            be read.
    """
    sources = folder_sources(folder)
    sources.pop("unlabeled", None)
    if "test" not in sources:
        if "val" not in sources:
            raise UserError(f"{folder} has no folder test/CLASS/ or val/CLASS/ with images to test on; add one")
        sources["test"] = sources.pop("val")
    if class_names is not None and sources["train"].class_names != sorted(map(clean_name, class_names)):
        odd = sorted(set(class_names) ^ set(sources["train"].class_names))
        raise UserError(f"{folder} must have the class folders {', '.join(class_names)}; look at {', '.join(odd)}")
    splits = _cut(sources, val_frac, balance, seed)
    model, build_params, transform = load_image_model(arch, model_path)
    names = splits["train"].class_names
    layer = last_linear(model)

    def inputs(split):
        def batches():
            start = 0
            processes = min(workers, -(-len(split) // batch_size))  # no more than there is work for
            loader = DataLoader(_Images(split.paths, transform), batch_size, num_workers=processes, collate_fn=_collate)
            for images in loader:
                if isinstance(images, str):
                    raise UserError(images)
                yield images, np.arange(start, start + len(images))
                start += len(images)

        digest = hashlib.sha256(repr(transform).encode())
        for path in split.paths:
            status = path.stat()
            digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        fingerprint = f"{Path(folder).name} ({len(split)} images, {digest.hexdigest()[:12]})"
        return ModelInputs(split.labels, batches, fingerprint)

    return SparseTask(
        model=model,
        name=f"{build_params['arch']} ({weights_digest(model)})",
        class_names=names,
        inputs={name: inputs(split) for name, split in splits.items()},
        dense=dense_layer(layer, range(len(names))) if layer.out_features == len(names) else None,
        build_params=build_params,
        remarks=sources["train"].notes,
    )


class _Images(Dataset):
    """Image files, prepared. A broken one gives its error as a string: raised in a worker, it would come wrapped."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        try:
            return self.transform(Image.fromarray(read_image(self.paths[i])))
        except UserError as error:
            return str(error)


def _collate(images):
    return next((image for image in images if isinstance(image, str)), None) or torch.stack(images)


# Text


def text_task(dataset, folder, model_path=None, val_frac=0.1, balance=False, seed=0, batch_size=256):
    """A text data set with a sequence classifier of transformers.

    Args:
        dataset: sst, jigsaw-LABEL, jigsaw-alt-LABEL or csv (see `text_data`).
        folder: path of its files.
        model_path: a folder or a name on the hub; by default the paper's model for the data set.
        val_frac: 0..1, of each class.
        balance: take as many of every training class as the rarest has.
        seed: of what is drawn.
        batch_size: texts.

    Returns:
        `SparseTask`.

    Raises:
        UserError: the files or the model can't be read.
    """
    from ..models.text_models import load_text_classifier

    splits = read_texts(dataset, folder, val_frac, balance, seed)
    kind, label = _kind_and_label(dataset)
    classifier = load_text_classifier(
        model_path or DEFAULT_TEXT_MODELS[kind], max_length=256 if dataset == "sst" else None
    )
    class_names = splits["train"].class_names
    encoded = {name: classifier.encode(split.texts) for name, split in splits.items()}
    remarks = []
    cut = sum(tokens.cut for tokens in encoded.values())
    if cut:
        remarks.append(f"Texts of more than {classifier.max_length} tokens: {cut}; the rest of them is not read.")
    empty = sum(not text.strip() for split in splits.values() for text in split.texts)
    if empty:
        remarks.append(f"Empty texts: {empty}; they are kept.")

    def inputs(name):
        return ModelInputs(
            splits[name].labels,
            lambda: classifier.batches(encoded[name], batch_size),
            f"{dataset} ({len(encoded[name])} texts, {encoded[name].fingerprint})",
        )

    rows, binary = output_rows(classifier, class_names, label)
    return SparseTask(
        model=classifier,
        name=f"{Path(classifier.name).name} ({weights_digest(classifier)})",
        class_names=class_names,
        inputs={name: inputs(name) for name in splits},
        dense=None if rows is None else dense_layer(classifier.get_classifier(), rows, binary),
        remarks=tuple(remarks),
    )


def read_texts(dataset, folder, val_frac=0.1, balance=False, seed=0):
    """The `Texts` of a data set, as `text_task` splits them: train, val, test."""
    kind, label = _kind_and_label(dataset)
    read = {"sst": sst_sources, "csv": csv_sources}.get(kind)
    return _cut(read(folder) if read else jigsaw_sources(folder, label), val_frac, balance, seed)


def _kind_and_label(dataset):
    """("jigsaw-alt", "toxic") of jigsaw-alt-toxic, ("jigsaw", "toxic") of jigsaw-toxic, ("sst", None) of sst."""
    for kind in ("jigsaw-alt", "jigsaw"):
        if dataset.startswith(f"{kind}-"):
            return kind, dataset.removeprefix(f"{kind}-")
    return dataset, None


def output_rows(classifier, class_names, jigsaw_label=None):
    """Which outputs of a text model are the classes: (rows, binary) for `dense_layer`; rows is None where unknown.

    A single output above 0 means the second class, and so does a Jigsaw model's output of that label. Else outputs are
    matched by name, or, where the model or the data set has no names, by number.

    Args:
        classifier: `TextClassifier`.
        class_names: of the data set.
        jigsaw_label: what a Jigsaw data set asks of its texts, such as toxic; None for other data sets.
    """
    outputs, labels = classifier.get_classifier().out_features, classifier.labels
    known = {name.lower(): i for i, name in enumerate(labels or [])}
    if outputs == 1:
        return ([0], True) if len(class_names) == 2 else (None, False)
    if jigsaw_label and outputs > 2:
        for name in (jigsaw_label, _JIGSAW_OUTPUTS.get(jigsaw_label)):
            if name in known:
                return [known[name]], True
        if not known and outputs == len(JIGSAW_LABELS):
            return [JIGSAW_LABELS.index(jigsaw_label)], True
        return None, False
    if all(name.lower() in known for name in class_names):
        return [known[name.lower()] for name in class_names], False
    if outputs == len(class_names) and (jigsaw_label or not known or all(name.isdecimal() for name in class_names)):
        return list(range(outputs)), False
    return None, False
