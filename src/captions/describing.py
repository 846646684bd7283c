"""From a result to words: what the images of each confirmed slice have in common, by every source at hand."""

import re
from dataclasses import dataclass, replace

import numpy as np

from ..directions.results import WordRow
from ..runtime.errors import UserError
from . import columns, qualities
from .sources import SOURCES, read_sources
from .statements import GOES_WITH, NAMES, held_statements, separations


def with_words(found, images, sources="auto", captions=None, clip=None, classifier=None):
    """An `Analysis` with a table of `WordRow`.

    Args:
        found: `Analysis` with slices.
        images: function of a split's name and positions in it -> an iterator of uint8 (H, W, 3).
        sources: "auto" or a list of `SOURCES`.
        captions, clip: as in `clip_texts.read_texts`; captions None for none.
        classifier: as in `labels.read_labels`; "auto" asks None's where its weights are at hand.

    Raises:
        UserError: an unknown source; one that is asked for by name and has nothing to say.
    """
    result = found.result
    sources = read_sources(sources)
    asked = SOURCES if sources == "auto" else sources
    if result.found is None:
        raise UserError("no failure was sought on one part and confirmed on another, so that there is none to describe")
    if captions is None and "captions" in asked and sources != "auto":
        raise UserError("captions are asked for and none are given; name a caption set, or a file of texts")
    of, slices = result.found, result.found.confirmed
    find, confirm = result.splits[of.find], result.splits[of.confirm]
    told, notes = [], []
    if "metadata" in asked:
        told, notes = _columns(find, confirm)
        if not told and sources != "auto":
            raise UserError(
                "metadata says nothing: there is no column that differs between images; " + "; ".join(notes)
            )
    askers = _askers(found, images, asked, sources, captions, clip, classifier, notes) if slices else []
    # The share of all that is tested which a false word may have, as for slices.
    level = of.fdr * len(slices) / max(1, len(of.slices))

    def describe(askers):
        """`WordRow`s of all slices, a class after the other: no more than one class's scores are held."""
        rows = {}
        for c in sorted({one.class_index for one in slices}):
            of_class = [(name, np.flatnonzero(result.splits[name].classes == c)) for name in (of.find, of.confirm)]
            seen = []
            for ask in askers:
                source, texts, score, worth = ask(result.class_names[c])
                seen.append(_Seen(source, texts, *(score(images(*where)) for where in of_class), worth))
            for one in slices:
                if one.class_index == c:
                    rows[one.id] = _of_slice(one, find, confirm, told, seen, level, result.class_names)
        return [row for one in slices for row in rows[one.id]]

    try:
        rows = describe(askers)
    except UserError as error:
        if sources != "auto":
            raise
        notes.append(f"the images were not looked at for words: {error}")
        rows = describe([])
    result = replace(result, notes=[*result.notes, *(note for note in notes if note not in result.notes)])
    return replace(found, result=result, tables={**found.tables, WordRow: rows})


@dataclass(frozen=True)
class _Seen:
    """What one source says of the images of a class.

    Attributes:
        source: of `SOURCES`.
        texts: S statements.
        find, confirm: scores (n, S) and (m, S).
        worth: function of separations (S,), `find` and the slice bool (n,) -> bool (S,), the statements that are worth
            saying; None for all.
    """

    source: str
    texts: list
    find: np.ndarray
    confirm: np.ndarray
    worth: object = None


def _askers(found, images, asked, sources, captions, clip, classifier, notes):
    """Functions of a class name -> source, texts, a function images -> scores, and `_Seen.worth`."""
    askers = []
    if "qualities" in asked:
        # Braces are those of a column's cut.
        askers.append(
            lambda _: ("qualities", qualities.TEXTS, lambda x: qualities.statements(qualities.measure(x)), None)
        )
    if "labels" in asked:
        from . import labels  # late: it takes torchvision and timm

        if sources == "auto" and classifier is None and not labels.at_hand():
            notes.append(f"no pretrained classifier was asked what the images look like; fetch one: {labels.PIP_LINE}")
        else:
            looks = labels.read_labels(classifier, _are_small(found.result, images, labels.SMALL))
            askers.append(lambda _: ("labels", looks.texts, looks.scores, looks.worth_saying))
    if "captions" in asked and captions is not None:
        from .clip_texts import read_texts  # late: it takes open_clip

        spoken = read_texts(captions, clip)

        def ask(class_name):
            texts = spoken.texts(class_name)
            notes.extend(note for note in spoken.notes if note not in notes)
            return "captions", texts, lambda x: spoken.scores(x, texts), None

        askers.append(ask)
    return askers


def _are_small(result, images, pixels):
    """Whether the first image of the find part is of at most so many pixels; True where there is none."""
    try:
        first = next(iter(images(result.found.find, [0])), None)
    except UserError:
        return True
    return first is None or min(first.shape[:2]) <= pixels


def _columns(find, confirm):
    there = [name for name in find.metadata or {} if name in (confirm.metadata or {})]
    both = {name: [*find.metadata[name], *confirm.metadata[name]] for name in there}
    preds = np.concatenate([find.preds, confirm.preds])
    return columns.read_columns(both, preds, np.concatenate([find.ytrue, confirm.ytrue]) == 1)


def _of_slice(one, find, confirm, told, seen, level, class_names):
    """`WordRow`s of a slice, over all statements of all sources; `seen`: a `_Seen` a source that looks at images."""
    rows = [np.flatnonzero(split.classes == one.class_index) for split in (find, confirm)]
    members = [np.isin(at, of) for at, of in zip(rows, (one.found_members, one.members), strict=True)]
    texts, first, second = columns.statements(
        told, rows[0], rows[1] + len(find), lambda scores: separations(scores, members[0])
    )
    sources, texts, first, second = ["metadata"] * len(texts), list(texts), [first], [second]
    for part in seen:
        kept = np.full(len(part.texts), True)
        if part.worth is not None:
            kept = part.worth(separations(part.find, members[0]), part.find, members[0])
        texts += [
            text.replace("{", "{{").replace("}", "}}") for text, keep in zip(part.texts, kept, strict=True) if keep
        ]
        sources += [part.source] * int(kept.sum())
        first.append(part.find[:, kept])
        second.append(part.confirm[:, kept])
    first, second = np.concatenate(first, axis=1), np.concatenate(second, axis=1)
    wrong = confirm.ytrue[rows[1]] == 0
    held = held_statements(first, members[0], second, members[1], wrong, texts, level)
    others = [name for name in class_names if name != one.class_name]
    found = []
    for statement in held:
        source, text = sources[statement.column], columns.said(texts[statement.column], statement.cut)
        if source in ("labels", "captions"):
            text = _towards(text, one.class_name, others)
        told = {name: value for name, value in vars(statement).items() if name not in ("column", "cut")}
        told |= {
            name: " ".join(str(position) for position in rows[1][list(told[name])])
            for name in ("holds_elsewhere", "fails_inside")
        }
        found.append(WordRow(class_name=one.class_name, slice=one.id, source=source, statement=text, **told))
    return found


def _towards(text, class_name, others):
    """A text that names another class and not its own, as a direction towards that class."""
    for other in others:
        if _names(text, other) and not _names(text, class_name):
            return f"towards the class {other}: {text}"
    return text


def _names(text, name):
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def words_of_slices(found):
    """A line a confirmed slice of an `Analysis`: what its images have in common, as `in_words` says it."""
    rows = found.tables[WordRow]
    slices = found.result.found.confirmed
    return "\n".join(f"{one.id}: {in_words([row for row in rows if row.slice == one.id])}" for one in slices)


_VERBS = {"qualities": "are", "labels": "look like", "captions": "fit", "metadata": "are those where"}


def in_words(rows):
    """A clause on a slice from its `WordRow`s: "these images are darker (AUROC 0.88)", or that no words were found."""
    parts = []
    for verdict, beginning, end in ((NAMES, "these images", ""), (GOES_WITH, "they", ", without errors of its own")):
        said = {}
        for row in rows:
            if row.verdict == verdict:
                text = f"“{row.statement}”" if row.source == "captions" else row.statement.replace("looks like ", "", 1)
                said.setdefault(row.source, []).append(f"{text} (AUROC {row.auroc:.2f})")
        if said:
            clauses = [f"{_VERBS[source]} {', '.join(texts)}" for source, texts in said.items()]
            parts.append(f"{beginning} {' and '.join(clauses)}{end}")
    return "; ".join(parts) or "no words found"
