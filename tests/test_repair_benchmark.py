"""The benchmark of repairs: what chooses sees nothing of the images that judge, and what the tables say is right."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.slices import repair

ARGS = SimpleNamespace(data="scenes", tables=["a", "b"])


class Model:
    """A network whose features are an image's pixels and whose layer looks at the first alone."""

    def __init__(self, noise=0.0):
        layer = torch.nn.Linear(12, 2)
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[1, 0], layer.weight[0, 0] = 8, -8
            layer.bias.copy_(torch.tensor([8.0, -8.0]) * (0.5 + noise))
        self.network = SimpleNamespace(fc=layer)

    def __call__(self, images):
        features = torch.from_numpy(images.reshape(len(images), -1) / np.float32(255))
        with torch.no_grad():
            return self.network.fc(features).softmax(1).numpy(), features.numpy()


def images_of(rng, n, rare):
    """Images of two classes that differ in pixel 0, but for a share of class 1, bright in pixel 1, that does not."""
    labels = np.arange(n) % 2
    planted = (labels == 1) & (rng.random(n) < rare)
    pixels = rng.uniform(0, 1, (n, 12))
    pixels[:, 0] = np.where((labels == 1) & ~planted, 0.8, 0.2) + rng.uniform(-0.15, 0.15, n)
    pixels[:, 1] = np.where(planted, 0.9, rng.uniform(0, 0.4, n))
    return (255 * pixels.clip(0, 1)).astype(np.uint8).reshape(n, 2, 2, 3), labels, np.where(planted, 0, -1)


def data_of(flip=False):
    """`Data`; flipped, the images that judge have the other label."""
    rng = np.random.default_rng(0)
    train_images, train_labels, _ = images_of(rng, 300, 0.02)
    parts = {"find": 240, "confirm": 240, "evaluate": 240, "pool": 240}
    images, labels, planted = map(np.concatenate, zip(*(images_of(rng, n, 0.25) for n in parts.values()), strict=True))
    part = np.repeat(list(parts), list(parts.values()))
    labels = np.where(flip & (part == "evaluate"), 1 - labels, labels)
    return repair.Data(train_images, train_labels, images, labels, planted, part, 2, "scenes")


@pytest.fixture
def run(monkeypatch):
    """A function that runs a seed on the data with stand-ins for networks: rows, and the images each was trained on."""

    def call(flip=False, chosen=()):
        seen = []

        def train(images, labels, num_classes, seed, epochs, start=None, weights=None, rate=None):
            seen.append((images.tobytes(), labels.tobytes(), None if weights is None else weights.tobytes()))
            return Model(0.01 * len(seen))

        monkeypatch.setattr(repair, "train", train)
        monkeypatch.setattr(repair, "BUDGET", {"scenes": 40})
        monkeypatch.setattr(repair, "GRIDS", {family: grid[-2:] for family, grid in repair.GRIDS.items()})
        return repair.run_seed(data_of(flip), 0, ARGS, dict(chosen)), seen

    return call


def test_nothing_is_chosen_by_the_images_that_judge(run):
    rows, seen = run()
    flipped, seen_flipped = run(flip=True)
    assert seen == seen_flipped  # the same images are added, with the same weights
    assert {(row["method"], row["settings"]) for row in rows} == {(row["method"], row["settings"]) for row in flipped}
    overall = [{r["method"]: r["accuracy"] for r in of if r["measure"] == "overall"} for of in (rows, flipped)]
    assert all(overall[0][method] == pytest.approx(1 - overall[1][method]) for method in overall[0])


def test_a_planted_failure_is_found_chosen_and_repaired(run):
    rows, _ = run()
    found = {(row["table"], row["method"], row["measure"]): row for row in rows}
    accuracy = {key: row["accuracy"] for key, row in found.items()}
    assert accuracy["b", "base", "minority"] < 0.1
    assert accuracy["b", "base", "rest"] > 0.99
    for method in ("DFR, found", "DFR, found as one", "DFR, true", "JTT", "AFR"):
        assert accuracy["b", method, "minority"] > 0.9, method
    assert {row["images"] for row in rows if row["table"] == "labels"} == {20}
    assert found["a", "slices, errors", "overall"]["images"] == 40


def test_settings_that_were_chosen_before_are_kept(run):
    settings = str(repair.GRIDS["afr"][-1])
    rows, _ = run(chosen={"AFR": settings})
    assert {row["settings"] for row in rows if (row["table"], row["method"]) == ("b", "AFR")} == {settings}


def row_of(seed, table, method, accuracy, images=0):
    values = dict.fromkeys(repair.MEASURES, accuracy)
    return [
        dict(zip(repair.COLUMNS, (seed, table, method, measure, value, images, 1.0, ""), strict=True))
        for measure, value in values.items()
    ]


def test_tables_pair_by_seed_and_divide_by_the_labels():
    rows = []
    for seed, gain in ((1, 0.1), (2, 0.3)):
        rows += row_of(seed, "a", "base", 0.5) + row_of(seed, "a", "random", 0.6, 200)
        rows += row_of(seed, "a", "slices, errors", 0.5 + gain, 200)
        rows += row_of(seed, "labels", "slices, errors", 0.5 + gain / 2, 50)
    of_a = [row for row in rows if row["table"] == "a"]
    _, lines = repair.summary(of_a)
    half = 12.706 * 0.1  # Student's t of two seeds, times their standard error
    assert lines[2][2] == f"0.700 +0.200 [{0.2 - half:+.3f}, {0.2 + half:+.3f}]"
    _, lines = repair.compared(of_a, "slices, errors", ("random", "confidence"))
    assert [line[:2] for line in lines] == [["less random", 2]]
    assert lines[0][2].startswith("+0.100 [")
    _, lines = repair.per_hundred(rows)
    assert [(line[0], line[1], line[2].split()[0]) for line in lines] == [
        (50, "slices, errors", "+0.200"),
        (200, "slices, errors", "+0.100"),
    ]
