"""Which output of a model is which class of a data set: by name, told, never guessed in silence."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..runtime.english import nearest, plain_name, some
from ..runtime.errors import UserError


@dataclass(frozen=True)
class LabelMatch:
    """Outputs of a model for the classes of a data set.

    Attributes:
        outputs: int64 (classes,), the output of each class.
        names: list of the model's K outputs, those that are a class under the class's name.
        how: one sentence for the user.
    """

    outputs: np.ndarray
    names: list
    how: str


def match_labels(class_names, outputs, labels=None, aliases=None):
    """Match a data set's classes to a model's outputs.

    A class is taken for the output of the same name; else of the same name without case, underscores and blanks; else
    by an alias (ImageNet's n01440764), or by one of the names that a label lists ("tench, Tinca tinca"). Where the
    model has no names, its outputs are taken in the order of the classes, or, where these are numbers, by number.

    Args:
        class_names: list of str.
        outputs: K.
        labels: list of K str, or None.
        aliases: list of K tuples of str, or None.

    Raises:
        UserError: a class has no output, or two; with both lists.
    """
    class_names = list(class_names)
    numbers = all(name.isdecimal() for name in class_names)
    if labels is None or (numbers and not set(class_names) <= set(labels)):
        return _by_number(class_names, outputs, labels, numbers)
    found, kinds, unknown = [], defaultdict(list), []
    levels = _levels(labels, aliases)
    for name in class_names:
        kind, output = _output_of(name, levels, labels)
        if output is None:
            unknown.append(name)
            continue
        found.append(output)
        kinds[kind].append(f"{name} = {output} {labels[output]}")
    if unknown:
        raise _unmatched(unknown, class_names, labels)
    if len(set(found)) < len(found):
        first, second = next(
            (class_names[i], class_names[j]) for j in range(len(found)) for i in range(j) if found[i] == found[j]
        )
        label = labels[found[class_names.index(first)]]
        raise UserError(f"the classes {first} and {second} are both the model's {label}: merge them, or rename one")
    names = list(labels)
    for name, output in zip(class_names, found, strict=True):
        names[output] = name
    how = "; ".join(f"{kind}: {some(pairs, 6)}" for kind, pairs in kinds.items())
    return LabelMatch(np.array(found), names, f"classes matched to the model's outputs {how}")


def _by_number(class_names, outputs, labels, numbers):
    if numbers:
        found = [int(name) if len(name) < 10 else outputs for name in class_names]
        if max(found) < outputs:
            names = [str(i) for i in range(outputs)] if labels is None else list(labels)
            for name, output in zip(class_names, found, strict=True):
                names[output] = name if labels is None else f"{name} {labels[output]}"
            how = f"classes are numbers, and taken for the model's outputs 0 to {outputs - 1}"
            return LabelMatch(np.array(found), names, how)
        if len(class_names) != outputs:
            raise UserError(
                f"the classes {some(class_names)} are numbers up to {max(found)}, but the model has the outputs 0 to "
                f"{outputs - 1}: count from 0, or give names"
            )
    if len(class_names) != outputs:
        raise UserError(
            f"the model has {outputs} outputs without names, and the data {len(class_names)} classes "
            f"({some(class_names)}): give the outputs' names in their order with --label-names"
        )
    how = f"the model does not name its outputs: they are taken in the order {some(class_names, 12)}"
    return LabelMatch(np.arange(outputs), class_names, how)


def _levels(labels, aliases):
    """For each way of naming, strictest first: (what it is called, how a class's name is read, name -> outputs)."""
    exact, plain, other = defaultdict(set), defaultdict(set), defaultdict(set)
    for i, label in enumerate(labels):
        exact[label].add(i)
        plain[plain_name(label)].add(i)
        for part in (*label.split(","), *(aliases[i] if aliases else ())):
            other[plain_name(part)].add(i)
            for synonym in part.split(","):
                other[plain_name(synonym)].add(i)
    return [
        ("exactly", str, exact),
        ("without case, underscores and blanks", plain_name, plain),
        ("by another name of the output", plain_name, other),
        ("without hyphens", lambda name: plain_name(name.replace("-", " ")), _without_hyphens(other)),
    ]


def _without_hyphens(names):
    plain = defaultdict(set)
    for name, outputs in names.items():
        plain[plain_name(name.replace("-", " "))] |= outputs
    return plain


def _output_of(name, levels, labels):
    for kind, read, names in levels:
        outputs = sorted(names.get(read(name), ()))
        if len(outputs) == 1:
            return kind, outputs[0]
        if outputs:
            raise UserError(
                f"the class {name} may be any of the model's {' and '.join(f'{i} {labels[i]}' for i in outputs)}: name "
                "the folder as the one is called in full, or by its synset (n0...)"
            )
    return "", None


def _unmatched(unknown, class_names, labels):
    """The error of classes that are no output, with both lists."""
    hint = nearest(
        unknown[0], labels, "rename them alike, or give the outputs' names in their order with --label-names"
    )
    what = f"the class {unknown[0]} is" if len(unknown) == 1 else f"the classes {some(unknown)} are"
    outputs = f"the model's {len(labels)} outputs ({some(labels)})"
    return UserError(f"{what} none of {outputs}; the classes are {some(class_names)}; {hint}")
