"""Images that a diffusion model makes of a direction's captions, to measure a model on and to train it with.

The captions name a class's hard or easy subpopulation; neutral ones, such as "a photo of a cat", name the class alone
("Distilling Model Failures as Directions in Latent Space", Jain et al., ICLR 2023, on generated images). Which images
show what they should is judged by CLIP, as in "Dataset Interfaces" (Vendrow et al., 2023).
"""

import csv
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..captions.vocabulary import get_caption_set
from ..data.extra_images import extra_images_split
from ..data.image_sources import GENERATED
from ..data.images import save_image
from ..directions.results import CaptionRow, OutputFiles, read_table
from ..embeddings.clip import clip_name, full_name
from ..interfaces.defaults import DEFAULT_MODEL, SCENES_MODEL
from ..interfaces.inference_utils import calibrate_thresholds, clip_similarity
from ..interfaces.tokens import load_class_tokens
from ..loaders import make_loader
from ..runtime.english import plain_name, some, with_article
from ..runtime.errors import UserError
from ..runtime.files import atomic_path, write_csv
from ..runtime.yaml_files import dump_yaml, read_yaml
from ..training.evaluation import predict

REAL_IMAGES = 200  # of a class, that thresholds are calibrated on
MANIFEST_COLUMNS = ("path", "label", *GENERATED)
_ANYTHING = "object"  # stands for the class where a caption is to say the shift alone
SETTINGS, ATTEMPTS = "generation.yaml", "attempts.csv"
_AGAIN = "make the result again with failure-directions distil --captions"


# ---------------------------------------------------------------------------------------------------------------------
# Prompts
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassPrompt:
    """What images of a class are made of, and what CLIP compares them with.

    Attributes:
        c: number of the class.
        caption: such as "a photo of a white cat outside".
        prompt: the caption, with the class's token in the place of its noun where there are tokens.
        object: the class alone, "a photo of a cat".
        shift: what the caption says beyond the class, "a photo of a white object outside"; None where that is nothing.
    """

    c: int
    caption: str
    prompt: str
    object: str
    shift: str | None


def class_prompts(proc, captions, encoder_root=None):
    """The `ClassPrompt` of every class that has a direction.

    Args:
        proc: the `SVMProcessor` of a result with captions.
        captions: "hard" or "easy", for the class's first caption of that side, or "neutral", for its reference.
        encoder_root: a token dictionary of `dataset_interfaces`, matched to the result's classes by their names.

    Raises:
        UserError: a result without captions, or of one condition; captions that are damaged or do not fit the caption
            set that they were made from; a class without a token; no class with a direction.
    """
    _check_captioned(proc)
    numbers = [c for c in range(proc.num_classes) if c not in proc.skipped]
    if not numbers:
        raise UserError(f"no class of {proc.path} has a direction; take more validation images, or a lower svm_args.cv")
    generators = get_caption_set(proc.args["captions"]).for_classes(proc.class_names)
    first = {} if captions == "neutral" else _first_captions(proc, captions)
    tokens = {} if encoder_root is None else _tokens(encoder_root)
    prompts = []
    for c in numbers:
        name, generator = proc.class_names[c], generators[c]
        if captions != "neutral" and name not in first:
            raise UserError(f"the captions beside {proc.path} lack those of {name}; {_AGAIN}")
        prompts.append(_prompt(c, name, first.get(name, generator.reference), generator, encoder_root, tokens))
    return prompts


def slice_prompts(proc, captions, encoder_root=None):
    """The `ClassPrompt` of every confirmed slice that has captions: dict id -> prompt, most harm first.

    See `class_prompts` for the arguments and errors; `captions` is "hard" or "easy".
    """
    _check_captioned(proc)
    if captions == "neutral":
        raise UserError("--by-slices makes images of hard or easy captions; neutral ones name the class alone")
    confirmed = proc.loaded.found.confirmed if proc.loaded.found else []
    generators = get_caption_set(proc.args["captions"]).for_classes(proc.class_names)
    first = _first_captions(proc, captions, slices=True)
    tokens = {} if encoder_root is None else _tokens(encoder_root)
    return {
        one.id: _prompt(
            one.class_index, one.class_name, first[one.id], generators[one.class_index], encoder_root, tokens
        )
        for one in confirmed
        if one.id in first
    }


def _check_captioned(proc):
    if proc.loaded.dataset_config.bce:
        raise UserError(
            f"{proc.path} is of one condition, and an image of it would be without labels for the others; give a "
            "result on classes"
        )
    if proc.loaded.svm_config.embedding != "clip" or not proc.args.get("captions"):
        raise UserError(f"{proc.path} has no captions to make images of; {_AGAIN}")


def _prompt(c, name, caption, generator, encoder_root, tokens):
    if encoder_root is not None and plain_name(name) not in tokens:
        raise UserError(f"{encoder_root} has no token for the class {name}, only for {some(tokens)}")
    bare = caption in (generator.reference, *generator.captions("noun"))
    return ClassPrompt(
        c,
        caption,
        caption if encoder_root is None else _with_noun(caption, generator, tokens[plain_name(name)]),
        generator.reference,
        None if bare else _with_noun(caption, generator, _ANYTHING),
    )


def _first_captions(proc, side, slices=False):
    """dict class name (or id of a slice) -> the most extreme caption of a side, from `OUT_captions.csv`."""
    path = OutputFiles(proc.path).of(CaptionRow)
    if not path.is_file():
        raise UserError(f"{path} does not exist; {_AGAIN}")
    try:
        rows = read_table(proc.path, CaptionRow)
    except UserError:
        rows = []
    first = {row.class_name: row.caption for row in rows if (row.slice, row.side, row.rank) == ("", side, 1)}
    if not first or not all(first.values()) or not set(first) <= set(proc.class_names):
        raise UserError(f"{path} is damaged, or of another result; {_AGAIN}")
    if slices:
        return {row.slice: row.caption for row in rows if row.slice and (row.side, row.rank) == (side, 1)}
    return first


def _tokens(encoder_root):
    classes = load_class_tokens(encoder_root)
    return {plain_name(name): token for name, token in zip(classes.class_names, classes.tokens, strict=True)}


def _with_noun(caption, generator, word):
    """`caption` with another word for the class, and with its article."""
    for noun in sorted({generator.name, *generator.nouns}, key=len, reverse=True):
        found = re.search(rf"(?<!\w)(an? )?{re.escape(noun)}(?!\w)", caption, re.IGNORECASE)
        if found:
            return caption[: found.start()] + (with_article(word) if found[1] else word) + caption[found.end() :]
    raise UserError(f'the caption "{caption}" does not name the class {generator.name}; {_AGAIN}')


# ---------------------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------------------


def clip_options(proc, device):
    """The result's own CLIP, as the options of `clip_similarity`."""
    model, weights = clip_name(proc.loaded.svm_config)
    return {"clip_model": model, "clip_weights": weights, "device": device}


def default_model(proc):
    """The diffusion model that goes with a result: that of the scenes where its CLIP is theirs."""
    scenes = clip_name(proc.loaded.svm_config) == full_name("scenes", None)
    return SCENES_MODEL if scenes else DEFAULT_MODEL


# ---------------------------------------------------------------------------------------------------------------------
# A folder of images
# ---------------------------------------------------------------------------------------------------------------------


def begin_folder(out, settings):
    """Keep in the folder `out` how its images are made.

    Args:
        settings: dict of everything that they depend on; its keys are words for the error.

    Raises:
        UserError: `out` has images that were made in another way, or other files.
    """
    out, path = Path(out), Path(out) / SETTINGS
    if not path.exists() and out.is_dir() and any(out.glob("[!.]*")):
        raise UserError(f"{out} holds files that are not generated images; name a new folder")
    if path.exists() and any(out.glob(f"*/{ATTEMPTS}")):
        before = read_yaml(path, "settings", "name a new folder")
        differing = [name for name, value in settings.items() if before.get(name) != value]
        if differing:
            raise UserError(
                f"{out} was begun with another {' and '.join(differing)}; give the same, or name a new folder"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(dump_yaml(settings), encoding="utf-8")


def folder_names(class_names):
    """dict class name -> a folder's name that stays in its folder: the class's own where it can be one."""
    names = {}
    for c, name in enumerate(class_names):
        folder = name
        if name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name) or len(name.encode()) > 200:
            folder = f"class_{c}"
            while folder in class_names:
                folder += "_"
        names[name] = folder
    return names


@dataclass(frozen=True)
class Attempt:
    """An image that was made; CLIP's cosines with the caption, the class alone and the shift alone, NaN for none."""

    seed: int
    kept: bool
    similarity: float
    object: float
    shift: float

    @property
    def scores(self):
        """The cosines as text."""
        return ["" if np.isnan(value) else f"{value:.4f}" for value in (self.similarity, self.object, self.shift)]


def make_images(folder, count, seeds, batch_size, sample, score):
    """Images `SEED.png` of one class, from the folder as far as they are there; a generator.

    The arguments alone say what is in a batch, and a batch that was cut off is made again as a whole: so a folder that
    was interrupted ends up the same.

    Args:
        folder: of the class; beside the images, attempts.csv gets a row for every image that was made, kept or not.
        count: how many images to keep.
        seeds: a sequence of ints, one for each image that may be made.
        batch_size: how many are made at once.
        sample: a function of a list of seeds that gives as many PIL images.
        score: a function of PIL images that gives (N, 3) cosines, as in `Attempt`, and (N,) bool, which to keep.

    Yields:
        After each batch, all attempts so far, a list of `Attempt`.
    """
    attempts = _read_attempts(folder / ATTEMPTS)
    for start in range(0, len(seeds), batch_size):
        batch = list(seeds[start : start + batch_size])
        end = start + len(batch)
        as_made = [attempt.seed for attempt in attempts[start:end]] == batch
        if not as_made or not all(image_path(folder, seed).exists() for seed in _kept_seeds(attempts[:end], count)):
            images = sample(batch)
            scores, good = score(images)
            made = [Attempt(*row) for row in zip(batch, good.tolist(), *scores.T.tolist(), strict=True)]
            attempts[start:end] = made
            kept = _kept_seeds(attempts[:end], count)
            for image, seed in zip(images, batch, strict=True):
                if seed in kept:
                    save_image(image, image_path(folder, seed))
            rows = [[attempt.seed, int(attempt.kept), *attempt.scores] for attempt in attempts]
            write_csv(folder / ATTEMPTS, Attempt.__dataclass_fields__, rows)
        yield attempts[:end]
        if len(_kept_seeds(attempts[:end], count)) == count:
            return


def image_path(folder, seed):
    return folder / f"{seed:08}.png"


def kept_of(attempts, count):
    """The attempts whose images are there: the first `count` that passed."""
    return [attempt for attempt in attempts if attempt.kept][:count]


def _kept_seeds(attempts, count):
    return [attempt.seed for attempt in kept_of(attempts, count)]


def _read_attempts(path):
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            return [
                Attempt(
                    int(row["seed"]),
                    row["kept"] == "1",
                    *(float(row[name] or "nan") for name in ("similarity", "object", "shift")),
                )
                for row in csv.DictReader(stream)
            ]
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged; remove its folder, whose images are then made again") from error


# ---------------------------------------------------------------------------------------------------------------------
# Judging images
# ---------------------------------------------------------------------------------------------------------------------


def real_thresholds(proc, prompt, quantile, clip):
    """`Thresholds` for a class's images, from its images in the result's validation split."""
    positions = np.flatnonzero(proc.metrics("val")["classes"] == prompt.c)[:REAL_IMAGES]
    real = [Image.fromarray(image) for image in proc.images("val", positions)]
    return calibrate_thresholds(real, prompt.object, prompt.shift, quantile, **clip)


def score_images(images, prompt, clip, thresholds=None):
    """CLIP's cosines with a `ClassPrompt`, (N, 3) as in `Attempt`, and which images to keep, (N,) bool.

    Without thresholds all are kept, and compared with the caption alone.
    """
    scores = np.full((len(images), 3), np.nan)
    if thresholds is None:
        scores[:, 0] = clip_similarity(images, prompt.caption, **clip)
        return scores, np.ones(len(images), bool)
    texts = [prompt.caption, prompt.object, *([] if prompt.shift is None else [prompt.shift])]
    scores[:, : len(texts)] = clip_similarity(images, texts, **clip)
    return scores, thresholds.reached(scores[:, 1], None if prompt.shift is None else scores[:, 2])


def accuracy_on_images(model, images, config, device):
    """A model's accuracy on a folder CLASS/FILE or a manifest of images, scaled as `--extra-images` scales them.

    Args:
        model: of the `DatasetConfig` `config`.
        device: torch.device.

    Returns:
        dict measure -> float, as `comparison.measure` names them: overall, worst class, and each class with images.
    """
    metrics = predictions_on_images(model, images, config, device).metrics(config.num_classes)
    by_class = {
        f"class {name}": value
        for name, value in zip(config.names, metrics["per_class_accuracy"].tolist(), strict=True)
        if not np.isnan(value)
    }
    return {"overall": metrics["accuracy"], "worst class": min(by_class.values()), **by_class}


def predictions_on_images(model, images, config, device):
    """A model's `Predictions` on such images, in the order of the manifest's rows."""
    with tempfile.TemporaryDirectory() as folder:
        split = extra_images_split(images, config, Path(folder) / "images.beton")
        return predict(model.to(device, memory_format=torch.channels_last), make_loader(split, config, device), device)
