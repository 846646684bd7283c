"""How accurate a classifier is under each shift, on generated images of the classes (Vendrow et al., 2023)."""

import csv
import functools
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..data.images import save_image
from ..models.weights import load_weights
from ..runtime import hub
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, one_line
from ..runtime.files import write_file
from .defaults import DEFAULT_MODEL, QUANTILE
from .encoders import encoder_digest
from .generation import check_request, generate, load_pipeline
from .inference_utils import calibrate_thresholds, check_quantile, filter_images
from .photos import read_photo
from .shifts import BASE
from .tokens import PLACEHOLDER, load_class_tokens

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Accuracy:
    """Of one class under one shift: how many images were made, kept by the filter, and named right."""

    shift: str
    class_name: str
    made: int
    kept: int
    right: int


def benchmark(
    encoder_root,
    classify,
    classes,
    shifts,
    out,
    per_class=10,
    seed=0,
    real_images=None,
    quantile=QUANTILE,
    clip=None,
    **options,
):
    """Generate images of some classes under some shifts and see what a classifier says of them.

    Args:
        encoder_root: folder that `create_token_dictionary` made.
        classify: PIL images -> (N,) ints, such as `timm_classifier` makes; any other model fits as well.
        classes: {class of the encoder root: (its name, the classifier's label for it)}.
        shifts: list of `Shift`.
        out: folder; gets images/SHIFT/CLASS/SEED.png, and an image that is there already is not made again.
        per_class: images for each class and shift; image `i` starts from the same noise, seed + i, under every shift.
        real_images: {class: PIL images of it}; with them, images that do not show class and shift are left out.
        quantile: of `calibrate_thresholds`.
        clip: `clip_model` and `clip_weights`, for the filter.
        options: passed to `generate`.

    Returns:
        A list of `Accuracy`, by shift and class.

    Raises:
        UserError: as `generate`, or `out` has images that were made in another way.
    """
    if per_class < 1:
        raise UserError(f"per_class is {per_class}; give 1 or more")
    check_quantile(quantile)
    results = []
    clip = clip or {}
    made_by = {"encoder": encoder_digest(encoder_root)}
    made_by |= {name: value for name, value in options.items() if name not in ("batch_size", "device")}
    made_by |= {f"prompt of {shift.name}": shift.prompt for shift in shifts}
    made_by = _made_alike(Path(out) / "images" / "made_by.json", made_by)
    jobs = [(shift, c) for shift in shifts for c in classes]

    @functools.cache
    def check_prompts():
        """All of them, before the first image is made."""
        tokens = dict(enumerate(load_class_tokens(encoder_root).tokens))
        pipeline = load_pipeline(options.get("model_name", DEFAULT_MODEL), encoder_root, options.get("device", "auto"))
        texts = [shift.prompt.replace(PLACEHOLDER, tokens.get(c, "")) for shift, c in jobs]
        check_request(pipeline, texts, options.get("num_inference_steps", 50))

    for shift, c in tqdm(jobs, desc="benchmark", unit="cell", disable=None):
        name, label = classes[c]
        files = [Path(out) / "images" / shift.slug / f"{c}" / f"{seed + i}.png" for i in range(per_class)]
        present = sum(1 for _ in itertools.takewhile(Path.exists, files))
        if present < per_class:
            check_prompts()
            made = generate(encoder_root, c, shift.prompt, per_class - present, seed + present, **options)
            write_file(Path(out) / "images" / "made_by.json", json.dumps(made_by, indent=1).encode())
            for file, image in zip(files[present:], made, strict=True):
                save_image(image, file)
        images = [read_photo(file) for file in files]
        kept = np.ones(len(images), bool)
        if real_images is not None:
            texts = f"a photo of a {name}", shift.caption
            thresholds = calibrate_thresholds(real_images[c], *texts, quantile, **clip)
            kept = filter_images(images, *texts, thresholds, **clip)
        shown = [image for image, keep in zip(images, kept, strict=True) if keep]
        right = int((np.asarray(classify(shown)) == label).sum()) if shown else 0
        results.append(Accuracy(shift.name, name, len(images), len(shown), right))
    return results


def _made_alike(path, made_by):
    """`made_by` with what the file knows beyond.

    Raises:
        UserError: the file is damaged, or earlier images were made in another way.
    """
    if not path.exists():
        return made_by
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; remove {path.parent}, whose images are then made again") from error
    differing = [name for name, value in made_by.items() if before.get(name, value) != value]
    if differing:
        raise UserError(f"{path.parent} has images made with another {' and '.join(differing)}; name another folder")
    return before | made_by


# ---------------------------------------------------------------------------------------------------------------------
# Classifiers
# ---------------------------------------------------------------------------------------------------------------------


def timm_classifier(name, weights=None, device="auto"):
    """A `classify` from a model of timm, with its own preprocessing.

    Args:
        name: timm's name of the model, such as "resnet50.a1_in1k".
        weights: a file, .safetensors or torch's, with a state dict (at its top or under "state_dict"), read as tensors
            only; the number of classes is its own. Without it, timm's pretrained weights are used.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: an unknown name, or weights that do not fit or are not at hand.
    """
    import timm

    device = resolve_device(device)
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"the classifier {name} is not a model of timm; see timm.list_models()")
    try:
        if weights is None:
            with hub.without_retries(), hub.quiet():
                model = timm.create_model(name, pretrained=True)
        else:
            state = load_weights(weights, "the classifier's weights")
            model = timm.create_model(name)
            head = state.get(f"{model.default_cfg['classifier']}.weight")
            model = timm.create_model(name, num_classes=model.num_classes if head is None else len(head))
            model.load_state_dict(state)
    except UserError:
        raise
    except Exception as error:  # whatever timm, the hub's client and torch make of it
        source, reason = (weights, one_line(error)) if weights else ("timm's pretrained weights", hub.reason(error))
        raise UserError(
            f"the classifier {name} cannot be loaded from {source} ({reason}); give a file of weights that fits"
        ) from error
    model = model.eval().requires_grad_(False).to(device)
    preprocess = timm.data.create_transform(**timm.data.resolve_data_config(model=model))

    @torch.no_grad()
    def classify(images):
        batches = [images[start : start + _IMAGES_AT_ONCE] for start in range(0, len(images), _IMAGES_AT_ONCE)]
        return np.concatenate(
            [
                model(torch.stack([preprocess(image) for image in batch]).to(device)).argmax(1).cpu().numpy()
                for batch in batches
            ]
        )

    classify.num_classes = model.num_classes
    return classify


# ---------------------------------------------------------------------------------------------------------------------
# Table and chart
# ---------------------------------------------------------------------------------------------------------------------


def by_shift(results):
    """{shift: (kept, made, accuracy)}, the mean over the classes of which images were kept; NaN where none was."""
    table = {}
    for shift in dict.fromkeys(result.shift for result in results):
        of_shift = [result for result in results if result.shift == shift]
        accuracies = [result.right / result.kept for result in of_shift if result.kept]
        kept, made = sum(result.kept for result in of_shift), sum(result.made for result in of_shift)
        table[shift] = kept, made, float(np.mean(accuracies)) if accuracies else float("nan")
    return table


def write_results(results, out):
    """Write accuracy.csv, a row for each class and shift, and accuracy.png to the folder `out`."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["shift", "class", "made", "kept", "right", "accuracy"])
    for result in results:
        accuracy = f"{result.right / result.kept:.4f}" if result.kept else ""
        writer.writerow([result.shift, result.class_name, result.made, result.kept, result.right, accuracy])
    write_file(Path(out) / "accuracy.csv", text.getvalue().encode())
    buffer = io.BytesIO()
    chart(by_shift(results)).savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    write_file(Path(out) / "accuracy.png", buffer.getvalue())


def chart(table):
    """A figure of what `by_shift` gives: a bar for each shift, the base as a line."""
    from matplotlib.figure import Figure

    names = [name for name in table if name != BASE][::-1]
    figure = Figure(figsize=(6, 0.6 + 0.28 * max(len(names), 2)))
    axes = figure.add_subplot()
    values = [table[name][2] for name in names]
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.barh(names, np.nan_to_num(values), color="#4878a8")
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        kept, made, _ = table[name]
        label = f"{value:.2f} ({kept} of {made} images)" if kept else "no image kept"
        label = f"{value:.2f}" if kept == made else label
        axes.text(np.nan_to_num(value) + 0.01, place, label, va="center", fontsize=8, bbox=on_white)
    if BASE in table and table[BASE][0]:
        axes.axvline(table[BASE][2], color="black", linewidth=1, linestyle="--")
        axes.set_title(f"dashed: no shift, {table[BASE][2]:.2f}", fontsize=9, loc="right")
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("accuracy, mean over the classes")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
