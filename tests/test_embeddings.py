import numpy as np
import pytest
import torch

from src.betons import open_beton
from src.config_parsing import DatasetConfig, SVMConfig
from src.embeddings import EmbeddingCache, InceptionEmbedding, LatentEmbedding, make_embedding
from src.errors import UserError
from src.loaders import make_loader
from src.models import build_model
from src.splits import Split

CPU = torch.device("cpu")
CONFIG = DatasetConfig(
    train_beton="a", test_beton="b", imgsz=16, arch="resnet10thin", arch_type="cifar_resnet", num_classes=3,
    mean=[120.0, 130.0, 110.0], std=[60.0, 50.0, 70.0], batch_size=20,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("cifar_resnet", "resnet10thin", 3).eval()


@pytest.fixture
def loader(pixels_beton):
    return make_loader(Split("val", open_beton(pixels_beton), np.arange(10, 60)), CONFIG, CPU)


def cache(folder, model):
    return EmbeddingCache(folder, model, LatentEmbedding(), CONFIG, CPU)


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

    monkeypatch.setattr("src.embeddings.pretrained_torchvision", lambda *_, **__: Recorder())
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
