"""Hugging Face's hub: where it cannot be reached, its cache is used at once; nothing is said on the way.

Its client is imported late: where it is missing, the library that was to use it is the one to name.
"""

import contextlib
import functools
import importlib
import logging
import urllib.error
import urllib.request
import warnings

from .errors import one_line


@contextlib.contextmanager
def without_remote_code():
    """transformers runs no code of a model's folder or repository, whatever its config says; and asks nobody."""
    from transformers import dynamic_module_utils

    def refuse(*_, **__):
        raise ValueError("its config names code of its own, which is not run")

    before = dynamic_module_utils.get_cached_module_file, dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.get_cached_module_file, dynamic_module_utils.TIME_OUT_REMOTE_CODE = refuse, 0
    try:
        yield
    finally:
        dynamic_module_utils.get_cached_module_file, dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextlib.contextmanager
def without_retries(local=False):
    """Where the hub cannot be reached, use what is cached at once: by itself, the hub's client tries for a minute.

    Args:
        local: what is loaded lies in a folder, so that the hub need not be asked whether it answers.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (local or answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@functools.cache
def answers():
    """Whether the hub answers; asked once a process."""
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def reason(error):
    """One line of why a model cannot be had from the hub."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or not answers():
        return "the hub cannot be reached"
    return one_line(error)


@contextlib.contextmanager
def quiet(*libraries):
    """Without the progress bars, logs and warnings of libraries: what matters in them is an error here.

    Args:
        libraries: those whose own progress bars are meant beside the hub's: "diffusers", "transformers".
    """
    from huggingface_hub import utils

    bars = [importlib.import_module(f"{library}.utils.logging") for library in libraries]
    shown, disabled = not utils.are_progress_bars_disabled(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    utils.disable_progress_bars()
    for bar in bars:
        bar.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for bar in bars:
            bar.enable_progress_bar()
        if shown:
            utils.enable_progress_bars()
