"""The same on CUDA as on a CPU: what the loaders deliver, what training, embeddings, directions and layers come to.

`pytest -m cuda` on a machine with a card; docs/development.md says how the files get there. Elsewhere it is skipped.
"""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sparse_path import features, kkt

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROOT = Path(__file__).resolve().parents[1]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def epoch_checksums(loader, epochs=1):
    """CRC-32 of every batch, field by field, moved to the CPU after the next batch was asked for."""
    sums = []
    for _ in range(epochs):
        waiting = None
        for batch in loader:
            if waiting is not None:
                sums.append([zlib.crc32(field.contiguous().cpu().numpy().tobytes()) for field in waiting])
            waiting = batch
        sums.append([zlib.crc32(field.contiguous().cpu().numpy().tobytes()) for field in waiting])
    return sums


# ---------------------------------------------------------------------------------------------------------------------
# Loaders (need ffcv)
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(scenes_folder):
    return small_scenes(scenes_folder)


def small_scenes(folder):
    """Config and splits of the scenes, with three short epochs."""
    from failure_directions.config_parsing import load_dataset_config
    from failure_directions.data.splits import open_splits

    overrides = ["batch_size=20", "training.epochs=3", "training.lr_scheduler.lr_peak_epoch=1"]
    config = load_dataset_config(Path(folder) / "config.yaml", overrides)
    return config, open_splits(config, folder)


def loader_of(small, device, name="train", train=True, **options):
    from failure_directions.loaders import make_loader

    config, splits = small
    return make_loader(splits[name], config.model_copy(update=options), device, train=train, seed=3)


def test_pixels_labels_and_order_are_the_cpus(small):
    for train in (False, True):
        for cpu, cuda in zip(loader_of(small, CPU, train=train), loader_of(small, CUDA, train=train), strict=True):
            assert cuda.image.device.type == "cuda"
            assert cuda.image.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(cpu.label, cuda.label.cpu())
            assert torch.equal(cpu.index, cuda.index.cpu())
            torch.testing.assert_close(cuda.image.cpu(), cpu.image, rtol=1e-6, atol=1e-6)


def test_no_page_is_written_over_while_it_is_copied(small):
    """Ten epochs on a card that is kept busy, so that copies wait for it: every batch is the one it was when idle."""
    loader = loader_of(small, CUDA, num_workers=4)
    calm = epoch_checksums(loader, 10)
    loader = loader_of(small, CUDA, num_workers=4)
    weight = torch.randn(4096, 4096, device=CUDA)

    def busy():
        for batch in loader:
            for _ in range(3):
                torch.mm(weight, weight)
            yield batch

    class Busy:
        __iter__ = staticmethod(busy)

    assert epoch_checksums(Busy(), 10) == calm


# ---------------------------------------------------------------------------------------------------------------------
# Training and evaluation
# ---------------------------------------------------------------------------------------------------------------------


def train(small, folder, device, **options):
    from failure_directions.training.resuming import new_checkpoint
    from failure_directions.training.trainer import Trainer

    config, _ = small
    loaders = {"train": loader_of(small, device), "val": loader_of(small, device, "val", train=False)}
    trainer = Trainer(config, device, folder, seed=1, log=False, **loaders, **options)
    return trainer.fit(new_checkpoint(config, 1))


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    return train(small, tmp_path_factory.mktemp("trained"), CUDA)


def test_the_same_seed_trains_the_same_model_where_cudnn_is_deterministic(small, trained, tmp_path):
    """What may differ between two runs is which algorithm cuDNN finds the fastest; here it may not look for it."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        one = train(small, tmp_path / "one", CUDA).state_dict()
        two = train(small, tmp_path / "two", CUDA).state_dict()
    differ = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differ


def test_a_resumed_training_goes_on_with_the_optimizer_of_the_card(small, tmp_path):
    from failure_directions.models.checkpoints import load_checkpoint
    from failure_directions.training.resuming import load_resumable
    from failure_directions.training.trainer import Trainer

    config, _ = small
    train(small, tmp_path, CUDA)
    last = tmp_path / "checkpoints" / "checkpoint_last.pt"
    longer = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 4})})
    loaders = {"train": loader_of(small, CUDA), "val": loader_of(small, CUDA, "val", train=False)}
    trainer = Trainer(longer, CUDA, tmp_path, seed=1, log=False, **loaders)
    trainer.fit(load_resumable(last, longer, 1, {}))
    assert load_checkpoint(last).run_metadata["epoch"] == 4


def test_a_training_step_does_not_wait_for_the_card(small, tmp_path):
    """torch raises where something in a step waits. The loader's own thread waits, and is meant to."""
    from failure_directions.training.resuming import new_checkpoint
    from failure_directions.training.trainer import Trainer

    config, _ = small
    loader = loader_of(small, CUDA)
    waits = []

    class Watched:
        """The loader's batches; between them, the step, no wait is allowed."""

        split = loader.split

        def __len__(self):
            return len(loader)

        def __iter__(self):
            for step, batch in enumerate(loader):
                torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step initialises
                try:
                    yield batch
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                waits.append(step)

    trainer = Trainer(
        config, CUDA, tmp_path, Watched(), None, loss_vector=torch.ones(len(loader.split.beton)), log=False
    )
    model = new_checkpoint(config, 1).model.to(CUDA, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    trainer._train_epoch(model, optimizer, torch.amp.GradScaler(enabled=False), 0)
    assert len(waits) == len(loader) > 2


@pytest.fixture(scope="module")
def both_devices(small, trained, tmp_path_factory):
    """dict device -> (Predictions, embeddings) of the validation images, of one model."""
    from failure_directions.embeddings.cache import EmbeddingCache
    from failure_directions.embeddings.spaces import LatentEmbedding

    config, _ = small
    found = {}
    for device in (CPU, CUDA):
        model = trained.to(device)
        folder = tmp_path_factory.mktemp("embeddings")
        cache = EmbeddingCache(folder, model, LatentEmbedding(), config, device)
        predictions, embeddings = cache.get(loader_of(small, device, "val", train=False))
        found[device] = predictions, np.array(embeddings)
    trained.to(CUDA)
    return found


def assert_same_directions(found):
    """Decision values of both devices' embeddings by one set of directions, within 1e-3 of their deviation."""
    from failure_directions.svm_utils import SVMFitter

    predictions, embeddings = found[CPU]
    fitter = SVMFitter()
    fitter.set_preprocess(embeddings)
    fitter.fit(preds=predictions.preds, ys=predictions.labels, latents=embeddings)
    values = [fitter.predict(ys=predictions.labels, latents=found[device][1])[1] for device in (CPU, CUDA)]
    for c in np.flatnonzero(np.isfinite(fitter.cv_scores)):
        cpu, cuda = (value[predictions.labels == c] for value in values)
        assert np.abs(cuda - cpu).max() <= 1e-3 * cpu.std()


def test_predictions_and_decision_values_are_the_cpus(both_devices):
    (cpu, _), (cuda, _) = both_devices[CPU], both_devices[CUDA]
    np.testing.assert_array_equal(cuda.indices, cpu.indices)
    assert (cuda.preds != cpu.preds).mean() <= 0.005
    np.testing.assert_allclose(cuda.confs, cpu.confs, atol=2e-3)
    assert_same_directions(both_devices)


def test_clips_decision_values_are_the_cpus(small, both_devices):
    from failure_directions.embeddings.clip import CLIPProcessor

    config, _ = small
    found = {}
    for device in (CPU, CUDA):
        clip = CLIPProcessor(config.mean, config.std, "scenes", device=str(device))
        found[device] = (
            both_devices[CPU][0],
            clip.evaluate_clip_images(loader_of(small, device, "val", train=False)),
        )
        found[device, "texts"] = clip.evaluate_clip_captions(["a photo of a red circle", "a blue star on a white page"])
    np.testing.assert_allclose(found[CUDA, "texts"], found[CPU, "texts"], atol=2e-3)
    assert_same_directions(found)


def test_the_pass_over_own_images_is_the_cpus(tmp_path):
    """The light way: folders of images through a model of timm, without ffcv."""
    import failure_directions as fd
    import timm
    from failure_directions.models.own_models import from_module

    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (300, 40, 40, 3), dtype=np.uint8)
    model = from_module(timm.create_model("resnet10t", num_classes=4).eval(), None)
    probs = [fd.predict(images, model, device=device, cache=False, quiet=True)[0] for device in ("cpu", "cuda")]
    np.testing.assert_allclose(probs[1], probs[0], atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Sparse layers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gb", [None, 0], ids=["resident", "streamed"])
@pytest.mark.parametrize("family", ["multinomial", "gaussian"])
def test_a_path_is_as_good_as_the_cpus(monkeypatch, memory_gb, family):
    monkeypatch.setattr("failure_directions.sparse.rows.CUDA_BLOCKS", 1)
    monkeypatch.setattr("failure_directions.sparse.rows.BLOCK_ELEMENTS", 100 * 30)  # seven blocks
    from failure_directions.sparse.path import elastic_net_path

    X, y = features(700, 30, 4)
    how = {"k": 5, "epsilon": 0.05, "family": family, "memory_gb": memory_gb, "tol": 1e-6}
    cpu, cuda = (elastic_net_path(X, y, device=device, **how) for device in ("cpu", "cuda"))
    for i in range(len(cpu)):
        assert kkt(cuda, i, X, y) <= 1.5e-6 * cuda.lambdas[0]
        assert cuda.metrics[i]["objective"] == pytest.approx(cpu.metrics[i]["objective"], rel=1e-6)


def test_rows_with_nan_are_refused_although_they_are_read_ahead(monkeypatch):
    from failure_directions.runtime.errors import UserError
    from failure_directions.sparse.rows import StandardizedRows

    monkeypatch.setattr("failure_directions.sparse.rows.CUDA_BLOCKS", 1)
    monkeypatch.setattr("failure_directions.sparse.rows.BLOCK_ELEMENTS", 10 * 5)
    X = np.ones((60, 5), np.float32)
    X[37, 2] = np.nan
    rows = StandardizedRows(X, np.zeros(5), np.ones(5), CUDA, torch.float32, 0)
    with pytest.raises(UserError, match="rows 30 to 39"):
        list(rows.blocks())


# ---------------------------------------------------------------------------------------------------------------------
# Generation
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """The diffusion model of the scenes, and a class token of a known word."""
    from failure_directions.interfaces.diffusion_models import load_model
    from failure_directions.interfaces.textual_inversion import mean_embedding

    from dataset_interfaces import create_token_dictionary

    root = tmp_path_factory.mktemp("diffusion") / "root"
    embedding = mean_embedding(load_model("scenes"), "star")
    create_token_dictionary([embedding], ["<star-0>"], ["star"], root, "scenes")
    return "scenes", root


def test_images_are_those_of_the_cpu_but_for_half_precision(diffusion):
    from dataset_interfaces import generate

    model, root = diffusion
    how = {"model_name": model, "batch_size": 4, "num_inference_steps": 10, "guidance_scale": 2.0}
    cpu, cuda = (
        np.stack([np.asarray(image, float) for image in generate(root, 0, "a red <TOKEN>", 4, 7, device=device, **how)])
        for device in ("cpu", "cuda")
    )
    assert np.abs(cpu - cuda).mean() <= 3  # of 255


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_token_is_learned_as_on_the_cpu(diffusion, tmp_path, precision):
    from failure_directions.data.scene_drawing import draw
    from PIL import Image

    from dataset_interfaces import run_textual_inversion

    model, _ = diffusion
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.fromarray(draw(32, "star", "red", "plain", np.random.default_rng(i))).save(photos / f"{i}.png")
    how = {"batch_size": 2, "templates": ("a photo of a {}",)}
    learned = [
        run_textual_inversion(photos, "<red-star-0>", "star", model, 8, device=device, mixed_precision=which, **how)
        for device, which in (("cpu", "no"), ("cuda", precision))
    ]
    similarity = torch.cosine_similarity(*learned, dim=0)
    assert similarity > (0.9999 if precision == "no" else 0.99)


# ---------------------------------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------------------------------

RANKS = """
import sys, torch
from pathlib import Path
from torch import distributed as dist
folder, out, backend = sys.argv[1:]
from test_cuda import CUDA, small_scenes, train
dist.init_process_group(f"cpu:gloo,cuda:{backend}")
torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
model = train(small_scenes(folder), Path(out), CUDA)
norms = [float(weight.double().norm()) for weight in model.parameters()]
gathered = [None] * dist.get_world_size()
dist.all_gather_object(gathered, norms)
assert all(other == norms for other in gathered)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_ranks_on_cuda_train_one_model(scenes_folder, tmp_path, backend):
    """Two ranks; on one card by gloo alone, for NCCL refuses a card that another rank has: there it is one rank."""
    ranks = 1 if backend == "nccl" and torch.cuda.device_count() == 1 else 2
    (tmp_path / "ranks.py").write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    words = [*launcher, tmp_path / "ranks.py", scenes_folder, tmp_path / "run", backend]
    places = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": places}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").is_file()


def test_more_ranks_than_cards_are_refused_with_a_sentence(scenes_folder, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={torch.cuda.device_count() + 1}", ROOT / "ffcv_main.py"]
    words = ["-c", scenes_folder / "config.yaml", "--root", scenes_folder, "--runs", tmp_path, "--exp-name", "two"]
    done = subprocess.run([*launcher, *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode
    assert "lower --nproc-per-node" in done.stderr
