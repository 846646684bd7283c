"""Images, where they come from, and how they are shared out."""

SPLITS = ("train", "val", "test", "unlabeled")
"""Parts of a data set, by the names that betons, manifests and results give them; the last is an extra pool."""
