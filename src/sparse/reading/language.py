"""Which words drive a deep feature of a text model: LIME (Ribeiro et al., KDD 2016) with features in place of classes.

Words are taken out of a sentence at random, the model reads what is left, and a ridge regression from the words that
stayed to the features gives each word's influence on each feature. Averaged over sentences, the words with the most and
the least influence are what a feature stands for (Wong, Santurkar, Madry; ICML 2021).
"""

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import Ridge
from tqdm import tqdm
from wordcloud import WordCloud

from ...runtime.errors import UserError
from ...runtime.figures import RIGHT, WRONG
from ...runtime.pt_files import FLOATS, is_plain, is_plain_tensor, load_pt, save_pt
from ..deep_features import feature_batches

WORD = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}]\w+)*")
KERNEL_WIDTH = 0.25
"""LIME's, on cosine distances in 0..1."""
RIDGE = 1.0
"""LIME's strength of the ridge penalty."""


def words_of(text):
    """The words of a text in lower case, each once, in the order in which they appear."""
    return list(dict.fromkeys(word.lower() for word in WORD.findall(text)))


def masked_texts(text, samples, seed=0):
    """A text with random words taken out, all occurrences of each.

    Returns:
        `samples` strings, the first of them the text itself, and masks (samples, W) float32, 1 where a word of
        `words_of(text)` stayed. How many words go is uniform on 1..W, and which, random. A text without words: itself.
    """
    words = words_of(text)
    if not words:
        return [text], np.ones((1, 0), np.float32)
    rng = np.random.default_rng(seed)
    removed = rng.integers(1, len(words) + 1, samples)
    removed[0] = 0
    ranks = rng.random((samples, len(words))).argsort(axis=1).argsort(axis=1)
    masks = ranks >= removed[:, None]
    texts = []
    for mask in masks:
        stays = dict(zip(words, mask, strict=True))
        texts.append(WORD.sub(lambda match: match[0] if stays[match[0].lower()] else "", text))  # noqa: B023
    return texts, masks.astype(np.float32)


def ridge_influence(masks, targets):
    """The influence of each word on each feature.

    Args:
        masks: (samples, W), 1 where a word stayed.
        targets: (samples, d) features.

    Returns:
        (W, d) float32: coefficients of a ridge regression with intercept (strength `RIDGE`), in which a sample counts
        by LIME's kernel exp(-(distance / `KERNEL_WIDTH`)^2 / 2) of its cosine distance from the whole text.
    """
    if not masks.shape[1]:
        return np.zeros((0, targets.shape[1]), np.float32)
    distance = 1 - np.sqrt(masks.mean(axis=1, dtype=np.float64))
    kernel = np.exp(-((distance / KERNEL_WIDTH) ** 2) / 2)
    ridge = Ridge(alpha=RIDGE).fit(masks.astype(np.float64), targets, sample_weight=kernel)
    return ridge.coef_.reshape(targets.shape[1], -1).T.astype(np.float32)


def word_influence(text, features_of, samples=200, seed=0):
    """Words of a text (list of W) and their influence (W, d) on all features at once.

    Args:
        features_of: a function of n strings that gives (n, d) features.
    """
    texts, masks = masked_texts(text, samples, seed)
    return words_of(text), ridge_influence(masks, np.asarray(features_of(texts), np.float64))


@dataclass(frozen=True)
class WordInfluence:
    """Influence of V words on d features, averaged over the sentences that hold the word.

    Attributes:
        words: list of V, in alphabetical order.
        influence: (V, d) float32.
        counts: (V,) how many sentences hold it.
    """

    words: list
    influence: np.ndarray
    counts: np.ndarray

    def driving(self, feature, percent=1.0, weight=1.0):
        """The words that drive a feature most and least: two dicts word -> influence, the strongest first.

        Most: at or above the (100 - percent)th percentile of all words, and above 0; least: at or below the percent-th,
        and below 0. Where the feature's `weight` in a class is negative the two are swapped, so that the first are
        always the words that speak for the class.
        """
        column = self.influence[:, feature].astype(np.float64)
        low, high = np.percentile(column, [percent, 100 - percent])
        order = np.argsort(-column, kind="stable")
        most = {self.words[i]: float(column[i]) for i in order if column[i] >= high and column[i] > 0}
        least = {self.words[i]: float(column[i]) for i in order[::-1] if column[i] <= low and column[i] < 0}
        return (least, most) if weight < 0 else (most, least)

    def effects(self, weight):
        """(K, V): what a word adds to each class's score by way of all features of a layer with `weight` (K, d)."""
        return weight @ self.influence.T

    def scaled(self, std):
        """The same for standardised features: influences over the standard deviations (d,); 0 where that is 0."""
        scale = np.divide(1.0, std, out=np.zeros(len(std)), where=np.asarray(std) > 0)
        return WordInfluence(self.words, (self.influence * scale).astype(np.float32), self.counts)


def average_influence(of_sentences, least=1):
    """`WordInfluence` of an iterable of (words, influence (W, d)), without words in fewer than `least` sentences."""
    sums, counts, dim = defaultdict(float), Counter(), 0
    for words, influence in of_sentences:
        dim = influence.shape[1]
        for word, row in zip(words, np.asarray(influence, np.float64), strict=True):
            sums[word] = sums[word] + row
            counts[word] += 1
    words = sorted(word for word, count in counts.items() if count >= least)
    influence = np.array([sums[word] / counts[word] for word in words], np.float32).reshape(len(words), dim)
    return WordInfluence(words, influence, np.array([counts[word] for word in words], int))


def cached_influence(sentences, features_of, folder, model, samples=200, seed=0):
    """`word_influence` of many sentences, an iterator; each is kept in a file of `folder` and computed once.

    Args:
        model: a string that names the model with its weights. Files are named by it, the sentence and the settings.
    """
    for sentence in tqdm(sentences, desc="words", unit="sentence", disable=None, leave=False):
        key = hashlib.sha256(repr((model, sentence, samples, seed, KERNEL_WIDTH, RIDGE)).encode()).hexdigest()
        path = Path(folder) / f"{key[:32]}.pt"
        if not path.exists():
            # By the sentence, so that its masks do not depend on the sentences before it.
            words, influence = word_influence(sentence, features_of, samples, [seed, int(key[:8], 16)])
            save_pt({"words": words, "influence": torch.from_numpy(influence)}, path)
        content = load_pt(path, "file of word influences", "delete it")
        words, influence = (content.get(key) if isinstance(content, dict) else None for key in ("words", "influence"))
        whole = isinstance(words, list) and is_plain(words) and is_plain_tensor(influence, 2, FLOATS)
        if not whole or len(words) != len(influence):
            raise UserError(f"file of word influences {path} is damaged; delete it")
        yield words, influence.numpy()


def features_function(classifier, device, batch_size=64):
    """The function strings -> (n, d) deep features of a `TextClassifier`."""

    def features_of(texts):
        batches = classifier.batches(classifier.encode(texts), batch_size)
        return np.concatenate(list(feature_batches(classifier, batches, device)))

    return features_of


def word_cloud(words, least=False, width=360, height=240):
    """A word cloud as an image, uint8 (height, width, 3); sizes are |influence| over the largest.

    Args:
        words: dict word -> influence.
        least: in the colour of the words that drive a feature least.
    """
    if not words:
        return np.full((height, width, 3), 255, np.uint8)
    largest = max(map(abs, words.values()))
    cloud = WordCloud(
        width=width,
        height=height,
        background_color="white",
        prefer_horizontal=1.0,
        max_words=60,
        random_state=0,
        color_func=lambda *_, **__: WRONG if least else RIGHT,
    )
    return cloud.generate_from_frequencies({word: abs(value) / largest for word, value in words.items()}).to_array()
