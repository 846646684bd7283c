"""How often the same images have tested failures of the same model: every look makes the next claim less sure."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ..runtime.files import atomic_path


def count_use(folder, labels, preds):
    """Count one more use of a confirm part for a model, in a small file of `folder`; the number of uses so far.

    Which images and which model is told by their labels and predictions. A folder that cannot be written, or a file
    that is damaged, forgets: then this use is the first.

    Args:
        folder: that is kept from run to run, such as the cache of embeddings.
        labels, preds: int (N,), of the confirm part, in its order.
    """
    path = Path(folder) / "confirm_uses.json"
    digest = hashlib.sha256(np.stack([labels, preds]).astype(np.int64).tobytes()).hexdigest()
    try:
        uses = json.loads(path.read_text()) if path.is_file() else {}
        uses[digest] = int(uses.get(digest, 0)) + 1
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(uses, indent=1))
    except Exception:
        return 1
    return uses[digest]
