"""A person's own model: every form in which people keep one, made here, small."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from failure_directions.models.own_models import load_model
from failure_directions.runtime.errors import UserError
from PIL import Image
from safetensors.torch import save_file
from torch import nn

ARCH = "test_resnet"  # timm's smallest


@pytest.fixture(scope="module")
def network():
    """A timm model of three outputs."""
    torch.manual_seed(0)
    return timm.create_model(ARCH, num_classes=3).eval()


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


def logits(model, picture):
    with torch.inference_mode():
        return model.module(model.preprocessing(picture)[None])


def wanted(network, picture):
    """The network's logits by timm's own preprocessing."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        return network(transform(picture)[None])


class Lightning(nn.Module):
    """A network as a Lightning module holds it, with a loss that has weights."""

    def __init__(self, network, name):
        super().__init__()
        setattr(self, name, network)
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(3))


def as_saved(network):
    """Forms of the same weights, by name."""
    lightning = {name: Lightning(network, name).state_dict() for name in ("model", "net", "backbone")}
    return {
        "plain": network.state_dict(),
        "compiled": torch.compile(network).state_dict(),
        "parallel": nn.DataParallel(network).state_dict(),
        "parallel and compiled": torch.compile(nn.DataParallel(network)).state_dict(),
        "compiled and parallel": nn.DataParallel(torch.compile(network)).state_dict(),
        "in a dict": {"model": network.state_dict(), "epoch": 3},
        "under another name": {"model_state_dict": network.state_dict(), "optimizer": {"lr": 0.1}},
        "of a module that compiles": {"state_dict": Lightning(torch.compile(network), "model").state_dict()},
    } | {f"lightning {name}": {"state_dict": state, "epoch": 3} for name, state in lightning.items()}


@pytest.mark.parametrize("form", as_saved(timm.create_model(ARCH, num_classes=3)))
def test_weights_under_any_wrapper_give_the_network_s_own_predictions(form, network, picture, tmp_path):
    torch.save(as_saved(network)[form], tmp_path / "weights.pt")
    model = load_model(tmp_path / "weights.pt", arch=f"timm:{ARCH}")
    assert model.outputs == 3
    torch.testing.assert_close(logits(model, picture), wanted(network, picture), rtol=0, atol=0)


def test_safetensors_are_read(network, picture, tmp_path):
    save_file(
        {f"model.{key}": value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "w.safetensors"
    )
    model = load_model(tmp_path / "w.safetensors", arch=f"timm:{ARCH}")
    torch.testing.assert_close(logits(model, picture), wanted(network, picture), rtol=0, atol=0)


def test_a_backbone_and_a_head_beside_it_are_one_classifier(network, picture, tmp_path):
    state = {f"backbone.{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    state |= {"classifier.weight": network.fc.weight, "classifier.bias": network.fc.bias}
    torch.save({"state_dict": {k: v.detach() for k, v in state.items()}}, tmp_path / "w.ckpt")
    model = load_model(tmp_path / "w.ckpt", arch=f"timm:{ARCH}")
    torch.testing.assert_close(logits(model, picture), wanted(network, picture), rtol=0, atol=0)


def test_what_is_left_over_is_told(network, tmp_path):
    torch.save(Lightning(network, "model").state_dict(), tmp_path / "w.pt")
    assert "loss.weight" in load_model(tmp_path / "w.pt", arch=f"timm:{ARCH}").notes[0]


def test_features_are_what_the_last_layer_reads(network, picture, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    model = load_model(tmp_path / "w.pt", arch=f"timm:{ARCH}")
    with torch.inference_mode():
        images = model.preprocessing(picture)[None]
        found, features = model.logits_and_features(images)
        torch.testing.assert_close(features, network.forward_head(network.forward_features(images), pre_logits=True))
        torch.testing.assert_close(network.fc(features), found)
    assert model.features == features.shape[1]


def test_a_pickled_module_is_refused_and_says_how_to_save_the_weights(network, tmp_path):
    torch.save(network, tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"could run code; save the weights alone.*state_dict\(\)"):
        load_model(tmp_path / "module.pt", arch=f"timm:{ARCH}")


def test_weights_of_another_architecture_name_the_first_keys(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"do not fit timm:test_vit \(missing: .*unexpected: .*correct --arch"):
        load_model(tmp_path / "w.pt", arch="timm:test_vit")


def test_weights_of_another_size_name_shapes(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=3, img_size=64).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"pos_embed is \(1, 17, 64\) in the file and \(1, 101, 64\) in the model"):
        load_model(tmp_path / "w.pt", arch="timm:test_vit")
    assert load_model(tmp_path / "w.pt", arch="timm:test_vit", size=64).outputs == 3


def test_weights_without_an_architecture_ask_for_it(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="add --arch timm:NAME"):
        load_model(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("spec", "arch", "words"),
    [
        ("nothing.pt", None, "is no file"),
        ("resnet18", None, "did you mean timm:resnet18"),
        ("timm:resnet1888", None, "not known"),
        ("torchvision:resnet1888", None, "not known"),
        ("timm:resnet18", "timm:resnet18", "leave it out"),
    ],
)
def test_a_name_that_is_none_says_what_to_give(spec, arch, words):
    with pytest.raises(UserError, match=words):
        load_model(spec, arch=arch)


def test_torchvision_s_weights_and_its_own_preprocessing(picture, tmp_path):
    network = torchvision.models.mobilenet_v3_small(num_classes=5).eval()
    torch.save(nn.DataParallel(network).state_dict(), tmp_path / "w.pt")
    model = load_model(tmp_path / "w.pt", arch="torchvision:mobilenet_v3_small")
    transform = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        torch.testing.assert_close(logits(model, picture), network(transform(picture)[None]), rtol=0, atol=0)
    assert (model.outputs, model.features) == (5, 1024)


def test_a_vision_transformer_of_torchvision_has_its_features(tmp_path):
    network = torchvision.models.swin_t(num_classes=4)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert load_model(tmp_path / "w.pt", arch="torchvision:swin_t").features == 768


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder that save_pretrained wrote, of a tiny ViT for 32 x 32 pixels, and its model."""
    import transformers

    torch.manual_seed(0)
    names = {0: "tabby cat", 1: "dog", 2: "hen"}
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    model = transformers.ViTForImageClassification(config).eval()
    folder = tmp_path_factory.mktemp("vit")
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder, model


def test_a_hugging_face_folder_has_names_and_processor(hugging_face, picture):
    import transformers

    folder, reference = hugging_face
    model = load_model(f"hf:{folder}")
    assert model.labels == ["tabby cat", "dog", "hen"]
    assert model.features == 16
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        torch.testing.assert_close(logits(model, picture), reference(**processor(picture, return_tensors="pt")).logits)


def test_a_hugging_face_folder_with_pickled_weights_is_looked_through(hugging_face, tmp_path):
    import shutil

    folder, reference = hugging_face
    shutil.copytree(folder, tmp_path / "f")
    (tmp_path / "f" / "model.safetensors").unlink()
    torch.save(reference.state_dict(), tmp_path / "f" / "pytorch_model.bin")
    assert load_model(f"hf:{tmp_path / 'f'}").outputs == 3
    torch.save(reference, tmp_path / "f" / "pytorch_model.bin")
    with pytest.raises(UserError, match="could run code"):
        load_model(f"hf:{tmp_path / 'f'}")


def test_a_hugging_face_folder_without_a_processor_says_so(hugging_face, tmp_path):
    import shutil

    shutil.copytree(hugging_face[0], tmp_path / "f")
    (tmp_path / "f" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no image processor .*save_pretrained"):
        load_model(f"hf:{tmp_path / 'f'}")


def test_a_hugging_face_backbone_without_a_head_is_refused(hugging_face, tmp_path):
    import shutil

    shutil.copytree(hugging_face[0], tmp_path / "f")
    state = {k: v.contiguous() for k, v in hugging_face[1].state_dict().items() if not k.startswith("classifier")}
    save_file(state, tmp_path / "f" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no trained classifier\.bias"):
        load_model(f"hf:{tmp_path / 'f'}")


def test_weights_fit_a_hugging_face_config(hugging_face, picture, tmp_path):
    folder, reference = hugging_face
    state = {f"model.{key}": value for key, value in reference.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    model = load_model(tmp_path / "w.ckpt", arch=f"hf:{folder}")
    torch.testing.assert_close(logits(model, picture), logits(load_model(f"hf:{folder}"), picture))


def test_our_checkpoint_says_what_it_is(trained_run, picture):
    model = load_model(trained_run / "checkpoints" / "checkpoint_last.pt")
    assert model.outputs == 8
    assert model.labels[0] == "circle"
    assert "32 x 32 pixels" in model.preprocessing.description
    scene = Image.fromarray(np.full((32, 32, 3), 127, np.uint8))
    torch.testing.assert_close(model.preprocessing(scene), torch.zeros(3, 32, 32), rtol=0, atol=1e-6)


def test_a_checkpoint_of_no_finished_epoch_is_named_as_such(trained_run, tmp_path):
    content = torch.load(trained_run / "checkpoints" / "checkpoint_last.pt", weights_only=True)
    content["run_metadata"]["epoch"] = 0
    torch.save(content, tmp_path / "checkpoint_last.pt")
    with pytest.raises(UserError, match="0 finished epochs"):
        load_model(tmp_path / "checkpoint_last.pt")


def test_size_mean_and_std_can_be_given(network, picture, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    model = load_model(tmp_path / "w.pt", arch=f"timm:{ARCH}", size=40, mean=(0, 0, 0), std=(1, 1, 1))
    image = model.preprocessing(picture)
    assert image.shape == (3, 40, 40)
    assert 0 <= image.min() <= image.max() <= 1
    with pytest.raises(UserError, match="not 0 to 255"):
        load_model(tmp_path / "w.pt", arch=f"timm:{ARCH}", mean=(127, 127, 127))


def test_another_size_makes_another_fingerprint(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    prints = {load_model(tmp_path / "w.pt", f"timm:{ARCH}", size=size).fingerprint for size in (None, None, 40)}
    assert len(prints) == 2


def test_a_size_that_a_network_cannot_take_is_one_sentence(tmp_path):
    torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"cannot take images as they are prepared .*give another --image-size"):
        load_model(tmp_path / "w.pt", arch="torchvision:squeezenet1_1", size=8)


def test_a_model_whose_weights_are_nan_is_named(tmp_path):
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    broken = {key: value * torch.nan if value.is_floating_point() else value for key, value in state.items()}
    torch.save(broken, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt gives NaN or infinite numbers"):
        load_model(tmp_path / "w.pt", "timm:test_resnet")
