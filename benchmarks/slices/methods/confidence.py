"""The images of a class by the model's own doubt: one minus the probability of the true class."""

from dataclasses import dataclass

from . import Slice

TITLE = "confidence"
USES_OUTPUTS = True


@dataclass(frozen=True)
class _Doubt(Slice):
    score_embeddings: object = None

    def score(self, embeddings, probs=None, features=None):
        return 1 - probs[:, self.label].astype(float)


def fit(find):
    return [_Doubt(label) for label in range(find.num_classes)]
