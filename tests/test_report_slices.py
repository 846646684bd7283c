"""The report's failures: what it says of each, what it says of none, and how the page shows them."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import failure_directions as fd
import numpy as np
import pytest
from failure_directions.commands import compare, distil, find, generate, intervene, report, train
from failure_directions.config_parsing import DatasetConfig, SVMConfig
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.report.next_steps import next_steps
from failure_directions.report.page import render_report, write_report
from failure_directions.report.slices import (
    beyond_confidence,
    claim,
    confusions,
    errors_by_tenth,
    nearest_the_median,
    percent,
    scatter,
    summarise_slices,
    taken_for,
    whole,
)
from PIL import Image
from scipy.stats import binomtest

from scripts.screenshot_report import chromium_page

NAMES = ["cat", "a_dog/with-a_name_that_is_rather_long_for_a_narrow_page_of_390_pixels", "supercalifragilistic bird"]
NARROW = 390
COMMANDS = {
    "distil": distil,
    "train": train,
    "find": find,
    "generate": generate,
    "report": report,
    "compare": compare,
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Failures of a model that takes one group of cats for birds and another, smaller one for dogs; with files."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    n = 2400
    labels = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 12))
    first = (labels == 0) & (rng.random(n) < 0.2)
    second = (labels == 0) & ~first & (rng.random(n) < 0.1)
    x[first, 0] += 6
    x[second, 1] += 6
    wrong = rng.random(n) < np.select([first, second], [0.8, 0.7], 0.05)
    preds = np.where(wrong, np.select([first, second], [2, 1], (labels + 1) % 3), labels)
    probs = np.full((n, 3), 0.05) + 0.85 * np.eye(3)[preds]
    probs = 0.7 * probs + 0.3 * rng.dirichlet(np.ones(3), n)
    paths = [str(folder / f"<b>&{i}.png") for i in range(n)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)).save(path)
    return fd.find_failures(labels, preds, x, probs=probs, images=paths, class_names=NAMES, jobs=1)


@pytest.fixture(scope="module")
def planted_page(planted, tmp_path_factory):
    return planted.report(tmp_path_factory.mktemp("planted_page") / "report.html")


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 1200)
    preds = np.where(rng.random(1200) < 0.2, (labels + 1) % 4, labels)
    return fd.find_failures(labels, preds, rng.normal(size=(1200, 16)), jobs=1)


@pytest.fixture(scope="module")
def page():
    with chromium_page(1200, 1500) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        yield page


def texts(page, selector):
    found = page.evaluate(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")
    return [" ".join(text.split()) for text in found]


# ---- sentences and numbers


def test_a_claim_is_a_sentence_of_points_and_percent(planted):
    one = replace(
        planted.confirmed[0], size=12, difference=0.28, interval=(0.21, 0.34), error_rate=0.34, rest_error_rate=0.06
    )
    expected = "28 points more wrong [21, 34] in 12 % of its images, 34 % against 6 %"
    assert claim(one, 100).replace("\xa0", " ") == expected
    assert [percent(share).replace("\xa0", " ") for share in (0, 0.004, 0.034, 0.996, 1, np.nan)] == [
        "0 %",
        "0.4 %",
        "3 %",
        "99.6 %",
        "100 %",
        "\N{EN DASH}",
    ]
    assert [whole(value) for value in (-0.2, -3.6, 1234.5)] == ["0", "\N{MINUS SIGN}4", "1,234"]


def test_confidence_is_spoken_of_where_it_is_known():
    assert beyond_confidence(0.1, 0.1) == "more than low confidence explains"
    assert beyond_confidence(0.11, 0.1) == "no more than low confidence explains"
    assert beyond_confidence(float("nan"), 0.1) == ""


def test_mostly_is_said_of_more_than_half_of_the_errors():
    preds = np.array([0, 0, 1, 1, 2])
    wrong = preds != 0
    assert taken_for(preds, wrong, 0) == ("mostly", 1)
    assert taken_for(np.array([0, 1, 1, 2, 3]), np.ones(5, bool), 0) == ("most often", 1)
    assert taken_for(np.array([0, 1, 1, 2, 2]), np.ones(5, bool), 0) == (None, -1)
    assert taken_for(np.zeros(3, int), np.zeros(3, bool), 0) == (None, -1)


def test_confusions_add_up_to_flagged_and_rest():
    rng = np.random.default_rng(0)
    flagged, rest = rng.integers(0, 9, 40), rng.integers(0, 9, 200)
    rows = confusions(flagged, rest, 4, list("abcdefghi"), most=3)
    assert (rows[0].name, rows[0].right, rows[0].flagged) == ("e", True, (flagged == 4).sum())
    assert rows[-1].name == "5 other classes"
    assert [row.flagged for row in rows[1:4]] == sorted(np.bincount(flagged[flagged != 4]), reverse=True)[:3]
    for part, images in (("flagged", flagged), ("rest", rest)):
        assert sum(getattr(row, part) for row in rows) == len(images)
        assert sum(getattr(row, f"{part}_share") for row in rows) == pytest.approx(1)


def test_errors_by_tenth_have_wilson_intervals():
    rng = np.random.default_rng(0)
    values, wrong = rng.permutation(200), rng.random(200) < 0.3
    tenths = errors_by_tenth(values, wrong)
    assert len(tenths) == 10
    for k, tenth in enumerate(tenths):
        of_it = wrong[(values >= 20 * k) & (values < 20 * (k + 1))]
        interval = binomtest(int(of_it.sum()), 20).proportion_ci(0.95, "wilson")
        assert (tenth.count, tenth.errors) == (20, of_it.sum())
        assert (tenth.low, tenth.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert max(tenth.of_top) <= 1
    assert errors_by_tenth(np.empty(0), np.empty(0, bool)) == []


def test_typical_images_are_those_in_the_middle():
    values = np.array([9.0, -1, 0, 1, 2, 3, 100])
    assert nearest_the_median(values, np.array([1, 2, 3, 4, 5, 6]), 3).tolist()[0] in (3, 4)
    assert set(nearest_the_median(values, np.array([1, 2, 3, 4, 5]), 3)) == {2, 3, 4}
    assert len(nearest_the_median(values, np.empty(0, int), 3)) == 0


def test_a_scatter_draws_what_is_flagged_whatever_else_it_leaves_out():
    rng = np.random.default_rng(0)
    values, confs, wrong = rng.normal(size=5000), rng.random(5000), rng.random(5000) < 0.3
    flagged = values < -2
    drawn = scatter(values, confs, wrong, flagged, most=300)
    assert (drawn.shown, drawn.count) == (300, 5000)
    assert drawn.right.count("h0") + drawn.wrong.count("l4 4") == 300
    lefts = [float(x) for x in re.findall(r"M([\d.]+) ", drawn.right)]
    assert sum(x < drawn.zero for x in lefts) >= (flagged & ~wrong).sum()
    assert 0 < drawn.zero < drawn.width
    assert len(drawn.right) + len(drawn.wrong) < 12_000


def test_slices_are_told_by_harm_and_counted_without_what_earlier_ones_took(planted):
    tested = summarise_slices(SVMProcessor.of(planted.analysis.result))
    harms = [one.found.size * one.found.difference for one in tested.slices]
    assert harms == sorted(harms, reverse=True)
    assert len(tested.confirmed) >= 2
    for one in tested.sections:
        assert sum(row.flagged for row in one.confusions) == one.found.size
        assert sum(row.rest for row in one.confusions) == one.found.rest
        assert sum(tenth.count for tenth in one.tenths) == one.found.size + one.found.rest
        wrong = sum(row.flagged for row in one.confusions if not row.right)
        assert wrong == round(one.found.size * one.found.error_rate)
    assert tested.sections[0].wrong_as == NAMES[2]
    assert tested.sections[0].sentence.startswith("cat, slice ")
    assert {name for name, _ in tested.without} == set(NAMES[1:])


# ---- the page


def test_the_page_explains_in_order(page, planted, planted_page):
    page.goto(planted_page.as_uri())
    headings = texts(page, "h2")
    assert headings == [
        "Overview",
        "Confirmed failures",
        "Not confirmed",
        "One direction for each class",
        "What to do next",
        "How to read this",
        "How it was made",
    ]
    confirmed = planted.confirmed
    lead = texts(page, ".lead")[0]
    assert lead.startswith(f"{len(confirmed)} failures in 1 class are confirmed on 1,")
    assert lead.endswith("at a false discovery rate of 10 %.")
    sentences = texts(page, ".sentences li")
    assert len(sentences) == len(confirmed)
    for one, said in zip(confirmed, sentences, strict=True):
        points, low, high = (round(100 * value) for value in (one.difference, *one.interval))
        assert said.startswith(f"cat, slice {one.rank}: {points} points more wrong [{low}, {high}] in ")
        assert f"{percent(one.error_rate)} against {percent(one.rest_error_rate)}".replace("\xa0", " ") in said
        assert ("; more than low confidence explains" in said) == (one.beyond_confidence_q <= 0.1)
    assert "mostly taken for supercalifragilistic bird" in sentences[0]
    shown = texts(page, "#slices tbody th")
    assert shown == [one.class_name for one in planted.slices]
    titles = page.evaluate("[...document.querySelectorAll('#slices td[data-label=Verdict]')].map((e) => e.title)")
    assert titles[0].startswith(f"q = {planted.slices[0].q_value:.2g}")
    words = page.evaluate("document.body.textContent").lower()
    assert "better than chance" not in words
    assert "consistent failure" not in words


def test_the_overview_sorts_by_verdict_and_is_searched(page, planted, planted_page):
    page.goto(planted_page.as_uri())
    verdict = "#slices thead th:last-child button"
    page.click(verdict)
    q = [
        float(value)
        for value in page.evaluate(
            "[...document.querySelectorAll('#slices td[data-label=Verdict]')].map((e) => e.dataset.value)"
        )
    ]
    assert q == sorted(q)
    page.fill(".find[data-table=slices]", "CAT")
    visible = page.evaluate("[...document.querySelectorAll('#slices tbody tr')].filter((r) => !r.hidden).length")
    assert visible == sum(one.class_name == "cat" for one in planted.slices)


def test_images_of_a_slice_are_its_hardest_and_right_ones_of_the_rest(planted):
    proc = SVMProcessor.of(planted.analysis.result)
    html = render_report(proc)
    first = proc.loaded.found.confirmed[0]
    paths = proc.metrics("test")["paths"]
    section = html[html.index('id="slice-1"') :]
    shown = re.findall(r'data-path="([^"]*)"', section)[:24]
    assert shown[:16] == [
        paths[i].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for i in first.members[:16]
    ]
    positions = {
        path.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"): i for i, path in enumerate(paths)
    }
    for path in shown[16:]:
        assert proc.metrics("test")["ytrue"][positions[path]] == 1
        assert positions[path] not in first.members


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_the_path_of_an_enlarged_image_is_copied_or_selected(page, planted, planted_page, has_clipboard):
    page.goto(planted_page.as_uri())
    if not has_clipboard:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    page.click(".slice[open] .gallery button")
    path = page.evaluate("document.querySelector('#file code').textContent")
    assert path == planted.analysis.result.splits["test"].paths[planted.analysis.result.found.confirmed[0].members[0]]
    page.click("#copy")
    page.wait_for_function("document.querySelector('#file [role=status]').textContent !== ''")
    if has_clipboard:
        assert page.evaluate("navigator.clipboard.readText()") == path
    assert page.evaluate("document.querySelector('#file [role=status]').textContent") == (
        "copied" if has_clipboard else "selected"
    )
    if not has_clipboard:
        assert page.evaluate("getSelection().toString()") == path
    page.keyboard.press("Escape")


def test_at_390_pixels_nothing_scrolls_sideways_and_no_word_of_a_name_is_cut(page, planted_page):
    page.set_viewport_size({"width": NARROW, "height": 800})
    try:
        page.goto(planted_page.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW
        wide = page.evaluate(
            """[...document.querySelectorAll('.scroll, pre, table, section')]
               .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert wide == []
        # A word that is cut has two boxes.
        cut = page.evaluate(
            """[...document.querySelectorAll('.name')].flatMap((name) => {
                const nodes = [...name.childNodes].filter((n) => n.nodeType === 3);
                return nodes.flatMap((node) => [...node.data.matchAll(/[^\\s]+/g)].filter((word) => {
                    const range = document.createRange();
                    range.setStart(node, word.index);
                    range.setEnd(node, word.index + word[0].length);
                    return new Set([...range.getClientRects()].map((box) => box.top)).size > 1;
                }).map((word) => word[0]));
            })"""
        )
        assert cut == []
    finally:
        page.set_viewport_size({"width": 1200, "height": 1500})


def test_of_noise_nothing_is_said_but_that_nothing_is_confirmed(page, noise, tmp_path):
    assert noise.confirmed == []
    path = noise.report(tmp_path / "report.html")
    page.goto(path.as_uri())
    assert texts(page, ".lead")[0].startswith("No failure is confirmed. ")
    needed = [one for one in noise.slices if one.images_needed is not None]
    if needed:
        fewest = min(needed, key=lambda one: one.images_needed)
        assert f"about {fewest.images_needed:,} images of that class" in texts(page, ".lead-more")[0]
    assert page.evaluate("document.querySelectorAll('details.slice, .sentences li').length") == 0
    assert "Confirmed failures" not in texts(page, "h2")
    summaries = texts(page, "#unconfirmed ~ details > summary")
    assert summaries[-1] == "4 of 4 classes have no confirmed failure"
    assert "intervene" not in " ".join(texts(page, "#next ~ ol pre"))
    notes = texts(page, ".note")
    assert [note for note in notes if "There are no images in this report" in note] == notes[-1:]
    words = page.evaluate("document.body.textContent").lower()
    assert "better than chance" not in words


def test_images_that_have_gone_are_told_once(planted, tmp_path):
    result = planted.analysis.result
    gone = {
        name: replace(split, paths=[f"/nowhere/{i}.png" for i in range(len(split))])
        for name, split in result.splits.items()
    }
    html = render_report(SVMProcessor.of(replace(result, splits=gone)))
    assert html.count("There are no images in this report") == 1
    assert "/nowhere/" in html
    assert "data:image" not in html


def test_what_makes_the_test_too_hopeful_is_told(planted):
    result = planted.analysis.result
    found = replace(result.found, uses=3, near_duplicates=17, shared_groups=2)
    html = render_report(SVMProcessor.of(replace(result, found=found)))
    assert re.search(r"17 of the 1,\d\d\d images of test are near-duplicates of images of val", html)
    assert "2 groups have images in both val and test" in html
    assert "have tested this model 3 times" in html


def test_a_thousand_classes_keep_within_their_bytes_and_show_slices_first(page, planted, tmp_path):
    rng = np.random.default_rng(0)
    classes, per = 1000, 24
    labels = np.repeat(np.arange(classes), per)
    n = len(labels)
    result, template = planted.analysis.result, planted.analysis.result.found.confirmed[0]
    values = rng.normal(1, 1, n)
    right = rng.random(n) < 0.8
    split = replace(
        result.splits["test"],
        classes=labels,
        preds=np.where(right, labels, (labels + 1) % classes),
        ytrue=right.astype(np.int64),
        ypred=(values > 0).astype(np.int64),
        decision_values=values,
        confs=rng.random(n).astype(np.float32),
        indices=np.arange(n),
        slice_values=values[:, None].astype(np.float32),
        paths=None,
    )
    slices = [
        replace(
            template,
            id=f"{c}-1",
            class_index=c,
            class_name=f"class {c}",
            rank=1,
            members=np.argsort(values[c * per : (c + 1) * per])[:5] + c * per,
            size=5,
            rest=19,
        )
        for c in range(classes)
    ]
    noisy = rng.integers(0, 256, (64, 48, 48, 3), dtype=np.uint8)
    big = replace(
        result,
        class_names=[f"class {c}" for c in range(classes)],
        cv_scores=np.full(classes, 0.6),
        skipped={},
        splits={"val": split, "test": split},
        found=replace(result.found, slices=slices),
    )
    path = write_report(SVMProcessor.of(big, images=[noisy[i % 64] for i in range(n)]), tmp_path / "report.html")
    assert path.stat().st_size < 30e6
    page.goto(path.as_uri())
    assert page.evaluate("[...document.images].filter((image) => image.complete).length") < 100  # those below wait
    assert texts(page, ".lead")[0].startswith("1000 failures in 1000 classes")
    sizes = page.evaluate(
        "['.slice', '.class'].map((kind) => document.querySelector(`${kind} .gallery img`).getAttribute('width'))"
    )
    assert int(sizes[0]) >= int(sizes[1])
    assert page.evaluate("document.querySelectorAll('.slice').length") == 300
    assert page.evaluate("document.querySelectorAll('#slices tbody tr').length") == 1000


# ---- what to do next


def test_the_next_commands_are_ones_that_can_be_called(planted, tmp_path):
    config = DatasetConfig(
        train_beton="a.beton", test_beton="b.beton", imgsz=16, arch="resnet18", arch_type="resnet", num_classes=3
    )
    args = {
        "config": "my config.yaml",
        "svm_config": "svm",
        "root": "data",
        "model_path": "runs/base/version_0/checkpoints/checkpoint_last.pt",
        "out_file": "out.pt",
        "captions": "CIFAR",
        "override": ["batch_size=7"],
        "indices_file": "index.pt",
        "jobs": -1,
    }
    result = replace(planted.analysis.result, dataset_config=config, svm_config=SVMConfig(), args=args)
    tested = summarise_slices(SVMProcessor.of(result))
    lines = [line for step in next_steps(result, Path("my results/out.pt"), tested) for line in step.commands]
    called = []
    for line in lines:
        program, *words = shlex.split(line)
        name, *words = ["distil", *words[1:]] if program == "python" else words
        called.append(name)
        if name == "intervene":
            assert intervene.parse_arguments(words).classes == ["cat"]
        else:
            parsed = COMMANDS[name].parse_arguments(words)
            if name == "train":
                assert (parsed.config, parsed.override) == ("my config.yaml", ["batch_size=7"])
            if name == "compare":
                assert [str(run) for run in parsed.runs] == ["runs/base", "runs/x2"]
    assert called == [
        *("intervene", "train"),
        *("distil", "intervene", "train"),
        *("generate", "train"),
        *("compare", "report"),
        "find",
    ]
    html = render_report(SVMProcessor.of(result, Path("my results/out.pt")))
    assert "&#39;my results/out.pt&#39;" in html or "&#39;my</span>" in html


def test_a_result_of_arrays_is_not_said_to_come_from_a_command(planted, tmp_path):
    html = planted.report(tmp_path / "report.html").read_text()
    assert "failure-directions distil" not in html
    assert "From arrays of labels, predictions and embeddings, at fdr 0.1 and seed 0" in html
