"""Images of captions: generate_images.py, and what it leaves; small scenes and a tiny diffusion model.

The diffusion model is that of the scenes with random weights. Where it matters what images show, they are drawn.
"""

import csv
import functools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.captions.vocabulary import CaptionGenerator
from failure_directions.commands import distil as train_svms
from failure_directions.commands import generate as generate_images
from failure_directions.commands import train as ffcv_main
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.extra_images import extra_images_split
from failure_directions.data.scene_drawing import BACKGROUNDS, COLOURS, SHAPES, draw
from failure_directions.directions.results import CaptionRow, OutputFiles, read_table, write_table
from failure_directions.interfaces import diffusion_models, generation, textual_inversion
from failure_directions.interventions import synthetic
from failure_directions.models.checkpoints import load_checkpoint
from failure_directions.runtime.pt_files import load_pt, save_pt
from PIL import Image

from dataset_interfaces import create_token_dictionary
from scripts.train_scenes_diffusion import new_pipeline
from tests.test_label_next import plant, planted

SVM_CONFIG = Path(__file__).resolve().parents[1] / "svm_configs" / "normalized_svm_scenes_config.yaml"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With two, the last bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion") / "model"
    torch.manual_seed(0)
    new_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def result(scenes_folder, trained_run, tmp_path_factory):
    """A result with captions."""
    out = tmp_path_factory.mktemp("results") / "clip.pt"
    train_svms.main(
        [
            str(word)
            for word in (
                "-c",
                scenes_folder / "config.yaml",
                "-s",
                SVM_CONFIG,
                "--root",
                scenes_folder,
                "--jobs",
                1,
                "--top-k",
                3,
                "--model-path",
                trained_run / "checkpoints" / "checkpoint_last.pt",
                "--out-file",
                out,
                "--captions",
                "SCENES",
            )
        ]
    )
    return out


@pytest.fixture
def generate(result, model):
    def call(out, *words, svm=result, captions="hard"):
        common = ["--svm", svm, "--captions", captions, "--out", out, "--model", model, "--steps", 2, "--per-class", 3]
        generate_images.main([str(word) for word in (*common, "--batch-size", 2, "--device", "cpu", *words)])

    return call


def read_csv(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(call, capsys, *words, **options):
    with pytest.raises(SystemExit) as stop:
        call(*words, **options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def with_directions(result):
    skipped = load_pt(result, "result")["val_metrics"]["skipped_classes"]
    return [name for c, name in enumerate(SHAPES) if str(c) not in skipped]


def test_confirmed_failures_share_a_class_s_images(generate, result, tmp_path, capsys, scenes_folder):
    """Of a class's four images, a failure with thrice the errors gets three; each is made of its own caption."""
    svm = tmp_path / "clip.pt"
    for ending in (".pt", "_model.pt", "_captions.csv"):
        (tmp_path / f"clip{ending}").write_bytes(result.with_name(f"clip{ending}").read_bytes())
    name = with_directions(svm)[0]
    c = SHAPES.index(name)
    rows = read_table(svm, CaptionRow)
    captions = [row.caption for row in rows if (row.class_name, row.slice, row.side) == (name, "", "hard")][:2]
    of_slices = [
        CaptionRow(class_name=name, slice=f"{name}-{i}", side="hard", rank=1, caption=caption, score=1.0, z=1.0)
        for i, caption in enumerate(captions, start=1)
    ]
    write_table(OutputFiles(svm).of(CaptionRow), CaptionRow, [row for row in rows if not row.slice] + of_slices)
    of_class = {"class_name": name, "class_index": c}
    one, two = (planted(0, rank, [1.0], errors=errors) for rank, errors in ((1, 30), (2, 10)))
    plant(svm, [replace(one, id=f"{name}-1", **of_class), replace(two, id=f"{name}-2", **of_class)])
    generate(tmp_path / "out", "--by-slices", "--per-class", 4, svm=svm)
    made = read_csv(tmp_path / "out" / "manifest.csv")
    assert [(row["label"], row["prompt"]) for row in made] == [(name, captions[0])] * 3 + [(name, captions[1])]
    assert [str(Path(row["path"]).parent) for row in made] == [f"{name}-1"] * 3 + [f"{name}-2"]
    assert all((tmp_path / "out" / row["path"]).is_file() for row in made)
    assert str(tmp_path / "out" / "manifest.csv") in capsys.readouterr().out
    config = load_dataset_config(scenes_folder / "config.yaml")
    split = extra_images_split(tmp_path / "out" / "manifest.csv", config, tmp_path / "extra.beton")
    assert split.column("label").tolist() == [c] * 4

    generate(tmp_path / "others", "--by-slices", "--classes", next(other for other in SHAPES if other != name), svm=svm)
    assert "no image is made" in capsys.readouterr().out
    assert not (tmp_path / "others").exists()
    assert "neutral ones name the class alone" in fails(
        generate, capsys, tmp_path / "n", "--by-slices", svm=svm, captions="neutral"
    )


def test_classes_that_are_named_alone_have_images(generate, result, tmp_path):
    name = with_directions(result)[-1]
    generate(tmp_path / "out", "--classes", name)
    assert {row["label"] for row in read_csv(tmp_path / "out" / "manifest.csv")} == {name}


# ---------------------------------------------------------------------------------------------------------------------
# What is made
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("captions", ["hard", "easy", "neutral"])
def test_the_prompt_is_the_first_caption_of_the_side_or_the_class_alone(generate, result, tmp_path, captions):
    generate(tmp_path / "out", captions=captions)
    rows = read_csv(tmp_path / "out" / "manifest.csv")
    assert [row["label"] for row in rows] == [name for name in with_directions(result) for _ in range(3)]
    first = {
        row["class"]: row["caption"]
        for row in read_csv(result.with_name("clip_captions.csv"))
        if (row["side"], row["rank"]) == (captions, "1")
    }
    for row in rows:
        assert row["prompt"] == first.get(row["label"], f"a photo of a {row['label']}")
        assert SHAPES[int(row["class"])] == row["label"]
        assert Image.open(tmp_path / "out" / row["path"]).size == (32, 32)
        assert -1 <= float(row["similarity"]) <= 1
        assert row["object"] == row["shift"] == ""
    assert [int(row["seed"]) for row in rows[:3]] == [0, 1, 2]


def test_images_are_those_of_the_plain_pipeline(generate, tmp_path, model):
    """With the same batches, from diffusers' own pipeline class and loader."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    generate(tmp_path / "out", "--seed", 5, "--guidance", 2, captions="neutral")
    pipeline = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    row = read_csv(tmp_path / "out" / "manifest.csv")[0]
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = pipeline([row["prompt"]] * 2, generator=generators, num_inference_steps=2, guidance_scale=2).images[0]
    assert row["seed"] == "5"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / row["path"])), np.asarray(expected))


@pytest.mark.parametrize("words", [(), ("--filter", "--attempts", 3, "--quantile", 0.5)], ids=["plain", "filtered"])
def test_an_interrupted_call_goes_on_and_ends_up_the_same_byte_for_byte(generate, tmp_path, monkeypatch, words):
    """Interrupted within a batch, twice: each call makes a batch that was cut off again as a whole."""
    if words:
        monkeypatch.setattr(generation, "sample", painter())
    generate(tmp_path / "whole", *words)
    whole = contents(tmp_path / "whole")
    real = synthetic.save_image
    for stop_at in (2, 6):
        written = []

        def interrupted(image, path, written=written, stop_at=stop_at):
            written.append(path)
            if len(written) == stop_at:
                raise KeyboardInterrupt
            real(image, path)

        with monkeypatch.context() as patch:
            patch.setattr(synthetic, "save_image", interrupted)
            with pytest.raises(SystemExit):
                generate(tmp_path / "cut", *words)
        assert not (tmp_path / "cut" / "manifest.csv").exists()
    generate(tmp_path / "cut", *words)
    assert contents(tmp_path / "cut") == whole

    # Nothing is made again, but for what is lost.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.png")}
    lost = min(times)
    lost.unlink()
    generate(tmp_path / "cut", *words)
    assert contents(tmp_path / "cut") == whole
    again = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert lost in again
    assert {path.parent for path in again} == {lost.parent}


def test_another_way_to_make_images_is_refused_in_the_same_folder(generate, tmp_path, capsys):
    generate(tmp_path / "out")
    before = contents(tmp_path / "out")
    for words, what in (
        (["--seed", 1], "another seed"),
        (["--steps", 3, "--guidance", 1], "another steps and guidance"),
        (["--per-class", 2], "another per_class"),
        (["--filter"], "another filter"),
        (["--batch-size", 3], "another batch_size"),
        (["--model", "elsewhere"], "another model"),
    ):
        assert what in fails(generate, capsys, tmp_path / "out", *words)
    assert "another prompts" in fails(generate, capsys, tmp_path / "out", captions="neutral")
    assert contents(tmp_path / "out") == before
    shutil.rmtree(tmp_path / "out" / "circle", ignore_errors=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".hidden.tmp").write_bytes(b"")
    generate(tmp_path / "mine", "--per-class", 1)
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cat.png").write_bytes(b"")
    assert "files that are not generated images" in fails(generate, capsys, tmp_path / "mine")


def test_extra_images_takes_the_folder_and_the_manifest_as_they_are(generate, scenes_folder, trained_run, tmp_path):
    generate(tmp_path / "out")
    short = ("training.epochs=2", "training.lr=0.05", "training.lr_scheduler.lr_peak_epoch=1")
    weights = []
    for images in (tmp_path / "out", tmp_path / "out" / "manifest.csv"):
        words = [
            "-c",
            scenes_folder / "config.yaml",
            "--root",
            scenes_folder,
            "--runs",
            tmp_path,
            "--exp-name",
            "run",
            "--finetune-from",
            trained_run / "checkpoints" / "checkpoint_last.pt",
            "--freeze",
            "--extra-images",
            images,
            "--disable-logging",
            *(word for key in short for word in ("--override", key)),
        ]
        ffcv_main.main([str(word) for word in words])
        run = sorted((tmp_path / "run").glob("version_*"))[-1]
        weights.append(load_checkpoint(run / "checkpoints" / "checkpoint_last.pt").model.fc.weight)
    # The class folders come by name and the manifest by number: other batches, but the same images.
    torch.testing.assert_close(*weights, rtol=0, atol=0.02)


def test_class_tokens_take_the_place_of_the_nouns(generate, result, model, tmp_path, capsys):
    names = with_directions(result)
    loaded = diffusion_models.load_model(str(model))
    embeds = [textual_inversion.mean_embedding(loaded, name) for name in names]
    tokens = [f"<{name}-{c}>" for c, name in enumerate(names)]
    create_token_dictionary(embeds, tokens, [name.title() for name in names], tmp_path / "root", str(model))
    generate(tmp_path / "tokens", "--encoder-root", tmp_path / "root")
    generate(tmp_path / "words")
    for by_token, by_word in zip(
        read_csv(tmp_path / "tokens" / "manifest.csv"), read_csv(tmp_path / "words" / "manifest.csv"), strict=True
    ):
        name = by_word["label"]
        assert by_token["prompt"] == by_word["prompt"].replace(name, f"<{name}-{names.index(name)}>")
        # Each token's embedding is its word's, so the images are the same.
        images = [tmp_path / folder / by_word["path"] for folder in ("tokens", "words")]
        assert images[0].read_bytes() == images[1].read_bytes()
    assert "another prompts and encoder_root" in fails(generate, capsys, tmp_path / "tokens")
    create_token_dictionary(embeds[:1], tokens[:1], names[:1], tmp_path / "root", str(model))
    error = fails(generate, capsys, tmp_path / "new", "--encoder-root", tmp_path / "root")
    assert f"has no token for the class {names[1]}" in error


@pytest.mark.parametrize(
    ("caption", "word", "expected"),
    [
        ("a photo of a white cat outside", "<cat-3>", "a photo of a white <cat-3> outside"),
        ("a photo of an ocelot", "<cat-3>", "a photo of a <cat-3>"),
        ("a photo of a cat", "object", "a photo of an object"),
        ("a photo of a wild ocelot in a catalogue", "object", "a photo of a wild object in a catalogue"),
    ],
)
def test_the_noun_is_replaced_with_its_article(caption, word, expected):
    assert synthetic._with_noun(caption, CaptionGenerator("cat", ["cat", "ocelot"]), word) == expected


# ---------------------------------------------------------------------------------------------------------------------
# The filter
# ---------------------------------------------------------------------------------------------------------------------


def painter(wrong=lambda seed: False):
    """A `sample` that draws what a prompt says, in colours and on backgrounds of its own where it says none.

    Of the seeds that are `wrong`, it draws another shape.
    """

    def sample(pipeline, prompts, seeds, *settings):
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            rng = np.random.default_rng(seed)
            said = [
                next((word for word in words if word in prompt.split()), None)
                for words in (SHAPES, COLOURS, BACKGROUNDS)
            ]
            shape, colour, background = (
                word or rng.choice(words) for word, words in zip(said, (SHAPES, COLOURS, BACKGROUNDS), strict=True)
            )
            if wrong(seed):
                shape = SHAPES[SHAPES.index(shape) - 4]
            images.append(Image.fromarray(draw(32, shape, colour, background, rng)))
        return images

    return sample


def test_the_filter_keeps_right_images_and_replaces_wrong_ones(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generation, "sample", painter(wrong=lambda seed: seed % 3 == 0))
    generate(tmp_path / "out", "--filter", "--per-class", 8, "--attempts", 4, "--quantile", 0.15)
    rows = read_csv(tmp_path / "out" / "manifest.csv")
    assert all(int(row["seed"]) % 3 for row in rows)
    made = {path.parent.name: read_csv(path) for path in (tmp_path / "out").rglob("attempts.csv")}
    for name, attempts in made.items():
        kept = [row["path"] for row in rows if row["label"] == name]
        assert sorted(kept) == sorted(f"{name}/{path.name}" for path in (tmp_path / "out" / name).glob("*.png"))
        assert len(kept) == min(8, sum(row["kept"] == "1" for row in attempts))
        assert len(attempts) == 32 or len(kept) == 8
    right = [row["kept"] == "1" for attempts in made.values() for row in attempts if int(row["seed"]) % 3]
    assert np.mean(right) > 0.6
    assert "filtered out" in capsys.readouterr().out


def test_what_the_filter_lets_through_is_bounded_and_counted(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generation, "sample", painter(wrong=lambda seed: seed > 0))
    generate(tmp_path / "out", "--filter", "--attempts", 2, captions="neutral")
    rows = read_csv(tmp_path / "out" / "manifest.csv")
    assert {row["seed"] for row in rows} == {"0"}
    assert "fewer than 3 passed among 6 that were made: " in capsys.readouterr().out
    monkeypatch.setattr(generation, "sample", painter(wrong=lambda seed: True))
    error = fails(generate, capsys, tmp_path / "none", "--filter", "--attempts", 2, captions="neutral")
    assert "the filter kept none of the images" in error


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--per-class", "0"], "--per-class is 0; give 1 or more"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--attempts", "-1"], "--attempts is -1"),
        (["--seed", "-1"], "--seed -1 is not between"),
        (["--guidance", "nan"], "--guidance is nan"),
        (["--steps", "5000"], "the number of steps is 5000; give 1 to 1000"),
        (["--quantile", "2"], "--quantile is 2.0"),
        (["--svm", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--out", "{file}/out"], "choose another place"),
        (["--model", "nowhere"], "the diffusion model nowhere is not a folder"),
        (["--encoder-root", "{file}"], "is not an encoder root"),
        (["--filter", "--root", "nowhere"], "the beton nowhere/scenes_val.beton, which does not exist"),
        (["--device", "tpu"], "the device tpu is not"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_made(generate, tmp_path, capsys, words, says):
    (tmp_path / "file").write_text("")
    words = [word.format(file=tmp_path / "file") for word in words]
    assert says in fails(generate, capsys, tmp_path / "out", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_captions_that_are_missing_or_damaged_are_told(generate, result, tmp_path, capsys):
    copy = Path(shutil.copy(result, tmp_path))
    say = functools.partial(fails, generate, capsys, tmp_path / "out", svm=copy)
    captions = copy.with_name("clip_captions.csv")
    assert "clip_captions.csv does not exist; make the result again with failure-directions distil --captions" in say()
    text = result.with_name("clip_captions.csv").read_text()
    of_others, cut = text.replace("circle,", "hexagon,"), "class,side,rank,caption\ncircle,hard,1"
    for damaged in ("", "\0\n", "a,b\n1,2\n", of_others, cut):
        captions.write_text(damaged)
        assert "clip_captions.csv is damaged, or of another result" in say()
    captions.write_bytes(b"\xff\xfe\xff")
    assert "is damaged" in say()
    name = with_directions(result)[0]
    captions.write_text("".join(line for line in text.splitlines(True) if not line.startswith(name)))
    assert f"lack those of {name}" in say()
    captions.write_text(text.replace(f" {name}", " dodecahedron"))
    assert f"does not name the class {name}" in say()
    content = load_pt(copy, "result")
    content["args"]["captions"] = None
    save_pt(content, copy)
    assert "has no captions to make images of; make the result again with failure-directions distil --captions" in say()
    assert not (tmp_path / "out").exists()


def test_classes_without_a_direction_are_left_out_with_a_sentence(generate, result, tmp_path, capsys):
    copy = Path(shutil.copy(result, tmp_path))
    shutil.copy(result.with_name("clip_captions.csv"), tmp_path)
    content = load_pt(copy, "result")
    first, *others = [SHAPES.index(name) for name in with_directions(result)]
    for split in ("train", "val", "test"):
        content[f"{split}_metrics"]["skipped_classes"][str(first)] = "too few errors"
    save_pt(content, copy)
    generate(tmp_path / "out", svm=copy, captions="neutral")
    assert f"{SHAPES[first]}: no direction (too few errors), so no images" in capsys.readouterr().out
    assert {int(row["class"]) for row in read_csv(tmp_path / "out" / "manifest.csv")} == set(others)
    for split in ("train", "val", "test"):
        content[f"{split}_metrics"]["skipped_classes"] |= {str(c): "too few errors" for c in others}
    save_pt(content, copy)
    assert "no class of" in fails(generate, capsys, tmp_path / "none", svm=copy)


def test_trouble_on_the_way_is_told_with_the_next_step(generate, tmp_path, monkeypatch, capsys):
    def no_memory(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("diffusers.StableDiffusionPipeline.__call__", no_memory)
        assert "try batch_size=1" in fails(generate, capsys, tmp_path / "out")
    generate(tmp_path / "out", "--batch-size", 1)  # another batch size is no other way, as long as nothing was made
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        assert "free some space" in fails(generate, capsys, tmp_path / "full")
    assert not (tmp_path / "full").exists()
    file = next((tmp_path / "out").rglob("attempts.csv"))
    file.write_text("seed,kept\nx,1\n")
    assert "attempts.csv is damaged; remove its folder" in fails(generate, capsys, tmp_path / "out", "--batch-size", 1)
    (tmp_path / "out" / "generation.yaml").write_text("[")
    assert "generation.yaml is not valid YAML" in fails(generate, capsys, tmp_path / "out", "--batch-size", 1)


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "..", ".", ".hidden", "a/b", "a\\b", "a\0b", "x" * 300])
def test_no_class_name_leads_out_of_the_folder(tmp_path, name):
    folder = synthetic.folder_names(["cat", name, "class_1"])[name]
    assert folder == "class_1_"
    (tmp_path / folder).mkdir()
    assert synthetic.folder_names(["cat dog", "Ärzte & co."]) == {"cat dog": "cat dog", "Ärzte & co.": "Ärzte & co."}


# ---------------------------------------------------------------------------------------------------------------------
# Measuring with them
# ---------------------------------------------------------------------------------------------------------------------


def test_the_accuracy_on_images_is_that_of_the_model_on_their_pixels(scenes_folder, trained_run, tmp_path):
    config = load_dataset_config(scenes_folder / "config.yaml")
    model = load_checkpoint(trained_run / "checkpoints" / "checkpoint_last.pt").model.eval()
    rng, images, labels = np.random.default_rng(0), [], []
    for c, count in ((0, 12), (3, 8), (6, 10)):
        (tmp_path / SHAPES[c]).mkdir()
        for i in range(count):
            images.append(draw(32, SHAPES[c], rng.choice(COLOURS), rng.choice(BACKGROUNDS), rng))
            Image.fromarray(images[-1]).save(tmp_path / SHAPES[c] / f"{i}.png")
            labels.append(c)
    found = synthetic.accuracy_on_images(model, tmp_path, config, torch.device("cpu"))
    pixels = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() - 127) / 60
    with torch.no_grad():
        right = (model(pixels).argmax(1) == torch.tensor(labels)).double()
    by_class = {SHAPES[c]: right[np.array(labels) == c].mean().item() for c in (0, 3, 6)}
    expected = {f"class {name}": accuracy for name, accuracy in by_class.items()}
    expected |= {"overall": right.mean().item(), "worst class": min(by_class.values())}
    assert found == pytest.approx(expected)
