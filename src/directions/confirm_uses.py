"""How often the same images have tested failures of the same model: every look makes the next claim less sure."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ..runtime.files import atomic_path


class ConfirmUses:
    """The uses of a confirm part for a model, counted in a small file of a folder that is kept from run to run.

    Which images and which model is told by their labels and predictions. A folder that cannot be written, or a file
    that is damaged, forgets: then a use is the first.

    Args:
        folder: such as the cache of embeddings.
        labels, preds: int (N,), of the confirm part, in its order.
    """

    def __init__(self, folder, labels, preds):
        self._path = Path(folder) / "confirm_uses.json"
        self._digest = hashlib.sha256(np.stack([labels, preds]).astype(np.int64).tobytes()).hexdigest()

    def so_far(self):
        """How many uses were counted."""
        return self._read().get(self._digest, 0)

    def count(self):
        """Count one more, once its result is written."""
        uses = {**self._read(), self._digest: self.so_far() + 1}
        try:
            with atomic_path(self._path) as temporary:
                temporary.write_text(json.dumps(uses, indent=1))
        except Exception:  # a note beside the result, which is whole without it
            return

    def _read(self):
        try:
            uses = json.loads(self._path.read_text())
            return {str(digest): int(count) for digest, count in uses.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
