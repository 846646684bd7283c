"""Encoder roots: a tokenizer and a text encoder that know the tokens of a data set's classes."""

import hashlib
import json
import re
from pathlib import Path

import torch

from ..runtime.errors import UserError
from ..runtime.files import check_space, existing_file, new_folder
from ..runtime.hub import quiet
from ..runtime.pt_files import check_weights_folder, load_tensors
from .defaults import DEFAULT_MODEL
from .diffusion_models import LOADING_ERRORS, fingerprint, load_model, whole
from .tokens import CLASSES_FILE, check_encoder_root, check_token, load_class_tokens

IMAGENET_CLASSES = 1000
_TOKEN_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def create_token_dictionary(embeds, tokens, class_names, encoder_root, model_name=DEFAULT_MODEL):
    """Save a tokenizer and a text encoder that know one new token for each class.

    Args:
        embeds: (C, d) float array or tensor, or C of (d,), as `run_textual_inversion` gives them.
        tokens: C strings, such as "<american-robin-15>".
        class_names: C strings.
        encoder_root: folder to write, or an encoder root to replace; class `c` of `generate` is entry `c` of the lists.
        model_name: the diffusion model that the embeddings were learned on.

    Raises:
        UserError: lists of different lengths, a malformed token, one that is there already or belongs to two classes,
            embeddings of another width or not finite, a folder that holds other files, or too little space on the disk.
    """
    check_encoder_root(encoder_root)
    tokens, class_names = list(tokens), list(class_names)
    if not tokens or not len(embeds) == len(tokens) == len(class_names):
        raise UserError(
            f"there are {len(embeds)} embeddings, {len(tokens)} tokens and {len(class_names)} class names; give one "
            "of each for every class"
        )
    for token in tokens:
        check_token(token)
    twice = sorted({token for token in tokens if tokens.count(token) > 1})
    if twice:
        names = [name for name, token in zip(class_names, tokens, strict=True) if token == twice[0]]
        raise UserError(f"the classes {' and '.join(names)} have one token, {twice[0]}; give each its own")
    embeds = [torch.as_tensor(row, dtype=torch.float32).cpu() for row in embeds]
    for name, row in zip(class_names, embeds, strict=True):
        if not row.isfinite().all():
            raise UserError(f"the embedding of {name} is not finite; learn it again")

    model = load_model(model_name)
    tokenizer, text_encoder = model.tokenizer, model.text_encoder
    width = text_encoder.config.hidden_size
    for name, row in zip(class_names, embeds, strict=True):
        if row.shape != (width,):
            raise UserError(
                f"the embedding of {name} has the shape {tuple(row.shape)} and the text encoder of {model_name} is "
                f"{width:,} wide; give the model_name that it was learned on"
            )
    known = [token for token in tokens if token in tokenizer.get_vocab()]
    if known:
        raise UserError(f"the token {known[0]} is in the vocabulary of {model_name} already; choose another")

    base = len(tokenizer)
    stamp = fingerprint(text_encoder)
    tokenizer.add_tokens(tokens)
    embeddings = text_encoder.resize_token_embeddings(base + len(tokens), mean_resizing=False).weight
    with torch.no_grad():
        embeddings[base:] = torch.stack(embeds)
    check_space(encoder_root, sum(w.numel() * w.element_size() for w in text_encoder.state_dict().values()) + 2**22)
    classes = {"base_model": model.name, "fingerprint": stamp, "tokens": tokens, "class_names": class_names}
    with new_folder(encoder_root) as folder, quiet("transformers"):
        tokenizer.save_pretrained(folder / "tokenizer")
        text_encoder.save_pretrained(folder / "text_encoder")
        (folder / CLASSES_FILE).write_text(json.dumps(classes, indent=1) + "\n", encoding="utf-8")


def create_imagenet_star_encoder(path, encoder_root, model_name):
    """`create_token_dictionary` for ImageNet* from its 1,000 published tokens.

    Args:
        path: the unpacked folder of token files, each with one token, in torch's or safetensors' format.
        encoder_root: folder to write, or an encoder root to replace.
        model_name: a Stable Diffusion 2 folder or file: the published tokens are 1,024 wide and fit no other.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"the token folder {path} does not exist; unpack the downloaded tokens and give their folder")
    found = {}
    for file in sorted(file for file in folder.rglob("*") if file.suffix in _TOKEN_SUFFIXES):
        token, embedding = _read_token(file)
        number = re.search(r"-(\d+)>$", token)
        if not number:
            raise UserError(
                f"the token {token} of {file} does not end in its class's number, as <american-robin-15> does"
            )
        index = int(number[1])
        if index in found:
            raise UserError(f"{file} has a second token for class {index}, after {found[index][0]}; remove one")
        found[index] = token, embedding
    missing = sorted(set(range(IMAGENET_CLASSES)) - set(found))
    if missing or len(found) > IMAGENET_CLASSES:
        example = f"class {missing[0]} is missing" if missing else f"class {max(found)} is not one of ImageNet's"
        raise UserError(
            f"{path} has {len(found):,} of ImageNet*'s {IMAGENET_CLASSES:,} tokens ({example}); download them again"
        )
    tokens, embeds = zip(*(found[index] for index in range(IMAGENET_CLASSES)), strict=True)
    model_width = load_model(model_name).text_encoder.config.hidden_size
    if any(embedding.shape != (model_width,) for embedding in embeds):
        raise UserError(
            f"the tokens of {path} are {len(embeds[0]):,} wide and the text encoder of {model_name} is "
            f"{model_width:,}: ImageNet*'s tokens, 1,024 wide, need a Stable Diffusion 2 folder as model_name"
        )
    names = [token[1:-1].rsplit("-", 1)[0].replace("-", " ") for token in tokens]
    create_token_dictionary(embeds, tokens, names, encoder_root, model_name)


def _read_token(file):
    """Token and embedding (d,) of a file that holds {token: embedding}, or an embedding and is named for its token."""
    held = load_tensors(file, "the token file")
    token = f"<{file.stem.strip('<>')}>"
    if isinstance(held, dict) and len(held) == 1:
        ((key, held),) = held.items()
        token = key if str(key).startswith("<") else token
    if not isinstance(held, torch.Tensor) or held.numel() != held.shape[-1]:
        raise UserError(f"the token file {file} does not hold one embedding; remove it or download it again")
    return token, held.detach().float().reshape(-1)


def encoder_digest(encoder_root):
    """SHA-256 of an encoder root's weights, which tells whether images were made with it."""
    with open(Path(encoder_root) / "text_encoder" / "model.safetensors", "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_encoder(encoder_root):
    """Tokenizer and text encoder of an encoder root, in single precision on the CPU."""
    from transformers import CLIPTextModel, CLIPTokenizer

    root = Path(encoder_root)
    tokens = load_class_tokens(root).tokens
    for part in ("tokenizer", "text_encoder"):
        for path in sorted((root / part).glob("*")):  # a pipe or a device would be read without end
            existing_file(path, f"the {part} of the encoder root:", "make the root again with create_token_dictionary")
    part = "tokenizer"
    try:
        with quiet("transformers"):
            tokenizer = CLIPTokenizer.from_pretrained(root / part, local_files_only=True)
            numbers = [tokenizer.get_vocab()[token] for token in tokens]
            part = "text_encoder"
            safe = check_weights_folder(root / part, "weights")
            options = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": safe}
            text_encoder = whole(CLIPTextModel.from_pretrained, root / part, **options)
        if not text_encoder.get_input_embeddings().weight[numbers].isfinite().all():
            raise ValueError("an embedding is not finite")
    except LOADING_ERRORS as error:
        raise UserError(
            f"the {part} of the encoder root {root} is damaged; make it again with create_token_dictionary"
        ) from error
    return tokenizer, text_encoder.eval().requires_grad_(False)
