"""The hub of models: what is cached is used at once where it cannot be reached, and nothing is said on the way."""

import contextlib
import functools
import logging
import urllib.error
import urllib.request
import warnings

import diffusers
import transformers
from huggingface_hub import constants


@contextlib.contextmanager
def without_retries():
    """Within the block, the hub's client does not try for a minute to reach a hub that does not answer."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@functools.cache
def answers():
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def reason(error):
    """One line of why a model cannot be had from the hub."""
    if constants.HF_HUB_OFFLINE or not answers():
        return "the hub cannot be reached"
    return one_line(error)


def one_line(error):
    """What an error says, as a part of a sentence."""
    return " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__


@contextlib.contextmanager
def quiet():
    """Without the progress bars, logs and warnings of the libraries: what matters in them is an error here."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for logger in loggers:
        logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for logger in loggers:
            logger.enable_progress_bar()
