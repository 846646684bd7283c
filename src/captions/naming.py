"""Captions for an analysis: the failures named, and the images that lie nearest to their names."""

import contextlib
from dataclasses import replace

from ..directions.results import SIDES, CaptionRow, SubpopulationRow
from .ranking import describe_directions
from .subpopulations import caption_similarity, extreme_latents, subpopulation_accuracy


def with_captions(found, latents, clip, caption_set, top_k=10, stage=contextlib.nullcontext):
    """An `Analysis` in CLIP's space with the captions of its directions and of its confirmed slices.

    Its splits have the images' similarity to the first captions of their class, and its tables `CaptionRow` and
    `SubpopulationRow`, the latter of val and test.

    Args:
        found: from `directions.analysis.analyse`.
        latents, stage: as there.
        clip, caption_set, top_k: as in `ranking.describe_directions`.
    """
    names = found.result.class_names
    with stage("captions"):
        slices = found.result.found.confirmed if found.result.found else []
        captions = describe_directions(found.fitter, clip, caption_set, names, top_k, slices=slices)
        nearest = extreme_latents(clip, [row for row in captions if not row["slice"]])
    splits, subpopulations = {}, []
    with stage("images near captions"):
        for name, split in found.result.splits.items():
            similarity = caption_similarity(latents[name], split.classes, nearest)
            splits[name] = replace(split, **{f"{side}_similarity": similarity[side] for side in SIDES})
            if name not in ("val", "test"):
                continue
            for row in subpopulation_accuracy(similarity, split.classes, split.ytrue):
                subpopulations += [
                    SubpopulationRow(
                        split=name,
                        class_name=names[row["class"]],
                        side=side,
                        k=row["k"],
                        accuracy=row[side],
                        class_accuracy=row["class_mean"],
                    )
                    for side in SIDES
                ]
    rows = [CaptionRow(**{key: row[key] for key in row if key != "class"}) for row in captions]
    tables = {**found.tables, CaptionRow: rows, SubpopulationRow: subpopulations}
    return replace(found, result=replace(found.result, splits=splits), tables=tables)
