"""From a model's predictions and embeddings to its failures: arrays in, an `Analysis` out."""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from ..runtime.english import some
from ..runtime.errors import UserError
from ..runtime.tables import format_table
from ..svm_utils import SVMFitter
from .class_fit import Preprocess, balanced_accuracy
from .confirmation import confirm_directions, find_and_confirm, split_in_halves
from .job_backends import JobsBackend
from .label_noise import looks_like
from .minority import attribute_rates, minority_precision, minority_values
from .results import (
    Analysis,
    AttributeRate,
    DirectionRow,
    FoundSlices,
    MinorityPrecision,
    Result,
    SliceRow,
    SplitResult,
    direction_rows,
    slice_rows,
)


def analyse(
    predictions,
    latents,
    class_names,
    svm_config,
    *,
    spurious=None,
    jobs=-1,
    jobs_backend=None,
    stage=contextlib.nullcontext,
):
    """Fit the directions on validation, and say of every image of every split how it looks to them.

    Args:
        predictions: dict split -> `Predictions` with a class and a confidence an example; val and maybe others. Without
            train, whitening is that of val.
        latents: dict split -> float (N, d), not preprocessed.
        class_names: list of K strings.
        svm_config: an `SVMConfig`.
        spurious: dict split -> int (N,), of the splits that know it.
        jobs: processes for the SVMs, -1 for one a core.
        jobs_backend: a `JobsBackend`; by default this machine.
        stage: a function of a stage's name that gives a context manager, in which that stage runs: to watch the work.

    Returns:
        `Analysis`, whose result knows its classes, scores, splits and `svm_config`, and no tables yet.

    Raises:
        UserError: as `SVMFitter` does; a cluster that does not work.
    """
    options = svm_config.svm_args
    fitter = SVMFitter(
        split_and_search=options.split_and_search,
        balanced=options.balanced,
        cv=options.cv,
        do_normalize=svm_config.normalize,
        method=svm_config.method,
        svm_args={"hidden_layer_size": options.hidden_layer_size, "first_layer": options.first_layer},
        jobs=jobs,
        solver=options.solver,
        intercept=options.intercept,
    )
    val = predictions["val"]
    with stage("whitening"):
        fitter.set_preprocess(latents.get("train", latents["val"]) if svm_config.whiten else None)
    with stage("SVMs"), (jobs_backend or JobsBackend.parse("local")).connected():
        fitter.fit(preds=val.preds, ys=val.labels, latents=latents["val"], num_classes=len(class_names))
    splits = {}
    with stage("decision values"):
        for name, found in predictions.items():
            _, _, metrics = fitter.predict(found.labels, latents[name], found.preds, compute_metrics=True)
            splits[name] = SplitResult(
                **metrics,
                preds=found.preds,
                classes=found.labels,
                confs=found.confs,
                indices=found.indices,
                spuriouses=(spurious or {}).get(name),
            )
    # For train alone: what an image looks like, and how hard it would be as one of that class (see label_noise).
    if "train" in latents:
        with stage("what train images look like"):
            like = looks_like(latents["train"], latents["val"], val.labels)
            _, values = fitter.predict(ys=like, latents=latents["train"])
            splits["train"] = replace(splits["train"], looks_like=like, looks_like_values=values)
    result = Result(
        class_names=list(class_names),
        cv_scores=fitter.cv_scores,
        skipped=fitter.skipped,
        splits=splits,
        svm_config=svm_config,
    )
    return Analysis(result, fitter)


def with_slices(
    found,
    latents,
    *,
    find="val",
    confirm="test",
    confidences=None,
    groups=None,
    directions="auto",
    fdr=0.1,
    seed=0,
    jobs=-1,
    evaluate=False,
):
    """An `Analysis` with the failures that `find` shows and `confirm` tests: its result's `found`, and their rows.

    The single directions, which `analyse` fitted on validation, are tested on `confirm`, too.

    Args:
        found: from `analyse`; its fitter's preprocessing is that of the slices.
        latents: dict split -> float (N, d), as there.
        confidences: dict split -> float (N,), the model's highest probability; without it nothing is said of
            confidence.
        groups: dict split -> (N,), images that belong together.
        directions, fdr, seed, jobs: as in `confirmation.find_and_confirm`.
        evaluate: whether only one half of `confirm` (by class, group and seed) tests, and the other is kept from all
            choices, for repairs to be judged on.

    Returns:
        `Analysis`; every split knows the decision values of the slices of its classes.

    Raises:
        UserError: as `find_and_confirm` does; no such split.
    """
    result = found.result
    for name in (find, confirm):
        if name not in result.splits:
            raise UserError(
                f"there is no split {name} to find or confirm failures on; there is {', '.join(result.splits)}"
            )
    parts = [result.splits[name] for name in (find, confirm)]
    cut = len(parts[0])

    def both(of):
        return None if of is None else np.concatenate([of[find], of[confirm]])

    tested, kept = np.arange(len(parts[1])), None
    if evaluate:
        tested, kept = split_in_halves(parts[1].classes, None if groups is None else groups[confirm], seed)
    findings = find_and_confirm(
        _Stacked(latents[find], latents[confirm]),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.preds for part in parts]),
        np.arange(cut),
        cut + tested,
        class_names=result.class_names,
        groups=both(groups),
        probs=None if confidences is None else both(confidences)[:, None],
        directions=directions,
        fdr=fdr,
        seed=seed,
        # Not the fitter's own method: to workers that would take all of its directions along.
        preprocess=Preprocess(found.fitter.mean, found.fitter.std, found.fitter.do_normalize),
        jobs=jobs,
    )
    directions = confirm_directions(
        parts[1].decision_values[tested],
        parts[1].classes[tested],
        parts[1].preds[tested],
        class_names=result.class_names,
        groups=None if groups is None else groups[confirm][tested],
        probs=None if confidences is None else confidences[confirm][tested, None],
        fdr=fdr,
        seed=seed,
    )
    slices = FoundSlices(
        directions=directions,
        slices=[replace(one, members=one.members - cut) for one in findings.slices],
        skipped=findings.skipped,
        find=find,
        confirm=confirm,
        evaluate=kept,
        fdr=fdr,
        seed=seed,
        near_duplicates=findings.near_duplicates,
        shared_groups=findings.shared_groups,
    )

    def values(name, classes):
        return None if classes is None else slice_values(slices, found.fitter.preprocess, latents[name], classes)

    splits = {
        name: replace(
            split,
            slice_values=values(name, split.classes),
            looks_like_slice_values=values(name, split.looks_like),
        )
        for name, split in result.splits.items()
    }
    result = replace(result, found=slices, splits=splits)
    tables = {SliceRow: slice_rows(result), DirectionRow: direction_rows(result)}
    return replace(found, result=result, tables={**found.tables, **tables})


@dataclass(frozen=True)
class _Stacked:
    """Two arrays (N, d), either of which may be a memory map, as one whose rows are read when they are asked for."""

    first: np.ndarray
    second: np.ndarray

    def __len__(self):
        return len(self.first) + len(self.second)

    @property
    def shape(self):
        return len(self), self.first.shape[1]

    def __getitem__(self, rows):
        cut = len(self.first)
        taken = np.empty((len(rows), self.shape[1]), np.result_type(self.first, self.second))
        taken[rows < cut] = self.first[rows[rows < cut]]
        taken[rows >= cut] = self.second[rows[rows >= cut] - cut]
        return taken


def slice_values(found, preprocess, latents, classes):
    """Decision values of the slices of each example's class, by rank: float32 (N, S), NaN where there is none.

    Args:
        found: `FoundSlices`.
        preprocess: of embeddings, as `SVMFitter.preprocess`.
        latents: float (N, d), not preprocessed.
        classes: int (N,), whose slices are asked.
    """
    values = np.full((len(classes), max((one.rank for one in found.slices), default=0)), np.nan, dtype=np.float32)
    order = np.argsort(classes, kind="stable")
    for c in sorted({one.class_index for one in found.slices}):
        rows = order[slice(*np.searchsorted(classes[order], [c, c + 1]))]
        z = preprocess(latents[rows])
        for one in found.of_class(c):
            values[rows, one.rank - 1] = one.score(z)
    return values


def slices_in_words(result):
    """What was found on one split and what stands on another, for a terminal: a table and what bears on it."""
    found = result.found
    if found is None:
        return "failures were not sought, because there is no second split of images to test them on"
    count = len(result.splits[found.confirm]) - (0 if found.evaluate is None else len(found.evaluate))
    tested = f"{count:,} images of {found.confirm}"
    lines = [f"\nfailures found on {found.find}, tested on the {tested} at a false discovery rate of {found.fdr:g}"]
    header = ["slice", "verdict", "images", "error rate", "rest", "difference", "q", "mostly taken for"]
    rows = [
        [
            one.id,
            one.verdict,
            one.size,
            one.error_rate,
            one.rest_error_rate,
            f"{one.difference:+.3f} [{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]",
            f"{one.q_value:.2g}",
            "" if one.wrong_as < 0 else result.class_names[one.wrong_as],
        ]
        for one in found.slices
    ]
    if rows:
        lines.append(format_table(header, rows, left=2))
    lines.append(f"confirmed: {len(found.confirmed)} of {len(rows)}")
    if found.directions:
        names = [result.class_names[c] for c in sorted(found.confirmed_directions)]
        lines.append(
            f"of the single directions, tested as a family of their own: {len(names)} of {len(found.directions)}"
            + (f" ({some(names)})" if names else "")
        )
    if found.near_duplicates:
        lines.append(
            f"{found.near_duplicates} images of {found.confirm} are near-duplicates of images of {found.find}: "
            "the test is too hopeful by them"
        )
    if found.uses > 1:
        lines.append(f"this is use {found.uses} of these images to judge this model: each makes the test more hopeful")
    return "\n".join(lines)


def with_minority(found, given=None):
    """An `Analysis` with tables of `AttributeRate` and `MinorityPrecision`, of every split.

    What the flagged images are made of, and how early the minority comes in each ordering. Needs `spuriouses`.

    Args:
        given: the config's `minority`.
    """
    names, train = found.result.class_names, found.result.splits["train"]
    minority = minority_values(train.classes, train.spuriouses, len(names), given, names)
    rates, precisions = [], []
    for name, split in found.result.splits.items():
        of_rates = attribute_rates(split.classes, split.spuriouses, split.flagged, minority)
        rates += [AttributeRate(split=name, class_name=names[row.pop("class")], **row) for row in of_rates]
        of_orders = minority_precision(split.classes, split.spuriouses, split.decision_values, split.confs, minority)
        precisions += [MinorityPrecision(split=name, class_name=names[row.pop("class")], **row) for row in of_orders]
    return replace(found, tables={**found.tables, AttributeRate: rates, MinorityPrecision: precisions})


def class_table(found):
    """Per class: how accurate the model is, how strong the failure is, and how well the direction predicts it.

    Returns:
        header and rows; the last row is over all classes.
    """
    fitter, splits = found.fitter, {name: found.result.splits[name] for name in ("val", "test")}
    slices = found.result.found
    confirmed = Counter(one.class_index for one in slices.confirmed) if slices else {}
    verdicts = {one.class_index: one.verdict for one in slices.directions} if slices else {}
    rows = []
    for c, name in enumerate(found.result.class_names):
        of_class = {split: columns.classes == c for split, columns in splits.items()}
        right = {split: columns.ytrue[of_class[split]] for split, columns in splits.items()}
        says_right = splits["test"].ypred[of_class["test"]]
        row = [name, *(float(right[split].mean()) if len(right[split]) else None for split in right)]
        if c in fitter.skipped:
            rows.append([*row, None, None, None, None, f"skipped: {fitter.skipped[c]}", confirmed.get(c, "")])
            continue
        rows.append(
            [
                *row,
                float(fitter.cv_scores[c]),
                "-" if np.isnan(fitter.C[c]) else f"{fitter.C[c]:g}",
                f"{(says_right == 0).sum()} of {len(says_right)}",
                balanced_accuracy(right["test"] == 1, says_right == 1),
                verdicts.get(c, ""),
                confirmed.get(c, ""),
            ]
        )
    test = splits["test"]
    scores = fitter.cv_scores[~np.isnan(fitter.cv_scores)]
    rows.append(
        [
            "all",
            *(float(columns.ytrue.mean()) for columns in splits.values()),
            float(scores.mean()) if len(scores) else None,
            "",
            f"{test.flagged.sum()} of {len(test)}",
            test.balanced_accuracy,
            "",
            "",
        ]
    )
    return [
        "class",
        "val acc",
        "test acc",
        "CV score",
        "C",
        "flagged (test)",
        "bal. acc (test)",
        "direction",
        "failures confirmed",
    ], rows
