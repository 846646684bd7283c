"""A person's own image classifier, from its name or its file, with the preprocessing and the label names it came with.

    model = load_model("timm:resnet50")                          # pretrained, from the hub's cache or downloaded
    model = load_model("torchvision:resnet50")
    model = load_model("hf:my_folder")                           # what save_pretrained wrote, or a name on the hub
    model = load_model("weights.pt", arch="timm:resnet50")       # any wrapper's weights, .safetensors as well
    model = load_model("runs/mine/version_0/checkpoints/checkpoint_last.pt")     # ours: it says what it is

Nothing in a file is run: no pickled modules, no code of a repository.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..runtime.english import nearest, some
from ..runtime.errors import UserError
from ..runtime.pt_files import check_weights_folder, load_tensors
from .build import pretrained_timm, pretrained_torchvision, weights_digest
from .checkpoints import about_training, load_checkpoint
from .features import find_last_linear
from .preprocessing import Preprocessing, hf_preprocessing, of_checkpoint, timm_preprocessing, torchvision_preprocessing
from .weights import fill, fitted_model, under_own_names, weights_in

_MISFIT = "correct --arch or --image-size"
_SAVE_WEIGHTS = (
    "save the weights alone, where you trust the file, with torch.save(model.state_dict(), 'weights.pt'), and give "
    "those and --arch"
)
KINDS = "timm:NAME, torchvision:NAME, hf:FOLDER_OR_NAME, or a file of weights"


@dataclass(frozen=True)
class ImageModel:
    """An image classifier on the CPU, in evaluation mode.

    Attributes:
        name: as it was asked for.
        module: images (B, 3, H, W) -> logits (B, K).
        preprocessing: a `Preprocessing`: callable, PIL image -> float32 tensor (3, H, W).
        labels: list of K names of the outputs, or None where the model has none.
        aliases: list of K tuples, other names of the outputs (ImageNet's synset ids); or None.
        outputs: K.
        notes: sentences for the user.
        head: the linear layer whose input are the penultimate features, or None where there is none.
        features: how many these are; 0 for none.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    labels: list | None
    outputs: int
    head: nn.Module | None = None
    aliases: list | None = None
    notes: tuple = ()
    features: int = 0

    @property
    def fingerprint(self):
        """A hash of the weights and the preprocessing: the same for the same predictions."""
        text = f"{type(self.module).__name__} {weights_digest(self.module)} {self.preprocessing.description}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def logits_and_features(self, images):
        """Logits (B, K) and penultimate features (B, d), or None, of prepared images (B, 3, H, W)."""
        if self.head is None:
            return self.module(images), None
        kept = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            logits = self.module(images)
        finally:
            hook.remove()
        features = kept[-1]
        # Where the layer reads every patch of an image.
        return logits, features.flatten(1, -2).mean(1) if features.dim() > 2 else features


def load_model(spec, arch=None, size=None, mean=None, std=None):
    """The `ImageModel` that `spec` names.

    Args:
        spec: `timm:NAME`, `torchvision:NAME`, `hf:FOLDER_OR_NAME`, or a file of weights.
        arch: of a file of weights that does not say it: `timm:NAME`, `torchvision:NAME`, `cifar_resnet:NAME` (ours, for
            small images) or `hf:FOLDER` (with the config.json).
        size: pixels of the side of the square that the model sees, by default the model's own.
        mean, std: three numbers each, on the 0..1 scale, by default the model's own.

    Raises:
        UserError: unknown names, weights that are not at hand, files that hold more than weights or do not fit (naming
            the first keys), or a model that can't take images of its size.
    """
    spec = str(spec)
    kind, _, name = spec.partition(":")
    if kind in ("timm", "torchvision", "hf") and name:
        if arch is not None:
            raise UserError(f"--arch is said by {spec} itself; leave it out, or give a file of weights as the model")
        model = {"timm": _timm, "torchvision": _torchvision, "hf": _hugging_face}[kind](name, size, mean, std)
    elif Path(spec).expanduser().is_dir():
        if not (Path(spec).expanduser() / "config.json").is_file():
            raise UserError(f"the model {spec} is a folder without a config.json; give the file of weights in it")
        model = _hugging_face(spec, size, mean, std)
    elif Path(spec).expanduser().is_file():
        model = _from_file(Path(spec).expanduser(), arch, size, mean, std)
    else:
        near = nearest(spec, _timm_names(), "") if "/" not in spec and "." not in spec else ""
        hint = f"; {near.replace('did you mean ', 'did you mean timm:')}" if near else ""
        raise UserError(f"the model {spec} is no file and none of the forms known: give {KINDS}{hint}")
    return _probed(replace(model, name=spec))


def from_module(module, preprocess=None, labels=None, name="the model"):
    """The `ImageModel` of a torch module that is loaded already.

    Args:
        module: images (B, 3, H, W) -> logits (B, K).
        preprocess: PIL image -> tensor (3, H, W); timm's models know theirs.
        labels: names of the K outputs, or None.
    """
    if preprocess is None:
        if not getattr(module, "pretrained_cfg", None):
            raise UserError("a torch module does not say how its images are prepared: give preprocess, as in training")
        preprocessing = timm_preprocessing(module)
    else:
        preprocessing = Preprocessing(preprocess, " ".join(repr(preprocess).split()))
    return _probed(ImageModel(name, module, preprocessing, None if labels is None else list(labels), 0))


# ---------------------------------------------------------------------------------------------------------------------
# Each kind
# ---------------------------------------------------------------------------------------------------------------------


def _timm(name, size, mean, std):
    module = pretrained_timm(name)
    if size is not None and _has_fixed_size(module):
        module = _resized_timm(name, module, size)
    labels, aliases = _imagenet_names(module)
    return ImageModel(name, module, timm_preprocessing(module, size, mean, std), labels, 0, aliases=aliases)


def _has_fixed_size(module):
    return bool(getattr(module, "pretrained_cfg", {}).get("fixed_input_size"))


def _resized_timm(name, module, size):
    """The model for images of another size: timm resamples the position embeddings of its transformers."""
    import timm

    from ..runtime.hub import without_retries

    try:
        with without_retries():
            return timm.create_model(name, pretrained=True, img_size=size)
    except (TypeError, ValueError, AssertionError, RuntimeError):  # not this one, as the pass over it will tell
        return module


def _torchvision(name, size, mean, std):
    from torchvision import models

    module = pretrained_torchvision(name)
    weights = models.get_model_weights(name).DEFAULT
    labels = list(weights.meta.get("categories") or []) or None
    preprocessing = torchvision_preprocessing(weights, size, mean, std)
    return ImageModel(name, module, preprocessing, labels, 0, aliases=_imagenet_aliases(labels))


def _from_file(path, arch, size, mean, std):
    content = load_tensors(path, "weights", _SAVE_WEIGHTS)
    if isinstance(content, dict) and "build_params" in content:
        return _own_checkpoint(path, arch, size, mean, std)
    if arch is None:
        raise UserError(
            f"{path} holds weights and does not say of which architecture: add --arch timm:NAME, torchvision:NAME or "
            "hf:FOLDER"
        )
    kind, _, name = arch.partition(":")
    state = weights_in(content)
    if state is None:
        raise UserError(f"{path} holds no weights; {_SAVE_WEIGHTS}")
    if kind == "hf" and name:
        return _hugging_face(name, size, mean, std, state, path)
    if not name:
        kind, name = "torchvision", arch
    if kind not in ("timm", "torchvision", "cifar_resnet"):
        raise UserError(f"--arch {arch} is none of timm:NAME, torchvision:NAME, cifar_resnet:NAME and hf:FOLDER")
    fits = f"{path} do not fit {kind}:{name}"
    module, rest = fitted_model(lambda outputs: _build(kind, name, outputs, size), state, fits, _MISFIT)
    notes = (f"{len(rest)} other weights in {path} are not used, such as {rest[0][:120]}",) if rest else ()
    labels = aliases = None
    if kind == "timm":
        preprocessing = timm_preprocessing(module, size, mean, std)
        labels, aliases = _imagenet_names(module)
    elif kind == "torchvision":
        from torchvision import models

        weights = next(iter(models.get_model_weights(name)))
        preprocessing = torchvision_preprocessing(weights, size, mean, std)
        # Of another number of outputs these are not the names, as `_probed` sees.
        labels = list(weights.meta.get("categories") or []) or None
        aliases = _imagenet_aliases(labels)
    else:
        preprocessing = of_checkpoint({}, size, mean, std)
    return ImageModel(str(path), module, preprocessing, labels, 0, aliases=aliases, notes=notes)


def _build(kind, name, outputs, size):
    """A freshly initialised model."""
    from torchvision import models

    from .build import build_model

    if kind == "torchvision":
        known = models.list_models(models)
        if name not in known:
            raise UserError(f"--arch {name} is not a model of torchvision; {nearest(name, known, 'check the name')}")
        extra = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, weights=None, num_classes=outputs, **extra)
    if kind == "timm":
        import timm

        if name.split(".")[0] not in timm.list_models():
            hint = nearest(name, timm.list_models(), "timm.list_models() has them")
            raise UserError(f"--arch timm:{name} is not a model of timm; {hint}")
        if size is not None:
            try:
                return timm.create_model(name, num_classes=outputs, img_size=size)
            except TypeError:  # a convolutional network takes images of any size
                pass
        return timm.create_model(name, num_classes=outputs)
    return build_model(kind, name, outputs)


def _own_checkpoint(path, arch, size, mean, std):
    checkpoint = load_checkpoint(path)
    names = checkpoint.build_params
    if arch is not None:
        raise UserError(f"checkpoint {path} says its architecture itself ({names['arch']}): leave --arch out")
    interrupted = about_training(path, checkpoint)
    config = checkpoint.run_metadata.get("config")
    config = config if isinstance(config, dict) else {}
    labels = config.get("class_names")
    notes = (interrupted,) if interrupted else ()
    if names["arch_type"] == "timm" and not config:
        preprocessing = timm_preprocessing(checkpoint.model, size, mean, std)
    else:
        preprocessing = of_checkpoint(config, size, mean, std)
    return ImageModel(str(path), checkpoint.model, preprocessing, list(labels) if labels else None, 0, notes=notes)


class _LogitsOnly(nn.Module):
    """A classifier of transformers as a plain module."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(pixel_values=images).logits


def _hugging_face(name, size, mean, std, state=None, weights_path=None):
    """An image classifier of transformers, from a folder or the hub; with `state`, its config with these weights."""
    import transformers

    from ..runtime.hub import quiet

    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise UserError(f"the model's folder {name} does not exist; check the path after hf:")
    source = str(folder) if local else name
    options = {"local_files_only": local, "trust_remote_code": False}
    with quiet("transformers"):
        if state is None:
            safe = check_weights_folder(folder, "weights") if local else True
            model, info = _loaded(
                name,
                local,
                lambda: transformers.AutoModelForImageClassification.from_pretrained(
                    source, use_safetensors=safe, output_loading_info=True, dtype=torch.float32, **options
                ),
            )
            missing = sorted(info["missing_keys"])
            if missing:
                raise UserError(
                    f"the model {name} has no trained {', '.join(missing[:3])}: give one that was trained as an image "
                    "classifier"
                )
        else:
            config = _loaded(name, local, lambda: transformers.AutoConfig.from_pretrained(source, **options))
            model = _loaded(
                name,
                local,
                lambda: transformers.AutoModelForImageClassification.from_config(config, trust_remote_code=False),
            )
            found, unexpected, _ = under_own_names(state, model.state_dict())
            fill(model, found, unexpected, f"{weights_path} do not fit hf:{name}", _MISFIT)
        processor = _loaded(
            name, local, lambda: transformers.AutoImageProcessor.from_pretrained(source, **options), "image processor"
        )
    names = [model.config.id2label.get(i, "") for i in range(model.config.num_labels)]
    labels = None if any(label in ("", f"LABEL_{i}") for i, label in enumerate(names)) else names
    preprocessing = hf_preprocessing(processor, size, mean, std)
    return ImageModel(name, _LogitsOnly(model.eval()), preprocessing, labels, 0, aliases=_imagenet_aliases(labels))


def _loaded(name, local, load, what="model"):
    from ..runtime.hub import without_remote_code, without_retries

    try:
        with without_retries(local), without_remote_code():
            return load()
    except Exception as error:  # transformers, safetensors, the hub's client and torch raise many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if not local and isinstance(error, OSError):
            raise UserError(
                f"the model {name} is neither a folder nor in the hub's cache, and could not be downloaded: on a "
                f"machine with a network run `hf download {name} --local-dir FOLDER`, and give hf:FOLDER"
            ) from error
        if what != "model":
            raise UserError(
                f"hf:{name} has no image processor that can be read: write it there with processor.save_pretrained"
            ) from error
        raise UserError(f"the model hf:{name} cannot be loaded: {lines[0][:200]}") from error


# ---------------------------------------------------------------------------------------------------------------------
# What every model is asked
# ---------------------------------------------------------------------------------------------------------------------


def _probed(model):
    """The model with its number of outputs and features, from one pass over a grey image."""
    from PIL import Image

    module = model.module.eval().requires_grad_(False)
    module.float()
    head = find_last_linear(module)
    model = replace(model, module=module, head=head)
    try:
        image = model.preprocessing(Image.new("RGB", (300, 300), (127, 127, 127)))
        with torch.inference_mode():
            logits, features = model.logits_and_features(image[None])
    except UserError:
        raise
    except Exception as error:  # a network's own complaint: an image size that it can't take, a broken processor
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(
            f"the model {model.name} cannot take images as they are prepared ({model.preprocessing.description}): "
            f"{lines[0][:200]}; give another --image-size"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise UserError(f"the model {model.name} is no image classifier: it does not give one row of numbers an image")
    if not logits.isfinite().all():
        raise UserError(
            f"the model {model.name} gives NaN or infinite numbers for a grey image: its weights are damaged, or were "
            "trained to that; train it again"
        )
    outputs = logits.shape[1]
    if model.labels is not None and len(model.labels) != outputs:
        model = replace(model, labels=None, aliases=None)
    # A layer that is not the last would be taken for the penultimate features.
    if features is not None and (features.dim() != 2 or head.out_features != outputs):
        model, features = replace(model, head=None), None
    return replace(model, outputs=outputs, features=0 if features is None else features.shape[1])


def _timm_names():
    import timm

    return timm.list_models()


def _imagenet_names(module):
    """Label names and synset ids of a timm model that was trained on ImageNet, or two Nones."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(module)
    if subset is None:
        names = getattr(module, "pretrained_cfg", {}).get("label_names")
        return (list(names), None) if names else (None, None)
    info = ImageNetInfo(subset)
    numbers = range(info.num_classes())
    return [info.index_to_description(i) for i in numbers], [(info.index_to_label_name(i),) for i in numbers]


def _imagenet_aliases(labels):
    """Synset ids and full names beside labels that are ImageNet's 1,000, or None."""
    if labels is None or len(labels) != 1000:
        return None
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    full = [info.index_to_description(i) for i in range(1000)]
    same = sum(
        label.split(",")[0].casefold() == name.split(",")[0].casefold()
        for label, name in zip(labels, full, strict=True)
    )
    return [(info.index_to_label_name(i), full[i]) for i in range(1000)] if same > 900 else None


def describe(model):
    """Lines on a model for a person: outputs, features, preprocessing."""
    names = f" ({some(model.labels, 4)})" if model.labels else ", without names"
    return [f"{model.name}: {model.outputs} outputs{names}", f"images: {model.preprocessing.description}", *model.notes]
