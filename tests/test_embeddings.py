from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from failure_directions.config_parsing import DatasetConfig, SVMConfig
from failure_directions.data.betons import open_beton
from failure_directions.data.splits import Split
from failure_directions.embeddings.cache import EmbeddingCache, cache_folder
from failure_directions.embeddings.spaces import InceptionEmbedding, LatentEmbedding, TimmEmbedding, make_embedding
from failure_directions.loaders import make_loader
from failure_directions.models.build import build_model
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import load_pt, save_pt
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from sklearn.metrics.pairwise import cosine_similarity

CPU = torch.device("cpu")
CONFIG = DatasetConfig(
    train_beton="a",
    test_beton="b",
    imgsz=16,
    arch="resnet10thin",
    arch_type="cifar_resnet",
    num_classes=3,
    mean=[120.0, 130.0, 110.0],
    std=[60.0, 50.0, 70.0],
    batch_size=20,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("cifar_resnet", "resnet10thin", 3).eval()


@pytest.fixture
def loader(pixels_beton):
    return make_loader(Split("val", open_beton(pixels_beton), np.arange(10, 60)), CONFIG, CPU)


def cache(folder, model):
    return EmbeddingCache(folder, model, LatentEmbedding(), CONFIG, CPU)


def test_the_folder_of_a_runs_cache_is_spelled_as_its_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    assert cache_folder("checkpoints/last.pt", "elsewhere") == Path("embeddings")
    assert cache_folder(tmp_path / "run/checkpoints/last.pt", "elsewhere") == tmp_path / "run/embeddings"
    assert cache_folder("last.pt", "elsewhere") == Path("elsewhere/embeddings")
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    assert cache_folder("last.pt", "elsewhere") == Path("../embeddings")


def test_predictions_and_features_are_those_of_the_model(tmp_path, model, loader, pixels):
    predictions, latents = cache(tmp_path, model).get(loader)
    images = (torch.from_numpy(pixels.images[10:60]).float() - torch.tensor(CONFIG.mean)) / torch.tensor(CONFIG.std)
    with torch.no_grad():
        logits = model(images.permute(0, 3, 1, 2))
    probabilities = logits.softmax(1).numpy()
    assert np.array_equal(predictions.preds, logits.argmax(1).numpy())
    assert np.array_equal(predictions.indices, np.arange(10, 60))
    np.testing.assert_allclose(predictions.confs, probabilities[np.arange(50), predictions.labels], atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(model.fc(torch.tensor(latents)), logits, atol=1e-4)
    assert isinstance(latents, np.memmap)


def test_a_run_killed_before_the_end_is_computed_again(tmp_path, model, loader):
    _, whole = cache(tmp_path, model).get(loader)
    (predictions_file,) = tmp_path.glob("*_predictions.pt")
    predictions_file.unlink()  # it is written last
    _, again = cache(tmp_path, model).get(loader)
    assert np.array_equal(whole, again)
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_files_of_the_cache_are_named(tmp_path, model, loader):
    cache(tmp_path, model).get(loader)
    (embeddings,) = tmp_path.glob("*.npy")
    embeddings.write_bytes(embeddings.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged; delete"):
        cache(tmp_path, model).get(loader)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda labels: labels.roll(1)),
        ("indices", lambda indices: indices.flip(0)),
        ("preds", lambda preds: preds + 7),
        ("preds", lambda preds: preds[:-1]),
        ("highest", lambda highest: None),
    ],
)
def test_kept_predictions_of_other_images_or_classes_are_refused(tmp_path, model, loader, name, change):
    cache(tmp_path, model).get(loader)
    (path,) = tmp_path.glob("*_predictions.pt")
    content = load_pt(path, "predictions", "")
    save_pt(content | {name: change(content[name])}, path)
    with pytest.raises(UserError, match="damaged; delete"):
        cache(tmp_path, model).get(loader)


def test_other_weights_or_other_images_are_other_entries(tmp_path, model, loader, pixels_beton):
    cache(tmp_path, model).get(loader)
    with torch.no_grad():
        model.fc.bias += 1
    cache(tmp_path, model).get(loader)
    cache(tmp_path, model).get(make_loader(Split("val", open_beton(pixels_beton), np.arange(10, 61)), CONFIG, CPU))
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_inception_sees_the_image_as_imagenet_models_do(monkeypatch, loader, pixels):
    seen = []

    class Recorder(torch.nn.Module):
        fc = None

        def forward(self, images):
            seen.append(images)
            return images.mean((2, 3))

    monkeypatch.setattr("failure_directions.embeddings.spaces.pretrained_torchvision", lambda *_, **__: Recorder())
    embedding = InceptionEmbedding(CONFIG, CPU)
    vectors = embedding(next(iter(loader)).image, None)
    assert seen[0].shape == (20, 3, 299, 299)
    unit = torch.from_numpy(pixels.images[10:30]).float().permute(0, 3, 1, 2) / 255
    expected = (unit.mean((2, 3)) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(vectors, expected, atol=0.05, rtol=0)


def test_inception_weights_that_are_not_at_hand_are_named(monkeypatch, tmp_path):
    import urllib.error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UserError, match=r"inception_v3.*\.pth on another machine"):
        make_embedding(SVMConfig(embedding="inception"), CONFIG, CPU)


def timm_embedding(**options):
    options = {"timm_model": "test_resnet", "timm_size": 64} | options
    return make_embedding(SVMConfig(embedding="timm", **options), CONFIG, CPU)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_timm_model_gives_the_features_of_images_prepared_its_way(tmp_path, loader, pixels, ending):
    torch.manual_seed(1)
    reference = timm.create_model("test_resnet").eval()
    save = save_file if ending == ".safetensors" else torch.save
    save(reference.state_dict(), tmp_path / f"weights{ending}")
    embedding = timm_embedding(timm_weights=str(tmp_path / f"weights{ending}"))
    batch = next(iter(loader))
    with torch.no_grad():
        vectors = embedding(batch.image, None)
        options = timm.data.resolve_model_data_config(reference)
        images = [Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC) for image in pixels.images[10:30]]
        unit = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(options[key])[:, None, None] for key in ("mean", "std"))
        expected = reference.forward_head(reference.forward_features((unit - mean) / std), pre_logits=True)
    assert cosine_similarity(vectors, expected).diagonal().min() > 0.999  # Pillow rounds to whole numbers


def test_an_embedding_that_is_not_the_models_serves_every_model(tmp_path, model, loader, monkeypatch):
    torch.manual_seed(1)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pt")
    embedding = timm_embedding(timm_weights=str(tmp_path / "weights.pt"))
    first, vectors = EmbeddingCache(tmp_path / "cache", model, embedding, CONFIG, CPU).get(loader)
    with torch.no_grad():
        model.fc.bias += torch.tensor([0.0, 50.0, 0.0])
    monkeypatch.setattr(TimmEmbedding, "__call__", lambda *_: pytest.fail("it was computed again"))
    second, again = EmbeddingCache(tmp_path / "cache", model, embedding, CONFIG, CPU).get(loader)
    assert np.array_equal(vectors, again)
    assert (second.preds == 1).all()
    assert not np.array_equal(first.preds, second.preds)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_what_is_wrong_with_a_timm_embedding_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValidationError, match="embedding: timm needs a timm_model"):
        SVMConfig(embedding="timm")
    with pytest.raises(UserError, match=r"'test_resent' is not known .*; did you mean test_resnet"):
        timm_embedding(timm_model="test_resent")
    with pytest.raises(UserError, match=r"weights .*missing\.pt does not exist"):
        timm_embedding(timm_weights=str(tmp_path / "missing.pt"))
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    for name, fault in {"missing": "does not exist", "cut": "is damaged"}.items():
        with pytest.raises(UserError, match=rf"weights .*{name}\.safetensors {fault}"):
            timm_embedding(timm_weights=str(tmp_path / f"{name}.safetensors"))
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="are not those of timm's test_resnet"):
        timm_embedding(timm_weights=str(tmp_path / "other.pt"))
    monkeypatch.setattr("timm.create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match="could not be downloaded; without a network, give a file of weights"):
        timm_embedding()
