"""Embeddings of texts, by an encoder of Hugging Face's transformers.

    embeddings = embed_texts(texts, "hf:sentence-transformers/all-MiniLM-L6-v2")     # or a folder: "hf:my_encoder"

A text's embedding is the mean of the encoder's last hidden states over its tokens.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ..models.build import weights_digest
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, one_line
from ..runtime.files import atomic_path, open_npy
from ..runtime.hub import quiet, without_remote_code, without_retries
from ..runtime.progress import Progress
from .passes import default_cache

LONGEST = 512  # tokens, where the encoder does not say


@torch.inference_mode()
def embed_texts(texts, encoder, *, batch_size=64, device="auto", cache=None, silent=False):
    """Embeddings (N, d), float32, of N strings; a memory map where they are kept.

    Args:
        encoder: "hf:FOLDER_OR_NAME". No code of its repository is run, and its weights are safetensors.
        cache: folder that they are kept in, by default `default_cache()`; False: nothing is kept.
        silent: without progress bar and estimate.

    Raises:
        UserError: the encoder is not at hand, or lacks a tokenizer.
    """
    texts = [str(text) for text in texts]
    if not texts:
        raise UserError("there are no texts to embed")
    model, tokenizer = _load(encoder)
    digest = hashlib.sha256(f"{weights_digest(model)} {tokenizer.backend_tokenizer.to_str()}".encode())
    for text in texts:
        digest.update(f"{len(text)} {text}".encode(errors="surrogatepass"))
    path = None if cache is False else Path(cache or default_cache()) / f"texts_{digest.hexdigest()[:24]}.npy"
    if path is not None and path.is_file():
        kept = open_npy(path, "kept embeddings", f"delete {path}")
        if kept.ndim == 2 and len(kept) == len(texts):
            return kept
    found = _pass(texts, model, tokenizer, batch_size, resolve_device(device), silent)
    if path is None:
        return found
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, found)
    return open_npy(path, "kept embeddings")


def _pass(texts, model, tokenizer, batch_size, device, silent):
    model = model.to(device)
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", LONGEST), 100_000)
    # By length, so that little of a batch is padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    rows = None
    with Progress(len(texts), "texts through the encoder", "texts", silent) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens = tokenizer(
                [texts[i] for i in chosen], truncation=True, max_length=limit, padding=True, return_tensors="pt"
            ).to(device)
            hidden = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            means = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).float().cpu().numpy()
            rows = np.empty((len(texts), means.shape[1]), dtype=np.float32) if rows is None else rows
            rows[chosen] = means
            bar.advance(len(chosen))
    return rows


def _load(encoder):
    import transformers

    name = str(encoder).removeprefix("hf:")
    local = Path(name).expanduser().is_dir()
    source = str(Path(name).expanduser()) if local else name
    options = {"local_files_only": local, "trust_remote_code": False}
    with quiet("transformers"), without_retries(local), without_remote_code():
        try:
            model, found = transformers.AutoModel.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        except Exception as error:  # transformers, tokenizers, the hub's client and torch raise many kinds
            hint = "give another" if local else f"`hf download {name} --local-dir FOLDER` elsewhere, and give hf:FOLDER"
            raise UserError(f"the text encoder {name} cannot be loaded ({one_line(error)[:200]}); {hint}") from error
    # The pooler, which many encoders come without, has no part in the embedding.
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"the text encoder {name} lacks {len(missing)} of its weights, such as {missing[0]}; get it again"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer of {name} has neither a padding nor an end-of-text token; take another")
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer
