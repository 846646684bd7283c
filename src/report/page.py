"""The report: one HTML file that shows a result to a person, self-contained and usable without a network.

The numbers of the page are computed here from arrays; how it looks is in templates/.
"""

import base64
import hashlib
import math
import re
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup, escape

from ..directions.galleries import MissingBeton, SVMProcessor
from ..runtime.files import atomic_path, check_writable, unchanged
from .decoded import read_decoded
from .next_steps import command_line, next_steps
from .slices import MOST_SECTIONS as MOST_SLICES
from .slices import add_slice_images, add_words, interval_in_points, percent, summarise_slices, whole
from .summaries import (
    add_captions,
    add_feature_images,
    add_features,
    add_galleries,
    add_minority,
    mean_of,
    read_comparison,
    read_sparse,
    summarise_classes,
)
from .thumbnails import IMAGE_BUDGET

TEMPLATES = Path(__file__).parent / "templates"
MOST_SECTIONS = 1000


def write_report(result, out_path, root=None, split="test", compared=None, sparse=None, decoded=None, title=None):
    """Write the report of a result as one HTML file, atomically; return its path.

    Args:
        result: `OUT.pt` of train_svms.py, beside which its CSVs of words, captions and subpopulations are shown,
            or an `SVMProcessor`.
        out_path: the HTML file.
        root: folder of the betons, by default the one that the result was made with; where they are missing the report
            has no images and says so.
        split: whose images and accuracies are shown.
        compared: what failure-directions compare was given as --out; its table and figure make the section "before and
            after", or that of two models "the next model".
        sparse: what sparse_main.py was given as --out-path, on the same model; each class then shows the sparse
            features that separate its hard and easy images.
        decoded: what failure-directions decode was given as --out; its strips make the section "along the direction".
        title: by default the result's name.

    Returns:
        `out_path`, as a `Path`.

    Raises:
        UserError: `out_path` cannot be written; the result is none, or has no such split; the betons are of another
            data set, or the sparse layer of another model.
    """
    out_path = Path(out_path)
    check_writable(out_path)
    with unchanged(getattr(result, "path", result)):
        proc = result
        if not isinstance(result, SVMProcessor):
            proc = SVMProcessor(result, root, get_unlabeled=split == "unlabeled")
        html = render_report(
            proc,
            split,
            read_comparison(compared) if compared else None,
            read_sparse(sparse, proc, split) if sparse else None,
            read_decoded(decoded) if decoded else None,
            title,
        )
    with atomic_path(out_path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out_path


def render_report(proc, split="test", comparison=None, sparse=None, decoded=None, title=None):
    """The report as a string of HTML.

    Args:
        proc: `SVMProcessor`.
        split: whose images and accuracies are shown.
        comparison: `summaries.Comparison`, a list of `next_model.ModelRow`, or None.
        sparse: `SparseResult` of the same model, or None.
        decoded: `decoded.Decoded`, or None.
        title: by default the result's name.

    Returns:
        str: one page that needs no other file.

    Raises:
        UserError: the result has no such split, or its betons are of another data set.
    """
    metrics = proc.metrics(split)
    tested = summarise_slices(proc)
    if tested:
        add_words(tested, proc)
    summaries = summarise_classes(proc, split)
    add_minority(summaries, proc, split)
    add_captions(summaries, proc, split)
    strongest = sorted(summaries, key=lambda summary: -summary.cv_score if not summary.skipped else math.inf)
    sections = strongest[:MOST_SECTIONS]
    if sparse:
        add_features(sections, proc, split, sparse)
    no_images, shown = "", (0, 0, False)
    try:
        # The slices take what they need of most of the budget, the classes what is left.
        used = add_slice_images(tested, proc, IMAGE_BUDGET * 2 // 3) if tested else 0
        shown = add_galleries(sections, proc, split, IMAGE_BUDGET - used)
        if sparse:
            add_feature_images(sections, proc, split, sparse)
    except MissingBeton as error:
        no_images = str(error)
        for one in [*(tested.sections if tested else ()), *sections]:
            one.hardest = []
        for summary in sections:
            summary.easiest = []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number,
        signed=_signed,
        signed3=lambda value: _signed(value, 3),
        percent=percent,
        whole=whole,
        interval=lambda ends: interval_in_points(*ends),
        thousands="{:,}".format,
        breakable=_breakable,
        by_word=_by_word,
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    most_images, largest_side, reduced = shown
    return environment.get_template("report.html").render(
        style=Markup(style),
        script=Markup(script),
        # The page's own script, and no other, may run, whatever a class is called.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=title or (proc.path.stem if proc.in_file else "Failures of a model"),
        result_path=str(proc.path) if proc.in_file else "",
        split=split,
        count=len(metrics["ytrue"]),
        accuracy=mean_of(metrics["ytrue"]),
        tested=tested,
        most_slices=MOST_SLICES,
        steps=next_steps(proc.loaded, proc.path if proc.in_file else None, tested),
        classes=strongest,
        sections=sections,
        skipped=[summary for summary in summaries if summary.skipped],
        no_images=no_images,
        thing="image" if proc.texts(split) is None else "text",
        comparison=None if isinstance(comparison, list) else comparison,
        next_model=comparison if isinstance(comparison, list) else None,
        decoded=decoded,
        sparse=sparse and str(sparse.folder),
        most_images=most_images,
        largest_side=largest_side,
        reduced=reduced,
        embedding=proc.loaded.svm_config.embedding if proc.loaded.svm_config else None,
        command=command_line(proc.args) if proc.loaded.dataset_config else proc.loaded.made_from.get("command", ""),
        made_from={what: told for what, told in proc.loaded.made_from.items() if what != "command"},
        notes=proc.loaded.notes,
        configs={
            name.replace("_", " "): yaml.safe_dump(
                getattr(proc.loaded, name).model_dump(), sort_keys=False, allow_unicode=True
            )
            for name in ("dataset_config", "svm_config")
            if getattr(proc.loaded, name)
        },
    )


def _number(value, digits=3):
    """ ".983" for people: three decimals, a dash for nothing."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value, digits=2):
    """A number with its sign, and a real minus."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _breakable(name):
    """A name for the page, escaped: kept in one line where it fits into one, else broken after these signs alone."""
    parts = re.sub(r"([_/.,:-])(?=\w)", r"\1<wbr>", str(escape(name)))
    return Markup(f'<span class="name">{parts}</span>')


def _by_word(line):
    """A command for the page, which breaks between its words alone: browsers would after each hyphen of an option."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in line.split(" "))
