"""The papers' data sets, from their official files to image sources: one module a data set.

Each `NAME_sources(folder, ...)` gives {"train": ..., "test": ..., ...} for `write_splits`, as `image_sources` does for
CIFAR, folders and manifests. Nothing is decoded here; every file that is named is checked to be there.
"""
