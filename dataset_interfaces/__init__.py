"""Dataset interfaces (Vendrow et al., 2023): images of a data set's classes under shifts that are described in words.

    embedding = run_textual_inversion("photos/robin", "<american-robin-15>", "american robin")      # (d,)
    create_token_dictionary([embedding], ["<american-robin-15>"], ["american robin"], "encoder")
    images = generate("encoder", 0, "a photo of a <TOKEN> in the grass", num_samples=10, random_seed=0)

For the shell: `python -m dataset_interfaces learn|generate|score|benchmark`.
"""

try:
    import failure_directions  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed: `src` answers to the package's name, too
    import src  # noqa: F401

from failure_directions.interfaces.encoders import create_imagenet_star_encoder, create_token_dictionary
from failure_directions.interfaces.generation import generate
from failure_directions.interfaces.shifts import Shift, load_shifts
from failure_directions.interfaces.textual_inversion import run_textual_inversion
from failure_directions.interfaces.tokens import class_token
from failure_directions.runtime.errors import UserError

__all__ = [
    "Shift",
    "UserError",
    "class_token",
    "create_imagenet_star_encoder",
    "create_token_dictionary",
    "generate",
    "load_shifts",
    "run_textual_inversion",
]
