"""Dataset interfaces on the diffusion model of the scenes: what a learned token is worth, and how fast images come.

    python -m benchmarks.bench_interfaces inversion                     # minutes on one core
    python -m benchmarks.bench_interfaces inversion --concept cyan
    python -m benchmarks.bench_interfaces speed         # also with --device cuda, and with another --model

`inversion` learns a token from 24 drawings of stars of one colour, once with the norm of its embedding pinned and once
free, for each seed. Orange the model paints where it is named, but no word means an orange star; cyan it has never seen
at all. It then asks for the token on each background and judges the images: is the shape of that colour (by arithmetic
on its pixels), is it a star, is the background the one that was asked for (both by the scenes CLIP), and all three?
"before" is the embedding that training starts from, the mean of "star". It exits with 1 if any other row of the
embeddings, or anything else of the model, is not bit-identical.

`speed` measures images per second of `generate`, one at a time and in batches, after one call that warms up.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from failure_directions.data.scene_drawing import BACKGROUNDS, PALETTE, SHAPES, draw
from failure_directions.interfaces.defaults import SCENES_MODEL
from failure_directions.interfaces.diffusion_models import load_model
from failure_directions.interfaces.encoders import load_encoder
from failure_directions.interfaces.inference_utils import clip_similarity
from failure_directions.interfaces.textual_inversion import mean_embedding
from PIL import Image
from tabulate import tabulate
from torchvision.transforms.functional import to_pil_image, to_tensor

from dataset_interfaces import create_token_dictionary, generate, run_textual_inversion
from scripts.train_scenes_diffusion import GUIDANCE, POSE, noisy

CLASS = "star"
CONCEPTS = {"orange": (240, 125, 20), "cyan": (25, 190, 205)}
TOKEN = "<coloured-star-0>"
SIZE = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("inversion", "speed"))
    parser.add_argument("--model", default=SCENES_MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--concept", choices=CONCEPTS, default="orange", help="inversion: colour of the stars")
    parser.add_argument("--seeds", type=int, default=3, help="inversion: how many")
    parser.add_argument("--steps", type=int, default=200, help="inversion: of training")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="inversion: of training")
    parser.add_argument("--batch-size", type=int, default=8, help="inversion: of training")
    parser.add_argument("--per-background", type=int, default=8, help="inversion: images that are judged")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64], help="speed: their sizes")
    parser.add_argument("--images", type=int, default=64, help="speed: in each measurement")
    parser.add_argument("--runs", type=int, default=3, help="speed: measurements of each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        (inversion if args.what == "inversion" else speed)(args, Path(folder))


# ---------------------------------------------------------------------------------------------------------------------
# Textual inversion
# ---------------------------------------------------------------------------------------------------------------------


def inversion(args, folder):
    model = load_model(args.model)
    start = mean_embedding(model, CLASS)
    rows, same = [], True
    for seed in range(args.seeds):
        photos = folder / f"photos-{seed}"
        draw_concept(photos, CONCEPTS[args.concept], seed)
        embeddings = {"before": start}
        for name, pin_norm in (("pinned", True), ("unpinned", False)):
            embeddings[name] = run_textual_inversion(
                photos,
                TOKEN,
                CLASS,
                args.model,
                args.steps,
                args.learning_rate,
                batch_size=args.batch_size,
                pin_norm=pin_norm,
                templates=("a photo of a {}",),
                seed=seed,
                device=args.device,
            )
        for name, embedding in embeddings.items():
            root = folder / f"{name}-{seed}"
            create_token_dictionary([embedding], [TOKEN], [CLASS], root, args.model)
            same &= nothing_else_changed(model, root, embedding)
            rows.append([seed, name, (embedding.norm() / start.norm()).item(), *judge(args, root, seed)])
    header = ["seed", "embedding", "norm / norm before", args.concept, CLASS, "background", "all"]
    print(tabulate(rows, header, floatfmt=".2f"))
    for name in ("before", "pinned", "unpinned"):
        print(f"{name}: all right in {np.mean([row[-1] for row in rows if row[1] == name]):.3f} (mean of {args.seeds})")
    print(f"every other row and tensor bit-identical: {'yes' if same else 'NO'}")
    sys.exit(0 if same else 1)


def draw_concept(folder, ink, seed, count=24):
    """Stars of one colour on all backgrounds, drawn by mixing two drawings that differ in the shape's colour alone."""
    folder.mkdir()
    for i in range(count):
        background = BACKGROUNDS[i % len(BACKGROUNDS)]
        white, black = (
            draw(SIZE, CLASS, colour, background, np.random.default_rng([seed, i]), **POSE).astype(float)
            for colour in ("white", "black")
        )
        # Both colours have the same offsets and noise; what is clipped at 0 and 255 hardly matters.
        cover = np.clip((white - black) / (240 - 18), 0, 1)
        image = black + cover * (np.array(ink) - 18)
        Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(folder / f"{i:02}.png")


def judge(args, root, seed):
    """Shares of images with the concept's colour, with its shape, with the background that was asked for, and all."""
    right = []
    for background in BACKGROUNDS:
        images = generate(
            root,
            0,
            f"a photo of a <TOKEN> on a {background} background",
            args.per_background,
            1000 * seed,
            model_name=args.model,
            batch_size=args.per_background,
            num_inference_steps=args.sampling_steps,
            guidance_scale=args.guidance,
            device=args.device,
        )
        backgrounds = {name: f"a photo of a {CLASS} on a {name} background" for name in BACKGROUNDS}
        right += zip(
            (has_hue(np.asarray(image), args.concept) for image in images),
            most_similar(images, {name: f"a photo of a {name}" for name in SHAPES}) == CLASS,
            most_similar(images, backgrounds) == background,
            strict=True,
        )
    right = np.array(right)
    return *right.mean(0), right.all(1).mean()


def most_similar(images, texts):
    """For each image the name of the text, in a dict name -> text, that the scenes CLIP finds the most similar.

    It sees the images with the noise of the drawings, for the reason that `noisy` gives.
    """
    images = noisy(torch.stack([to_tensor(image) for image in images]))
    images = [to_pil_image(image) for image in images]
    clip = {"clip_model": "scenes", "device": "cpu"}
    similarity = [clip_similarity(images, text, **clip) for text in texts.values()]
    return np.array([*texts])[np.argmax(similarity, axis=0)]


def has_hue(image, concept):
    """Whether an image (H, W, 3) has a coloured shape with a hue that is nearer to the concept's than to any other's.

    Backgrounds and the noise are nearly grey; the shape covers 6 % of an image at the least.
    """
    image = image.astype(float)
    coloured = image.max(-1) - image.min(-1) > 70
    if coloured.mean() < 0.04:
        return False
    found = hue(image[coloured].mean(0))
    return min(HUES, key=lambda name: abs((found - HUES[name] + 180) % 360 - 180)) == concept


def hue(colour):
    """Hue angle of an RGB colour in degrees."""
    red, green, blue = colour
    return math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360


HUES = {name: hue(colour) for name, colour in {**PALETTE, **CONCEPTS}.items() if name not in ("white", "black")}


def nothing_else_changed(model, root, embedding):
    """Whether a saved encoder has the base model's tensors and the learned row, bit for bit."""
    _, encoder = load_encoder(root)
    before, after = model.text_encoder.state_dict(), encoder.state_dict()
    table = next(name for name in before if name.endswith("token_embedding.weight"))
    rows = len(before[table])
    return (
        all(torch.equal(before[name], after[name]) for name in before if name != table)
        and torch.equal(before[table], after[table][:rows])
        and torch.equal(after[table][rows], embedding)
        and len(after[table]) == rows + 1
    )


# ---------------------------------------------------------------------------------------------------------------------
# Speed
# ---------------------------------------------------------------------------------------------------------------------


def speed(args, folder):
    model = load_model(args.model)
    create_token_dictionary([mean_embedding(model, CLASS)], [TOKEN], [CLASS], folder / "root", args.model)

    def seconds(count, batch_size):
        began = time.perf_counter()
        generate(
            folder / "root",
            0,
            "a photo of a <TOKEN>",
            count,
            0,
            model_name=args.model,
            batch_size=batch_size,
            num_inference_steps=args.sampling_steps,
            guidance_scale=args.guidance,
            device=args.device,
        )
        return time.perf_counter() - began

    rows = []
    for batch_size in args.batches:
        seconds(batch_size, batch_size)
        rates = [args.images / seconds(args.images, batch_size) for _ in range(args.runs)]
        rows.append([batch_size, statistics.median(rates), min(rates), max(rates)])
    for row in rows:
        row.append(row[1] / rows[0][1])
    first = f"times batch {args.batches[0]}"
    print(tabulate(rows, ["batch", "images/s", "least", "most", first], floatfmt=(".0f", ".2f", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
