"""Hugging Face's hub: where it cannot be reached, what its cache holds is used at once."""

import contextlib
import functools
import urllib.error
import urllib.request

from huggingface_hub import constants


@contextlib.contextmanager
def hub_without_retries(local=False):
    """Where the hub cannot be reached, use what is cached at once: by itself, the hub's client tries for a minute.

    Args:
        local: what is loaded lies in a folder, so that the hub need not be asked whether it answers.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (local or _hub_answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@functools.cache
def _hub_answers():
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
