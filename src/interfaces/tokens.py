"""Class tokens: new words such as `<american-robin-15>`, one for each class of a data set."""

import re

from ..runtime.errors import UserError
from ..runtime.files import write_file


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
