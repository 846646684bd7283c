"""Class tokens: new words such as `<american-robin-15>`, one for each class of a data set, and the file of them.

Nothing here needs a model: see encoders.py for what does.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import check_writable, existing_file, write_file

PLACEHOLDER = "<TOKEN>"  # where a prompt has the class
CLASSES_FILE = "classes.json"  # of an encoder root


def class_token(class_name, index=None):
    """The token of a class: lower case, words joined by hyphens, with the class's index where there is one.

    >>> class_token("American Robin", 15)
    '<american-robin-15>'
    >>> class_token("jack-o'-lantern")
    '<jack-o-lantern>'
    """
    words = re.findall(r"[^\W_]+", class_name.lower())
    if not words:
        raise UserError(f'the class name "{class_name}" has no letters to make a token of; name it in words')
    return f"<{'-'.join([*words, *([] if index is None else [str(index)])])}>"


def save_token(token, embedding, path):
    """Save one learned token, as diffusers' `load_textual_inversion` reads it: {token: (1, d)}, .safetensors."""
    import safetensors.torch

    write_file(path, safetensors.torch.save({token: embedding.float().cpu().reshape(1, -1).contiguous()}))


def check_token(token):
    """Raise `UserError` unless `token` is in angle brackets, in lower case and without spaces.

    The tokenizer lowers the case of what it reads and would not find another; without the brackets it would also find
    the token inside other words.
    """
    if not re.fullmatch(r"<[^\s<>]+>", token) or token != token.lower():
        suggestion = class_token(token) if re.search(r"[^\W_]", token) else "<my-class>"
        raise UserError(
            f'the token "{token}" is not in lower case, without spaces, in angle brackets; write {suggestion}'
        )


@dataclass(frozen=True)
class ClassTokens:
    """What an encoder root knows of its classes: entry `c` of each list is class `c`."""

    tokens: list
    class_names: list
    base_model: str
    fingerprint: str  # of the text encoder that the tokens were added to


def load_class_tokens(encoder_root):
    """The `ClassTokens` of an encoder root.

    Raises:
        UserError: the folder is none, or is damaged.
    """
    path = Path(encoder_root) / CLASSES_FILE
    if path.exists():
        existing_file(path, "the encoder root's", "make the encoder root again with create_token_dictionary")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        lists, texts = [held[key] for key in ("tokens", "class_names")], [held["base_model"], held["fingerprint"]]
        if not all(isinstance(words, list) and len(words) == len(lists[0]) > 0 for words in lists):
            raise ValueError("tokens and class_names are not lists of one length")
        if not all(isinstance(text, str) for text in (*lists[0], *lists[1], *texts)):
            raise ValueError("a value is not text")
        return ClassTokens(*lists, *texts)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{encoder_root} is not an encoder root: there is no {CLASSES_FILE}; make one with create_token_dictionary"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; make the encoder root again with create_token_dictionary") from error


def check_encoder_root(encoder_root):
    """Raise `UserError` unless an encoder root can be written there: long work asks this first."""
    root = Path(encoder_root)
    check_writable(root / CLASSES_FILE)
    there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if there and (CLASSES_FILE not in there or there - {"tokenizer", "text_encoder", CLASSES_FILE}):
        raise UserError(f"{encoder_root} holds files that are not an encoder root's; name a new folder")
