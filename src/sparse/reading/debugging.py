"""What a sparse layer tells of a model's faults: biases, counterfactuals, causes of errors (Wong et al., section 4).

Everything acts on standardised features, in which the weights of a layer can be compared.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

# Biases


@dataclass(frozen=True)
class Outsized:
    """A feature, or a word, with an outsized weight in a class.

    Attributes:
        class_number: of the class.
        number: of the feature or word.
        weight: its weight.
        share: of the sum of the class's |weights|.
        ratio: |weight| over the median of the class's others that are not 0; infinite where there are none.
    """

    class_number: int
    number: int
    weight: float
    share: float
    ratio: float


def find_biases(weight, factor=3.0):
    """The features, or words, on which a class leans out of proportion.

    Args:
        weight: (K, d), a layer's weights on standardised features; or the effects of d words on K class scores.
        factor: outsized is a |weight| of at least this many times the median of the class's others that are not 0.

    Returns:
        list of `Outsized`, class by class, the largest |weight| first. The rule is ours.
    """
    found = []
    for c, row in enumerate(np.abs(np.asarray(weight, np.float64))):
        nonzero = np.flatnonzero(row)
        total = row.sum()
        for j in nonzero[np.argsort(-row[nonzero], kind="stable")]:
            others = row[nonzero[nonzero != j]]
            ratio = float(row[j] / np.median(others)) if len(others) else np.inf
            if ratio < factor:
                break  # for smaller ones the median of the others is larger
            found.append(Outsized(c, int(j), float(weight[c][j]), float(row[j] / total), ratio))
    return found


# Counterfactuals


@dataclass(frozen=True)
class Counterfactuals:
    """Examples before and after a change.

    Attributes:
        positions: (n,) which of the examples were changed.
        before, after: (n, K) class probabilities.
        texts, changed: lists of n strings, where examples are texts.
    """

    positions: np.ndarray
    before: np.ndarray
    after: np.ndarray
    texts: list | None = None
    changed: list | None = None

    @property
    def flipped(self):
        """(n,) bool: whether the prediction is another one."""
        return self.before.argmax(1) != self.after.argmax(1)


def replace_words(text, replacements):
    """A text with whole words replaced, whatever their case; replaced by "", a word goes with the space after it.

    Args:
        replacements: dict of word -> word.
    """
    if not replacements:
        return text
    lower = {word.lower(): other for word, other in replacements.items()}
    longest_first = sorted(lower, key=len, reverse=True)
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)(\s?)"

    def replacement(match):
        word = lower[match[1].lower()]
        return word + match[2] if word else ""

    return re.sub(pattern, replacement, text, flags=re.IGNORECASE)


def counterfactual(texts, replacements, probabilities):
    """Replace the words behind a feature, and look at what becomes of the prediction.

    Args:
        texts: N strings.
        replacements: dict of word -> word, such as the words that drive a feature most -> those that drive it least.
        probabilities: a function of n strings that gives (n, K) class probabilities.

    Returns:
        `Counterfactuals` of the texts that hold any of the words; of none, it is empty.
    """
    changed = [replace_words(text, replacements) for text in texts]
    positions = np.array([i for i, text in enumerate(texts) if changed[i] != text], dtype=int)
    before, after = [texts[i] for i in positions], [changed[i] for i in positions]
    found = probabilities(before + after) if before else np.empty((0, 1))
    return Counterfactuals(positions, found[: len(before)], found[len(before) :], before, after)


def without_feature(standardised, layer, feature):
    """The same for features: examples (n, d) as they are, and with one feature at its mean, as `Counterfactuals`."""
    changed = np.array(standardised)
    changed[:, feature] = 0
    before, after = layer.probabilities(standardised), layer.probabilities(changed)
    return Counterfactuals(np.arange(len(changed)), before, after)


# Misclassifications


@dataclass(frozen=True)
class ErrorGroup:
    """Misclassified examples for which one feature did the most.

    Attributes:
        feature: its number.
        members: (n,) rows of the misclassified examples, the largest contribution first.
        contributions: (n,) what it adds to the wrong class's score, less what it adds to the right one's.
        confusion: (right class, wrong class), the most frequent pair, and `confused`, how often it occurs.
        repaired: how many would be right were the feature at its mean.
    """

    feature: int
    members: np.ndarray
    contributions: np.ndarray
    confusion: tuple
    confused: int
    repaired: int


def misclassifications_by_feature(standardised, labels, layer):
    """Group misclassified examples by the feature that spoke most for the wrong class and against the right one.

    Args:
        standardised: (n, d) features.
        labels: (n,) right classes.
        layer: a `Layer`; rows that it gets right are in no group.

    Returns:
        list of `ErrorGroup`, the largest first; each misclassified row is in one of them. Where every feature speaks
        for the right class (the bias decides), it is the one that does so least.
    """
    standardised, labels = np.asarray(standardised), np.asarray(labels)
    predicted = layer.scores(standardised).argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    # Of features with weights alone: a feature that no class uses adds 0, which is not a cause.
    used = np.flatnonzero(layer.weight.any(axis=0))
    cause, most = np.empty(len(wrong), int), np.empty(len(wrong))
    for start in range(0, len(wrong), 1024):
        rows = wrong[start : start + 1024]
        weight = layer.weight[:, used]
        added = (weight[predicted[rows]] - weight[labels[rows]]) * standardised[np.ix_(rows, used)]
        cause[start : start + len(rows)] = used[added.argmax(1)]
        most[start : start + len(rows)] = added.max(1)
    groups = []
    for feature in np.unique(cause):
        inside = np.flatnonzero(cause == feature)
        inside = inside[np.argsort(-most[inside], kind="stable")]
        members = wrong[inside]
        after = without_feature(standardised[members], layer, feature).after.argmax(1)
        pairs = Counter(zip(labels[members].tolist(), predicted[members].tolist(), strict=True))
        (confusion, confused) = pairs.most_common(1)[0]
        repaired = int((after == labels[members]).sum())
        groups.append(ErrorGroup(int(feature), members, most[inside], confusion, confused, repaired))
    return sorted(groups, key=lambda group: -len(group.members))


# Hard and easy images


@dataclass(frozen=True)
class SeparatingFeature:
    """A feature in which the hard examples of a class differ from the easy ones.

    Attributes:
        feature: its number.
        difference: mean of the hard minus mean of the easy, over their pooled standard deviation.
        weight: in the class.
        share: of the sum of the class's |weights|.
        effect: on the class's score: weight * (mean of the hard - mean of the easy).
    """

    feature: int
    difference: float
    weight: float
    share: float
    effect: float


def separating_features(standardised, decision_values, weight, fraction=0.25):
    """The features of a class's sparse support in which its hardest and easiest examples differ. The measure is ours.

    Args:
        standardised: (n, d) features of the class's examples.
        decision_values: (n,) along the failure direction, low for hard.
        weight: (d,) of the class in the layer.
        fraction: of the examples that are the hard, and the easy; at least two each.

    Returns:
        list of `SeparatingFeature`, the largest |difference| first; empty where there are fewer than four examples.
    """
    order = np.argsort(decision_values, kind="stable")
    count = min(max(2, int(fraction * len(order))), len(order) // 2)
    if count < 2:
        return []
    support = np.flatnonzero(weight)
    hard, easy = (np.asarray(standardised)[np.ix_(rows, support)] for rows in (order[:count], order[-count:]))
    gap = hard.mean(0, dtype=np.float64) - easy.mean(0, dtype=np.float64)
    pooled = np.sqrt((hard.var(0, ddof=1, dtype=np.float64) + easy.var(0, ddof=1, dtype=np.float64)) / 2)
    apart = np.where(gap == 0, 0.0, np.copysign(np.inf, gap))  # where neither side varies
    difference = np.divide(gap, pooled, out=apart, where=pooled > 0)
    total = np.abs(weight).sum()
    return [
        SeparatingFeature(
            feature=int(support[i]),
            difference=float(difference[i]),
            weight=float(weight[support[i]]),
            share=float(abs(weight[support[i]]) / total),
            effect=float(weight[support[i]] * gap[i]),
        )
        for i in np.argsort(-np.abs(difference), kind="stable")
    ]
