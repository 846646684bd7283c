"""Looking at results: the processor and its figures, and the report as a person meets it, in headless Chromium."""

import re
import shutil

import numpy as np
import pytest
import torch
from failure_directions.data.beton_writer import ImageOptions, write_beton
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.directions.galleries import StoredImages, SVMProcessor, ends
from failure_directions.report.page import command_line, write_report
from failure_directions.report.summaries import accuracy_by_decile
from failure_directions.report.thumbnails import encode_thumbnail
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.pt_files import save_pt
from failure_directions.sparse.feature_chunks import FeatureChunks
from failure_directions.sparse.path import elastic_net_path
from PIL import Image

import visualization_utils
from scripts.screenshot_report import chromium_page

HOSTILE = ["<script>alert(1)</script>", "a/b", 'naïve "quotes"', "<img src=x onerror=alert(2)>", "$\\bad{tex$"]


def save_made_up_result(folder, class_names, per_class, side=32, skip=(), spurious=True, **image_options):
    """A result of random predictions, its last class wrong where decision values are low, and the test beton for it."""
    rng = np.random.default_rng(0)
    classes = len(class_names)
    labels = rng.permutation(np.repeat(np.arange(classes), per_class))
    n = len(labels)
    blots = rng.integers(0, 256, (min(n, 64), 6, 6, 3), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(blot).resize((side, side), Image.Resampling.BICUBIC)) for blot in blots]
    values = rng.normal(1, 1, n)
    right = rng.random(n) < 0.5 + 0.4 * (values > 0)
    values[np.isin(labels, skip)] = np.nan
    entry = {
        "preds": np.where(right, labels, (labels + 1) % classes),
        "classes": labels,
        "confs": rng.random(n).astype(np.float32),
        "ytrue": right.astype(np.int64),
        "ypred": np.where(np.isnan(values), 1, values > 0).astype(np.int64),
        "decision_values": values,
        "indices": np.arange(n),
    }
    if spurious:
        entry["spuriouses"] = (rng.random(n) < 0.2).astype(np.int64)
    entry = {key: torch.from_numpy(value) for key, value in entry.items()}
    entry["skipped_classes"] = {str(c): "only 1 wrong example; cv = 2 needs 2" for c in skip}
    scores = rng.uniform(0.45, 0.9, classes)
    scores[list(skip)] = np.nan
    model = {"imgsz": side, "arch": "resnet18", "arch_type": "resnet", "num_classes": classes}
    config = {"train_beton": "test.beton", "test_beton": "test.beton", **model}
    save_pt(
        {
            "args": {"config": "my config.yaml", "root": str(folder)},
            "dataset_config": config,
            "svm_config": {"embedding": "latent"},
            "class_names": list(class_names),
            "cv_scores": torch.from_numpy(scores),
            "test_metrics": entry,
            "train_metrics": entry,
        },
        folder / "made_up.pt",
    )

    class Source:
        def __len__(self):
            return n

        def __getitem__(self, i):
            return images[i % len(images)], int(labels[i]), None

    write_beton(folder / "test.beton", Source(), ImageOptions(**image_options), workers=2)
    return folder / "made_up.pt"


@pytest.fixture(scope="module")
def hostile_result(tmp_path_factory):
    """Five classes with names that could break a page, the third of them skipped; captions and subpopulations."""
    folder = tmp_path_factory.mktemp("hostile")
    path = save_made_up_result(folder, HOSTILE, 30, skip=(2,))
    write_csv(
        folder / "made_up_captions.csv",
        ["class", "side", "rank", "caption", "score", "z"],
        [
            (name, side, rank, f"a photo of {name} {rank}", -rank, 3 - rank)
            for name in HOSTILE
            for side in ("hard", "easy")
            for rank in (1, 2)
        ],
    )
    write_csv(
        folder / "made_up_subpopulations.csv",
        ["class", "side", "k", "accuracy", "class_accuracy"],
        [(HOSTILE[0], "hard", 20, 0.123, 0.8), (HOSTILE[0], "easy", 20, 0.987, 0.8)],
    )
    return path


@pytest.fixture(scope="module")
def page():
    with chromium_page(1200, 1500) as page:
        yield page


@pytest.fixture
def complaints(page):
    """What the console and the page complain of."""
    found = []
    listeners = {
        "pageerror": lambda error: found.append(str(error)),
        "console": lambda line: found.append(line.text) if line.type in ("error", "warning", "assert") else None,
        "dialog": lambda dialog: (found.append(dialog.message), dialog.dismiss()),
        "requestfailed": lambda request: found.append(request.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    yield found
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


def open_report(page, path):
    page.goto(path.resolve().as_uri())


# ---- the processor and its figures


@pytest.mark.parametrize("write_mode", ["raw", "jpg"])
def test_stored_images_are_those_that_were_written(write_mode, tmp_path):
    ramp = np.linspace(0, 255, 24, dtype=np.uint8)
    images = np.stack([np.broadcast_to(np.roll(ramp, 3 * i)[:, None, None], (24, 40, 3)) for i in range(5)]).copy()
    images[..., 2] //= 2  # red and blue must not be swapped
    path = tmp_path / "images.beton"
    write_beton(path, ImageArrays(images, np.arange(5), list("abcde")), ImageOptions(write_mode=write_mode), workers=2)
    stored = StoredImages(open_beton(path))
    tolerance = 0 if write_mode == "raw" else 6
    for i in (3, 0, 4):
        assert stored[i].shape == (24, 40, 3)
        assert np.abs(stored[i].astype(int) - images[i]).mean() <= tolerance


def test_orderings_put_the_hardest_first(hostile_result):
    proc = SVMProcessor(hostile_result)
    metrics = proc.metrics("test")
    members = np.flatnonzero(metrics["classes"] == 3)
    for by, key in (("svm", "decision_values"), ("confidence", "confs")):
        expected = members[np.argsort(metrics[key][members])]
        np.testing.assert_array_equal(proc.ordering(3, "test", by), expected)
    assert proc.ordering(HOSTILE[3])[0] == proc.ordering(3)[0]


def test_the_two_ends_never_share_an_example():
    for n in range(8):
        hard, easy = ends(np.arange(n), 3)
        assert not set(hard) & set(easy)
        assert len(hard) + len(easy) == min(n, 6)


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_extremes_are_saved_whatever_the_class_is_called(hostile_result, tmp_path, ending):
    path = tmp_path / f"figure.{ending}"
    figure = SVMProcessor(hostile_result).display_extremes(4, rows=1, columns=3, filename=path)
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows
    words = [text.get_text() for ax in figure.findobj(lambda part: hasattr(part, "title")) for text in [ax.title]]
    lowest = SVMProcessor(hostile_result).metrics("test")["decision_values"][
        SVMProcessor(hostile_result).ordering(4)[0]
    ]
    assert any(word.startswith(f"{lowest:.2f} | ") for word in words)


def test_mistakes_are_told(hostile_result, tmp_path, pixels_beton):
    proc = SVMProcessor(hostile_result)
    with pytest.raises(UserError, match=r"class 5 is outside 0\.\.4"):
        proc.display_extremes(5)
    with pytest.raises(UserError, match=r"no direction.*only 1 wrong example"):
        proc.display_extremes(2)
    with pytest.raises(UserError, match="has no split 'val', only train, test"):
        proc.display_extremes(0, split="val")
    with pytest.raises(UserError, match=r"must end in \.png, \.pdf"):
        proc.display_extremes(0, filename=tmp_path / "figure.bmp")
    with pytest.raises(UserError, match="does not exist; give the folder of the betons"):
        SVMProcessor(hostile_result, root=tmp_path).display_extremes(0)
    with pytest.raises(UserError, match="no unlabeled pool"):
        SVMProcessor(hostile_result, get_unlabeled=True)
    save_pt({"test_metrics": {}, "class_names": ["a"]}, tmp_path / "old.pt")
    with pytest.raises(
        UserError,
        match=r"not an SVM result: it lacks args, dataset_config, svm_config, cv_scores, test_metrics\['preds'\]",
    ):
        SVMProcessor(tmp_path / "old.pt")
    (tmp_path / "test.beton").write_bytes(pixels_beton.read_bytes())
    with pytest.raises(UserError, match=r"speaks of example 149 of test, but beton .* has 90"):
        SVMProcessor(hostile_result, root=tmp_path).display_extremes(0)


def test_a_beton_with_other_labels_is_refused(tmp_path):
    path = save_made_up_result(tmp_path, ["a", "b"], 10)
    content = torch.load(path, weights_only=True)
    content["test_metrics"]["classes"] = 1 - content["test_metrics"]["classes"]
    save_pt(content, path)
    with pytest.raises(UserError, match=r"has the label \d, but \d in"):
        write_report(path, tmp_path / "report.html")


# ---- numbers and thumbnails of the report


def test_deciles_are_counted_from_the_hardest():
    values = np.random.default_rng(0).permutation(100)
    deciles = accuracy_by_decile(values, values >= 15)
    assert deciles == [(0.0, 10), (0.5, 10), *[(1.0, 10)] * 8]
    assert [count for _, count in accuracy_by_decile(np.arange(4.0), np.ones(4))] == [1] * 4
    assert accuracy_by_decile(np.array([]), np.array([])) == []


def test_thumbnails_keep_within_their_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    for limit in (20_000, 4_000, 1_500):
        small, content = encode_thumbnail(noise, limit)
        assert len(content) <= limit
        assert small.height / small.width == pytest.approx(1.5, abs=0.1)
    small, content = encode_thumbnail(noise[:32, :32], 20_000)
    assert np.array_equal(np.asarray(small), noise[:32, :32])


def test_the_command_line_can_be_typed_again():
    args = {
        "config": "my config.yaml",
        "svm_config": "svm.yaml",
        "unlabeled": True,
        "bce": False,
        "bce_class": 0,
        "mlp_size": None,
        "override": ["a=1", "b=2"],
    }
    assert command_line(args) == (
        "failure-directions distil --config 'my config.yaml' --svm-config svm.yaml --unlabeled --bce-class 0 "
        "--override a=1 --override b=2"
    )


# ---- the page


@pytest.fixture(scope="module")
def hostile_page(hostile_result, tmp_path_factory):
    return write_report(hostile_result, tmp_path_factory.mktemp("page") / "report.html")


def order_shown(page):
    return page.evaluate("[...document.querySelectorAll('#classes tbody th a')].map((a) => a.textContent)")


def test_names_do_no_harm_and_every_image_loads(page, complaints, hostile_page):
    open_report(page, hostile_page)
    page.evaluate("document.getElementById('open-all').click()")
    counts = page.evaluate(
        """(async () => {
            const images = [...document.querySelectorAll('.gallery img')];
            images.forEach((image) => { image.loading = 'eager'; });
            await Promise.all(images.map((image) => image.decode()));
            return [images.length, images.filter((image) => image.naturalWidth > 0 && image.alt).length];
        })()"""
    )
    assert counts == [4 * 30, 4 * 30]  # 30 images of each class but the skipped one, 15 a side
    assert sorted(order_shown(page)) == sorted(HOSTILE)
    headings = page.evaluate("[...document.querySelectorAll('.class h3')].map((h) => h.textContent)")
    assert sorted(headings) == sorted(HOSTILE)
    assert page.evaluate("document.scripts.length") == 1
    assert complaints == []
    text = page.evaluate("document.body.textContent")
    assert "only 1 wrong example; cv = 2 needs 2" in text
    assert "a photo of <script>alert(1)</script> 1" in text
    assert "0.123" in text
    assert "minority" in text
    assert "--config 'my config.yaml'" in text


def test_the_table_sorts_by_click_and_by_keyboard(page, hostile_page, hostile_result):
    open_report(page, hostile_page)
    proc = SVMProcessor(hostile_result)
    scores = np.nan_to_num(proc.cv_scores, nan=-1)
    strongest = [HOSTILE[c] for c in np.argsort(-scores)]
    assert order_shown(page) == strongest
    accuracy = [proc.metrics("test")["ytrue"][proc.metrics("test")["classes"] == c].mean() for c in range(5)]
    column = "document.querySelectorAll('#classes thead th')[%d]"
    page.evaluate(f"{column % 2}.querySelector('button').click()")
    shown = order_shown(page)
    assert [accuracy[HOSTILE.index(name)] for name in shown] == sorted(accuracy)
    assert page.evaluate(f"{column % 2}.getAttribute('aria-sort')") == "ascending"
    assert page.evaluate(f"{column % 3}.hasAttribute('aria-sort')") is False

    page.keyboard.press("Tab")  # from Accuracy on to the CV score: focus is where a person's would be
    page.evaluate(f"{column % 2}.querySelector('button').focus()")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert order_shown(page) == strongest
    page.keyboard.press("Space")
    weakest = [HOSTILE[c] for c in np.argsort(np.where(scores < 0, 2, scores))]
    assert order_shown(page) == weakest  # the skipped class still comes last
    assert page.evaluate(f"{column % 3}.getAttribute('aria-sort')") == "ascending"


def test_images_enlarge_and_close_by_keyboard(page, hostile_page):
    open_report(page, hostile_page)
    page.evaluate("document.getElementById('open-all').click()")
    page.evaluate("document.querySelector('.class[open] .gallery button').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('enlarged').open")
    large = "document.querySelector('#enlarged img')"
    assert page.evaluate(f"{large}.decode().then(() => {large}.naturalWidth)") == 32
    said = page.evaluate("document.querySelector('#enlarged p').textContent")
    assert said.startswith("Hardest 1 of ")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('#enlarged p').textContent").startswith("Hardest 2 of ")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('enlarged').open")


def test_a_link_opens_its_section(page, hostile_page):
    open_report(page, hostile_page)
    page.evaluate("document.querySelectorAll('#classes tbody a')[3].click()")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    name = order_shown(page)[3]
    assert name in page.evaluate("[...document.querySelectorAll('.class[open] h3')].map((h) => h.textContent)")


def test_a_thousand_classes_open_smoothly(page, complaints, tmp_path):
    result = save_made_up_result(tmp_path, [f"class {c}" for c in range(1000)], 10, side=48, write_mode="jpg")
    write_csv(
        tmp_path / "made_up_captions.csv",
        ["class", "side", "rank", "caption", "score", "z"],
        [
            (f"class {c}", side, rank, f"a photo of a class {c} on a striped background", 0.1, 0.2)
            for c in range(1000)
            for side in ("hard", "easy")
            for rank in range(5)
        ],
    )
    report = write_report(result, tmp_path / "report.html")
    assert report.stat().st_size < 30e6
    open_report(page, report)
    assert "at most 4 images a side" in page.evaluate("document.body.innerText")
    page.evaluate("document.querySelectorAll('#classes thead button')[0].click()")
    assert order_shown(page)[:3] == ["class 0", "class 1", "class 2"]
    page.evaluate("document.querySelector('#classes tbody a').click()")
    # Images of closed sections wait.
    assert page.evaluate("[...document.images].filter((image) => image.complete).length") < 100
    assert complaints == []


def test_a_result_with_neither_captions_nor_spurious_nor_a_direction_has_a_report(tmp_path):
    result = save_made_up_result(tmp_path, ["a", "b"], 5, skip=(0, 1), spurious=False)
    page = write_report(result, tmp_path / "report.html").read_text()
    assert "No failure was tested." in page
    assert "confirmed failure" not in page
    assert page.count("Skipped, so there is no direction: only 1 wrong example") == 2


def test_without_its_beton_the_report_is_written_and_says_so(hostile_result, tmp_path):
    page = write_report(hostile_result, tmp_path / "report.html", root=tmp_path).read_text()
    assert "There are no images in this report" in page
    assert str(tmp_path / "test.beton") in page
    assert "data:image" not in page


def test_the_page_asks_nothing_of_a_network(hostile_page):
    page = hostile_page.read_text()
    links = re.findall(r"""(?:src|href)="([^"]*)""", page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)


def test_the_command_writes_report_and_figures(hostile_result, tmp_path, capsys):
    visualization_utils.main(
        [
            "--svm",
            str(hostile_result),
            "--report",
            str(tmp_path / "r.html"),
            "--figures",
            str(tmp_path / "figures"),
            "--rows",
            "1",
            "--columns",
            "2",
            "--classes",
            "a/b",
        ]
    )
    assert f"report: {tmp_path / 'r.html'}" in capsys.readouterr().out
    with Image.open(tmp_path / "figures" / "extremes_1.png") as figure:
        assert figure.width > 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--report", "/proc/no/report.html"], "cannot write /proc/no/report.html"),
        (["--report", "report.html", "--split", "val"], "has no split 'val'"),
        ([], "nothing to make"),
    ],
)
def test_the_command_says_what_is_wrong(hostile_result, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        visualization_utils.main(["--svm", str(hostile_result), *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- the features of a sparse layer


@pytest.fixture(scope="module")
def sparse_folder(hostile_result, tmp_path_factory):
    """What sparse_main.py would leave of the made-up model: features 0..4 are its predictions, 5 is low for easy images
    and 6 is noise; class 0 rests on both."""
    out = tmp_path_factory.mktemp("sparse") / "<b>&out"
    metrics = SVMProcessor(hostile_result).metrics("test")
    rng = np.random.default_rng(0)
    features = np.hstack(
        [np.eye(5)[metrics["preds"]], -np.nan_to_num(metrics["decision_values"])[:, None], rng.normal(size=(150, 1))]
    )
    FeatureChunks.write(out / "features" / "test", [features], "made up (0) on made up", np.float32)
    path = elastic_net_path(features, metrics["classes"], k=4)
    path.weight[:, 0, 5:] = torch.tensor([-0.7, 0.3])
    path.save(out)
    head = torch.zeros(5, 7)
    head[:, :5] = torch.eye(5)
    save_pt(
        {
            "args": {"select": "sparsity", "factor": 9.0, "cache": None, "balance": False},
            "model": "made up (0)",
            "class_names": HOSTILE,
            "labels": {"test": torch.from_numpy(metrics["classes"])},
            "dense": {"weight": head, "bias": torch.zeros(5)},
        },
        out / "run.pt",
    )
    return out


def test_the_report_shows_the_sparse_features_that_separate_hard_from_easy(
    page, complaints, hostile_result, sparse_folder, tmp_path
):
    report = tmp_path / "report.html"
    visualization_utils.main(["--svm", str(hostile_result), "--report", str(report), "--sparse", str(sparse_folder)])
    open_report(page, report)
    rows = page.evaluate(
        """[...document.querySelectorAll('#class-0 table')].find((t) => t.textContent.includes('Share of weights'))
           .querySelectorAll('tbody tr').values().map((r) => [...r.cells].map((c) => c.textContent)).toArray()"""
    )
    number, difference, weight, _, effect = rows[0][:5]
    assert (number, weight) == ("5", "\N{MINUS SIGN}0.700")
    values = SVMProcessor(hostile_result).metrics("test")
    feature = -values["decision_values"][values["classes"] == 0]
    hard, easy = np.sort(feature)[-7:], np.sort(feature)[:7]  # a quarter of 30
    pooled = np.sqrt((hard.var(ddof=1) + easy.var(ddof=1)) / 2)
    assert float(difference) == pytest.approx((hard.mean() - easy.mean()) / pooled, abs=0.006)
    assert effect.startswith("\N{MINUS SIGN}")
    assert page.evaluate("document.querySelectorAll('#class-2 .strip').length") == 0  # the skipped one
    images = "[...document.querySelectorAll('#class-0 .strip img')]"
    assert page.evaluate(f"{images}.length") == 4 * len(rows)
    assert str(sparse_folder) in page.evaluate("document.body.textContent")
    assert page.evaluate("document.scripts.length") == 1
    assert complaints == []


def test_without_its_beton_the_sparse_features_are_shown_without_images(hostile_result, sparse_folder, tmp_path):
    page = write_report(hostile_result, tmp_path / "report.html", root=tmp_path, sparse=sparse_folder).read_text()
    assert "Share of weights" in page
    assert 'class="strip"' not in page


def test_a_sparse_layer_of_other_images_or_of_another_model_is_refused(hostile_result, sparse_folder, tmp_path):
    with pytest.raises(UserError, match=r"sparse result .* does not exist"):
        write_report(hostile_result, tmp_path / "r.html", sparse=tmp_path)
    with pytest.raises(UserError, match=r"the train images of .* are not those of"):
        write_report(hostile_result, tmp_path / "r.html", split="train", sparse=sparse_folder)
    other = tmp_path / "other"
    shutil.copytree(sparse_folder, other)
    run = torch.load(other / "run.pt", weights_only=True)
    run["dense"]["weight"] = run["dense"]["weight"].roll(1, 0)
    save_pt(run, other / "run.pt")
    with pytest.raises(UserError, match="is of another model than"):
        write_report(hostile_result, tmp_path / "r.html", sparse=other)
    assert not (tmp_path / "r.html").exists()
