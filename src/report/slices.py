"""What the report says of the failures that were tested: sentences, confusions, errors by tenth, images."""

import math
from dataclasses import dataclass, field

import numpy as np

from ..captions.describing import in_words
from ..captions.statements import NAMES
from ..directions.confirmation import CONFIRMED, NEAR_DUPLICATE, TOO_FEW, Slice, wilson_interval
from ..directions.galleries import knows_confidences
from ..directions.results import WordRow
from .thumbnails import image_limit, images_a_side, thumbnails

MOST_SECTIONS = 300  # slices that are shown in full
MOST_SENTENCES = 12  # in the lead; the others fold
MOST_CONFUSIONS = 5  # classes that a table of confusions names
POINTS, FEW_POINTS = 600, 150  # of a scatter, and of each where there are more than MANY_SCATTERS
MANY_SCATTERS = 50
LEVEL = 0.95  # of the intervals of error rates by tenth
WIDTH, HEIGHT, MARGIN = 320, 200, 6  # of a scatter, in its own units


# ---------------------------------------------------------------------------------------------------------------------
# The pieces, from arrays
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """What images of a class are taken for: how many of the flagged and of the rest, and their shares of each."""

    name: str
    right: bool
    flagged: int
    flagged_share: float
    rest: int
    rest_share: float


@dataclass(frozen=True)
class Tenth:
    """Errors in a tenth of a class.

    Attributes:
        count, errors: images, and those of them on which the model is wrong.
        rate: errors / count.
        low, high: ends of Wilson's interval of the rate.
        of_top: rate, low and high as shares of the highest interval's end among the tenths, for a chart.
    """

    count: int
    errors: int
    rate: float
    low: float
    high: float
    of_top: tuple = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Scatter:
    """Decision value (to the right) against confidence (up), drawn: SVG paths in a box of `WIDTH` x `HEIGHT`.

    Attributes:
        right: a dot for each image on which the model is right.
        wrong: a cross for each on which it is not.
        zero: x of the decision value 0, in units of the box.
        least, most: the decision values at both ends.
        shown, count: images drawn, and images there are.
    """

    right: str
    wrong: str
    zero: float
    least: float
    most: float
    shown: int
    count: int
    width: int = WIDTH
    height: int = HEIGHT


def percent(share):
    """ "28 %", which no line breaks; with a decimal where it would else read as none or all, which it is not."""
    if share != share:
        return "\N{EN DASH}"
    value = 100 * share
    return f"{value:.{int(0 < value < 1 or 99 < value < 100)}f}\N{NO-BREAK SPACE}%"


def whole(value):
    """A rounded number with a real minus; a dash for NaN."""
    return "\N{EN DASH}" if value != value else f"{round(value):,}".replace("-", "\N{MINUS SIGN}")


def interval_in_points(low, high):
    """ "[21, 34]", percentage points; no line breaks it."""
    return f"[{whole(100 * low)},\N{NO-BREAK SPACE}{whole(100 * high)}]"


def claim(one, count):
    """What is claimed of a `Slice` of a class of `count` images: "28 points more wrong [21, 34] in 12 % of its images,
    34 % against 6 %"."""
    more, share = whole(100 * one.difference), percent(one.size / count)
    rates = f"{percent(one.error_rate)} against {percent(one.rest_error_rate)}"
    return f"{more} points more wrong {interval_in_points(*one.interval)} in {share} of its images, {rates}"


def taken_for(preds, wrong, c):
    """What a class's errors are taken for.

    Args:
        preds: int (n,), predicted classes.
        wrong: bool (n,), where the model errs.
        c: the class of these images.

    Returns:
        ("mostly", class) where more than half of the errors are taken for one class, ("most often", class) where it is
        the commonest of several, (None, -1) where there is no error or no commonest class.
    """
    names, counts = np.unique(preds[wrong & (preds != c)], return_counts=True)
    first = int(counts.argmax()) if len(names) else 0
    if not len(names) or (counts == counts[first]).sum() > 1:
        return None, -1
    return ("mostly" if 2 * counts[first] > counts.sum() else "most often"), int(names[first])


def beyond_confidence(q, fdr):
    """What the model's confidence has to do with a confirmed slice, in words; "" where it is not known."""
    if math.isnan(q):
        return ""
    return f"{'more' if q <= fdr else 'no more'} than low confidence explains"


def confusions(flagged, rest, c, class_names, most=MOST_CONFUSIONS):
    """`Confusion`s of class c: right ones first, then the commonest among the flagged, then all others as one.

    Args:
        flagged: int (m,), predictions on the images that a slice flags.
        rest: int (n,), those on the rest of the class.
        c: the class.
        class_names: names by class index.
        most: classes that are told by name, beside c.

    Returns:
        list of `Confusion`; their shares add to 1 where there is an image.
    """
    counts = [np.bincount(preds, minlength=len(class_names)) for preds in (flagged, rest)]
    shares = [count / max(1, len(preds)) for count, preds in zip(counts, (flagged, rest), strict=True)]
    order = np.lexsort((-counts[1], -counts[0]))
    wrong = [k for k in order if k != c and counts[0][k] + counts[1][k]]
    rows = [(class_names[k], [k]) for k in wrong[:most]]
    if others := wrong[most:]:
        rows.append((f"{len(others)} other {'class' if len(others) == 1 else 'classes'}", others))
    return [
        Confusion(
            name,
            of == [c],
            int(counts[0][of].sum()),
            float(shares[0][of].sum()),
            int(counts[1][of].sum()),
            float(shares[1][of].sum()),
        )
        for name, of in [(class_names[c], [c]), *rows]
    ]


def errors_by_tenth(values, wrong, level=LEVEL):
    """Errors from the hard end of a class to its easy end.

    Args:
        values: (n,), decision values; lowest is hardest.
        wrong: bool (n,), where the model errs.
        level: of Wilson's intervals.

    Returns:
        list of `Tenth`, hardest first: ten, or n where there are fewer; their sizes differ by at most one.
    """
    ordered = np.asarray(wrong)[np.argsort(values, kind="stable")]
    tenths = []
    for part in np.array_split(ordered, min(10, len(ordered))) if len(ordered) else ():
        rate = float(part.mean())
        tenths.append(Tenth(len(part), int(part.sum()), rate, *map(float, wilson_interval(rate, len(part), level))))
    top = max((tenth.high for tenth in tenths), default=1.0)
    return [Tenth(t.count, t.errors, t.rate, t.low, t.high, (t.rate / top, t.low / top, t.high / top)) for t in tenths]


def nearest_the_median(values, candidates, count):
    """Of `candidates`, positions, at most `count` whose `values` (N,) are nearest their median, nearest first."""
    distance = np.abs(values[candidates] - np.median(values[candidates])) if len(candidates) else np.empty(0)
    return candidates[np.argsort(distance, kind="stable")[:count]]


def scatter(values, confs, wrong, flagged, most=POINTS):
    """A `Scatter` of a class's images: all that are flagged, and of the others as many as make at most `most`, evenly
    by decision value.

    Args:
        values: (n,), decision values.
        confs: (n,), probabilities of the true label, 0..1.
        wrong: bool (n,), where the model errs.
        flagged: bool (n,), images of the slice.
        most: images to draw.

    Returns:
        `Scatter`; the decision value 0 always lies in it.
    """
    others = np.flatnonzero(~flagged)
    others = others[np.argsort(values[others], kind="stable")]
    left = max(0, most - int(flagged.sum()))
    if len(others) > left:
        others = others[np.linspace(0, len(others) - 1, left).round().astype(int)]
    chosen = np.concatenate([np.flatnonzero(flagged)[:most], others])
    least, most_value = float(min(0, values.min())), float(max(0, values.max()))
    span = (most_value - least) or 1.0
    x = (MARGIN + (values - least) / span * (WIDTH - 2 * MARGIN)).round(1)
    y = (HEIGHT - MARGIN - confs * (HEIGHT - 2 * MARGIN)).round(1)
    dots = "".join(f"M{x[i]:g} {y[i]:g}h0" for i in chosen if not wrong[i])
    crosses = "".join(f"M{x[i] - 2:.4g} {y[i] - 2:.4g}l4 4m-4 0l4-4" for i in chosen if wrong[i])
    zero = round(MARGIN - least / span * (WIDTH - 2 * MARGIN), 1)
    return Scatter(dots, crosses, zero, least, most_value, len(chosen), len(values))


def would_do(one, count, confirm):
    """What would settle a slice that is not confirmed, in words."""
    if one.verdict != TOO_FEW:
        return "nothing more: had it failed twice as often as its class, so many images would probably have shown it"
    if not (one.size and one.rest):
        return f"images of its class in {confirm} that it flags, and others"
    if one.images_needed is None:
        return "no number of images below a million"
    return f"about {one.images_needed:,} images of its class in {confirm}; there are {count:,}"


# ---------------------------------------------------------------------------------------------------------------------
# A result's
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class SliceSummary:
    """A slice as the page shows it; what lies below `would_do` is filled in for confirmed ones alone.

    Attributes:
        number: place by harm, from 1; the page uses it for anchors.
        found: the `Slice`.
        count: images of its class in the confirm part.
        share: of them that it flags.
        several: its class has several confirmed slices.
        claim, how, wrong_as, beyond: parts of its sentence; see `claim`, `taken_for`, `beyond_confidence`.
        would_do: what would settle it, where it is not confirmed.
        confusions, tenths, scatter: see there; the scatter is None without probabilities.
        hardest: `Thumbnail`s of its images.
        typical: those of right ones of the rest, nearest their median decision value.
        typical_positions: int (n,), where these lie in the confirm part.
        said: what its images have in common, in words; "" where nobody asked.
        words: `WordRow`s, the statements that were asked.
        disagreement: where a statement names it, a pair of lists of `Thumbnail`s: images outside the slice for which
            the first such statement holds, and images of the slice for which it does not.
    """

    number: int
    found: Slice
    count: int
    share: float
    claim: str = ""
    how: str | None = None
    wrong_as: str = ""
    beyond: str = ""
    several: bool = False
    would_do: str = ""
    confusions: list = field(default_factory=list)
    tenths: list = field(default_factory=list)
    scatter: Scatter | None = None
    hardest: list = field(default_factory=list)
    typical: list = field(default_factory=list)
    typical_positions: np.ndarray | None = field(default=None, repr=False)
    said: str = ""
    words: list = field(default_factory=list)
    disagreement: tuple = ((), ())

    @property
    def name_given(self):
        """The first `WordRow` that names it, or None."""
        return next((row for row in self.words if row.verdict == NAMES), None)

    @property
    def confirmed(self):
        return self.found.verdict == CONFIRMED

    @property
    def name(self):
        """Of the class, and which of its slices it is where several are confirmed."""
        return f"{self.found.class_name}, slice {self.found.rank}" if self.several else self.found.class_name

    @property
    def sentence(self):
        """ "cat: 28 points more wrong [21, 34] in 12 % of its images, 34 % against 6 %; mostly taken for dog; ..." """
        taken = f"{self.how} taken for {self.wrong_as}" if self.how else ""
        return f"{self.name}: " + "; ".join(part for part in (self.claim, taken, self.beyond) if part)


@dataclass(frozen=True)
class Tested:
    """What the failures of a result come to; counts are of the confirm part, named `confirm`.

    Attributes:
        slices: list of `SliceSummary`, most harm first.
        directions: whether the single directions were tested, too.
        sections: those that are shown in full.
        find, confirm: names of the parts.
        fdr: level of the Benjamini-Hochberg procedure.
        seed: of the search.
        images, accuracy: of the confirm part.
        in_confirmed, errors_in_confirmed: share of its images, and of the model's errors on them, that lie in confirmed
            slices.
        without: names of the classes without a confirmed slice, and why none was sought in them, or "".
        nearest: the slice with too few images for which the fewest would do, or None.
        cautions: sentences on what makes the tests too hopeful.
    """

    slices: list
    directions: bool
    sections: list
    find: str
    confirm: str
    fdr: float
    seed: int
    images: int
    accuracy: float
    in_confirmed: float
    errors_in_confirmed: float
    without: list
    nearest: SliceSummary | None
    cautions: list

    @property
    def confirmed(self):
        return [one for one in self.slices if one.confirmed]

    @property
    def unconfirmed(self):
        return [one for one in self.slices if not one.confirmed]

    @property
    def too_few(self):
        return [one for one in self.slices if one.found.verdict == TOO_FEW]

    @property
    def sentences(self):
        """The `SliceSummary`s whose sentences stand in the lead, and those whose fold."""
        return self.confirmed[:MOST_SENTENCES], self.confirmed[MOST_SENTENCES:]

    @property
    def classes(self):
        """Number of classes with a confirmed slice."""
        return len({one.found.class_index for one in self.confirmed})

    @property
    def classes_tested(self):
        return len({one.found.class_index for one in self.slices})


def summarise_slices(proc):
    """The `Tested` of an `SVMProcessor`, without images; None where no failure was sought."""
    found = proc.loaded.found
    if found is None:
        return None
    metrics = proc.metrics(found.confirm)
    counts = np.bincount(metrics["classes"], minlength=proc.num_classes)
    confirmed = [one.class_index for one in found.confirmed]
    slices = []
    for number, one in enumerate(found.slices, start=1):
        count = int(counts[one.class_index])
        summary = SliceSummary(number, one, count, one.size / count if count else math.nan)
        if summary.confirmed:
            summary.several = confirmed.count(one.class_index) > 1
        else:
            summary.would_do = would_do(one, count, found.confirm)
        slices.append(summary)
    sections = [one for one in slices if one.confirmed][:MOST_SECTIONS]
    for summary in slices:
        if summary.confirmed:
            _say(summary, proc, found)
    for summary in sections:
        _show(summary, proc, found, POINTS if len(sections) <= MANY_SCATTERS else FEW_POINTS)
    inside = np.zeros(len(metrics["classes"]), dtype=bool)
    for one in found.confirmed:
        inside[one.members] = True
    right = metrics["ytrue"] == 1
    enough = [one for one in slices if one.found.images_needed is not None]
    return Tested(
        slices=slices,
        directions=bool(found.directions),
        sections=sections,
        find=found.find,
        confirm=found.confirm,
        fdr=found.fdr,
        seed=found.seed,
        images=len(right),
        accuracy=float(right.mean()),
        in_confirmed=float(inside.mean()),
        errors_in_confirmed=float(inside[~right].mean()) if (~right).any() else math.nan,
        without=[
            (name, found.skipped.get(c, "")) for c, name in enumerate(proc.class_names) if c not in set(confirmed)
        ],
        nearest=min(enough, key=lambda one: one.found.images_needed, default=None),
        cautions=cautions(found, len(right)),
    )


def cautions(found, images):
    """Sentences on what makes the tests of a `FoundSlices` on so many images too hopeful."""
    said = []
    if found.near_duplicates:
        said.append(
            f"{found.near_duplicates:,} of the {images:,} images of {found.confirm} are near-duplicates of images of "
            f"{found.find} (cosine of their embeddings at least {NEAR_DUPLICATE:g}), so that they are not independent "
            "of what was found there: the tests are too hopeful by them."
        )
    if found.shared_groups:
        said.append(
            f"{found.shared_groups:,} groups have images in both {found.find} and {found.confirm}: the tests are too "
            "hopeful by them."
        )
    if found.uses > 1:
        said.append(
            f"The images of {found.confirm} have tested this model {found.uses} times, this time included: each time "
            "makes the next claim less sure."
        )
    return said


def _say(summary, proc, found):
    """Fill in the parts of the sentence of a confirmed slice."""
    one, metrics = summary.found, proc.metrics(found.confirm)
    preds, wrong = metrics["preds"][one.members], metrics["ytrue"][one.members] == 0
    summary.claim = claim(one, summary.count)
    summary.how, wrong_as = taken_for(preds, wrong, one.class_index)
    summary.wrong_as = proc.class_names[wrong_as] if summary.how else ""
    summary.beyond = beyond_confidence(one.beyond_confidence_q, found.fdr)


def _show(summary, proc, found, most_points):
    """Fill in what is drawn and counted of a confirmed slice: of its class's images, without those that an earlier
    slice took."""
    one, metrics = summary.found, proc.metrics(found.confirm)
    earlier = [other.members for other in found.of_class(one.class_index) if other.rank < one.rank]
    members = proc.ordering(one.class_index, found.confirm, one.rank)
    members = members[~np.isin(members, np.concatenate([*earlier, np.empty(0, int)]))]
    flagged = np.isin(members, one.members)
    values, wrong = metrics["slice_values"][:, one.rank - 1], metrics["ytrue"][members] == 0
    preds = metrics["preds"][members]
    summary.confusions = confusions(preds[flagged], preds[~flagged], one.class_index, proc.class_names)
    summary.tenths = errors_by_tenth(values[members], wrong)
    if knows_confidences(metrics["confs"]):
        summary.scatter = scatter(values[members], metrics["confs"][members], wrong, flagged, most_points)
    summary.typical_positions = nearest_the_median(values, members[~flagged & ~wrong], images_a_side(1) // 2)


def add_words(tested, proc):
    """Fill in `said` and `words`; nothing where the result was not described."""
    rows = proc.rows(WordRow)
    for one in tested.sections if rows else ():
        one.words = [row for row in rows if row.slice == one.found.id]
        one.said = in_words(one.words)


def add_slice_images(tested, proc, budget):
    """Fill in `hardest`, `typical` and `disagreement` of the sections of a `Tested`.

    Args:
        tested: `Tested`.
        proc: `SVMProcessor` of the same result.
        budget: bytes of base64.

    Returns:
        int: the bytes used.

    Raises:
        MissingBeton: there are no images.
    """
    most = images_a_side(len(tested.sections))
    named = sum(one.name_given is not None for one in tested.sections)
    limit = image_limit(budget, len(tested.sections) * (most + most // 2) + named * 2 * (most // 2))
    values = proc.metrics(tested.confirm).get("slice_values")
    used = 0
    for summary in tested.sections:
        of_slice = values[:, summary.found.rank - 1]
        summary.hardest, _ = thumbnails(proc, tested.confirm, summary.found.members[:most], of_slice, limit)
        summary.typical, _ = thumbnails(proc, tested.confirm, summary.typical_positions[: most // 2], of_slice, limit)
        row = summary.name_given
        if row is not None:
            sides = [[int(i) for i in side.split()] for side in (row.holds_elsewhere, row.fails_inside)]
            summary.disagreement = tuple(
                thumbnails(proc, tested.confirm, side[: most // 2], of_slice, limit)[0] for side in sides
            )
        shown = (*summary.hardest, *summary.typical, *summary.disagreement[0], *summary.disagreement[1])
        used += sum(len(image.uri or image.text) for image in shown)
    return used
