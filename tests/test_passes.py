"""One pass over images: the network's own numbers, whatever the form of the images; kept, shared out, and honest."""

import io
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from failure_directions.data.any_images import AnyImages
from failure_directions.embeddings import passes
from failure_directions.embeddings.passes import embed, predict
from failure_directions.models.own_models import from_module
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.progress import Progress, duration
from PIL import Image

ARCH = "test_resnet"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model(ARCH, num_classes=3).eval()


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(10)]


@pytest.fixture
def files(pictures, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAILURE_DIRECTIONS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reference(network, pictures):
    """Probabilities and penultimate features by timm's own transform, one image at a time."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        images = torch.stack([transform(picture) for picture in pictures])
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        return network(images).softmax(1).numpy(), features.numpy()


def test_predictions_are_the_network_s_own_whatever_form_images_have(network, pictures, files):
    wanted, _ = reference(network, pictures)
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    for images in (files, pictures, arrays, torch.from_numpy(arrays), list(arrays)):
        probs, names = predict(images, network, batch_size=4, quiet=True)
        assert names == ["0", "1", "2"]
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs, wanted, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_answer(network, pictures, files, workers):
    probs, _ = predict(files, network, workers=workers, batch_size=3, quiet=True)
    np.testing.assert_allclose(probs, reference(network, pictures)[0], atol=1e-5)


def test_one_pass_gives_predictions_and_features(network, pictures):
    done = passes.run_pass(pictures, passes.classifier(from_module(network)), quiet=True)
    for found, wanted in zip(done.arrays.values(), reference(network, pictures), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(
        embed(pictures, from_module(network), quiet=True), reference(network, pictures)[1], atol=1e-5
    )


def test_a_second_call_reads_what_the_first_left(network, files, monkeypatch):
    first, _ = predict(files, network, quiet=True)
    monkeypatch.setattr(passes, "_run", lambda *_: pytest.fail("the pass ran again"))
    second, _ = predict(files, network, quiet=True)
    np.testing.assert_array_equal(first, second)


def test_a_changed_image_other_weights_or_another_size_are_another_question(network, files, own_cache):
    predict(files, network, quiet=True)
    Image.new("RGB", (20, 20)).save(files[3])
    predict(files, network, quiet=True)
    other = timm.create_model(ARCH, num_classes=3)
    predict(files, other, quiet=True)
    predict(files[:5], other, quiet=True)
    predict(files, other, conditions=True, quiet=True)
    assert len(list(own_cache.iterdir())) == 5


def test_nothing_is_kept_where_it_is_not_wanted(network, files, own_cache):
    probs, _ = predict(files, network, cache=False, quiet=True)
    assert probs.shape == (10, 3)
    assert not own_cache.exists()


def test_no_more_processes_decode_than_there_is_work_for(network, files, own_cache, monkeypatch):
    asked = []
    loader = passes.DataLoader
    monkeypatch.setattr(
        passes, "DataLoader", lambda *args, **options: asked.append(options["num_workers"]) or loader(*args, **options)
    )
    predict(files, network, batch_size=len(files), workers=100_000)
    assert asked == [1]


def test_an_interrupted_pass_leaves_nothing_that_is_taken_for_whole(network, files, own_cache, monkeypatch):
    monkeypatch.setattr(passes, "_outputs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        predict(files, network, quiet=True)
    monkeypatch.undo()
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_broken_images_are_counted_and_the_first_is_named(network, files, tmp_path):
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "5.png").unlink()
    with pytest.raises(UserError, match=r"2 images can't be read, the first: image .*3\.png is broken"):
        predict(files, network, quiet=True)
    probs, _ = predict(files, network, skip_broken=True, quiet=True)
    assert np.flatnonzero(np.isnan(probs).any(axis=1)).tolist() == [3, 5]


def test_images_that_come_out_in_several_sizes_are_told(network, files):
    Image.new("RGB", (30, 64)).save(files[4])
    model = from_module(network, lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, :160].float())
    with pytest.raises(UserError, match="images of several sizes"):
        predict(files, model, quiet=True)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"uint8 \(N, height, width, 3\)"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8"),
        ([], "no images"),
        ("a.jpg", "one path"),
    ],
)
def test_what_is_no_list_of_images_is_one_sentence(network, images, words):
    with pytest.raises(UserError, match=words):
        predict(images, network, quiet=True)


def test_a_callable_embeds_pictures(pictures):
    def colours(images):
        return np.stack([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images])

    np.testing.assert_allclose(embed(pictures, colours, batch_size=4, quiet=True), colours(pictures), rtol=1e-6)
    with pytest.raises(UserError, match="images, numbers"):
        embed(pictures, lambda images: np.zeros(3), quiet=True)


def test_clip_embeds_as_open_clip_does(pictures):
    import open_clip
    from failure_directions.embeddings.clip import SCENES_CLIP

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{SCENES_CLIP}")
    with torch.inference_mode():
        wanted = model.eval().encode_image(torch.stack([transform(picture) for picture in pictures])).numpy()
    found = embed(pictures, "clip:scenes", quiet=True)
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    # open_clip resizes 8-bit pixels, and this the numbers.
    assert cosines.min() > 0.999


def test_an_embedding_that_is_none_says_what_there_is(pictures):
    with pytest.raises(UserError, match="none of timm:NAME, clip:NAME"):
        embed(pictures, "resnet18", quiet=True)


def test_transparent_grey_and_turned_pictures_are_read_as_files_are(tmp_path):
    rng = np.random.default_rng(0)
    forms = [Image.fromarray(rng.integers(0, 256, (6, 8, 4), dtype=np.uint8), "RGBA"), Image.new("L", (4, 4), 9)]
    for i, form in enumerate(forms):
        form.save(tmp_path / f"{i}.png")
        by_file = np.asarray(AnyImages([tmp_path / f"{i}.png"]).read(0))
        np.testing.assert_array_equal(np.asarray(AnyImages([form]).read(0)), by_file)


def test_two_processes_share_the_images_and_agree_with_one(network, pictures, files, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    script = tmp_path / "share.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from failure_directions.embeddings.passes import predict\n"
        "from failure_directions.runtime.distributed import process_group, is_main\n"
        "with process_group():\n"
        f"    probs, _ = predict({files!r}, {str(tmp_path / 'w.pt')!r}, arch='timm:{ARCH}', batch_size=2, quiet=True)\n"
        f"    if is_main(): np.save({str(tmp_path / 'probs.npy')!r}, probs)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / "probs.npy"), reference(network, pictures)[0], atol=1e-5)


def test_an_estimate_comes_before_a_long_wait_and_not_before_a_short_one(monkeypatch):
    for total, expected in ((1_000, "take about 4 minutes"), (100, "")):
        clock, stream = [0.0], io.StringIO()
        monkeypatch.setattr("failure_directions.runtime.progress.time.monotonic", lambda clock=clock: clock[0])
        with Progress(total, "images", stream=stream) as bar:
            for _ in range(total // 50):
                clock[0] += 12.5
                bar.advance(50)
        told = stream.getvalue()
        assert (expected in told) if expected else told == ""
    assert duration(3) == "3 seconds"
    assert duration(7_200) == "2.0 hours"
