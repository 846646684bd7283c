"""Images, where they come from, and how they are shared out."""

SPLITS = ("train", "val", "test", "unlabeled")
"""Parts of a data set, by the names that betons, manifests and results give them; the last is an extra pool."""

MOST_PIXELS = 89_478_485
"""Pixels of an image that is read, at most: what Pillow holds to be safe. 100 KB can hold more, and fill the memory."""
LIMIT_OF_LIMITS = 2 * MOST_PIXELS
"""Beyond it Pillow opens no file."""
