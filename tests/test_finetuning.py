"""Training a trained model further, on other images as well: ffcv_main.py --finetune-from, --freeze, --extra-images."""

import numpy as np
import pytest
import torch
from failure_directions.commands import train as ffcv_main
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.betons import open_beton
from failure_directions.data.index_files import save_index_file
from failure_directions.data.scenes import SceneSetting, make_split
from failure_directions.data.splits import Split, open_splits
from failure_directions.loaders import FeatureLoader, make_loader, make_training_loader
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.models.features import FeatureExtractor
from failure_directions.runtime.pt_files import load_pt, save_pt
from failure_directions.training.trainer import Trainer
from PIL import Image

CPU = torch.device("cpu")
SHORT = [
    "--override",
    "training.epochs=3",
    "--override",
    "training.lr=0.05",
    "--override",
    "training.lr_scheduler.lr_peak_epoch=1",
    "--disable-logging",
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder CLASS/*.png of 5 circles and 3 hearts, of another size than the betons' images."""
    folder = tmp_path_factory.mktemp("drawn")
    source = make_split(SceneSetting(train=5, size=40, seed=9), "train")
    for name, count in (("circle", 5), ("heart", 3)):
        (folder / name).mkdir()
        for i in np.flatnonzero(source.shape == name)[:count]:
            Image.fromarray(source[i][0]).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def run(scenes_folder, trained_run, tmp_path):
    """A function that trains from the small run's checkpoint, and returns the new run's folder."""

    def call(*words, name="tuned", start=trained_run / "checkpoints" / "checkpoint_last.pt"):
        words = [*SHORT, *(["--finetune-from", start] if start else []), *words]
        common = ["-c", scenes_folder / "config.yaml", "--root", scenes_folder, "--runs", tmp_path, "--exp-name", name]
        ffcv_main.main([str(word) for word in (*common, *words)])
        return sorted((tmp_path / name).glob("version_*"))[-1]

    return call


def fails(run, capsys, *words, **options):
    with pytest.raises(SystemExit) as stop:
        run(*words, **options)
    assert stop.value.code == 2
    return capsys.readouterr().err


def weights(path):
    return load_checkpoint(path / "checkpoints" / "checkpoint_last.pt").model.state_dict()


def test_freezing_changes_the_last_layer_alone(run, trained_run, capsys):
    before, after = weights(trained_run), weights(run("--freeze"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert "features of the images without augmentation, in evaluation mode" in capsys.readouterr().out


def test_the_frozen_layer_is_the_one_that_plain_sgd_on_the_features_gives(run, trained_run, scenes_folder):
    """Against a loop of our own over the features, in the loader's order."""
    after = weights(run("--freeze", "--override", "training.lr_scheduler.type=constant", "--seed", "3"))
    config = load_dataset_config(scenes_folder / "config.yaml")
    splits = open_splits(config, scenes_folder)
    model = load_checkpoint(trained_run / "checkpoints" / "checkpoint_last.pt").model.eval()
    with torch.no_grad(), FeatureExtractor(model) as extract:
        batches = [(extract(batch.image)[1], batch.label) for batch in make_loader(splits["train"], config, CPU)]
    features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = FeatureLoader(
        splits["train"], features.numpy(), labels.numpy(), CPU, 64, shuffle=True, drop_last=True, seed=3
    )
    weight, bias = model.fc.weight.detach().double(), model.fc.bias.detach().double()
    momentum_w, momentum_b = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(3):
        for batch in order:
            logits = batch.image.double() @ weight.T + bias
            error = (logits.softmax(1) - torch.nn.functional.one_hot(batch.label, 8)) / len(batch.label)
            momentum_w = 0.9 * momentum_w + error.T @ batch.image.double() + 5e-4 * weight
            momentum_b = 0.9 * momentum_b + error.sum(0) + 5e-4 * bias
            weight, bias = weight - 0.05 * momentum_w, bias - 0.05 * momentum_b
    np.testing.assert_allclose(after["fc.weight"], weight, atol=2e-5)
    np.testing.assert_allclose(after["fc.bias"], bias, atol=2e-5)


def test_without_freezing_everything_is_trained_further_from_where_it_was(run, trained_run):
    start, after = weights(trained_run), weights(run("--override", "training.lr=1e-4"))
    anew = weights(run("--override", "training.lr=1e-4", name="anew", start=None))
    trained = [name for name in start if "conv" in name]
    assert all(not torch.equal(start[name], after[name]) for name in trained)
    # Steps this small lead nowhere: what is near to the start began there.
    torch.testing.assert_close([after[name] for name in trained], [start[name] for name in trained], rtol=0, atol=0.01)
    assert all((anew[name] - start[name]).abs().max() > 0.05 for name in trained)


def test_a_resumed_frozen_training_ends_where_an_uninterrupted_one_does(run, drawn, monkeypatch):
    words = ["--freeze", "--extra-images", drawn]
    whole = weights(run(*words, name="whole"))
    real, calls = Trainer._train_epoch, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", interrupted)
        with pytest.raises(SystemExit):
            run(*words, name="cut")
    resumed = weights(run(*words, "--resume", name="cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_extra_images_are_scaled_labelled_and_trained_on_once_an_epoch(run, drawn, scenes_folder):
    folder = run("--extra-images", drawn)
    beton = open_beton(folder / "extra_images.beton")
    config = load_dataset_config(scenes_folder / "config.yaml")
    names = [config.names[c] for c in beton.column("label")]
    assert names == ["circle"] * 5 + ["heart"] * 3
    assert set(beton.image_sizes[0]) == {32}
    train = open_splits(config, scenes_folder)["train"]
    loader = make_training_loader([train, Split("extra", beton, np.arange(8))], config, CPU)
    for _ in range(2):
        seen = torch.cat([batch.index for batch in loader])
        extra = seen[seen >= len(train.beton)] - len(train.beton)
        assert sorted(extra.tolist()) == list(range(8))
        main = seen[seen < len(train.beton)]
        assert len(main) == 7 * 64  # the batches of the main loader are what they were, and none is repeated
        assert len(main.unique()) == len(main)


def test_the_weight_of_extra_images_is_their_share_of_the_loss(run, drawn, scenes_folder, tmp_path):
    """With the training images' weights at almost nothing, a model knows what the extra images are, and no more."""
    save_pt(torch.full((480,), 1e-6), tmp_path / "w.pt")
    folder = run(
        "--extra-images",
        drawn,
        "--loss-vec-file",
        tmp_path / "w.pt",
        "--extra-weight",
        "20",
        "--override",
        "training.epochs=8",
        start=None,
    )
    predictions = load_pt(folder / "predictions.pt", "predictions")["test"]["preds"]
    config = load_dataset_config(scenes_folder / "config.yaml")
    known = {config.names.index("circle"), config.names.index("heart")}
    assert set(predictions.tolist()) <= known


def test_images_of_a_pool_in_its_own_beton_join_the_training(run, scenes_folder, tmp_path, capsys):
    splits = open_splits(load_dataset_config(scenes_folder / "config.yaml"), scenes_folder)
    indices = {f"{name}_indices": splits[name].indices for name in ("train", "val")}
    save_index_file(tmp_path / "i.pt", {**indices, "extra_indices": [3, 7, 11]})
    run("--indices-file", tmp_path / "i.pt", start=None)
    assert "3 images of" in capsys.readouterr().out
    save_index_file(tmp_path / "j.pt", {**indices, "extra_indices": [3, 999]})
    assert "extra_indices holds 999, but beton" in fails(run, capsys, "--indices-file", tmp_path / "j.pt", start=None)
    words = ["--indices-file", tmp_path / "i.pt", "--override", "unlabeled_beton=null"]
    assert "extra_indices, of an unlabeled_beton, but the config names none" in fails(run, capsys, *words, start=None)


def test_an_index_file_of_another_data_set_is_refused(run, scenes_folder, tmp_path, capsys):
    splits = open_splits(load_dataset_config(scenes_folder / "config.yaml"), scenes_folder)
    indices = {f"{name}_indices": splits[name].indices for name in ("train", "val")}
    digest = splits["train"].beton.labels_digest
    save_index_file(tmp_path / "same.pt", indices, digest)
    run("--indices-file", tmp_path / "same.pt")
    save_index_file(tmp_path / "other.pt", indices, "0" * 32)
    error = fails(run, capsys, "--indices-file", tmp_path / "other.pt")
    assert "was made for a train beton with other labels" in error


def test_wrong_extra_images_are_named(run, drawn, tmp_path, capsys):
    def say(*words):
        return fails(run, capsys, *words)

    assert "does not exist; give a folder CLASS/FILE or a manifest" in say("--extra-images", tmp_path / "nowhere")
    odd = tmp_path / "odd"
    (odd / "circle").mkdir(parents=True)
    assert "holds no images" in say("--extra-images", odd)
    (odd / "loose.png").write_bytes(b"no image")
    assert "has images, but not in class folders" in say("--extra-images", odd)
    (odd / "circle" / "a.png").write_bytes(b"no image")
    assert "a.png is broken" in say("--extra-images", odd)
    (odd / "hexagon").mkdir()
    assert "hexagon is none of the classes circle, square" in say("--extra-images", odd)
    (odd / "list.csv").write_text("path,label\ncircle/a.png,hexagon\n")
    assert "label is 'hexagon', but must be one of" in say("--extra-images", odd / "list.csv")
    assert "--extra-weight 0.0 is no weight" in say("--extra-images", drawn, "--extra-weight", "0")
    assert "--extra-weight weighs images beyond the train beton, and there are none" in say("--extra-weight", "2")
    assert not list(tmp_path.glob("tuned/version_*/checkpoints"))  # nothing is left of them


def test_what_is_no_checkpoint_to_start_from_is_named(run, trained_run, tmp_path, capsys):
    assert "--freeze keeps all but the last layer" in fails(run, capsys, "--freeze", start=None)
    assert "checkpoint" in fails(run, capsys, start=tmp_path / "missing.pt")
    content = load_pt(trained_run / "checkpoints" / "checkpoint_last.pt", "checkpoint")
    content["run_metadata"]["config"]["class_names"] = [f"class {c}" for c in range(8)]
    save_pt(content, tmp_path / "others.pt")
    assert "was trained on other classes than the config names" in fails(run, capsys, start=tmp_path / "others.pt")
    content["state_dict"]["fc.bias"] += torch.nan
    save_pt(content, tmp_path / "nan.pt")
    assert "has weights that are NaN or infinite" in fails(run, capsys, start=tmp_path / "nan.pt")


def test_a_checkpoint_without_metadata_is_trained_further_with_a_word(run, trained_run, tmp_path, capsys):
    content = load_pt(trained_run / "checkpoints" / "checkpoint_last.pt", "checkpoint")
    save_pt({"build_params": content["build_params"], "state_dict": content["state_dict"]}, tmp_path / "bare.pt")
    run("--freeze", start=tmp_path / "bare.pt")
    assert "does not say how it was trained" in capsys.readouterr().out


@pytest.mark.parametrize("freeze", [False, True])
def test_a_model_that_was_not_trained_is_not_trained_further(run, trained_run, tmp_path, capsys, freeze):
    content = load_pt(trained_run / "checkpoints" / "checkpoint_last.pt", "checkpoint")
    content["run_metadata"]["epoch"] = 0
    save_pt(content, tmp_path / "untrained.pt")
    said = fails(run, capsys, *["--freeze"][:freeze], start=tmp_path / "untrained.pt")
    assert "untrained.pt is of 0 finished epochs" in said
    assert not (tmp_path / "tuned").exists()


def test_a_model_of_an_interrupted_run_is_named_as_such(run, trained_run, tmp_path, capsys):
    content = load_pt(trained_run / "checkpoints" / "checkpoint_last.pt", "checkpoint")
    content["run_metadata"]["epoch"] = 1
    save_pt(content, tmp_path / "half.pt")
    run(start=tmp_path / "half.pt")
    assert "half.pt is of an interrupted run: 1 of" in capsys.readouterr().out
