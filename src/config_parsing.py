"""Every option of a run, in one place: name, type, default and meaning.

A dataset config says what a model is trained on and how; an SVM config says how its failures are distilled. Both are
YAML files, checked by pydantic: an unknown key, a missing key or a wrong type is a `UserError` that names the key and
the file.
"""

import difflib
import reprlib
from collections import Counter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .data.names import clean_name
from .runtime.errors import UserError
from .runtime.shipped import find_shipped
from .runtime.yaml_files import dump_yaml, parse_yaml, read_yaml

DECODERS = Literal[
    "simple", "resized_crop", "random_resized_crop", "center_crop_256", "center_crop_75", "center_crop_full"
]
AUGMENTATIONS = Literal["cifar_train_aug", "imagenet_train_aug"]

MOST = 1_000_000  # of what is counted in a config
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
PositiveFloat = Annotated[float, Field(gt=0, lt=1e6)]
NonNegativeFloat = Annotated[float, Field(ge=0, lt=1e6)]
Attribute = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what a beton can hold
Colour = Annotated[list[Annotated[float, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OptimizerConfig(_Options):
    """Stochastic gradient descent."""

    momentum: NonNegativeFloat = Field(0.9, description="of stochastic gradient descent")
    weight_decay: NonNegativeFloat = Field(5e-4, description="of all weights")


class LRSchedulerConfig(_Options):
    """How the learning rate moves; epochs are counted in fractions, step by step."""

    type: Literal["cyclic", "step_lr", "constant"] = Field("step_lr", description="how the learning rate moves")
    lr_peak_epoch: PositiveInt = Field(5, description="cyclic: linear 0 -> lr at this epoch -> 0 at the end")
    step_size: PositiveInt = Field(50, description="step_lr: epochs between two drops")
    gamma: PositiveFloat = Field(0.1, description="step_lr: factor of a drop")


class TrainingConfig(_Options):
    """How the base model is trained."""

    epochs: PositiveInt = Field(100, description="passes over the training images")
    lr: PositiveFloat = Field(0.1, description="peak learning rate")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="momentum and weight decay")
    lr_scheduler: LRSchedulerConfig = Field(LRSchedulerConfig(), description="how the learning rate moves")

    @model_validator(mode="after")
    def _peak_lies_within_training(self):
        if self.lr_scheduler.type == "cyclic" and self.lr_scheduler.lr_peak_epoch >= self.epochs:
            raise ValueError(
                f"training.lr_scheduler.lr_peak_epoch ({self.lr_scheduler.lr_peak_epoch}) must be smaller than "
                f"training.epochs ({self.epochs})"
            )
        return self


class DatasetConfig(_Options):
    """A data set in betons, the model for it, and its training."""

    train_beton: str = Field(description="path of the beton, under --root")
    test_beton: str = Field(description="path of the beton, under --root")
    val_beton: str | None = Field(None, description="its own beton; by default val_indices index the train beton")
    unlabeled_beton: str | None = Field(None, description="extra pool, labels known; by default in the train beton")

    imgsz: Annotated[int, Field(gt=0, le=10_000)] = Field(
        description="side of the square images given to the model, pixels"
    )
    arch: str = Field(description="name of the architecture within arch_type, such as resnet18")
    arch_type: Literal["cifar_resnet", "resnet", "pretrained_resnet", "timm"] = Field(
        description="cifar_resnet (small images), torchvision's resnet or pretrained_resnet (on ImageNet), or timm"
    )
    num_classes: PositiveInt = Field(description="outputs of the model; with bce, the number of conditions")
    class_names: list[str] | None = Field(None, description="in the order of the labels; by default 0, 1, ...")
    mean: Colour | None = Field(None, description="of red, green, blue on the 0..255 scale; by default 0")
    std: Colour | None = Field(None, description="of red, green, blue on the 0..255 scale; by default 255")

    batch_size: PositiveInt = Field(512, description="images a step")
    num_workers: Annotated[int, Field(gt=0, le=1024)] = Field(1, description="threads that decode images")
    train_img_decoder: DECODERS = Field("simple", description="how an image is cut; simple: as it is, all of one size")
    val_img_decoder: DECODERS = Field("simple", description="the same where images are only looked at")
    train_aug: AUGMENTATIONS | None = Field(None, description="cifar: flip, shift by 2, blot out 4 x 4; imagenet: flip")
    val_aug: AUGMENTATIONS | None = Field(None, description="the same where images are only looked at")
    shuffle: bool = Field(True, description="a new random order of the training images in every epoch")
    drop_last: bool = Field(True, description="leave out the last training batch where it is not full")
    quasi_random: bool = Field(False, description="shuffle within pages: for betons larger than memory")
    os_cache: bool = Field(True, description="let the system cache the beton; false for betons larger than memory")

    bce: bool = Field(False, description="labels are 0/1 vectors, one binary task per condition")
    minority: Attribute | list[Attribute] | dict[str, Attribute | list[Attribute]] | None = Field(
        None, description="values of `spurious` that make the minority: of every class, or of each class by name"
    )
    training: TrainingConfig = Field(TrainingConfig(), description="how the model is trained, by SGD")

    @field_validator("class_names")
    @classmethod
    def _names_are_clean(cls, names):
        return None if names is None else [clean_name(name) for name in names]

    @field_validator("minority")
    @classmethod
    def _minority_names_are_clean(cls, minority):
        return {clean_name(name): of for name, of in minority.items()} if isinstance(minority, dict) else minority

    @model_validator(mode="after")
    def _lists_fit_together(self):
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names lists {len(self.class_names)} names, but num_classes is {self.num_classes}")
        doubles = sorted(name for name, count in Counter(self.class_names).items() if not name.strip() or count > 1)
        if doubles:
            raise ValueError(f"class_names lists {doubles[0]!r} twice, or a blank name; names must differ")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0 in every channel")
        if isinstance(self.minority, dict):
            unknown = set(self.minority) - set(self.names)
            if unknown:
                raise ValueError(f"minority names {sorted(unknown)[0]!r}, which is not one of class_names")
        return self

    @property
    def names(self):
        """Class names, or "0", "1", ... where the config has none."""
        return self.class_names or [str(c) for c in range(self.num_classes)]


class SVMArgs(_Options):
    """Options of `SVMFitter`."""

    split_and_search: bool = Field(True, description="choose C by cross-validation; false: C = 1")
    balanced: bool = Field(True, description="weigh right and wrong examples so that both count alike")
    cv: Annotated[int, Field(ge=2, le=1_000_000)] = Field(2, description="stratified folds of the cross-validation")
    solver: Literal["auto", "primal"] = Field(
        "auto", description="SVM only: primal solves classes of any size in memory that grows with their images"
    )
    intercept: Literal["libsvm", "middle"] = Field(
        "libsvm", description="SVM only: middle takes the middle of the interval where the intercept is free (small C)"
    )
    hidden_layer_size: PositiveInt = Field(100, description="MLP only: units of the hidden layer")
    first_layer: bool = Field(True, description="MLP only: false leaves the hidden layer out (logistic regression)")


class SVMConfig(_Options):
    """How the failures of a model are distilled."""

    method: Literal["SVM", "MLP"] = "SVM"
    embedding: Literal["clip", "latent", "inception", "timm"] = Field(
        "clip",
        description="space of the directions: CLIP, the model's penultimate features, Inception v3, or timm_model",
    )
    whiten: bool = Field(True, description="subtract the mean and divide by the deviation of the training images")
    normalize: bool = Field(True, description="scale every embedding to length 1, after whitening")
    svm_args: SVMArgs = SVMArgs()
    clip_model: str = Field(
        "ViT-B-32-quickgelu", description="an open_clip model name, hf-hub:NAME or local-dir:FOLDER"
    )
    clip_pretrained: str | None = Field("openai", description="open_clip's tag of the weights")
    timm_model: str | None = Field(None, description="any pretrained model of timm; its penultimate features")
    timm_weights: str | None = Field(None, description="file of its weights; by default they are downloaded")
    timm_size: PositiveInt | None = Field(
        None, description="side of the images given to it, pixels; by default its own"
    )

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the networks that give predictions and embeddings; half of it is faster and rougher"
    )

    directions: Literal["auto"] | PositiveInt = Field(
        "auto", description="failures sought in each class: auto, or at most so many; the single SVM is there always"
    )
    fdr: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of confirmed failures that may be false")
    confirm: Literal["test", "unlabeled"] = Field("test", description="split whose images confirm failures")

    @model_validator(mode="after")
    def _model_is_named(self):
        if self.embedding == "timm" and not self.timm_model:
            raise ValueError("embedding: timm needs a timm_model, such as vit_small_patch14_dinov2")
        return self


def load_dataset_config(path, overrides=()):
    """Read a dataset config.

    Args:
        path: of a YAML file, or the name of one of dataset_configs/.
        overrides: strings such as `training.epochs=3`.

    Returns:
        `DatasetConfig`.

    Raises:
        UserError: there is no such file, or a key is unknown, missing or of another kind.
    """
    return _load(DatasetConfig, find_shipped("dataset_configs", path, ".yaml"), overrides)


def load_svm_config(path, overrides=()):
    """Read an SVM config.

    Args:
        path: of a YAML file, or the name of one of svm_configs/.
        overrides: strings such as `svm_args.cv=5`.

    Returns:
        `SVMConfig`.

    Raises:
        UserError: there is no such file, or a key is unknown, missing or of another kind.
    """
    return _load(SVMConfig, find_shipped("svm_configs", path, ".yaml"), overrides)


def described_config(options, model=DatasetConfig, indent=""):
    """A config as YAML in which every option is described, and those that are not given stand as comments.

    Args:
        options: dict, as a config file has them.
    """
    lines = []
    for name, field in model.model_fields.items():
        lines.append(f"{indent}# {field.description}")
        section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if section and name in options:
            lines += [f"{indent}{name}:", described_config(options[name], field.annotation, f"{indent}  ").rstrip("\n")]
            continue
        value = options[name] if name in options else field.get_default()
        value = value.model_dump() if isinstance(value, BaseModel) else value
        # Lists and dicts in one line, where they fit.
        style = None if isinstance(value, list | dict) and value else False
        text = dump_yaml({name: value}, default_flow_style=style, width=110 - len(indent)).rstrip("\n")
        start = indent if name in options else f"{indent}# "
        lines += [f"{start}{line}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def split_overrides(overrides):
    """Overrides for the two configs of train_svms.py.

    Args:
        overrides: strings KEY=VALUE.

    Returns:
        (list, list): those of the dataset config and those of the SVM config.

    Raises:
        UserError: a key that neither has.
    """
    of_dataset, of_svm = _known_keys(DatasetConfig), _known_keys(SVMConfig)
    split = {"dataset": [], "svm": []}
    for override in overrides:
        key = override.split("=")[0]
        section = key.split(".")[0]
        if section not in of_dataset | of_svm:
            near = _nearest(key, of_dataset | of_svm)
            raise UserError(
                f"--override {override}: no config has the key {key}" + (f"; did you mean {near}?" if near else "")
            )
        split["svm" if section in of_svm else "dataset"].append(override)
    return split["dataset"], split["svm"]


def _load(model, path, overrides):
    options = read_yaml(path, "config", "see dataset_configs/ and svm_configs/ for examples")
    for override in overrides:
        _apply_override(options, override)
    try:
        return model.model_validate(options)
    except ValidationError as error:
        # A misspelt key first: it may be the one that is missing.
        complaints = sorted(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
        raise UserError(_sentence(model, f"config {path}", complaints, overrides)) from None


def stored_config(model, options, where):
    """A config that a file keeps as a dict, such as that of an earlier run, and what is left out of it.

    Args:
        model: `DatasetConfig` or `SVMConfig`.
        options: what its `model_dump` gave, in this version or another.
        where: what the error calls it.

    Returns:
        (model, list): the config, and the dotted keys that this version does not know.

    Raises:
        UserError: a key is missing or has another kind of value.
    """
    known, unknown = _without_unknown(model, options)
    try:
        return model.model_validate(known), unknown
    except ValidationError as error:
        raise UserError(_sentence(model, where, error.errors())) from None


def _without_unknown(model, options, prefix=""):
    """`options` without the keys that a model, or a section in it, does not have, and a list of these."""
    known, unknown = {}, []
    for name, value in options.items():
        if name not in model.model_fields:
            unknown.append(prefix + name)
            continue
        section = model.model_fields[name].annotation
        if isinstance(value, dict) and isinstance(section, type) and issubclass(section, BaseModel):
            value, inner = _without_unknown(section, value, f"{prefix}{name}.")
            unknown += inner
        known[name] = value
    return known, unknown


def _apply_override(options, override):
    key, equals, value = override.partition("=")
    if not (key and equals):
        raise UserError(f"--override {override} has no value; write it like training.epochs=3")
    *sections, last = key.split(".")
    for section in sections:
        options = options.setdefault(section, {})
        if not isinstance(options, dict):
            raise UserError(
                f"--override {override}: {section} is {reprlib.repr(options)} in the file, not a section; mend the file"
            )
    try:
        options[last] = parse_yaml(value)
    except Exception:  # see read_yaml
        raise UserError(f"--override {override} has a value that is not valid YAML; quote it") from None


def _sentence(model, where, errors, overrides=()):
    """One sentence from pydantic's complaints about the first option of what `where` names that it complains of."""
    error = errors[0]
    # Union members appear in pydantic's location too; an option's own names are identifiers of the models.
    known = _known_keys(model)
    parts = [str(part) for part in error["loc"]]
    while parts and ".".join(parts) not in known and error["type"] != "extra_forbidden":
        parts.pop()
    key = ".".join(parts)
    given = [override for override in overrides if override.split("=")[0] == ".".join(parts)]
    where += f" with --override {' '.join(given)}" if given else ""
    if error["type"] == "extra_forbidden":
        near = _nearest(key, known)
        return f"{where} has an unknown key {key[:80]}" + (f"; did you mean {near}?" if near else "")
    if error["type"] == "missing":
        return f"{where} lacks the key {key}: {known[key] or 'it is required'}"
    message = error["msg"].removeprefix("Value error, ")
    if not key or error["type"] == "value_error":
        return f"{where}: {message}"
    # Of an option that may be of several kinds, each kind complains.
    others = [other["msg"].removeprefix("Input should be ") for other in errors[1:] if _is_beside(other, error)]
    message = ", or ".join([f"{message[0].lower()}{message[1:]}", *dict.fromkeys(others)])
    return f"{where}: {key} is {reprlib.repr(error['input'])}, but {message}"


def _is_beside(error, other):
    """Whether two of pydantic's complaints are of two kinds that one option may have."""
    return len(error["loc"]) > 1 and error["loc"][:-1] == other["loc"][:-1] and error["input"] is other["input"]


def _nearest(key, known):
    """The known key most like `key`, by its last word first: a key is often right but in the wrong section."""
    by_last_word = {name.split(".")[-1]: name for name in reversed(known)}
    match = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
        key.split(".")[-1], by_last_word, n=1
    )
    return by_last_word.get(match[0], match[0]) if match else None


def _known_keys(model, prefix=""):
    """Dotted key -> description, of a model and the sections in it."""
    keys = {}
    for name, field in model.model_fields.items():
        keys[prefix + name] = field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
