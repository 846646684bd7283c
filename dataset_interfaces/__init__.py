"""Dataset interfaces (Vendrow et al., 2023): images of a data set's classes under shifts that are described in words.

    embedding = run_textual_inversion("photos/robin", "<american-robin-15>", "american robin")      # (d,)
    create_token_dictionary([embedding], ["<american-robin-15>"], ["american robin"], "encoder")
    images = generate("encoder", 0, "a photo of a <TOKEN> in the grass", num_samples=10, random_seed=0)

For the shell: `python -m dataset_interfaces learn|generate|score|benchmark`.
"""

import importlib

try:
    import failure_directions  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed: `src` answers to the package's name, too
    import src  # noqa: F401

_EXPORTS = {
    "Shift": "interfaces.shifts",
    "UserError": "runtime.errors",
    "class_token": "interfaces.tokens",
    "create_imagenet_star_encoder": "interfaces.encoders",
    "create_token_dictionary": "interfaces.encoders",
    "generate": "interfaces.generation",
    "load_shifts": "interfaces.shifts",
    "run_textual_inversion": "interfaces.textual_inversion",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    # Late: the command's --help needs none of them.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"failure_directions.{_EXPORTS[name]}"), name)
