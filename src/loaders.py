"""Loaders: FFCV decodes, then the device normalises and augments.

A loader yields named tuples of the fields asked for, in that order, on the device: `image` float32 (B, 3, H, W),
normalised, channels last; `label` int64 (B,) or float32 (B, k); `index` and `spurious` int64 (B,).

With several processes (see `distributed`) each has a loader of its own. In training it delivers an equal part of every
batch, as FFCV's and torch's samplers share them out; a few examples come twice where their number does not divide. In
evaluation it delivers whole batches, the same ones as in a single process, and none twice.
"""

import weakref
from collections import namedtuple

import numpy as np
import torch

from .data.augmentation import AUGMENTATIONS, augment, epoch_key
from .data.ffcv_patches import PatchedLoader, SeededRandomResizedCrop
from .runtime.distributed import rank, world_size
from .runtime.errors import UserError

# isort: split
from ffcv.fields.decoders import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv.loader import OrderOption
from ffcv.transforms import ToDevice, ToTensor

FIELDS = ("image", "label", "index")


def make_loader(split, config, device, fields=FIELDS, train=False, seed=0):
    """A loader over one split as the config says.

    Args:
        split: a `Split`.
        config: a `DatasetConfig`.
        device: torch.device that batches are delivered on.
        fields: any of the beton's fields.
        train: shuffled, with train_aug and train_img_decoder; else in order, whole, with val_aug and val_img_decoder.
        seed: same seed, same batches (images, order and augmentation), on any device.
    """
    if train:
        check_batches(split, config)
    return Loader(
        split,
        fields,
        device,
        imgsz=config.imgsz,
        decoder=config.train_img_decoder if train else config.val_img_decoder,
        augmentation=AUGMENTATIONS.get(config.train_aug if train else config.val_aug),
        mean=config.mean,
        std=config.std,
        batch_size=config.batch_size,
        workers=config.num_workers,
        order=_order(config) if train and config.shuffle else OrderOption.SEQUENTIAL,
        drop_last=train and config.drop_last,
        os_cache=config.os_cache,
        seed=seed,
        train=train,
    )


def check_batches(split, config):
    """Raise `UserError` where batches of the config's size and order can't be made of the training images."""
    if config.drop_last and len(split) < config.batch_size:
        raise UserError(
            f"{split.name} has {len(split)} images, fewer than one batch of {config.batch_size}: "
            "lower batch_size, or set drop_last: false"
        )
    if config.batch_size % world_size():
        raise UserError(
            f"a batch_size of {config.batch_size} can't be shared out equally among {world_size()} processes: set it "
            "to a multiple, or start another number of processes"
        )
    if config.shuffle and config.quasi_random and world_size() > 1:
        raise UserError("a quasi_random order is one process's: set quasi_random: false, or train without torchrun")


def _order(config):
    return OrderOption.QUASI_RANDOM if config.quasi_random else OrderOption.RANDOM


def make_training_loader(splits, config, device, seed=0):
    """The shuffled loader of the images that are trained on.

    Args:
        splits: list of `Split`: train, and, where there are any, splits of other betons (see `MixedLoader`).
    """

    def make(split, seed, **options):
        return make_loader(split, config.model_copy(update=options), device, train=True, seed=seed)

    return mix(splits, make, seed)


def make_feature_loader(splits, cache, config, device, seed=0):
    """The same for features: each split's come from an `EmbeddingCache`, as they are without augmentation."""
    check_batches(splits[0], config)

    def make(split, seed, batch_size=config.batch_size, drop_last=config.drop_last, **_):
        found, features = cache.get(make_loader(split, config, device))
        options = {"shuffle": config.shuffle, "drop_last": drop_last, "seed": seed, "train": True}
        return FeatureLoader(split, features, found.labels, device, batch_size, **options)

    return mix(splits, make, seed)


def mix(splits, make, seed):
    """A loader of the first split, with the others shared out over its batches: a `MixedLoader` where there are any."""
    main = make(splits[0], seed)
    extras = []
    for k, split in enumerate(splits[1:], start=1):
        share = world_size() * _ceil(len(split), world_size() * len(main))
        # A seed of its own: an extra image has the number of a training image, but is augmented in another way.
        extras.append(make(split, seed + k, batch_size=share, drop_last=False, quasi_random=False))
    return MixedLoader(main, extras) if extras else main


def _ceil(number, divisor):
    return -(-number // divisor)


def _own_batches(count, batch_size):
    """The run of whole batches of `count` examples that this process evaluates, as a slice."""
    batches, size = _ceil(count, batch_size), world_size()
    first, last = batches * rank() // size, batches * (rank() + 1) // size
    return slice(first * batch_size, min(last * batch_size, count))


class MixedLoader:
    """The batches of a main loader, each with a share of extra images at its end; an epoch shows every image once.

    The examples of the extra loaders get an `index` beyond the main beton's: the first one's are counted on from the
    main beton's length, the second one's from the end of the first one's beton.
    """

    def __init__(self, main, extras):
        self.main, self.extras = main, extras
        lengths = [len(loader.split.beton) for loader in (main, *extras)]
        self.offsets = np.cumsum(lengths)[:-1].tolist()

    @property
    def epoch(self):
        return self.main.epoch

    @epoch.setter
    def epoch(self, epoch):
        for loader in (self.main, *self.extras):
            loader.epoch = epoch

    def __len__(self):
        return len(self.main)

    def __iter__(self):
        extras = [iter(loader) for loader in self.extras]
        for batch in self.main:
            parts = [batch]
            for offset, extra in zip(self.offsets, extras, strict=True):
                more = next(extra, None)
                if more is not None:
                    parts.append(more._replace(index=more.index + offset))
            yield type(batch)(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class FeatureLoader:
    """Features in place of images: what a last layer is trained on. Batches have the fields image, label and index.

    Args:
        split: the `Split` that the features are of.
        features: (N, d) float32, may be a memory map.
        labels: (N,) ints, or (N, k) for BCE.
        shuffle, drop_last, seed, train, `epoch`, `rows`: as for a `Loader`.
    """

    def __init__(
        self, split, features, labels, device, batch_size, shuffle=False, drop_last=False, seed=0, train=False
    ):
        self.split, self.features, self.device = split, features, device
        self.labels, self.indices = torch.from_numpy(labels), torch.from_numpy(split.indices)
        self.batch_size, self.shuffle, self.drop_last, self.seed = batch_size, shuffle, drop_last, seed
        self.train, self.epoch = train, 0
        self.rows = slice(0, len(split)) if train else _own_batches(len(split), batch_size)

    def __len__(self):
        count = self.rows.stop - self.rows.start
        return count // self.batch_size if self.drop_last else _ceil(count, self.batch_size)

    def __iter__(self):
        order = np.arange(self.rows.start, self.rows.stop)
        if self.shuffle:
            order = np.random.default_rng(epoch_key(self.seed, self.epoch)).permutation(order)
        size = self.batch_size
        if self.train:  # this process's part, as torch's DistributedSampler takes it
            size //= world_size()
            order = np.resize(order, _ceil(len(order), world_size()) * world_size())[rank() :: world_size()]
        self.epoch += 1
        for start in range(0, len(self) * size, size):
            rows = order[start : start + size]
            columns = (torch.from_numpy(self.features[rows]), self.labels[rows], self.indices[rows])
            if self.device.type == "cuda":
                columns = (column.pin_memory().to(self.device, non_blocking=True) for column in columns)
            yield _FeatureBatch(*columns)


_FeatureBatch = namedtuple("_FeatureBatch", FIELDS)


class Loader:
    """Iterate to get one epoch of batches; `epoch` counts on by itself and can be set, after a resume for instance.

    `rows` is the slice of the split's examples that this process evaluates: with a single process, or in training
    (where it says nothing), all of them.
    """

    def __init__(
        self,
        split,
        fields,
        device,
        *,
        imgsz,
        decoder,
        augmentation=None,
        mean=None,
        std=None,
        batch_size=512,
        workers=1,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        os_cache=True,
        seed=0,
        train=False,
    ):
        split.beton.require(*fields)
        if "image" in fields and decoder == "simple":
            _check_image_size(split, imgsz)
        if "image" in fields and decoder in ("center_crop_256", "center_crop_75"):
            _check_short_sides(split)
        self.split, self.device, self.seed, self.epoch = split, device, seed, 0
        self.augmentation = augmentation
        self.rows = slice(0, len(split)) if train else _own_batches(len(split), batch_size)
        # The order in which examples come is seeded by FFCV with seed + epoch: spread the seeds, so that they differ.
        self._ffcv = PatchedLoader(
            str(split.beton.path),
            # FFCV takes memory for whole batches, though there may be none.
            batch_size=min(batch_size // world_size() if train else batch_size, len(split)),
            num_workers=workers,
            os_cache=os_cache,
            order=order,
            distributed=train and world_size() > 1,
            seed=epoch_key(seed, 0) >> 1,
            indices=split.indices[self.rows],
            pipelines=self._pipelines(fields, decoder, imgsz, device),
            drop_last=drop_last,
        )
        # FFCV delivers fields in the beton's order.
        self._delivered = [field for field in split.beton.fields if field in self._wanted(fields)]
        self._batch = namedtuple("Batch", fields)
        self._memory = _BatchMemory(device)
        mean, std = np.array(mean or [0.0] * 3), np.array(std or [255.0] * 3)
        self._fill = torch.tensor(mean.round(), dtype=torch.uint8, device=device)
        # Repeated along a row of pixels: three numbers would be too short an inner loop on a CPU.
        self._scale = torch.tensor(np.tile(1 / std, imgsz), dtype=torch.float32, device=device)
        self._offset = torch.tensor(np.tile(-mean / std, imgsz), dtype=torch.float32, device=device)

    def __len__(self):
        """Number of batches."""
        return len(self._ffcv)

    def __iter__(self):
        self._ffcv.next_epoch = self.epoch
        key = epoch_key(self.seed, self.epoch)
        self._ffcv.key = key
        self.epoch += 1
        for values in self._ffcv:
            fields = dict(zip(self._delivered, values, strict=True))
            # FFCV writes later batches into the same memory.
            batch = {name: fields[name].flatten().clone() for name in fields if name not in ("image", "label")}
            if "label" in fields:
                label = fields["label"]
                batch["label"] = (
                    label.clone() if label.shape[1] > 1 or label.is_floating_point() else label[:, 0].clone()
                )
            if "image" in fields:
                batch["image"] = self._prepare(fields["image"], key, batch["index"])
            yield self._batch(**{name: batch[name] for name in self._batch._fields})

    def _prepare(self, raw, key, index):
        """Augment and normalise (B, H, W, 3) uint8 into (B, 3, H, W) float32, channels last in memory."""
        batch, height, width, _ = raw.shape
        images = self._memory.floats(batch, height, width * 3)
        # On a CPU a few images at a time, so that what lies between raw and normalised pixels stays in its cache.
        step = batch if self.device.type == "cuda" else max(1, 2**18 // (height * width))
        for rows in (slice(start, start + step) for start in range(0, batch, step)):
            some = (
                augment(raw[rows], self.augmentation, self._fill, key, index[rows]) if self.augmentation else raw[rows]
            )
            pixels = some.reshape(-1, height, width * 3).float()
            torch.addcmul(self._offset, pixels, self._scale, out=images[rows])
        return images.view(batch, height, width, 3).permute(0, 3, 1, 2)

    def _wanted(self, fields):
        # Augmentation is keyed by index.
        return {*fields, "index"} if "image" in fields else set(fields)

    def _pipelines(self, fields, decoder, imgsz, device):
        to_device = [ToDevice(device)] if device.type == "cuda" else []
        pipelines = dict.fromkeys(self.split.beton.fields)
        for field in self._wanted(fields) - {"image"}:
            handler = self.split.beton.reader.handlers[field]
            pipelines[field] = [handler.get_decoder_class()(), ToTensor(), *to_device]
        if "image" in fields:
            pipelines["image"] = [_DECODERS[decoder](imgsz), ToTensor(), *to_device]
        return pipelines


class _BatchMemory:
    """Memory for batches; a CPU's is used again as soon as nobody holds its batch.

    Large blocks come from the operating system and go back to it, and to have their pages made anew for every batch
    takes several times as long as to fill them.
    """

    def __init__(self, device):
        self.device, self._free = device, []

    def floats(self, *shape):
        """A float32 tensor of any content."""
        if self.device.type == "cuda":
            return torch.empty(shape, device=self.device)  # torch keeps and shares out this memory itself
        count = int(np.prod(shape))
        fits = self._free and self._free[-1].size >= count
        block = self._free.pop() if fits else np.empty(count, np.float32)
        part = block[:count]
        # The tensor and all its views hold `part`, and nothing else does.
        weakref.finalize(part, self._free.append, block).atexit = False
        return torch.from_numpy(part).view(shape)


def _check_image_size(split, imgsz):
    widths, heights = split.beton.image_sizes
    wrong = np.flatnonzero((widths != imgsz) | (heights != imgsz))
    if len(wrong):
        raise UserError(
            f"beton {split.beton.path} has images of {widths[wrong[0]]} x {heights[wrong[0]]} pixels, but imgsz is "
            f"{imgsz} and the decoder is 'simple', which does not resize: set imgsz, or train_img_decoder and "
            "val_img_decoder such as center_crop_full"
        )


def _check_short_sides(split):
    """A crop of less than a pixel would end the process within FFCV."""
    widths, heights = split.beton.image_sizes
    narrow = split.indices[np.minimum(widths, heights)[split.indices] < 2]
    if len(narrow):
        raise UserError(
            f"image {narrow[0]} of beton {split.beton.path} has {widths[narrow[0]]} x {heights[narrow[0]]} pixels, of "
            "which a center crop leaves nothing: write the beton again without it, or set the decoder to resized_crop"
        )


class _WholeImage(ResizedCropRGBImageDecoder):
    """The whole image, squeezed into a square."""

    scale = ratio = None

    @property
    def get_crop_generator(self):
        return lambda height, width, scale, ratio: (0, 0, height, width)


_DECODERS = {
    "simple": lambda size: SimpleRGBImageDecoder(),
    "resized_crop": lambda size: _WholeImage((size, size)),
    "random_resized_crop": lambda size: SeededRandomResizedCrop((size, size)),
    "center_crop_256": lambda size: CenterCropRGBImageDecoder((size, size), ratio=224 / 256),
    "center_crop_75": lambda size: CenterCropRGBImageDecoder((size, size), ratio=64 / 75),
    "center_crop_full": lambda size: CenterCropRGBImageDecoder((size, size), ratio=1),
}
