"""What the first look at one's own images costs: `find` on an image folder, against betons, training and distilling.

    python benchmarks/bench_own_images.py --manifest cifar10/manifest.csv --timm-weights data/efficientnet_lite0.pt

The manifest (path,label,split) lists photographs; 6,000 of its test images become my_images/{val,test}/CLASS/, and
6,000 of its training images my_images/train/CLASS/. Seconds are of the clock and of all processors; memory is that of
the largest process. Then: the memory of `find` on 10,000 and on 60,000 images; and images a second of the folder
loader, of torchvision's ImageFolder with a DataLoader, and of FFCV, all decoding, resizing and normalising alike.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from failure_directions.config_parsing import DatasetConfig
from failure_directions.data.beton_sets import write_splits
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import class_folders
from failure_directions.data.splits import Split
from failure_directions.embeddings.passes import Network, run_pass
from failure_directions.loaders import make_loader
from failure_directions.models.preprocessing import of_checkpoint
from failure_directions.runtime.tables import format_table
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

COMMAND = (sys.executable, "-m", "failure_directions.commands.main")
MEAN, STD = [125.3, 123.0, 113.9], [51.5, 50.8, 51.3]
SPLITS = {"train": ("train", 6_000), "val": ("test", 3_000), "test": ("test", 3_000)}


def class_folder(manifest, folder, wanted):
    """Link the manifest's images into folder/SPLIT/CLASS/: for each split the next so many of one of its own splits."""
    with open(manifest, newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_class = defaultdict(list)
    for row in rows:
        by_class[row["split"], row["label"]].append(manifest.parent / row["path"])
    names = sorted({row["label"] for row in rows})
    for split, (source, count) in wanted.items():
        for name in names:
            place = folder / split / name
            place.mkdir(parents=True)
            taken = by_class[source, name][: count // len(names)]
            del by_class[source, name][: len(taken)]
            for path in taken:
                os.symlink(path.resolve(), place / f"{source}_{path.name}")
    return folder


def measured(name, *command, **environment):
    """Run a command; a row of its seconds (clock, processors) and the largest process's MiB."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *map(str, command)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {k: str(v) for k, v in environment.items()},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed")
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(after[:2]) - sum(before[:2])
    print(f"{name}: {seconds:.0f} s, {used:.0f} processor s, {usage.ru_maxrss / 1024:.0f} MiB", flush=True)
    return [name, f"{seconds:.0f}", f"{used:.0f}", f"{usage.ru_maxrss / 1024:.0f}"]


def both_ways(folder, out, timm_weights):
    """Rows of `find` and of the steps on betons; the trained checkpoint."""
    own = ["--report", out / "report.html", "--out", out / "found.pt"]
    timm = ["--override", f"timm_weights={timm_weights}"]
    data, runs, result = out / "betons", out / "runs", out / "svm.pt"
    config = ["-c", data / "mine.yaml", "--root", data]
    rows = [
        measured("betons folder", "betons", "folder", "--data", folder, "--out", data, "--name", "mine"),
        measured("train", "train", *config, "--runs", runs, "--exp-name", "mine"),
    ]
    model = ["--model-path", runs / "mine"]
    rows += [
        measured("distil", "distil", *config, "-s", "normalized_svm_timm_config", *timm, *model, "--out-file", result),
        measured("report", "report", "--svm", result, "--report", out / "betons.html"),
    ]
    find = ["find", "--images", folder, "--model", runs / "mine", *own]
    rows += [
        measured("find, cold", *find, FAILURE_DIRECTIONS_CACHE=out / "cache"),
        measured("find, cached", *find, FAILURE_DIRECTIONS_CACHE=out / "cache"),
    ]
    return rows, runs / "mine"


def loader_rows(folder, size, side):
    """Images a second of the three loaders over class folders, of the clock, the best of three."""
    source = class_folders(folder, sorted(entry.name for entry in folder.iterdir()))
    crop = "simple" if size == side else "center_crop_full"
    prepare = of_checkpoint({"imgsz": side, "mean": MEAN, "std": STD, "val_img_decoder": crop})
    nothing = Network(prepare, lambda images: {"x": images[:, 0, 0, :1]}, {"x": 1}, None, None)
    workers = len(os.sched_getaffinity(0)) // 2
    plain = DataLoader(ImageFolder(folder, prepare), 64, num_workers=workers)
    betons = folder.parent / f"betons_{size}"
    write_splits({"test": source}, betons, "x")
    beton = open_beton(betons / "x_test.beton")
    names = {"train_beton": "x", "test_beton": "x", "arch": "resnet18", "arch_type": "resnet", "num_classes": 10}
    config = DatasetConfig(**names, imgsz=side, mean=MEAN, std=STD, batch_size=64, val_img_decoder=crop)
    ffcv = make_loader(Split("test", beton, torch.arange(len(beton)).numpy()), config, torch.device("cpu"))
    ways = {
        "folder loader": lambda: run_pass(
            list(map(str, source.paths)), nothing, workers=workers, cache=False, quiet=True
        ),
        "ImageFolder and DataLoader": lambda: [None for _ in plain],
        "FFCV, raw beton": lambda: [None for _ in ffcv],
    }
    return [[f"{size} px to {side}", name, f"{len(source) / fastest(way):,.0f}"] for name, way in ways.items()]


def fastest(way):
    """Seconds of the fastest of three; the first, for what is compiled and started once, is not counted."""
    way()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        way()
        times.append(time.perf_counter() - began)
    return min(times)


def enlarged(folder, out, side, most):
    """The first so many images of each class as JPEGs of this side."""
    for path in [path for name in sorted(folder.iterdir()) for path in sorted(name.iterdir())[:most]]:
        place = out / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((side, side), Image.Resampling.BICUBIC).save(place / path.name, quality=90)
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--timm-weights", required=True, help="see scripts/efficientnet_lite_weights.py")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        rows, run = both_ways(class_folder(args.manifest, out / "my_images", SPLITS), out, args.timm_weights)
        sizes = {"10,000 images": {"test": ("test", 10_000)}, "60,000 images": {"test": ("test", 10_000)}}
        sizes["60,000 images"]["val"] = ("train", 50_000)
        for name, wanted in sizes.items():
            folder = class_folder(args.manifest, out / name.replace(",", ""), wanted)
            model = ["--model", run, "--embedding", "model", "--cache", out / "cache"]
            rows.append(measured(f"find, {name}", "find", "--images", folder, *model, "--report", out / "many.html"))
        print(format_table(["command", "s", "processor s", "MiB"], rows))
        loaders = loader_rows(out / "my_images" / "train", 32, 32)
        loaders += loader_rows(enlarged(out / "my_images" / "train", out / "large", 320, 100), 320, 224)
        print(format_table(["images", "loader", "images a second"], loaders, left=2))


if __name__ == "__main__":
    main()
