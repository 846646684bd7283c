"""A sparse layer together with the model and the examples that it was made of: what its features look like."""

import numpy as np
import timm

from ...config_parsing import load_dataset_config
from ...runtime.errors import UserError
from ..tasks import read_texts
from .language import average_influence, cached_influence, features_function, word_cloud
from .results import check_same_examples, top_positions
from .vision import attribute_feature, collect_inputs, highlight, to_pixels, visualise_features


class Reader:
    """A result of sparse_main.py, one of its layers, and the model and the examples that it was made of.

    Attributes:
        result: a `SparseResult`.
        labels: (N,).
        predictions: (N,) of the layer.
        task, split, layer, device: as they were given.
    """

    def __init__(self, result, task, split, layer, device, options):
        check_same_examples(result, task, split)
        self.result, self.task, self.split, self.layer, self.device = result, task, split, layer, device
        self.options = options
        self.labels = result.labels[split]
        self.predictions = result.predictions(split, layer)

    @property
    def class_names(self):
        return self.result.class_names

    def rows(self, positions):
        """Standardised features (n, d) of some examples."""
        return self.result.standardise(self.result.features(self.split)[np.asarray(positions)])


class TextReader(Reader):
    """A `Reader` of texts.

    Attributes:
        texts: list of N.
        words: after `read_words`, a `WordInfluence` on standardised features.
    """

    is_text = True

    def __init__(self, *args):
        super().__init__(*args)
        asked = self.options
        splits = read_texts(asked.dataset, asked.dataset_path, asked.val_frac, asked.balance, asked.random_seed)
        self.texts = splits[self.split].texts
        self.features_of = features_function(self.task.model, self.device)

    def read_words(self, sentences=200, samples=200, least=2, seed=0):
        chosen = np.random.default_rng(seed).permutation(len(self.texts))[:sentences]
        found = cached_influence(
            [self.texts[i] for i in chosen],
            self.features_of,
            self.result.folder / "words",
            self.task.name,
            samples,
            seed,
        )
        self.words = average_influence(found, least).scaled(self.result.path.std)
        if not self.words.words:
            raise UserError(f"no word occurs in {least} of {len(chosen)} sentences; look at more, or give --least 1")

    def probabilities(self, texts):
        """(n, K) class probabilities of the sparse layer."""
        return self.layer.probabilities(self.result.standardise(self.features_of(texts)))

    def driving(self, feature, c, most=8):
        """The words of a feature that speak for class c, and those against it, as two strings."""
        sides = self.words.driving(feature, weight=self.layer.weight[c, feature])
        return [" ".join(list(side)[:most]) for side in sides]

    def top_words(self, c, count):
        """The words that add most to the score of class c, by way of all features of the layer."""
        effects = self.words.effects(self.layer.weight)[c]
        return [self.words.words[i] for i in np.argsort(-effects, kind="stable")[:count]]

    def describe(self, c, features, layer=None):
        """Rows for `image_rows_figure`: the clouds of words for and against class c, of each feature."""
        layer = layer or self.layer
        rows = []
        for j in features:
            pro, contra = self.words.driving(j, weight=layer.weight[c, j])
            heading = f"feature {j}, weight {layer.weight[c, j]:+.3f}: words for | against {self.class_names[c]}"
            rows.append((heading, [word_cloud(pro), word_cloud(contra, least=True)]))
        return rows


class ImageReader(Reader):
    """A `Reader` of images.

    Attributes:
        mean, std: (3,) of the model's normalisation on the 0..1 scale.
    """

    is_text = False

    def __init__(self, *args):
        super().__init__(*args)
        if self.options.dataset == "beton":
            config = load_dataset_config(self.options.config)
            self.mean = np.array(config.mean or [0.0] * 3) / 255
            self.std = np.array(config.std or [255.0] * 3) / 255
        else:
            # ImageNet's where the model says nothing, as torchvision's do.
            data = timm.data.resolve_model_data_config(self.task.model)
            self.mean, self.std = np.array(data["mean"]), np.array(data["std"])

    def images(self, positions):
        """The model inputs (n, 3, H, W) at some positions, in one pass over the split."""
        return collect_inputs(self.task.inputs[self.split].batches(), positions)

    def pixels(self, inputs):
        return to_pixels(inputs, self.mean, self.std)

    def describe(self, c, features, layer=None, count=5, steps=256):
        """Rows for `image_rows_figure`: what maximises each feature, the images of the split on which it is largest,
        and where on them it looks; the other way round for a feature with a negative weight in class c."""
        layer = layer or self.layer
        signs = np.where(layer.weight[c, features] < 0, -1, 1)
        top = top_positions(self.result.columns(self.split, features) * signs, count)
        inputs = self.images(top)
        maps = attribute_feature(self.task.model, inputs, np.repeat(features, top.shape[1]), self.device)
        images = self.pixels(inputs)
        made = visualise_features(
            self.task.model,
            features,
            inputs.shape[-1],
            self.mean,
            self.std,
            signs=signs,
            steps=steps,
            device=self.device,
        )
        rows = []
        for i, j in enumerate(features):
            own = range(i * top.shape[1], (i + 1) * top.shape[1])
            seen = [highlight(images[k], signs[i] * maps[k]) for k in own]
            end = "maximised and largest" if signs[i] > 0 else "minimised and smallest"
            heading = f"feature {j}, weight {layer.weight[c, j]:+.3f} in {self.class_names[c]}: {end}; where"
            rows.append((heading, [made[i], *(images[k] for k in own), *seen]))
        return rows
