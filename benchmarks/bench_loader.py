"""Images a second: our loader against a torch DataLoader with torchvision's augmentation, and against FFCV alone.

    python benchmarks/bench_loader.py

CIFAR-sized raw images with flip, shift and cutout, 256-pixel JPEGs with random crops and flip, and the same with a crop
of the middle, as in validation; delivered normalised on each device that there is. "FFCV alone" decodes and crops, and
neither augments nor normalises. The sides take turns; the first epoch of each (compilation, worker start-up) is not
timed.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from failure_directions.config_parsing import DatasetConfig
from failure_directions.data.beton_writer import ImageOptions, write_beton
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.splits import Split
from failure_directions.loaders import make_loader
from failure_directions.runtime.tables import format_table
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

MEAN, STD = [125.3, 123.0, 113.9], [51.5, 50.8, 51.3]
_UNIT_MEAN, _UNIT_STD = [m / 255 for m in MEAN], [s / 255 for s in STD]


class TorchImages(Dataset):
    """The same images for a DataLoader, as JPEG bytes or raw, decoded by Pillow and augmented by torchvision."""

    def __init__(self, images, jpeg, transform):
        self.jpeg, self.transform = jpeg, transform
        self.images = [_jpeg(image) for image in images] if jpeg else images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = Image.open(io.BytesIO(self.images[i])).convert("RGB") if self.jpeg else Image.fromarray(self.images[i])
        return self.transform(image), 0


def _jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def torchvision_augmentation(size, decoder):
    """What the configs' augmentation and decoder do: flip, shift and hole; random crop and flip; the middle."""
    fill = tuple(round(m) for m in MEAN)
    convert = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_UNIT_MEAN, _UNIT_STD)]
    if decoder == "center_crop_256":
        return v2.Compose([v2.CenterCrop(size), *convert])
    if decoder == "random_resized_crop":
        return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *convert])
    hole = v2.RandomErasing(p=1.0, scale=(16 / size**2, 16 / size**2), ratio=(1, 1), value=0)
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=2, fill=fill), *convert, hole])


def smooth_images(count, size, seed=0):
    """Random images that compress as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 256, (count, 3, 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    noise = torch.from_numpy(rng.normal(0, 6, (count, 3, size, size)).astype(np.float32))
    return (smooth + noise).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def images_per_second(epochs, count, repeats):
    """One figure for each of `epochs`, functions that go through `count` images; the fastest of `repeats` in turns."""
    times = [[] for _ in epochs]
    for turn in range(repeats + 1):
        for epoch, seconds in zip(epochs, times, strict=True):
            began = time.perf_counter()
            epoch()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds.append(time.perf_counter() - began)
    return [count / min(seconds) for seconds in times]


KINDS = {  # number of pixels a side, and of those delivered, and how they are decoded
    "raw 32 px, training": (32, 32, "simple"),
    "jpeg 256 px, training": (256, 224, "random_resized_crop"),
    "jpeg 256 px, validation": (256, 224, "center_crop_256"),
}


def compare(kind, images, device, args, folder):
    """Images a second: torchvision, ours, FFCV alone."""
    side, image_size, decoder = KINDS[kind]
    jpeg = decoder != "simple"
    path = folder / f"{side}.beton"
    if not path.exists():
        source = ImageArrays(images, np.zeros(len(images), int), ["a"])
        write_beton(path, source, ImageOptions("jpg" if jpeg else "raw"))
    train = decoder != "center_crop_256"
    config = DatasetConfig(
        train_beton=path.name,
        test_beton=path.name,
        imgsz=image_size,
        arch="resnet18",
        arch_type="resnet",
        num_classes=1,
        mean=MEAN,
        std=STD,
        batch_size=args.batch_size,
        num_workers=args.workers,
        train_img_decoder=decoder if train else "simple",
        val_img_decoder="simple" if train else decoder,
        train_aug="imagenet_train_aug" if jpeg else "cifar_train_aug",
    )
    ours = make_loader(Split("train", open_beton(path), np.arange(len(images))), config, device, train=train)
    theirs = DataLoader(
        TorchImages(images, jpeg, torchvision_augmentation(image_size, decoder)),
        args.batch_size,
        shuffle=train,
        drop_last=train,
        num_workers=args.workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def torch_epoch():
        for batch, _ in theirs:
            batch.to(device, non_blocking=True)

    def our_epoch():
        for _ in ours:
            pass

    def ffcv_epoch():
        for _ in ours._ffcv:
            pass

    count = len(images) // args.batch_size * args.batch_size if train else len(images)
    return images_per_second([torch_epoch, our_epoch, ffcv_epoch], count, args.repeats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes of the DataLoader, threads of FFCV")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3, help="timed epochs, the fastest counts")
    parser.add_argument("--small", type=int, default=20_000, help="number of 32-pixel images")
    parser.add_argument("--large", type=int, default=2_000, help="number of 256-pixel images")
    args = parser.parse_args()
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    images = {32: smooth_images(args.small, 32), 256: smooth_images(args.large, 256)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for device in devices:
            for kind, (side, *_) in KINDS.items():
                theirs, ours, alone = compare(kind, images[side], device, args, Path(folder))
                figures = (
                    f"{theirs:,.0f}",
                    f"{ours:,.0f}",
                    f"{alone:,.0f}",
                    f"{ours / theirs:.1f}",
                    f"{alone / ours:.2f}",
                )
                rows.append([kind, str(device), *figures])
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    print(f"{args.workers} workers, batches of {args.batch_size}, {torch.get_num_threads()} torch threads, {name}")
    print(
        format_table(
            ["images", "device", "torchvision img/s", "ours", "FFCV alone", "ours : torchvision", "FFCV : ours"], rows
        )
    )


if __name__ == "__main__":
    main()
