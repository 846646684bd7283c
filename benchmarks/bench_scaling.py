"""What every stage costs in time, memory and disk as images, classes and dimensions grow, measured on drawn data.

    python benchmarks/bench_scaling.py                        # all stages, as Markdown (tens of minutes on 2 cores)
    python benchmarks/bench_scaling.py --only SVMs CSV        # the stages whose names hold one of these words

Each size runs in a process of its own. Per stage: the core seconds at every size (the processor time of all
threads and processes, which neighbours disturb less than the clock); the exponent, which is the slope of log(seconds)
over log(size) (1 = proportional, 2 = quadratic); the core seconds, bytes on disk and bytes of memory that one more unit
costs, which are slopes of straight lines, so that what does not grow (compiling, starting) is left out; and the peak
memory at the largest size, without the page cache (see bench_imagenet_size.py). At the end come two sizes that were NOT
run, computed from these slopes: ImageNet's and a billion images.

Networks have random weights, which costs the same; a "CLIP" is open_clip's ViT-B/32.
"""

import argparse
import multiprocessing
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_imagenet_size import Meter, RandomClip, draw_split, planted
from bench_loader import MEAN, STD, smooth_images
from failure_directions.captions.ranking import describe_directions
from failure_directions.captions.subpopulations import caption_similarity
from failure_directions.captions.vocabulary import CaptionFile, CaptionSet
from failure_directions.config_parsing import DatasetConfig, SVMConfig
from failure_directions.data.beton_writer import ImageOptions, write_beton
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.splits import Split
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.directions.label_noise import looks_like
from failure_directions.directions.results import OutputFiles, Result, SplitResult, write_result, write_split_csv
from failure_directions.embeddings.cache import EmbeddingCache
from failure_directions.embeddings.spaces import LatentEmbedding, Prepared
from failure_directions.loaders import make_loader
from failure_directions.report.page import render_report
from failure_directions.svm_utils import SVMFitter
from failure_directions.training.evaluation import Predictions
from failure_directions.training.resuming import new_checkpoint
from failure_directions.training.trainer import Trainer

CLASSES, VAL, D = 100, 256, 512  # where a stage does not vary them


@dataclass(frozen=True)
class Stage:
    """A stage at several sizes.

    prepare: a function of a size and a folder, which makes what is needed and returns what is to be measured, a
    function without arguments. unit: what a size counts. output: glob of the files that it leaves.
    """

    name: str
    unit: str
    sizes: tuple
    prepare: object
    output: str = ""


# ---------------------------------------------------------------------------------------------------------------------
# Images and networks
# ---------------------------------------------------------------------------------------------------------------------

SMALL = {"imgsz": 32, "arch": "resnet10thin", "arch_type": "cifar_resnet", "batch_size": 256}
LARGE = {
    "imgsz": 224,
    "arch": "resnet18",
    "arch_type": "resnet",
    "batch_size": 32,
    "train_img_decoder": "random_resized_crop",
    "val_img_decoder": "center_crop_256",
}


class DrawnImages:
    """A source of `count` images in ten classes, of which 256 differ."""

    def __init__(self, count, size):
        self.count, self.images = count, smooth_images(min(count, 256), size)

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.images[i % len(self.images)], i % 10, None


def beton(count, folder, size, write_mode):
    images = DrawnImages(count, size)
    return lambda: write_beton(folder / "images.beton", images, ImageOptions(write_mode))


def images_and_config(count, folder, options):
    """A `Split` of `count` images, a few more for validation, and the config of a network."""
    large = options is LARGE
    beton(count + 64, folder, 256 if large else 32, "jpg" if large else "raw")()
    config = DatasetConfig(
        train_beton="images.beton",
        test_beton="images.beton",
        num_classes=10,
        mean=MEAN,
        std=STD,
        num_workers=2,
        training={"epochs": 1, "lr": 0.1},
        **options,
    )
    opened = open_beton(folder / "images.beton")
    return Split("train", opened, np.arange(count)), Split("val", opened, np.arange(count, count + 64)), config


def training(count, folder, options):
    split, val, config = images_and_config(count, folder, options)
    device = torch.device("cpu")
    train, val = make_loader(split, config, device, train=True), make_loader(val, config, device)
    for loader in (train, val):
        next(iter(loader))  # compiles
    trainer = Trainer(config, device, folder / "run", train, val, log=False)
    return lambda: trainer.fit(new_checkpoint(config, 0))


class RandomClipImages:
    """An `embeddings` embedding: open_clip's ViT-B/32 with random weights."""

    name, of_model = "random ViT-B-32", False

    def __init__(self, config):
        self.model = random_clip()
        self.prepared = Prepared(config, 224, MEAN, STD, "cpu", "bicubic")

    def __call__(self, images, latents):
        return self.model.encode_image(self.prepared(images))


def random_clip():
    import open_clip

    return open_clip.create_model("ViT-B-32-quickgelu").eval()


def embedding(count, folder, options, clip=False):
    split, _, config = images_and_config(count, folder, options)
    device = torch.device("cpu")
    model = new_checkpoint(config, 0).model.to(memory_format=torch.channels_last)
    made = RandomClipImages(config) if clip else LatentEmbedding()
    cache = EmbeddingCache(folder / "embeddings", model, made, config, device)
    loader = make_loader(split, config, device)
    next(iter(loader))  # compiles
    return lambda: cache.get(loader)


def caption_embedding(count, folder):
    import open_clip

    model, tokenizer = random_clip(), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    captions = [f"a photo of a {i} thing" for i in range(count)]

    @torch.no_grad()
    def encode():
        for start in range(0, count, 64):
            model.encode_text(tokenizer(captions[start : start + 64]))

    return encode


# ---------------------------------------------------------------------------------------------------------------------
# Embeddings to results
# ---------------------------------------------------------------------------------------------------------------------


def drawn(count, folder, classes=CLASSES, d=D, name="split"):
    """`Predictions` and a memory map of `count` drawn embeddings."""
    found = draw_split(folder / f"{name}.npy", count, *planted(classes, d), shift=2.0, seed=0)
    return found, np.load(folder / f"{name}.npy", mmap_mode="r")


def fitted(folder, classes=CLASSES, val=VAL, d=D):
    """A fitter, quickly: C = 1, and as few folds as there may be."""
    found, latents = drawn(classes * val, folder, classes, d, "val")
    fitter = SVMFitter(split_and_search=False)
    fitter.set_preprocess(latents)
    fitter.fit(preds=found.preds, ys=found.labels, latents=latents, num_classes=classes)
    return fitter, found, latents


def svms(size, folder, varied):
    sizes = {"classes": 20, "val": VAL, "d": D} | {varied: size}
    found, latents = drawn(sizes["classes"] * sizes["val"], folder, sizes["classes"], sizes["d"])
    fitter = SVMFitter()
    fitter.set_preprocess(latents)
    return lambda: fitter.fit(found.preds, found.labels, latents, sizes["classes"])


def whitening(count, folder):
    _, latents = drawn(count, folder)
    return lambda: SVMFitter().set_preprocess(latents)


def decision_values(size, folder, varied):
    sizes = {"count": 50_000, "d": D} | {varied: size}
    fitter, _, _ = fitted(folder, val=64, d=sizes["d"])
    found, latents = drawn(sizes["count"], folder, d=sizes["d"])
    return lambda: fitter.predict(found.labels, latents, found.preds, compute_metrics=True)


def likeness(size, folder, varied):
    sizes = {"count": 25_000, "classes": CLASSES} | {varied: size}
    val, val_latents = drawn(sizes["classes"] * 64, folder, sizes["classes"], name="val")
    _, latents = drawn(sizes["count"], folder, sizes["classes"])
    return lambda: looks_like(latents, val_latents, val.labels)


def caption_ranking(size, folder, varied):
    sizes = {"classes": 20, "captions": 1024} | {varied: size}
    fitter, _, _ = fitted(folder, sizes["classes"], 64)
    words = [str(i) for i in range(round(sizes["captions"] ** 0.5) - 1)]
    grammar = CaptionFile.model_validate({"adjectives": words, "prepositions": words, "default": {}})
    names = [f"class {c}" for c in range(sizes["classes"])]
    captions = CaptionSet("the benchmark", grammar, shipped=True)
    return lambda: describe_directions(fitter, RandomClip(D), captions, names)


def similarity(count, folder):
    found, latents = drawn(count, folder)
    near = np.random.default_rng(0).standard_normal((CLASSES, 2, D))
    return lambda: caption_similarity(latents, found.labels, dict(enumerate(near)))


def drawn_split(count, classes):
    """A split of a result as train_svms.py makes it for train."""
    rng = np.random.default_rng(0)
    labels, right = np.arange(count) % classes, rng.random(count) < 0.7
    found = Predictions(np.arange(count), labels, np.where(right, labels, 0), rng.random(count, dtype=np.float32))
    numbers = {key: rng.standard_normal(count) for key in ("decision_values", "looks_like_values")}
    judged = {"ytrue": right.astype(int), "ypred": (numbers["decision_values"] > 0).astype(int), "looks_like": labels}
    similar = {key: rng.standard_normal(count) for key in ("hard_similarity", "easy_similarity")}
    columns = {"preds": found.preds, "classes": labels, "confs": found.confs, "indices": found.indices}
    return SplitResult(**numbers, **judged, **similar, **columns)


def csv_of_split(count, folder):
    split = drawn_split(count, CLASSES)
    return lambda: write_split_csv(folder / "result_train.csv", split, [f"class {c}" for c in range(CLASSES)])


def result_file(count, folder):
    fitter, _, _ = fitted(folder, 10, 64)
    result = drawn_result(fitter, {"train": drawn_split(count, 10)})
    files = OutputFiles.named(folder / "result.pt")
    return lambda: write_result(files, result, fitter)


def drawn_result(fitter, splits, **made_from):
    names = [f"class {c}" for c in range(len(fitter.cv_scores))]
    return Result(class_names=names, cv_scores=fitter.cv_scores, skipped=fitter.skipped, splits=splits, **made_from)


def report(classes, folder):
    fitter, _, _ = fitted(folder, classes, 64)
    count, names = 50 * classes, [f"class {c}" for c in range(classes)]
    images = ImageArrays(smooth_images(count, 64), np.arange(count) % classes, names)
    write_beton(folder / "images.beton", images)
    files, split = OutputFiles.named(folder / "result.pt"), drawn_split(count, classes)
    model = {"imgsz": 64, "arch": "resnet18", "arch_type": "resnet", "num_classes": classes}
    result = drawn_result(
        fitter,
        {"train": split, "test": split},
        args={"root": str(folder), "captions": None},
        dataset_config=DatasetConfig(train_beton="images.beton", test_beton="images.beton", **model),
        svm_config=SVMConfig(),
    )
    write_result(files, result, fitter)
    proc = SVMProcessor(files.result)
    return lambda: (folder / "report.html").write_text(render_report(proc, "test"))


_DOUBLING = (50_000, 100_000, 200_000, 400_000)
STAGES = [
    Stage(
        "beton, raw, 32 px",
        "image",
        (10_000, 20_000, 40_000, 80_000),
        partial(beton, size=32, write_mode="raw"),
        "images.beton",
    ),
    Stage(
        "beton, JPEG, 256 px", "image", (2000, 4000, 8000), partial(beton, size=256, write_mode="jpg"), "images.beton"
    ),
    Stage("training an epoch, thin ResNet-10, 32 px", "image", (4096, 8192, 16_384), partial(training, options=SMALL)),
    Stage("training an epoch, ResNet-18, 224 px", "image", (32, 64, 128), partial(training, options=LARGE)),
    Stage(
        "embedding, thin ResNet-10, 32 px",
        "image",
        (4096, 8192, 16_384),
        partial(embedding, options=SMALL),
        "embeddings/*",
    ),
    Stage("embedding, ResNet-18, 224 px", "image", (64, 128, 256), partial(embedding, options=LARGE), "embeddings/*"),
    Stage(
        "embedding, ResNet-18 and CLIP, 224 px",
        "image",
        (64, 128, 256),
        partial(embedding, options=LARGE, clip=True),
        "embeddings/*",
    ),
    Stage("whitening", "image", _DOUBLING, whitening),
    Stage("SVMs, 20 classes x 256 x d", "dimension", (128, 256, 512, 1024, 2048), partial(svms, varied="d")),
    Stage("SVMs, 20 classes x n x 512", "image a class", (64, 128, 256, 512, 1024, 2048), partial(svms, varied="val")),
    Stage("SVMs, classes x 256 x 512", "class", (10, 20, 40, 80), partial(svms, varied="classes")),
    Stage("decision values, N x 512", "image", _DOUBLING, partial(decision_values, varied="count")),
    Stage("decision values, 50,000 x d", "dimension", (128, 256, 512, 1024), partial(decision_values, varied="d")),
    Stage("what images look like, N x 512, 100 classes", "image", _DOUBLING[:3], partial(likeness, varied="count")),
    Stage(
        "what images look like, 25,000 x 512, classes",
        "class",
        (125, 250, 500, 1000),
        partial(likeness, varied="classes"),
    ),
    Stage("captions embedded by CLIP", "caption", (64, 128, 256), caption_embedding),
    Stage(
        "captions ranked, 20 classes x captions",
        "caption a class",
        (1024, 4096, 16_384),
        partial(caption_ranking, varied="captions"),
    ),
    Stage("captions ranked, classes x 1,024", "class", (25, 50, 100), partial(caption_ranking, varied="classes")),
    Stage("images near captions", "image", _DOUBLING, similarity),
    Stage("CSV of a split", "image", _DOUBLING, csv_of_split, "*.csv"),
    Stage("result", "image", _DOUBLING, result_file, "result.pt"),
    Stage("report, 64 px", "class", (10, 40, 160), report, "report.html"),
]


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Of one more unit of a stage: core seconds, bytes of memory and on disk; and the exponent of the seconds."""

    seconds: float
    memory: float
    disk: float
    exponent: float


def measure(stage, size, repeats):
    """Core seconds (the fewest of `repeats` runs), bytes of memory and bytes on disk of a stage at a size."""
    runs = [_in_a_process(stage, size) for _ in range(repeats)]
    return min(run[0] for run in runs), min(run[1] for run in runs), runs[0][2]


def _in_a_process(stage, size):
    context = multiprocessing.get_context("fork")  # nothing has computed here yet: no threads are lost
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(stage, size, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        sys.exit(f"error: {stage.name} failed at {size}")
    finally:
        process.join()


def _measure(stage, size, connection):
    with tempfile.TemporaryDirectory() as folder:
        run = stage.prepare(size, Path(folder))
        meter = Meter()
        with meter.stage("run"):
            kept = run()
        written = [path.stat().st_size for path in Path(folder).glob(stage.output)] if stage.output else []
        used = meter.stages["run"]
        connection.send((used.core_seconds, 1e6 * used.peak, sum(written)))
        del kept


def cost_of(sizes, measured):
    """`Cost` from (core seconds, memory, disk) at every size."""
    seconds, memory, disk = np.transpose(measured)
    slope, slope_memory, slope_disk = (np.polyfit(sizes, numbers, 1)[0] for numbers in (seconds, memory, disk))
    return Cost(slope, slope_memory, slope_disk, np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def quantity(number, units):
    """A number with two digits in the unit that suits it, of (size of the unit, name), the largest first."""
    size, name = next((unit for unit in units if number >= unit[0]), units[-1])
    return f"{float(f'{number / size:.2g}'):,g} {name}"


TIMES = ((1, "s"), (1e-3, "ms"), (1e-6, "us"))
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
SPANS = ((86_400 * 365, "years"), (86_400, "days"), (3600, "h"), (60, "min"), (1, "s"))
AMOUNTS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


# ---------------------------------------------------------------------------------------------------------------------
# On paper
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A data set that was not run: its images, and its classes with `VAL` validation images each."""

    name: str
    images: float
    classes: float

    def units(self, unit):
        return {"image": self.images, "class": self.classes, "caption": 100 * self.classes}[unit]


PAPER = (Size("ImageNet", 1.33e6, 1000), Size("a billion images", 1e9, 10_000))
_ON_PAPER = (
    "beton, JPEG, 256 px",
    "training an epoch, ResNet-18, 224 px",
    "embedding, ResNet-18 and CLIP, 224 px",
    "whitening",
    "SVMs, classes x 256 x 512",
    "decision values, N x 512",
    "captions embedded by CLIP",
    "images near captions",
    "CSV of a split",
    "result",
)


def on_paper(costs):
    """Markdown: core time and disk of the sizes in `PAPER`, computed from the slopes."""
    header = [f"{size.name}: {what}" for size in PAPER for what in ("core time", "disk")]
    lines = ["| computed, not run | " + " | ".join(header) + " |", "| --- |" + " ---: |" * len(header)]
    for name in (name for name in _ON_PAPER if name in costs):
        unit, cost, cells = next(stage.unit for stage in STAGES if stage.name == name), costs[name], []
        for size in PAPER:
            cells.append(quantity(size.units(unit) * cost.seconds, SPANS))
            cells.append(quantity(size.units(unit) * cost.disk, AMOUNTS) if cost.disk else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="words in the names of stages")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every size; the fastest counts")
    parser.add_argument("--smallest", type=int, metavar="K", help="only the K smallest sizes of each stage, at least 2")
    args = parser.parse_args()
    costs = {}
    print("| stage | sizes | core seconds | exponent | time | disk | memory | peak memory |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for stage in STAGES:
        if not any(word in stage.name for word in args.only):
            continue
        sizes = stage.sizes[: args.smallest]
        measured = [measure(stage, size, args.repeats) for size in sizes]
        cost = costs[stage.name] = cost_of(sizes, measured)
        cells = [
            ", ".join(f"{size:,}" for size in sizes),
            ", ".join(f"{seconds:.2g}" for seconds, _, _ in measured),
            f"{cost.exponent:.2f}",
            f"{quantity(cost.seconds, TIMES)} a {stage.unit}",
            *(quantity(amount, BYTES) if amount > 1 else "-" for amount in (cost.disk, cost.memory)),
            quantity(max(memory for _, memory, _ in measured), BYTES),
        ]
        print(f"| {stage.name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(on_paper(costs))


if __name__ == "__main__":
    main()
