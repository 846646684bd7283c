import re

import pytest
import yaml
from failure_directions.config_parsing import (
    DatasetConfig,
    TrainingConfig,
    described_config,
    load_dataset_config,
    load_svm_config,
)
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.yaml_files import parse_yaml

MINIMAL = {
    "train_beton": "a.beton",
    "test_beton": "b.beton",
    "imgsz": 32,
    "arch": "resnet18",
    "arch_type": "cifar_resnet",
    "num_classes": 3,
}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "config.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def test_defaults_are_those_of_the_design(write):
    config = load_dataset_config(write(MINIMAL))
    assert (config.batch_size, config.num_workers, config.shuffle, config.drop_last) == (512, 1, True, True)
    assert (config.train_img_decoder, config.training.epochs, config.training.lr) == ("simple", 100, 0.1)
    assert (config.training.optimizer.momentum, config.training.optimizer.weight_decay) == (0.9, 5e-4)
    schedule = config.training.lr_scheduler
    assert (schedule.type, schedule.step_size, schedule.gamma) == ("step_lr", 50, 0.1)


def test_every_shipped_config_is_valid():
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    datasets, svms = sorted(root.glob("dataset_configs/*.yaml")), sorted(root.glob("svm_configs/*.yaml"))
    assert len(datasets) >= 5
    assert len(svms) >= 4
    for path in datasets:
        load_dataset_config(path)
    for path in svms:
        load_svm_config(path)


def test_overrides_change_nested_options_and_keep_their_types(write):
    config = load_dataset_config(write(MINIMAL), ["training.epochs=3", "training.lr=1e-3", "shuffle=false"])
    assert (config.training.epochs, config.training.lr, config.shuffle) == (3, 1e-3, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batchsize": 2}, ["batchsize", "did you mean batch_size"]),
        ({"epochs": 2}, ["epochs", "did you mean training.epochs"]),
        ({"training": {"epoch": 2}}, ["training.epoch", "did you mean training.epochs"]),
        ({"batch_size": "many"}, ["batch_size", "'many'"]),
        ({"num_workers": True}, ["num_workers", "True"]),
        ({"imgsz": None}, ["imgsz", "None"]),
        ({"imgsz": 0}, ["imgsz", "greater than 0"]),
        ({"arch_type": "transformer"}, ["arch_type", "'cifar_resnet'"]),
        ({"class_names": ["a", "b"]}, ["class_names lists 2", "num_classes is 3"]),
        ({"mean": [1.0, 2.0]}, ["mean", "at least 3"]),
        ({"std": [1.0, 0.0, 1.0]}, ["std must be above 0"]),
        ({"minority": {"zebra": 1}}, ["zebra", "class_names"]),
        ({"training": {"epochs": 2, "lr_scheduler": {"type": "cyclic"}}}, ["lr_peak_epoch (5)", "epochs (2)"]),
    ],
)
def test_a_wrong_option_is_named_with_its_file(write, change, words):
    path = write(MINIMAL | change)
    with pytest.raises(UserError) as error:
        load_dataset_config(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_a_missing_option_is_named(write):
    with pytest.raises(UserError, match="lacks the key arch:"):
        load_dataset_config(write({key: value for key, value in MINIMAL.items() if key != "arch"}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "not a mapping"),
        ("imgsz: [1,\n", "not valid YAML"),
        ("imgsz: 1\nimgsz: 2\n", "imgsz is given twice"),
        ("a: !!python/object/apply:os.system [echo]\n", "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(write, text, words):
    with pytest.raises(UserError, match=words):
        load_dataset_config(write(text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_svm_config(tmp_path / "nowhere.yaml")


def test_an_override_without_a_value_says_how_to_write_it(write):
    with pytest.raises(UserError, match=r"write it like training\.epochs=3"):
        load_dataset_config(write(MINIMAL), ["training.epochs"])


def test_a_described_config_says_every_option_and_reads_as_what_was_given():
    names = [f"class {i}: \u00e9" for i in range(30)]
    training = {"epochs": 8, "lr_scheduler": {"type": "cyclic", "lr_peak_epoch": 2}}
    given = MINIMAL | {"class_names": names, "minority": {names[1]: [1, 2]}, "training": training}
    text = described_config(given)
    assert parse_yaml(text) == given
    options = re.findall(r"^ *(?:# )?(\w+):", text, re.MULTILINE)
    assert {*DatasetConfig.model_fields, *TrainingConfig.model_fields, "type", "gamma"} <= set(options)
    assert "None" not in text.replace("null", "")


@pytest.mark.parametrize(
    ("value", "said"),
    [("0", "directions is 0, but input should be 'auto', or greater than 0"), ("all", "'auto', or a valid integer")],
)
def test_an_option_of_several_kinds_names_them_all(value, said):
    with pytest.raises(UserError, match=said):
        load_svm_config("normalized_svm_latent_config", [f"directions={value}"])
