"""The packages beyond the core's: which of the project's extras brings each (see pyproject.toml)."""

# Of the extras that bring a module, the smallest.
EXTRAS = {
    "torchvision": "models",
    "timm": "models",
    "huggingface_hub": "models",
    "open_clip": "clip",
    "ffcv": "train",
    "tensorboard": "train",
    "numba": "sparse",
    "transformers": "hf",
    "datasets": "hf",
    "pyarrow": "hf",
    "captum": "text",
    "wordcloud": "text",
    "diffusers": "diffusion",
    "accelerate": "diffusion",
    "dask": "cluster",
    "distributed": "cluster",
    "ray": "cluster",
}


def pip_line(extra):
    """What a user types to have it.

    >>> print(pip_line("train"))
    pip install "failure-directions[train]"
    """
    return f'pip install "failure-directions[{extra}]"'


def what_is_missing(error):
    """The sentence for a `ModuleNotFoundError` of one of these packages; None for one of another."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"this needs {package}, which is not installed: {pip_line(EXTRAS[package])}"
