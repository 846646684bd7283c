"""From a model's predictions and embeddings to its failures: arrays in, an `Analysis` out."""

import contextlib
from dataclasses import replace

import numpy as np

from ..svm_utils import SVMFitter
from .class_fit import balanced_accuracy
from .job_backends import JobsBackend
from .label_noise import looks_like
from .minority import attribute_rates, minority_precision, minority_values
from .results import Analysis, AttributeRate, MinorityPrecision, Result, SplitResult


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
        predictions: dict split -> `Predictions` with a class and a confidence an example; train, val and maybe others.
        latents: dict split -> float (N, d), not preprocessed.
        class_names: list of K strings.
        svm_config: an `SVMConfig`.
        spurious: dict split -> int (N,), of the splits that know it.
        jobs: processes for the SVMs, -1 for one a core. jobs_backend: a `JobsBackend`; by default this machine.
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
    )
    val = predictions["val"]
    with stage("whitening"):
        fitter.set_preprocess(latents["train"] if svm_config.whiten else None)
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
    rows = []
    for c, name in enumerate(found.result.class_names):
        of_class = {split: columns.classes == c for split, columns in splits.items()}
        right = {split: columns.ytrue[of_class[split]] for split, columns in splits.items()}
        says_right = splits["test"].ypred[of_class["test"]]
        row = [name, *(float(right[split].mean()) if len(right[split]) else None for split in right)]
        if c in fitter.skipped:
            rows.append([*row, None, None, None, None, f"skipped: {fitter.skipped[c]}"])
            continue
        rows.append(
            [
                *row,
                float(fitter.cv_scores[c]),
                "-" if np.isnan(fitter.C[c]) else f"{fitter.C[c]:g}",
                f"{(says_right == 0).sum()} of {len(says_right)}",
                balanced_accuracy(right["test"] == 1, says_right == 1),
                "no consistent failure" if fitter.no_consistent_failure[c] else "",
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
        ]
    )
    return ["class", "val acc", "test acc", "CV score", "C", "flagged (test)", "bal. acc (test)", ""], rows
