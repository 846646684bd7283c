"""What a CUDA card is used for and how well: ours beside a plain loop or beside the computation alone, in one run.

    python -m benchmarks.bench_cuda step precision clip sparse diffusion    # minutes
    python -m benchmarks.bench_cuda cifar --cifar FOLDER                    # FOLDER/manifest.csv: path, label, split

- `cifar`: an epoch of the papers' ResNet-18 on CIFAR-10's JPEGs by `Trainer`, and by torchvision's DataLoader with
  autocast; then the whole training by the command (`--epochs`), with its seconds and test accuracy.
- `step`: a training step of that ResNet-18 on images that are there already: precisions and memory layouts.
- `precision`: what the precision of the evaluating pass changes of decision values, in their deviations.
- `clip`: images a second of CLIP ViT-B/32 (random weights) from a beton of 256-pixel JPEGs, against its computation.
- `sparse`: one pass over 1.28 M x 2,048 half-precision features with 1,000 classes, resident and streamed from disk,
  against its products and its copies; and a short path.
- `diffusion`: `generate` and `run_textual_inversion` on Stable Diffusion 1.5's architecture with random weights.

Rows go to a table and to OUT/cuda.csv as they come.
"""

import argparse
import contextlib
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from failure_directions.runtime.tables import format_table

CUDA = torch.device("cuda")
ROWS = []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"cifar": cifar, "step": step, "precision": precision, "clip": clip, "sparse": sparse}
    parts["diffusion"] = diffusion
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--cifar", type=Path, help="folder with CIFAR-10's JPEGs and manifest.csv")
    parser.add_argument("--epochs", type=int, default=35, help="cifar: of the whole training; 0: none")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--images", type=int, default=40_000, help="clip: images of an epoch")
    parser.add_argument("--rows", type=int, default=1_280_000, help="sparse: rows of features")
    parser.add_argument("--size", type=int, default=512, help="diffusion: side of the images")
    parser.add_argument("--scratch", type=Path, help="folder for large files, by default a temporary one")
    parser.add_argument("--out", type=Path, default=Path("results/bench_cuda"))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_cuda: there is no CUDA device here")
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads", flush=True
    )
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for part in args.parts:
            try:
                parts[part](args, Path(folder))
            except Exception as error:  # the others are still worth their time
                row(args, part, "failed", 0, f"{type(error).__name__}: {str(error)[:200]}")
                print(f"{part} failed", file=sys.stderr)
                sys.excepthook(*sys.exc_info())
            torch.cuda.empty_cache()
    print(format_table(["part", "what", "value", "unit"], ROWS))


def row(args, part, what, value, unit):
    ROWS.append([part, what, f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}", unit])
    print(*ROWS[-1], sep=" | ", flush=True)
    with open(args.out / "cuda.csv", "a", newline="") as file:
        csv.writer(file).writerow([torch.cuda.get_device_name(), part, what, value, unit])


@contextlib.contextmanager
def timed():
    """Seconds of the block, the card's work included, as the one entry of a list."""
    found = []
    torch.cuda.synchronize()
    began = time.perf_counter()
    yield found
    torch.cuda.synchronize()
    found.append(time.perf_counter() - began)


def seconds_of(function, repeats=3):
    """The least of some calls, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        with timed() as spent:
            function()
        times += spent
    return min(times)


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def cifar_betons(args, folder):
    """The config and folder of CIFAR-10's betons, made by the command."""
    from failure_directions.config_parsing import load_dataset_config

    config = Path(__file__).resolve().parents[1] / "dataset_configs" / "cifar.yaml"
    config = load_dataset_config(config, [f"num_workers={args.workers}"])
    if not (folder / "data").exists():
        words = ["betons", "manifest", "--data", args.cifar / "manifest.csv", "--out", folder / "data"]
        words += ["--name", "cifar10", "--class-names", ",".join(config.class_names)]
        with timed() as spent:
            command(*words)
        row(args, "cifar", "60,000 JPEGs into betons", spent[0], "s")
    return config, folder / "data"


def command(*words):
    code = "from failure_directions.commands.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    return done.stdout


def cifar(args, folder):
    from failure_directions.data.splits import open_splits
    from failure_directions.loaders import make_loader
    from failure_directions.runtime.pt_files import load_pt
    from failure_directions.training.resuming import new_checkpoint
    from failure_directions.training.trainer import Trainer

    config, data = cifar_betons(args, folder)
    splits = open_splits(config, data, "cifar")
    whole = type(splits["train"])("train", splits["train"].beton, np.arange(len(splits["train"].beton)))
    loader = make_loader(whole, config, CUDA, train=True)
    images = len(loader) * config.batch_size
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(config, CUDA, folder, loader, None, log=False)
    model = new_checkpoint(config, 0).model.to(CUDA, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    scaler = torch.amp.GradScaler(enabled=False)
    ours = seconds_of(lambda: trainer._train_epoch(model, optimizer, scaler, 0))
    row(args, "cifar", "an epoch, Trainer", images / ours, "images/s")
    row(args, "cifar", "an epoch, its loader alone", images / seconds_of(lambda: exhaust(loader)), "images/s")

    theirs = plain_loop(args, config)
    row(args, "cifar", "an epoch, DataLoader + autocast", theirs, "images/s")
    row(args, "cifar", "Trainer over it", images / ours / theirs, "times")
    if args.epochs:
        words = ["train", "-c", "cifar", "--indices-file", "cifar", "--root", data, "--runs", folder / "runs"]
        words += ["--exp-name", "cifar", "--override", f"num_workers={args.workers}", "--disable-logging"]
        words += ["--override", f"training.epochs={args.epochs}"]
        with timed() as spent:
            command(*words)
        row(args, "cifar", f"train, {args.epochs} epochs, whole command", spent[0], "s")
        test = load_pt(folder / "runs" / "cifar" / "version_0" / "predictions.pt", "predictions", "")["test"]
        row(args, "cifar", "its test accuracy", float((test["preds"] == test["labels"]).float().mean()), "share")


def exhaust(batches):
    for _ in batches:
        pass


def plain_loop(args, config):
    """Images a second of a loop as torch's tutorials write it, over the same JPEGs; the second epoch counts."""
    from failure_directions.models.build import build_model
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from benchmarks.bench_loader import torchvision_augmentation

    with open(args.cifar / "manifest.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["split"] == "train"]

    class Files(Dataset):
        transform = torchvision_augmentation(32, False)

        def __len__(self):
            return len(lines)

        def __getitem__(self, i):
            image = Image.open(args.cifar / lines[i]["path"]).convert("RGB")
            return self.transform(image), config.class_names.index(lines[i]["label"])

    loader = DataLoader(
        Files(),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        pin_memory=True,
        persistent_workers=True,
    )
    model = build_model(config.arch_type, config.arch, config.num_classes).to(CUDA)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler()

    def epoch():
        total = 0.0
        for images, labels in loader:
            images, labels = images.to(CUDA, non_blocking=True), labels.to(CUDA, non_blocking=True)
            with torch.autocast("cuda"):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.item()

    return len(loader) * config.batch_size / seconds_of(epoch, 1)


def step(args, folder):
    """Training steps at batches of 512, 32 pixels: the compute that no loader can beat."""
    from failure_directions.models.build import build_model

    images = torch.randn(512, 3, 32, 32, device=CUDA)
    labels = torch.randint(10, (512,), device=CUDA)
    torch.backends.cudnn.benchmark = True
    for name, dtype in (("float32", None), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        for layout in (torch.contiguous_format, torch.channels_last):
            for compiled in (False, True):
                if compiled and (dtype is not torch.bfloat16 or layout is not torch.channels_last):
                    continue
                model = build_model("cifar_resnet", "resnet18", 10).to(CUDA, memory_format=layout)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
                scaler = torch.amp.GradScaler(enabled=dtype is torch.float16)
                batch = images.contiguous(memory_format=layout)
                forward = torch.compile(model) if compiled else model

                def steps(count=20, dtype=dtype, forward=forward, batch=batch, optimizer=optimizer, scaler=scaler):
                    for _ in range(count):
                        with torch.autocast("cuda", dtype) if dtype else contextlib.nullcontext():
                            loss = torch.nn.functional.cross_entropy(forward(batch), labels)
                        optimizer.zero_grad(set_to_none=True)
                        scaler.scale(loss).backward()
                        scaler.step(optimizer)
                        scaler.update()

                what = f"{name}, {'channels last' if layout is torch.channels_last else 'contiguous'}"
                what += ", torch.compile" * compiled
                row(args, "step", what, 20 * 512 / seconds_of(steps), "images/s")


# ---------------------------------------------------------------------------------------------------------------------
# Embeddings
# ---------------------------------------------------------------------------------------------------------------------


def precision(args, folder):
    """A ResNet-50 and CLIP's ViT-B/32 with random weights: decision values of a direction against float64's."""
    import open_clip
    import torchvision

    torch.manual_seed(0)
    images = torch.randn(512, 3, 1, 1) + torch.randn(512, 3, 224, 224)
    resnet = torchvision.models.resnet50()
    resnet.fc = torch.nn.Identity()
    networks = {"resnet50": resnet, "ViT-B/32": open_clip.create_model("ViT-B-32").visual}
    for name, network in networks.items():
        network = network.eval().requires_grad_(False).to(CUDA)
        if name == "resnet50":  # statistics of its own, as a trained network has them
            network.train()
            network(images.to(CUDA))
            network.eval()
        true = vectors_of(network.double(), images.double())
        direction = np.random.default_rng(0).normal(size=true.shape[1])
        network = network.float()
        variants = {
            "float32": (False, None),
            "TF32": (True, None),
            "float16": (True, torch.float16),
            "bfloat16": (True, torch.bfloat16),
        }
        for variant, (tf32, dtype) in variants.items():
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            with torch.autocast("cuda", dtype) if dtype else contextlib.nullcontext():
                found = vectors_of(network, images)
                batch = images[:256].to(CUDA)
                with torch.inference_mode():
                    speed = 256 / seconds_of(lambda network=network, batch=batch: network(batch))
            error = np.abs((found - true) @ direction).max() / (true @ direction).std()
            row(args, "precision", f"{name}, {variant}: largest error of a decision value", error, "deviations")
            row(args, "precision", f"{name}, {variant}: computing alone", speed, "images/s")
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True


@torch.inference_mode()
def vectors_of(network, images):
    return np.concatenate([network(part.to(CUDA)).double().cpu().numpy() for part in images.split(128)])


def clip(args, folder):
    import open_clip
    from failure_directions.config_parsing import DatasetConfig
    from failure_directions.data.beton_writer import ImageOptions, write_beton
    from failure_directions.data.betons import open_beton
    from failure_directions.data.image_sources import ImageArrays
    from failure_directions.data.splits import Split
    from failure_directions.embeddings.clip import CLIPProcessor
    from failure_directions.loaders import make_loader

    from benchmarks.bench_loader import MEAN, STD, smooth_images

    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), folder / "vit.pt")
    pictures = smooth_images(2_000, 256)
    write_beton(folder / "jpeg.beton", ImageArrays(pictures, np.zeros(2_000, int), ["a"]), ImageOptions("jpg"))
    config = DatasetConfig(
        train_beton="jpeg.beton",
        test_beton="jpeg.beton",
        imgsz=224,
        arch="resnet18",
        arch_type="resnet",
        num_classes=1,
        mean=MEAN,
        std=STD,
        batch_size=512,
        num_workers=args.workers,
        val_img_decoder="center_crop_256",
    )
    split = Split("val", open_beton(folder / "jpeg.beton"), np.resize(np.arange(2_000), args.images))
    loader = make_loader(split, config, CUDA)
    batch = next(iter(loader)).image
    decoding = args.images / seconds_of(lambda: exhaust(loader), 1)
    row(args, "clip", f"the loader alone, {args.workers} threads", decoding, "images/s")
    for numbers in ("float32", "float16"):
        processor = CLIPProcessor(MEAN, STD, "ViT-B-32", str(folder / "vit.pt"), "cuda", numbers)

        def encode(processor=processor):
            processor.encode_images(batch)

        def embed(processor=processor):
            processor.evaluate_clip_images(loader)

        alone, whole = 512 / seconds_of(encode, 10), args.images / seconds_of(embed, 1)
        row(args, "clip", f"{numbers}: preprocessing and network", alone, "images/s")
        row(args, "clip", f"{numbers}: from beton to embeddings", whole, "images/s")
        row(args, "clip", f"{numbers}: of preprocessing and network", whole / alone, "share")


# ---------------------------------------------------------------------------------------------------------------------
# Sparse layers
# ---------------------------------------------------------------------------------------------------------------------


def sparse(args, folder):
    from failure_directions.sparse.datafits import Multinomial
    from failure_directions.sparse.feature_chunks import FeatureChunks
    from failure_directions.sparse.path import elastic_net_path
    from failure_directions.sparse.rows import StandardizedRows
    from failure_directions.sparse.solver import evaluate

    n, d, classes = args.rows, 2_048, 1_000
    generator = torch.Generator(CUDA).manual_seed(0)
    mixing = torch.randn(64, d, device=CUDA, generator=generator) / 8
    y = np.random.default_rng(1).permutation(np.arange(n) % classes)
    centres = 0.45 * torch.randn(classes, 64, device=CUDA, generator=generator)

    def batches():
        for start in range(0, n, 20_000):
            labels = torch.from_numpy(y[start : start + 20_000]).to(CUDA)
            causes = centres[labels] + torch.randn(len(labels), 64, device=CUDA, generator=generator)
            yield (causes @ mixing).relu().half().cpu().numpy()

    with timed() as spent:
        features = FeatureChunks.write(folder / "features", batches())
    row(args, "sparse", f"writing {n:,} x {d:,} in float16", spent[0], "s")
    datafit = Multinomial(
        torch.from_numpy(y).to(CUDA), torch.full((n,), 1 / n, dtype=torch.float64, device=CUDA), classes
    )
    coef = np.zeros((classes, d + 1))
    rows_of = {
        name: StandardizedRows(features, features.mean, features.std, CUDA, torch.float32, budget)
        for name, budget in (("resident", 1e12), ("streamed", 0))
    }
    for name, rows in rows_of.items():
        for dtype in (torch.float32, torch.float64):
            spent = seconds_of(lambda rows=rows, dtype=dtype: evaluate(rows, datafit, coef, dtype), 1)
            row(args, "sparse", f"a pass, {name}, {dtype}".replace("torch.", ""), spent, "s")

    def products():
        weight = torch.zeros(classes, d, device=CUDA)
        for _, block in rows_of["resident"].blocks():
            (block @ weight.T).T @ block

    def copies():
        staging = torch.empty(2**26, dtype=torch.float16).pin_memory()
        for _ in range(n * d // 2**26):
            staging.to(CUDA, non_blocking=True)

    row(args, "sparse", "limit: the two products, float32", seconds_of(products, 1), "s")
    row(args, "sparse", "limit: copying all rows from page-locked memory", seconds_of(copies, 1), "s")
    rows_of.clear()
    torch.cuda.empty_cache()
    for name, memory in (("streamed", 0), ("resident", None)):
        torch.cuda.reset_peak_memory_stats()
        with timed() as spent:
            path = elastic_net_path(
                features, y, k=3, epsilon=0.5, do_zero=False, tol=1e-3, device="cuda", memory_gb=memory
            )
        row(args, "sparse", f"a path of 3 lambdas, {name}", spent[0], "s")
        row(args, "sparse", f"its peak memory on the card, {name}", torch.cuda.max_memory_allocated() / 2**30, "GiB")
        row(args, "sparse", f"its worst KKT violation / lambda_max, {name}", path.kkt.max() / path.lambdas[0], "")


# ---------------------------------------------------------------------------------------------------------------------
# Diffusion
# ---------------------------------------------------------------------------------------------------------------------


def diffusion(args, folder):
    from failure_directions.interfaces.diffusion_models import load_model
    from failure_directions.interfaces.textual_inversion import mean_embedding
    from PIL import Image

    from dataset_interfaces import create_token_dictionary, generate, run_textual_inversion

    with timed() as spent:
        model = stable_diffusion(folder / "sd15", args.size)
    row(args, "diffusion", "making the model", spent[0], "s")
    create_token_dictionary(
        [mean_embedding(load_model(model), "star")], ["<star-0>"], ["star"], folder / "root", str(model)
    )

    def images(count, batch_size, steps=20):
        generate(
            folder / "root",
            0,
            "a photo of a <TOKEN> on the grass",
            count,
            0,
            model_name=str(model),
            batch_size=batch_size,
            num_inference_steps=steps,
            device="cuda",
        )

    images(1, 1, 2)
    for batch_size in (1, 4, 16):
        torch.cuda.reset_peak_memory_stats()
        images(batch_size, batch_size, 2)
        with timed() as spent:
            images(batch_size, batch_size)
        row(args, "diffusion", f"generate, 20 steps, batches of {batch_size}", batch_size / spent[0], "images/s")
        row(args, "diffusion", "its peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")

    photos = folder / "photos"
    photos.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((args.size, args.size)).save(photos / f"{i}.png")

    def learn(steps, precision, batch_size):
        run_textual_inversion(
            photos,
            "<thing-0>",
            "thing",
            str(model),
            steps,
            batch_size=batch_size,
            mixed_precision=precision,
            device="cuda",
        )

    for precision in ("fp16", "bf16", "no"):
        for batch_size in (1, 4):
            torch.cuda.reset_peak_memory_stats()
            learn(2, precision, batch_size)
            times = []
            for steps in (2, 22):
                with timed() as spent:
                    learn(steps, precision, batch_size)
                times += spent
            what = f"textual inversion, {precision}, batches of {batch_size}"
            row(args, "diffusion", what, 20 * batch_size / (times[1] - times[0]), "images/s")
            row(args, "diffusion", "its peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def stable_diffusion(folder, size):
    """A folder with a pipeline of Stable Diffusion 1.5's architecture and random weights."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from failure_directions.interfaces import diffusion_models
    from transformers import CLIPTextConfig, CLIPTextModel

    configs = Path(diffusion_models.__file__).parent / "sd1_config"
    torch.manual_seed(0)
    with CUDA:
        unet = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(configs / "unet") | {"sample_size": size // 8}
        )
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(configs / "vae"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(configs / "text_encoder"))
    StableDiffusionPipeline(
        vae=vae.cpu(),
        text_encoder=text_encoder.cpu(),
        tokenizer=diffusion_models.clip_tokenizer(),
        unet=unet.cpu(),
        scheduler=EulerDiscreteScheduler.from_pretrained(configs / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
