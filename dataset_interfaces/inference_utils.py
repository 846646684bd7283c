"""CLIP similarity and class tokens, under the published name: see src/interfaces/inference_utils.py."""

from failure_directions.interfaces.encoders import create_token_dictionary
from failure_directions.interfaces.inference_utils import *  # noqa: F403

__all__ = ["create_token_dictionary"]
