"""What the report says of each class: numbers, captions, galleries, sparse features."""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..directions.confirmation import Claim
from ..directions.galleries import ends
from ..directions.minority import attribute_rates, minority_precision
from ..directions.results import SIDES, CaptionRow, SubpopulationRow
from ..interventions.comparison import PLACEBO, load_rows, main_table
from ..interventions.costs import load_costs, mean_costs
from ..interventions.next_model import is_of_models
from ..interventions.next_model import load_rows as load_model_rows
from ..interventions.verdict import load_verdicts
from ..runtime.errors import UserError
from ..sparse.reading.debugging import SeparatingFeature, separating_features
from ..sparse.reading.results import SparseResult, top_positions
from .thumbnails import IMAGE_BUDGET, data_uri, encode_thumbnail, image_limit, images_a_side, thumbnails

FEATURES_SHOWN, FEATURE_IMAGES, FEATURE_BYTES = 5, 4, 3_000  # of a class, of a feature, of an image
MOST_WITH_FEATURE_IMAGES = 50  # classes: at most 4 MB of base64
SAME_MODEL = 0.99  # share of equal predictions


@dataclass
class ClassSummary:
    """One class on the chosen split; shares lie in 0..1 and are NaN where there is nothing to count.

    Attributes:
        number, name: of the class; the page uses numbers for anchors, because names may hold anything.
        count, accuracy: of its examples, and the base model's on them.
        cv_score: NaN where skipped.
        skipped: why there is no direction, or "".
        flagged: share of the examples with a decision value at or below 0.
        flagged_accuracy: base model's on the flagged.
        errors_flagged: share of the base model's errors that are flagged.
        deciles: list of (accuracy, number of examples), hardest tenth first.
        attributes: dicts of `attribute_rates` with `accuracy`, where `spurious` is known.
        precision: dicts of `minority_precision`.
        captions: dict side (hard, easy) -> list of `CaptionRow` by rank.
        subpopulations: dicts with k, class_accuracy, hard, easy, from OUT_subpopulations.csv.
        hardest, easiest: lists of `Thumbnail`.
        features: list of `FeatureRow`, where a sparse layer is known.
        confirmed: number of confirmed slices, None where none was sought.
        direction: the `confirmation.Claim` of its single direction, None where that was not tested.
    """

    number: int
    name: str
    count: int
    accuracy: float
    cv_score: float
    skipped: str
    flagged: float = math.nan
    flagged_accuracy: float = math.nan
    errors_flagged: float = math.nan
    deciles: list = field(default_factory=list)
    attributes: list = field(default_factory=list)
    precision: list = field(default_factory=list)
    captions: dict = field(default_factory=lambda: {"hard": [], "easy": []})
    subpopulations: list = field(default_factory=list)
    hardest: list = field(default_factory=list)
    easiest: list = field(default_factory=list)
    features: list = field(default_factory=list)
    confirmed: int | None = None
    direction: Claim | None = None


def accuracy_by_decile(decision_values, right):
    """Accuracy of the base model in each tenth of a class, hardest first.

    Args:
        decision_values: (n,); lowest is hardest.
        right: (n,), 1 where the base model is right.

    Returns:
        list of (accuracy, number of examples): ten, or n where there are fewer; sizes differ by at most one.
    """
    ordered = np.asarray(right, float)[np.argsort(decision_values, kind="stable")]
    parts = np.array_split(ordered, min(10, len(ordered))) if len(ordered) else []
    return [(float(part.mean()), len(part)) for part in parts]


def summarise_classes(proc, split):
    """A `ClassSummary` of every class, in the order of their numbers; galleries and captions are left empty."""
    metrics = proc.metrics(split)
    right, flagged, values = metrics["ytrue"] == 1, metrics["ypred"] == 0, metrics["decision_values"]
    found = proc.loaded.found
    confirmed = None if found is None else Counter(one.class_index for one in found.confirmed)
    directions = {} if found is None else {one.class_index: one for one in found.directions}
    summaries = []
    for c, name in enumerate(proc.class_names):
        members = proc.ordering(c, split, "confidence")
        summary = ClassSummary(
            c, name, len(members), mean_of(right[members]), float(proc.cv_scores[c]), proc.skipped.get(c, "")
        )
        if not summary.skipped:
            summary.flagged = mean_of(flagged[members])
            summary.flagged_accuracy = mean_of(right[members][flagged[members]])
            summary.errors_flagged = mean_of(flagged[members][~right[members]])
            summary.deciles = accuracy_by_decile(values[members], right[members])
        if confirmed is not None:
            summary.confirmed = confirmed[c]
            summary.direction = directions.get(c)
        summaries.append(summary)
    return summaries


def mean_of(values):
    return float(np.mean(values)) if len(values) else math.nan


def add_minority(summaries, proc, split):
    """Fill in `attributes` and `precision` where the result knows `spurious`."""
    metrics = proc.metrics(split)
    if not {"train", split} <= set(proc.splits) or "spuriouses" not in metrics:
        return
    labels, spurious, right = metrics["classes"], metrics["spuriouses"], metrics["ytrue"] == 1
    minority = proc.minority()
    for row in attribute_rates(labels, spurious, metrics["ypred"] == 0, minority):
        accuracy = mean_of(right[(labels == row["class"]) & (spurious == row["value"])])
        summaries[row["class"]].attributes.append({**row, "accuracy": accuracy})
    for row in minority_precision(labels, spurious, metrics["decision_values"], metrics["confs"], minority):
        summaries[row["class"]].precision.append(row)


def add_captions(summaries, proc, split):
    """Fill in `captions` and `subpopulations` from the CSVs beside the result; nothing where there are none."""
    if "captions" in proc.args and not proc.args["captions"]:
        return  # made without captions: CSVs that are there were left by an earlier run
    by_name = {summary.name: summary for summary in summaries}
    for row in proc.rows(CaptionRow):
        if not row.slice:
            _of_row(row, by_name, proc).captions[row.side].append(row)
    for summary in summaries:
        for rows in summary.captions.values():
            rows.sort(key=lambda row: row.rank)
    found = {}
    for row in proc.rows(SubpopulationRow):
        if row.split in (split, ""):
            number = _of_row(row, by_name, proc).number
            sides = {"class_accuracy": row.class_accuracy, **dict.fromkeys(SIDES, math.nan)}
            found.setdefault((number, row.k), sides)[row.side] = row.accuracy
    for (number, k), row in sorted(found.items()):
        summaries[number].subpopulations.append({"k": k, **row})


def _of_row(row, by_name, proc):
    if row.class_name not in by_name:
        raise UserError(
            f"a CSV beside {proc.path} names the class {row.class_name!r}, which the result does not have; write both "
            "again with failure-directions distil"
        )
    return by_name[row.class_name]


def add_galleries(summaries, proc, split, budget=IMAGE_BUDGET):
    """Fill in `hardest` and `easiest`.

    Args:
        summaries: list of `ClassSummary`.
        proc: `SVMProcessor` of the same result.
        split: whose images.
        budget: bytes of base64.

    Returns:
        (int, int, bool): the most images of a side, their longest side in pixels, and whether the budget made any
        smaller or fewer.

    Raises:
        MissingBeton: there are no images.
    """
    shown = [summary for summary in summaries if not summary.skipped and summary.count]
    values = proc.metrics(split)["decision_values"]
    count = images_a_side(len(shown))
    limit = image_limit(budget, 2 * count * len(shown))
    most, largest, reduced = 0, 0, count < images_a_side(1)
    for summary in shown:
        for side, picked in zip(("hardest", "easiest"), ends(proc.ordering(summary.number, split), count), strict=True):
            gallery, smaller = thumbnails(proc, split, picked, values, limit)
            setattr(summary, side, gallery)
            reduced |= smaller
            most = max(most, len(gallery))
            largest = max([largest, *(max(image.width, image.height) for image in gallery)])
    return most, largest, reduced


@dataclass
class FeatureRow:
    """A `SeparatingFeature`, and the images of the split on which it is largest: (data URI, width, height) each."""

    found: SeparatingFeature
    images: list = field(default_factory=list)


def read_sparse(out, proc, split):
    """The sparse layers of the model that a result is of.

    Args:
        out: folder that sparse_main.py was given as --out-path.
        proc: `SVMProcessor` of the result.
        split: whose images are compared.

    Returns:
        `SparseResult`.

    Raises:
        UserError: it is none, or was made of other images or of another model.
    """
    result, metrics = SparseResult.load(out), proc.metrics(split)
    if not np.array_equal(result.labels.get(split, ()), metrics["classes"]):
        raise UserError(
            f"the {split} images of {out} are not those of {proc.path}; run failure-directions sparse on the same "
            "betons, without --balance"
        )
    # Not all: half precision may turn a tie.
    if result.dense is None or np.mean(result.predictions(split, result.dense) == metrics["preds"]) < SAME_MODEL:
        raise UserError(
            f"{out} is of another model than {proc.path}; run failure-directions sparse on the same checkpoint"
        )
    return result


def add_features(summaries, proc, split, sparse):
    """Fill in `features`: for each class those of the selected sparse layer that separate its hard and easy images."""
    layer, features = sparse.layer(), sparse.features(split)
    for summary in summaries:
        if summary.skipped:
            continue
        members = proc.ordering(summary.number, split)
        rows = sparse.standardise(features[members])
        values = proc.metrics(split)["decision_values"][members]
        found = separating_features(rows, values, layer.weight[summary.number])
        summary.features = [FeatureRow(feature) for feature in found[:FEATURES_SHOWN]]


def add_feature_images(summaries, proc, split, sparse):
    """Fill in the `images` of the features, where there are few enough classes.

    Raises:
        MissingBeton: there are no images.
    """
    numbers = sorted({row.found.feature for summary in summaries for row in summary.features})
    if not numbers or len(summaries) > MOST_WITH_FEATURE_IMAGES:
        return
    top = top_positions(sparse.columns(split, numbers), FEATURE_IMAGES)
    images = {}
    for number, positions in zip(numbers, top, strict=True):
        encoded = [encode_thumbnail(image, FEATURE_BYTES) for image in proc.images(split, positions)]
        images[number] = [(data_uri(content), *small.size) for small, content in encoded]
    for summary in summaries:
        for row in summary.features:
            row.images = images[row.found.feature]


@dataclass
class Comparison:
    """Runs before and after an intervention.

    Attributes:
        names: of the runs, the base's first.
        measures: list of (measure, rows of the runs), as `main_table` gives them.
        seeds: how many of each run.
        figure: as a data URI.
        verdicts: dict name -> `verdict.Verdict` of the runs that have one.
        costs: dict name -> `costs.Cost`, the mean over the seeds, of the runs of which it is known.
    """

    names: list
    measures: list
    seeds: int
    figure: str
    verdicts: dict = field(default_factory=dict)
    costs: dict = field(default_factory=dict)

    @property
    def has_placebo(self):
        """Whether one of the runs is the base trained anew with another seed."""
        return PLACEBO in self.names


def read_comparison(out):
    """What failure-directions compare --out OUT left: a `Comparison` of runs, or a list of `ModelRow` of two models.

    Raises:
        UserError: the table or the figure is missing, or is another file.
    """
    if is_of_models(f"{out}.csv"):
        return load_model_rows(f"{out}.csv")
    rows = load_rows(f"{out}.csv")
    figure, verdicts = Path(f"{out}.png"), load_verdicts(f"{out}_verdicts.csv")
    if not figure.is_file():
        raise UserError(f"the figure {figure} of the comparison does not exist; run failure-directions compare again")
    with open(figure, "rb") as stream:
        if stream.read(8) != b"\x89PNG\r\n\x1a\n" or figure.stat().st_size > IMAGE_BUDGET // 2:
            raise UserError(f"{figure} is no figure of a comparison; run failure-directions compare again")
    names, measures = main_table(rows)
    costs = load_costs(f"{out}_costs.csv")
    costs = mean_costs(costs, names, sorted({cost.seed for cost in costs}))
    return Comparison(names, measures, rows[0].seeds, data_uri(figure.read_bytes(), "png"), verdicts, costs)
