"""docs/your_own_model.md: every line of it runs, on small models made here."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from failure_directions.commands import export, find
from failure_directions.runtime import hub
from PIL import Image
from safetensors.torch import save_file
from torch import nn

DOCUMENT = Path(__file__).parents[1] / "docs" / "your_own_model.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^failure-directions find (.*)$", TEXT, re.MULTILINE)
(PYTHON,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that the document names."""
    import transformers

    place = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(0)
    rows = ["path,label,split,pred"]
    for split in ("val", "test"):
        for c, name in enumerate(("cat", "dog")):
            for i in range(40):
                path = place / "my_images" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(100 * c, 256, (32, 32, 3)).astype(np.uint8)).save(path)
                rows.append(f"{path.relative_to(place)},{name},{split},{'dog' if i % 3 == 0 else name}")
    (place / "table.csv").write_text("\n".join(rows))
    np.save(place / "e.npy", rng.normal(size=(160, 6)))
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=2)
    torch.save(network.state_dict(), place / "weights.pt")
    torch.save(torch.compile(network).state_dict(), place / "compiled.pt")
    torch.save(nn.DataParallel(network).state_dict(), place / "parallel.pt")
    lightning = nn.ModuleDict({"model": network, "loss": nn.CrossEntropyLoss(torch.ones(2))})
    torch.save({"state_dict": lightning.state_dict(), "epoch": 1}, place / "lightning.ckpt")
    save_file(torchvision.models.mobilenet_v3_small(num_classes=2).state_dict(), place / "torchvision.safetensors")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        id2label={0: "Dog", 1: "Cat"},
        label2id={"Dog": 0, "Cat": 1},
    )
    transformers.ViTForImageClassification(config).save_pretrained(place / "my_vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / "my_vit")
    return place


def save_dataset(place):
    """The same images as `datasets` saves them."""
    datasets = pytest.importorskip("datasets")
    splits = {}
    for split in ("val", "test"):
        paths = sorted(map(str, (place / "my_images" / split).rglob("*.png")))
        labels = [int(Path(path).parent.name == "dog") for path in paths]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        splits[split] = datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features)
    datasets.DatasetDict(splits).save_to_disk(place / "saved_dataset")


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    """In that folder, without a network; the embedding that pip would bring is a small one."""
    from failure_directions.models import lite

    monkeypatch.chdir(place)
    monkeypatch.setenv("FAILURE_DIRECTIONS_CACHE", str(place / "cache"))
    monkeypatch.setattr(hub, "answers", lambda: False)
    monkeypatch.setattr(lite, "has_lite_weights", lambda: True)
    monkeypatch.setattr(lite, "lite_network", lambda: timm.create_model("test_resnet"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_document_writes_its_report(command, place, capsys):
    if "saved_dataset" in command:
        save_dataset(place)
    find.main(shlex.split(command))
    told = capsys.readouterr().out
    assert "confirmed" in told
    page = (place / "report.html").read_text(encoding="utf-8")
    assert "cat" in page
    if "--model" in command:  # how its images are prepared, and which output is which class
        assert "outputs; images: " in page
        assert re.search("matched to the model|in the order", page)
    (place / "report.html").unlink()
    if "hf:" in command:
        assert "cat = 1 Cat" in told


def test_a_result_is_exported_as_the_document_says(place):
    (words,) = re.findall(r"^failure-directions export (.*)$", TEXT, re.MULTILINE)
    (found,) = [command for command in COMMANDS if "--out" in command]
    find.main(shlex.split(found))
    export.main(shlex.split(words))
    with open(place / "found_images.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 160
    assert {"path", "label", "pred", "correct", "decision_value", "failure"} <= set(rows[0])


def test_the_document_has_a_line_for_every_form():
    for form in (
        "weights.pt",
        "compiled",
        "parallel",
        "lightning",
        "torchvision:",
        "hf:",
        "--predictions",
        "saved_dataset",
    ):
        assert any(form in command for command in COMMANDS)


def test_the_lines_in_python_run(place):
    classes = ["cat", "dog"]
    images = [str(path) for path in sorted((place / "my_images").rglob("*.png"))]
    names = {
        "images": images,
        "labels": [classes.index(Path(path).parent.name) for path in images],
        "classes": classes,
        "model": timm.create_model("test_resnet", num_classes=2).eval(),
        "transform": torchvision.transforms.Compose(
            [torchvision.transforms.Resize((64, 64)), torchvision.transforms.ToTensor()]
        ),
    }
    exec(PYTHON, names)
    assert names["probs"].shape == (160, 2)
    assert names["found"].class_names == classes
    assert (place / "report.html").is_file()
