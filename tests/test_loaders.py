import numpy as np
import pytest
import torch
from failure_directions.config_parsing import DatasetConfig
from failure_directions.data.augmentation import AUGMENTATIONS, Augmentation, augment, epoch_key, keyed_uniform
from failure_directions.data.beton_writer import ImageOptions, write_beton
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.splits import Split
from failure_directions.loaders import Loader, make_loader
from failure_directions.runtime.errors import UserError

CPU = torch.device("cpu")
MEAN, STD = [120.0, 130.0, 110.0], [60.0, 50.0, 70.0]


def config(**options):
    names = {"arch": "resnet10thin", "arch_type": "cifar_resnet", "train_beton": "a", "test_beton": "b"}
    return DatasetConfig(
        **{**names, "num_classes": 3, "imgsz": 16, "mean": MEAN, "std": STD, "batch_size": 20, **options}
    )


@pytest.fixture(scope="module")
def split(pixels_beton):
    return Split("train", open_beton(pixels_beton), np.arange(0, 90, 2))


def test_evaluation_batches_are_the_images_in_order_normalised(pixels, split):
    loader = make_loader(split, config(), CPU, fields=("spurious", "image", "label", "index"))
    batches = list(loader)
    assert batches[0]._fields == ("spurious", "image", "label", "index")
    assert len(batches) == len(loader) == 3
    expected = (pixels.images[::2].astype(np.float32) - MEAN) / STD
    images = torch.cat([batch.image for batch in batches])
    assert images.shape == (45, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), expected, atol=1e-5)
    for field, column in (("label", pixels.labels), ("index", np.arange(90)), ("spurious", pixels.spurious)):
        assert torch.cat([getattr(batch, field) for batch in batches]).tolist() == column[::2].tolist()


@pytest.mark.parametrize("fields", [("label",), ("index", "label"), ("image",)])
def test_any_subset_of_fields_is_delivered(split, fields):
    batch = next(iter(make_loader(split, config(), CPU, fields=fields)))
    assert batch._fields == fields


def test_same_seed_same_batches_and_a_new_order_in_every_epoch(split):
    def epochs(seed, first=0, count=2):
        loader = make_loader(split, config(train_aug="cifar_train_aug"), CPU, train=True, seed=seed)
        loader.epoch = first
        return [list(loader) for _ in range(count)]

    one, same, other = epochs(5), epochs(5), epochs(6)
    for a, b in zip(one[0] + one[1], same[0] + same[1], strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.index, b.index)
    assert not torch.equal(one[0][0].index, one[1][0].index)
    assert not torch.equal(one[0][0].index, other[0][0].index)
    resumed = epochs(5, first=1, count=1)[0]
    assert all(torch.equal(a.image, b.image) for a, b in zip(one[1], resumed, strict=True))


def test_training_drops_the_last_batch_and_evaluation_does_not(split):
    assert sum(len(batch.index) for batch in make_loader(split, config(), CPU, train=True)) == 40
    assert sum(len(batch.index) for batch in make_loader(split, config(drop_last=False), CPU, train=True)) == 45


def test_torch_keeps_its_threads(split):
    before = torch.get_num_threads()
    for _ in make_loader(split, config(num_workers=1), CPU):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_a_train_set_smaller_than_one_batch_is_refused(split):
    with pytest.raises(UserError, match="45 images, fewer than one batch of 64"):
        make_loader(split, config(batch_size=64), CPU, train=True)


def test_images_of_another_size_are_refused_by_the_simple_decoder(split):
    with pytest.raises(UserError, match="16 x 16 pixels, but imgsz is 32"):
        make_loader(split, config(imgsz=32), CPU)


def test_an_error_while_decoding_is_raised_and_not_waited_for(split):
    loader = make_loader(split, config(), CPU)

    def fail(**_):
        raise RuntimeError("no such page")

    loader._ffcv.code = ([(fail, [])], [])
    with pytest.raises(RuntimeError, match="no such page"):
        list(loader)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Images of several sizes: red grows to the right, green downwards."""
    folder = tmp_path_factory.mktemp("large")

    class Source(ImageArrays):
        def __getitem__(self, i):
            height, width = 60 + 4 * (i % 3), 40 + 20 * (i % 2)
            image = np.zeros((height, width, 3), np.uint8)
            image[..., 0] = np.linspace(0, 255, width)[None, :]
            image[..., 1] = np.linspace(0, 255, height)[:, None]
            return image, 0, None

    write_beton(folder / "x.beton", Source(np.zeros((24, 1)), np.zeros(24), ["a"]), ImageOptions("jpg"), workers=1)
    return Split("train", open_beton(folder / "x.beton"), np.arange(24))


# What part of the image's shorter side each decoder shows: the red and green ranges follow from it.
@pytest.mark.parametrize(
    ("decoder", "share"),
    [("center_crop_full", 1), ("center_crop_256", 224 / 256), ("center_crop_75", 64 / 75), ("resized_crop", None)],
)
def test_each_decoder_shows_the_part_that_it_names(large, decoder, share):
    options = {"imgsz": 32, "mean": None, "std": None, "val_img_decoder": decoder}
    images = torch.cat([batch.image for batch in make_loader(large, config(**options), CPU)]) * 255
    for i, image in enumerate(images):
        height, width = 60 + 4 * (i % 3), 40 + 20 * (i % 2)
        side = min(height, width)
        for channel, axis, length in ((0, 2, width), (1, 1, height)):
            shown = 1 if share is None else share * side / length
            profile = image[channel].mean(0 if axis == 2 else 1)
            assert abs(float(profile[-1] - profile[0]) / 255 - shown) < 0.09


def test_random_crops_are_seeded_and_differ_between_epochs(large):
    def epochs(seed):
        options = {"imgsz": 24, "train_img_decoder": "random_resized_crop", "shuffle": False, "batch_size": 12}
        loader = make_loader(large, config(**options), CPU, train=True, seed=seed)
        return [torch.cat([batch.image for batch in loader]) for _ in range(2)]

    one, same, other = epochs(1), epochs(1), epochs(2)
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])


def test_a_quasi_random_order_delivers_every_example_once(split):
    options = {"quasi_random": True, "os_cache": False, "drop_last": False}
    loader = make_loader(split, config(**options), CPU, train=True)
    seen = torch.cat([batch.index for batch in loader])
    assert sorted(seen.tolist()) == split.indices.tolist()


def test_pixels_are_augmented_and_normalised_alike_however_many_are_worked_on_at_a_time(split):
    mean, std = [125.3, 123.0, 113.9], [51.5, 50.8, 51.3]
    loader = make_loader(split, config(mean=mean, std=std, train_aug="cifar_train_aug"), CPU, train=True)
    side = 300  # two images at a time
    raw, index = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8), torch.arange(5)
    loader._scale, loader._offset = (one[:3].repeat(side) for one in (loader._scale, loader._offset))
    found = loader._prepare(raw, 1, index)
    fill = torch.tensor(mean).round().byte()
    moved = augment(raw, AUGMENTATIONS["cifar_train_aug"], fill, 1, index).double()
    expected = (moved - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(found.permute(0, 2, 3, 1).double(), expected, rtol=0, atol=1e-5)
    at_once = torch.addcmul(loader._offset.view(-1, 3)[0], moved.float(), loader._scale.view(-1, 3)[0])
    assert torch.equal(found.permute(0, 2, 3, 1), at_once)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it_and_not_before(split):
    def loader():
        return make_loader(split, config(drop_last=False, batch_size=8), CPU)

    kept = list(loader())
    assert len({batch.image.data_ptr() for batch in kept}) == len(kept) > 3
    row = None
    places = set()
    for batch, expected in zip(loader(), kept, strict=True):
        places.add(batch.image.data_ptr())
        assert torch.equal(batch.image, expected.image)
        row = batch.image[0] if row is None else row  # a view holds the whole
        del batch
    assert torch.equal(row, kept[0].image[0])
    assert len(places) < len(kept)


def test_augmentation_of_an_example_does_not_depend_on_its_batch():
    images = torch.randint(0, 256, (32, 12, 12, 3), dtype=torch.uint8)
    fill, index, key = torch.tensor([1, 2, 3], dtype=torch.uint8), torch.arange(100, 132), epoch_key(3, 4)
    whole = augment(images, AUGMENTATIONS["cifar_train_aug"], fill, key, index)
    some = torch.tensor([7, 30, 2])
    assert torch.equal(augment(images[some], AUGMENTATIONS["cifar_train_aug"], fill, key, index[some]), whole[some])


def test_shifts_flips_and_holes_are_what_they_are_called():
    """Every augmented image is found again among all flipped, shifted, holed versions made the slow way."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    fill = np.array([9, 8, 7], np.uint8)
    found = augment(torch.from_numpy(images), Augmentation(True, 1, 3), torch.from_numpy(fill), 77, torch.arange(24))
    kinds = set()
    for image, moved in zip(images, found.numpy(), strict=True):
        versions = {}
        for flip in (False, True):
            padded = np.pad(image[:, ::-1] if flip else image, ((1, 1), (1, 1), (0, 0)))
            padded[[0, -1]], padded[:, [0, -1]] = fill, fill
            for y in range(3):
                for x in range(3):
                    for top in range(6):
                        for left in range(6):
                            version = padded[y : y + 8, x : x + 8].copy()
                            version[top : top + 3, left : left + 3] = fill
                            versions[version.tobytes()] = (flip, y, x, top, left)
        assert moved.tobytes() in versions
        kinds.add(versions[moved.tobytes()])
    assert len(kinds) > 20


def test_images_that_are_mirrored_alone_are_the_same_ones_as_those_that_are_also_shifted():
    images, index = torch.randint(0, 256, (64, 9, 7, 3), dtype=torch.uint8), torch.arange(64)
    fill = torch.zeros(3, dtype=torch.uint8)
    alone = augment(images, Augmentation(flip=True), fill, 5, index)
    mirrored = (alone == images.flip(2)).flatten(1).all(1)
    assert 16 < mirrored.sum() < 48
    assert torch.equal(alone[~mirrored], images[~mirrored])
    holed = augment(images, Augmentation(flip=True, cutout=1), fill, 5, index)  # by way of single pixels
    assert ((holed != alone).any(-1).flatten(1).sum(1) <= 1).all()


def test_keyed_numbers_are_uniform_and_unrelated():
    draws = torch.cat([keyed_uniform(epoch_key(0, epoch), torch.arange(50_000), 3) for epoch in range(2)], dim=1)
    assert float((draws.mean(0) - 0.5).abs().max()) < 0.006
    assert float((draws.var(0) - 1 / 12).abs().max()) < 0.002
    correlation = torch.corrcoef(torch.cat([draws.T, draws[:, :1].roll(1).T]))
    assert float((correlation - torch.eye(7)).abs().max()) < 0.02


def test_an_image_of_which_a_center_crop_leaves_nothing_is_refused_before_ffcv_ends_the_process(tmp_path):
    """FFCV's own writer, as other projects use it, stores such images."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    images = [np.zeros((40, 30, 3), np.uint8), np.zeros((60, 1, 3), np.uint8)]
    fields = {"image": RGBImageField(), "label": IntField(), "index": IntField()}
    samples = [(image, 0, i) for i, image in enumerate(images)]
    DatasetWriter(str(tmp_path / "x.beton"), fields, num_workers=1).from_indexed_dataset(samples)
    beton = open_beton(tmp_path / "x.beton")
    options = {"imgsz": 16, "decoder": "center_crop_256"}
    with pytest.raises(UserError, match=r"image 1 of beton .* has 1 x 60 pixels, of which a center crop"):
        Loader(Split("val", beton, np.arange(2)), ("image",), torch.device("cpu"), **options)
    batch = next(iter(Loader(Split("val", beton, np.arange(1)), ("image",), torch.device("cpu"), **options)))
    assert batch.image.shape == (1, 3, 16, 16)
