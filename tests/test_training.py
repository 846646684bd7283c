import re

import numpy as np
import pytest
import torch
from failure_directions.commands.train import smallest_batch
from failure_directions.config_parsing import TrainingConfig, load_dataset_config
from failure_directions.data.splits import open_splits
from failure_directions.loaders import make_loader
from failure_directions.models.build import build_model
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.models.cifar_resnet import ARCHS
from failure_directions.models.features import FeatureExtractor, last_linear
from failure_directions.models.input_sizes import check_input
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import save_pt
from failure_directions.training.estimates import seconds_an_epoch
from failure_directions.training.loss_weights import load_loss_vector
from failure_directions.training.losses import example_losses
from failure_directions.training.resuming import load_resumable, new_checkpoint
from failure_directions.training.trainer import Trainer, lr_factor

CPU = torch.device("cpu")


def schedule(**options):
    return TrainingConfig(epochs=10, lr_scheduler=options)


def test_the_cyclic_rate_is_a_triangle():
    cyclic = schedule(type="cyclic", lr_peak_epoch=4)
    assert [lr_factor(cyclic, epoch) for epoch in (0, 1, 4, 7, 10)] == [0, 0.25, 1, 0.5, 0]


def test_the_step_rate_drops_and_the_constant_one_does_not():
    steps = schedule(type="step_lr", step_size=3, gamma=0.1)
    assert [round(lr_factor(steps, epoch), 9) for epoch in (0, 2.9, 3, 6.5)] == [1, 1, 0.1, 0.01]
    assert lr_factor(schedule(type="constant"), 7.3) == 1


def test_losses_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3)), rng.integers(0, 3, 5)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = example_losses(torch.tensor(logits), torch.tensor(labels), bce=False)
    np.testing.assert_allclose(found, -np.log(softmax[np.arange(5), labels]))
    present = rng.integers(0, 2, (5, 3))
    sigmoid = 1 / (1 + np.exp(-logits))
    expected = -(present * np.log(sigmoid) + (1 - present) * np.log(1 - sigmoid)).mean(1)
    np.testing.assert_allclose(example_losses(torch.tensor(logits), torch.tensor(present * 1.0), bce=True), expected)


@pytest.mark.parametrize(
    ("arch_type", "arch", "size"),
    [
        *(("cifar_resnet", arch, 32) for arch in ARCHS),
        ("resnet", "resnet18", 64),
        ("timm", "vit_tiny_patch16_224", 224),
    ],
)
def test_features_times_the_last_layer_are_the_predictions(arch_type, arch, size):
    model = build_model(arch_type, arch, 5).eval()
    with torch.no_grad(), FeatureExtractor(model) as extract:
        logits, features = extract(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5)
    torch.testing.assert_close(last_linear(model)(features), logits)


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(UserError, match="'resnet81' is not known for arch_type cifar_resnet; did you mean resnet18"):
        build_model("cifar_resnet", "resnet81", 3)


def test_pretrained_weights_that_cannot_be_fetched_are_named(monkeypatch, tmp_path):
    import urllib.error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UserError, match=r"resnet18-.*\.pth on another machine and put the file there"):
        build_model("pretrained_resnet", "resnet18", 3)


@pytest.fixture(scope="module")
def small(scenes_folder):
    """Config and splits with a training set of three small batches."""
    overrides = ["batch_size=20", "training.epochs=4", "training.lr_scheduler.lr_peak_epoch=1"]
    config = load_dataset_config(scenes_folder / "config.yaml", overrides)
    splits = open_splits(config, scenes_folder)
    few = {name: type(split)(name, split.beton, split.indices[:60]) for name, split in splits.items()}
    return config, few


def train(small, folder, resume=False, config=None, **options):
    own_config, splits = small
    config = config or own_config
    loaders = {
        "train": make_loader(splits["train"], config, CPU, train=True, seed=1),
        "val": make_loader(splits["val"], config, CPU),
    }
    trainer = Trainer(config, CPU, folder, seed=1, log=False, **loaders, **options)
    start = new_checkpoint(config, 1)
    if resume:
        start = load_resumable(trainer.checkpoint_path("last"), config, 1, options.get("metadata", {}))
    return trainer.fit(start)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(small, tmp_path, monkeypatch):
    whole = train(small, tmp_path / "whole").state_dict()
    real, calls = Trainer._train_epoch, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Trainer, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(small, tmp_path / "cut")
    last = load_checkpoint(tmp_path / "cut" / "checkpoints" / "checkpoint_last.pt")
    assert last.run_metadata["epoch"] == 2
    resumed = train(small, tmp_path / "cut", resume=True).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_training_is_resumed_as_it_was_begun_or_with_more_epochs(small, tmp_path):
    config, _ = small
    metadata = {"config": config.model_dump(), "arguments": {"indices_file": "a.pt"}}
    train(small, tmp_path, metadata=metadata)
    longer = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 5})})
    train(small, tmp_path, resume=True, config=longer, metadata={**metadata, "config": longer.model_dump()})
    other = {**metadata, "config": {**config.model_dump(), "mean": [1.0, 2.0, 3.0]}}
    with pytest.raises(UserError, match=r"was trained with mean \[127.*, not \[1"):
        train(small, tmp_path, resume=True, metadata=other)
    with pytest.raises(UserError, match=r"with --indices-file a\.pt, not b\.pt"):
        train(small, tmp_path, resume=True, metadata={**metadata, "arguments": {"indices_file": "b.pt"}})


def test_a_training_is_not_resumed_with_a_file_that_was_written_anew(small, tmp_path):
    metadata = {"contents": {"--indices-file": "aa"}}
    train(small, tmp_path, metadata=metadata)
    train(small, tmp_path, resume=True, metadata=metadata)
    with pytest.raises(UserError, match="trained with a --indices-file of other contents, SHA-256 aa, not bb"):
        train(small, tmp_path, resume=True, metadata={"contents": {"--indices-file": "bb"}})


def test_an_epoch_draws_the_same_random_numbers_whether_resumed_or_not(small, tmp_path, monkeypatch):
    drawn = []

    def draw(self, *arguments):
        result = epoch(self, *arguments)
        drawn.append(torch.rand(1).item())  # after all that the epoch drew
        return result

    epoch = Trainer._train_epoch
    monkeypatch.setattr(Trainer, "_train_epoch", draw)
    config, _ = small
    one, three = (
        config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})
        for epochs in (1, 3)
    )
    train(small, tmp_path / "whole", config=three)
    train(small, tmp_path / "cut", config=one)
    train(small, tmp_path / "cut", resume=True, config=three)
    assert len(set(drawn[:3])) == 3
    assert drawn[3:] == drawn[:3]


def test_weights_of_one_change_nothing_and_zeros_leave_examples_out(small, tmp_path):
    _, splits = small
    plain = train(small, tmp_path / "plain").state_dict()
    ones = train(small, tmp_path / "ones", loss_vector=torch.ones(480)).state_dict()
    assert all(torch.equal(plain[name], ones[name]) for name in plain)
    labels = splits["train"].beton.column("label")
    only_circles = torch.from_numpy((labels == 0).astype(np.float32))
    model = train(small, tmp_path / "zeros", loss_vector=only_circles).eval()
    images = next(iter(make_loader(splits["test"], small[0], CPU))).image
    assert (model(images).argmax(1) == 0).float().mean() > 0.95


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(small, tmp_path):
    with pytest.raises(
        UserError, match=r"the training loss became (inf|nan) in epoch 1: lower training\.lr \(now 0\.2\)"
    ):
        train(small, tmp_path, loss_vector=torch.full((480,), 3e38))
    load_checkpoint(tmp_path / "checkpoints" / "checkpoint_last.pt")


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (torch.ones(10), "has 10 weights, but the train indices go up to 59"),
        (torch.ones(481), "has 481 weights, but beton .* has 480 examples"),
        (-torch.ones(60), "is -1 for training image 0 "),
        (torch.full((60,), torch.nan), "is nan for training image 0"),
        (torch.zeros(60), "is 0 for every training image"),
        (torch.ones(60, 2), "not a one-dimensional tensor"),
        ({"weights": torch.ones(60)}, "not a one-dimensional tensor"),
    ],
)
def test_a_wrong_loss_vector_is_refused(small, tmp_path, vector, words):
    save_pt(vector, tmp_path / "loss.pt")
    with pytest.raises(UserError, match=words):
        load_loss_vector(tmp_path / "loss.pt", small[1]["train"])


def test_weights_outside_the_train_indices_do_not_matter(small, tmp_path):
    vector = torch.ones(480)
    vector[60:] = torch.nan
    save_pt(vector, tmp_path / "loss.pt")
    assert len(load_loss_vector(tmp_path / "loss.pt", small[1]["train"])) == 480


@pytest.mark.parametrize(
    "prefix", ["module.", "module.model.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod."]
)
def test_published_prefixes_are_read(tmp_path, prefix):
    model = build_model("cifar_resnet", "resnet10thin", 4)
    names = {"arch_type": "cifar_resnet", "arch": "resnet10thin", "num_classes": 4}
    state = {prefix + name: value for name, value in model.state_dict().items()}
    save_pt({"build_params": names, "state_dict": state, "run_metadata": {}}, tmp_path / "x.pt")
    loaded = load_checkpoint(tmp_path / "x.pt").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_checkpoint_of_another_architecture_is_refused(small, tmp_path):
    model = build_model("cifar_resnet", "resnet10thin", 4)
    names = {"arch_type": "cifar_resnet", "arch": "resnet10thin", "num_classes": 4}
    save_pt({"build_params": names, "state_dict": model.state_dict()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"with 4 outputs, but the config asks for .* with 8 outputs"):
        load_checkpoint(tmp_path / "x.pt", small[0])
    save_pt({"build_params": {**names, "arch": "resnet18"}, "state_dict": model.state_dict()}, tmp_path / "y.pt")
    with pytest.raises(UserError, match="do not fit a cifar_resnet resnet18"):
        load_checkpoint(tmp_path / "y.pt")
    save_pt({"weights": 1}, tmp_path / "z.pt")
    with pytest.raises(UserError, match="has no state_dict"):
        load_checkpoint(tmp_path / "z.pt")


@pytest.mark.parametrize(
    ("arch", "size", "batch", "words"),
    [
        ("vit_tiny_patch16_224", 224, None, None),
        ("vit_tiny_patch16_224", 96, None, "can't take images of 96 x 96 pixels .*set imgsz to 224"),
        ("levit_128s", 192, None, "can't take images of 192 x 192 pixels .*set imgsz to 224"),
        ("resnet10t", 32, 2, None),
        ("resnet10t", 32, 1, "can't be trained on a batch of one image .*set drop_last: true"),
    ],
)
def test_what_a_model_cannot_take_is_said_before_the_work(arch, size, batch, words):
    model = build_model("timm", arch, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if words is None:
        check_input(model, arch, size, batch)
    else:
        with pytest.raises(UserError, match=words):
            check_input(model, arch, size, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(("drop_last", "smallest"), [(False, 1), (True, 20)])
def test_the_smallest_batch_is_the_last_unless_it_is_left_out(small, drop_last, smallest):
    config, splits = small
    split = splits["train"].__class__("train", splits["train"].beton, np.arange(41))
    options = config.model_copy(update={"batch_size": 20, "drop_last": drop_last})
    assert smallest_batch(split, options) == smallest
    assert min(len(batch.label) for batch in make_loader(split, options, CPU, train=True)) == smallest


@pytest.mark.parametrize(("an_image", "most"), [(0.002, 64), (0.5, 8)])
def test_the_estimate_of_an_epoch_is_its_images_by_the_time_of_one_and_changes_nothing(
    small, monkeypatch, an_image, most
):
    """By a clock of the images that the model sees; one that is only looked at takes a third."""
    torch.manual_seed(0)
    config, _ = small
    model, clock, batches = build_model("cifar_resnet", "resnet10thin", 8), [0.0], []

    def see(_, inputs):
        batches.append(len(inputs[0]))
        clock[0] += an_image * len(inputs[0])

    model.register_forward_pre_hook(see)
    monkeypatch.setattr("failure_directions.training.estimates.time.perf_counter", lambda: clock[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    estimated = seconds_an_epoch(model, config.model_copy(update={"batch_size": 64}), CPU, train=400, val=300)
    assert estimated == pytest.approx(an_image * (400 + 300 / 3))
    assert max(batches) == most  # no more than it takes to tell
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_training_on_a_cpu_says_before_how_long_it_takes(small, tmp_path, capsys):
    train(small, tmp_path)
    assert re.search(r"training on a CPU: an epoch takes about \d+ seconds?, 4 epochs", capsys.readouterr().out)
