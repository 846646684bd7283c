"""Every block of shell and of Python in README.md and docs runs, on small data that is drawn here, or says why not.

A block is indented or fenced. `<!-- not run: REASON -->` above it, or above a page for all its blocks, leaves it out.
That options exist is looked at in test_commands.py; docs/your_own_model.md is run by test_own_model_docs.py.
"""

import ast
import hashlib
import os
import pickle
import re
import runpy
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import failure_directions as fd
import numpy as np
import pytest
import torch
import yaml
from failure_directions.commands.main import main
from failure_directions.data.beton_sets import write_splits
from failure_directions.data.image_sources import ImageArrays
from failure_directions.models import lite
from failure_directions.runtime import hub, shipped
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_ELSEWHERE = {"your_own_model.md"}
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
SHELL = ("failure-directions", "python", "pip", "make", "source", "torchrun", "for", "bash", ".venv/", "git", "docker")
# What is too large for a test, and what is small and of the same kind.
STAND_INS = {"timm:resnet50": "timm:resnet10t"}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class Block:
    """A block of code: its page, its first line, "bash", "python" or "" for another language, why it is not run."""

    page: str
    line: int
    language: str
    code: str
    reason: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"

    def commands(self):
        """The words of each command, lines that go on joined."""
        for line in re.sub(r"\\\n\s*", " ", self.code).splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield [STAND_INS.get(word, word) for word in words]


def blocks(path):
    """The blocks of a page, in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(lines)
    of_page = NOT_RUN.match(text)
    reason, found, k = of_page, [], 0
    while k < len(lines):
        line, first = lines[k], k
        if line.startswith("<!--"):
            while "-->" not in lines[k]:
                k += 1
            reason = NOT_RUN.match("\n".join(lines[first : k + 1])) or of_page
        elif line.startswith("```"):
            k = lines.index("```", k + 1)
            code = lines[first + 1 : k]
            found.append(make_block(path.name, first + 2, code, reason, line[3:]))
        elif line.startswith("    ") and (k == 0 or not lines[k - 1].strip()):
            while k + 1 < len(lines) and (not lines[k + 1].strip() or lines[k + 1].startswith("    ")):
                k += 1
            found.append(make_block(path.name, first + 1, lines[first : k + 1], reason))
        if line.strip() and not line.startswith("<!--"):
            reason = of_page
        k += 1
    return found


def make_block(page, line, lines, reason, language=None):
    code = textwrap.dedent("\n".join(lines)).strip() + "\n"
    return Block(page, line, language or language_of(code), code, reason[1] if reason else "")


def language_of(code):
    """ "bash" or "python", by how a block begins; "" for what is neither, as a config."""
    first = next((line for line in code.splitlines() if line.strip() and not line.startswith("#")), "")
    first = re.sub(r"^([A-Z_]+=\S* )+", "", first.strip())
    if first.startswith(SHELL):
        return "bash"
    return "python" if re.match(r"(import|from|def|for|with|print)\b|[\w, ]+ = |[\w.]+\(", first) else ""


BLOCKS = [block for path in PAGES for block in blocks(path) if block.language]
TO_RUN = [block for block in BLOCKS if not block.reason and block.page not in RUN_ELSEWHERE]


def test_the_blocks_of_a_page_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n    make demo     # it\n\n    make test\n\ntext\n\n```python\nimport a\n\nb = 1\n```\n\n- point\n\n"
        "      python -m x\n\n<!-- not run: a\nb -->\n\n    OMP_NUM_THREADS=1 python x.py \\\n        -y\n\nx\n\n"
        "    classes:\n      a: b\n\n<!-- other -->\n\n    x = fd.load(p)\n"
    )
    found = blocks(page)
    assert [(block.line, block.language, block.reason) for block in found] == [
        (3, "bash", ""),
        (10, "python", ""),
        (17, "bash", ""),
        (22, "bash", "a\nb"),
        (27, "", ""),
        (32, "python", ""),
    ]
    assert list(found[0].commands()) == [["make", "demo"], ["make", "test"]]
    assert list(found[3].commands()) == [["python", "x.py", "-y"]]
    page.write_text("<!-- not run: hours -->\n# Page\n\n    make demo\n")
    assert [block.reason for block in blocks(page)] == ["hours"]


@pytest.mark.parametrize("block", TO_RUN, ids=str)
def test_a_block_that_is_run_can_be_read(block):
    """In full: nothing is left out with dots, and what it calls is known here."""
    if block.language == "python":
        ast.parse(block.code)
        return
    for words in block.commands():
        assert "..." not in words, f"{block}: say why it is not run, or write it out: {' '.join(words)}"
        assert words[0] in ("failure-directions", "python", "source"), f"{block}: {words[0]} is not run here"


def test_most_blocks_are_run():
    assert len(TO_RUN) > 10
    assert {"README.md", "training.md", "sparse.md", "repair.md", "confirmation.md"} <= {block.page for block in TO_RUN}


# ---- small data under the names of the documents


def drawn(rng, labels, noise=70):
    """Images 32 x 32 of one colour a class, so noisy that some are mistaken."""
    colours = np.random.default_rng(9).integers(40, 216, (len(CLASSES), 1, 1, 3))
    pixels = (
        colours[labels] + rng.normal(0, noise, (len(labels), 1, 1, 3)) + rng.normal(0, 20, (len(labels), 32, 32, 3))
    )
    return pixels.clip(0, 255).astype(np.uint8)


def write_cifar(folder, patch):
    """CIFAR-10 of 600 training and 200 test images, as torchvision unpacks it."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, count in (("data_batch_1", 60), ("test_batch", 20)):
        labels = rng.permutation(np.repeat(np.arange(10), count))
        data = drawn(rng, labels).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    patch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    patch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    patch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})


def write_pairs(folder):
    """Betons of `cifar_pairs`: five classes of two, of which the second is rare in train."""
    rng, sources = np.random.default_rng(1), {}
    config = yaml.safe_load((ROOT / "dataset_configs" / "cifar_pairs.yaml").read_text())
    pairs = [[CLASSES.index(name) for name in names.split("+")] for names in config["class_names"]]
    for split, count in (("train", 80), ("test", 40)):
        labels = np.repeat(np.arange(5), count)
        fine = np.array([pairs[label][i % 5 == 0] for i, label in enumerate(labels)])
        sources[split] = ImageArrays(drawn(rng, fine), labels, config["class_names"], fine)
    write_splits(sources, folder, "cifar_pairs", workers=1)


def write_shipped(folder):
    """Configs and index files that ship, for the small betons and with two epochs."""
    import timm

    for name in ("dataset_configs", "svm_configs"):
        (folder / name).mkdir(parents=True)
        for path in (ROOT / name).glob("*.yaml"):
            config = yaml.safe_load(path.read_text())
            if "training" in config:
                config["batch_size"] = 64
                config["training"] = {"epochs": 2, "lr": 0.1}
            if config.get("embedding") == "timm":
                config |= {"timm_model": "test_resnet", "timm_weights": str(folder / "test_resnet.pt"), "timm_size": 32}
            (folder / name / path.name).write_text(yaml.safe_dump(config))
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "test_resnet.pt")
    (folder / "index_files").mkdir()
    parts = [torch.arange(600)[part::3] for part in range(3)]
    both = {"train_indices": parts[0], "val_indices": parts[1]}
    torch.save(both, folder / "index_files" / "cifar.pt")
    torch.save(both | {"unlabeled_indices": parts[2]}, folder / "index_files" / "cifar_0.25_with_unlabeled.pt")
    parts = [torch.arange(400)[part::3] for part in range(3)]
    pairs = dict(zip(("train_indices", "val_indices", "unlabeled_indices"), parts, strict=True))
    torch.save(pairs, folder / "index_files" / "cifar_pairs.pt")


def write_own_images(place):
    """my_images, models of its two classes, and a table of predictions with embeddings."""
    import timm
    import transformers

    rng, rows = np.random.default_rng(0), ["path,label,split,pred"]
    for split in ("train", "val", "test"):
        for c, name in enumerate(("cat", "dog")):
            folder = place / "my_images" / split / name
            folder.mkdir(parents=True)
            for i in range(30):
                Image.fromarray(rng.integers(100 * c, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"{i}.png")
                if split != "train":
                    rows.append(f"my_images/{split}/{name}/{i}.png,{name},{split},{'dog' if i % 3 == 0 else name}")
    (place / "table.csv").write_text("\n".join(rows))
    np.save(place / "e.npy", rng.normal(size=(120, 6)))
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=2).state_dict(), place / "weights.pt")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    config.id2label, config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
    transformers.ViTForImageClassification(config).save_pretrained(place / "my_vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(place / "my_vit")


def write_two_models(place):
    """Results old.pt and new.pt, tables old.csv and new.csv: of a model that fails in a corner, and of the next one."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(1200, 6)), np.repeat([0, 1], 600)
    corner, elsewhere = (x[:, 0] > 0.8) & (labels == 0), rng.random(1200) < 0.05
    images = [str(place / "images" / f"{i}.png") for i in range(1200)]
    for name, wrong in (("old", corner | elsewhere), ("new", elsewhere)):
        preds = np.where(wrong, 1 - labels, labels)
        fd.find_failures(labels, preds, x, images=images, class_names=["a", "b"]).save(place / f"{name}.pt")
        rows = [
            f"images/{i}.png,{'ab'[labels[i]]},{'ab'[preds[i]]},{'corner' if corner[i] else ''}" for i in range(1200)
        ]
        (place / f"{name}.csv").write_text("\n".join(["path,label,pred,slice", *rows]))
    (place / "new_model.csv").write_bytes((place / "new.csv").read_bytes())


def names_in_python(place):
    """What blocks of Python use without making it."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    probs = rng.dirichlet((1, 1), 200)
    return {
        "__package__": "benchmarks.slices.methods",  # of a method that a page adds to them
        "__name__": "benchmarks.slices.methods.mine",
        "labels": labels,
        "probs": probs,
        "preds": probs.argmax(1),
        "embeddings": rng.normal(size=(200, 8)),
        "paths": [str(place / "my_images" / "test" / "cat" / f"{i % 30}.png") for i in range(200)],
        "new_labels": labels[:20],
        "new_embeddings": rng.normal(size=(20, 8)),
        "features": rng.normal(size=(200, 8)),
        "val_features": rng.normal(size=(100, 8)),
        "val_labels": np.arange(100) % 2,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder, the working one, with what the documents start from; no network, no weights from pip."""
    import timm

    place, here = tmp_path_factory.mktemp("documents"), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("FAILURE_DIRECTIONS_CACHE", str(place / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join(path or str(here) for path in sys.path))
        patch.setattr(sys, "argv", ["python"])
        patch.setattr(hub, "answers", lambda: False)
        patch.setattr(lite, "has_lite_weights", lambda: True)
        patch.setattr(lite, "lite_network", lambda: timm.create_model("test_resnet"))
        patch.setattr(shipped, "_PACKAGE", place / "shipped" / "src")
        write_cifar(place / "data" / "torchvision", patch)
        write_pairs(place / "data")
        write_shipped(place / "shipped")
        write_own_images(place)
        write_two_models(place)
        yield place


def run(block, place):
    """Run a block: commands as their `main`, in this process, Python by `exec`."""
    if block.language == "python":
        exec(compile(block.code, str(block), "exec"), names_in_python(place))
        return
    for words in block.commands():
        if words[0] == "source":  # the environment is this one
            continue
        try:
            if words[0] == "failure-directions":
                main(words[1:])
            else:
                sys.argv = [str(ROOT / words[1]), *words[2:]]
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(" ".join(words)) from end


@pytest.fixture(scope="module")
def ran(place):
    """Which blocks have run: those of the README come first, since the pages go on from them."""
    done = []
    for block in TO_RUN:
        if block.page == "README.md" and "CIFAR" in section(block):
            run(block, place)
            done.append(block)
    return done


def section(block):
    """The last heading above a block."""
    above = (ROOT / block.page).read_text(encoding="utf-8").splitlines()[: block.line]
    return next(line for line in reversed(above) if line.startswith("#"))


@pytest.mark.check
@pytest.mark.parametrize("block", TO_RUN, ids=str)
def test_a_block_runs(block, place, ran):
    if block not in ran:
        run(block, place)
