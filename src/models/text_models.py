"""Text classifiers of Hugging Face's transformers, with the linear layer that ends them known.

The deep features of a text are that layer's input, in evaluation mode: BERT's pooled output, RoBERTa's
tanh(classifier.dense), and for models of which `cls_layer` is the head, the last hidden state at [CLS].
"""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    BertPreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ..runtime.errors import UserError
from ..runtime.hub import quiet, without_remote_code, without_retries
from ..runtime.pt_files import check_weights_folder

WINDOW = 32
"""Batches within which texts are sorted by length, so that little of a batch is padding."""


class TextClassifier(nn.Module):
    """A sequence classifier and its tokenizer.

    Attributes:
        name: the folder or the hub's name.
        labels: list of the outputs' names, or None where the model does not name them.
        max_length: tokens that it reads, [CLS] and the like counted in.
    """

    def __init__(self, name, model, tokenizer, max_length):
        super().__init__()
        self.name, self.model, self.tokenizer, self.max_length = name, model, tokenizer, max_length

    def forward(self, tokens):
        """Logits (B, k) of a batch that `batches` made."""
        if self._reads_last_token:
            # The model's own forward does the same with the layer on every token, of which all but one are left out.
            hidden = self.model.base_model(**tokens)[0]
            mask = tokens["attention_mask"]
            last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
            return self.get_classifier()(hidden[torch.arange(len(hidden), device=hidden.device), last])
        return self.model(**tokens).logits

    @property
    def _reads_last_token(self):
        """Whether the head is on the last token: so it is of decoders such as GPT-2, which call it `score`."""
        return getattr(self.model, "score", None) is self.get_classifier()

    def get_classifier(self):
        """The last linear layer of the head: of what the model has beside its base model."""
        base = f"{self.model.base_model_prefix}."
        linear = [
            layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Linear) and not name.startswith(base)
        ]
        return linear[-1] if linear else None

    @property
    def labels(self):
        names = [self.model.config.id2label.get(i, "") for i in range(self.get_classifier().out_features)]
        return None if any(name in ("", f"LABEL_{i}") for i, name in enumerate(names)) else names

    def encode(self, texts):
        """The tokens of a list of strings, as `Encoded`; what is beyond `max_length` is cut off."""
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length, return_attention_mask=False)
        full = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) == self.max_length]
        whole = self.tokenizer([texts[i] for i in full], verbose=False)["input_ids"] if full else []
        nothing = {"input_ids": [self.tokenizer.pad_token_id]}  # an empty text, where nothing marks its beginning
        columns = {
            key: [np.array(row or nothing.get(key, [0]), dtype=np.int32) for row in rows]
            for key, rows in encoded.items()
        }
        return Encoded(columns, cut=sum(len(ids) > self.max_length for ids in whole))

    def batches(self, encoded, batch_size):
        """Batches of (tokens, positions): what `forward` takes, and which texts these are, (B,).

        Texts come sorted by length within windows of `WINDOW` batches.
        """
        for start in range(0, len(encoded), WINDOW * batch_size):
            lengths = [len(ids) for ids in encoded.columns["input_ids"][start : start + WINDOW * batch_size]]
            order = start + np.argsort(lengths, kind="stable")
            for first in range(0, len(order), batch_size):
                positions = order[first : first + batch_size]
                rows = {key: [column[i].tolist() for i in positions] for key, column in encoded.columns.items()}
                yield self.tokenizer.pad(rows, return_tensors="pt"), positions


@dataclass(frozen=True)
class Encoded:
    """Texts as tokens: columns `input_ids` and what else the model reads, lists of N int32 arrays.

    Attributes:
        cut: how many texts were longer than the model reads.
    """

    columns: dict
    cut: int

    def __len__(self):
        return len(self.columns["input_ids"])

    @property
    def fingerprint(self):
        """A hash of the tokens, and so of texts, tokenizer and length."""
        digest = hashlib.sha256()
        for ids in self.columns["input_ids"]:
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.tobytes())
        return digest.hexdigest()[:16]


class BertWithClsLayer(BertPreTrainedModel):
    """BERT with one linear output, `cls_layer`, on the last hidden state at [CLS].

    The architecture of `barissayil/bert-sentiment-analysis-sst`.
    """

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls_layer = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, **tokens):
        hidden = self.bert(**tokens).last_hidden_state
        return SequenceClassifierOutput(logits=self.cls_layer(hidden[:, 0]))


def load_text_classifier(name, max_length=None):
    """Load a `TextClassifier` on the CPU, in evaluation mode.

    No code of a model's repository is run and no pickle is loaded.

    Args:
        name: a folder that `save_pretrained` wrote, or a name on Hugging Face's hub.
        max_length: tokens to read, where that is fewer than the model's own limit.

    No code of a model's repository is run; pickled weights of a folder are looked through before they are loaded.

    Raises:
        UserError: the model is not at hand, damaged, or has no trained linear head.
    """
    local = Path(name).is_dir()
    if not local and (not name or Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise UserError(f"the text model's folder {name} does not exist; check --model-path")
    with without_retries(local), without_remote_code(), quiet("transformers"):
        try:
            options = {"local_files_only": local, "trust_remote_code": False}
            options["use_safetensors"] = check_weights_folder(name, "weights") or None if local else None
            model = _load(name, options)
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
        except UserError:
            raise
        except pickle.UnpicklingError as error:
            raise UserError(
                f"the weights of the text model {name} hold more than tensors and are not loaded, because that could "
                "run code; give model.safetensors"
            ) from error
        except OSError as error:
            if local:
                raise UserError(f"the text model {name} is incomplete or damaged: {_reason(error)}") from error
            raise UserError(
                f"the text model {name} is neither a folder nor in the hub's cache, and could not be downloaded: on a "
                f"machine with a network run `hf download {name} --local-dir FOLDER`, and give --model-path FOLDER"
            ) from error
        except Exception as error:  # transformers, tokenizers, safetensors and torch raise many kinds
            raise UserError(f"the text model {name} cannot be loaded: {_reason(error)}") from error
    _pad(name, model, tokenizer)
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if not words:
        raise UserError(f"the text model {name} has no tokenizer: its folder must hold tokenizer.json or a vocabulary")
    if max(tokenizer.get_vocab().values()) >= model.get_input_embeddings().num_embeddings:
        raise UserError(f"the tokenizer of {name} has more tokens than the model; take both from one training")
    limits = [tokenizer.model_max_length, _positions(model), max_length]
    classifier = TextClassifier(name, model.eval(), tokenizer, min(limit for limit in limits if limit))
    if classifier.get_classifier() is None:
        raise UserError(f"the text model {name} ({type(model).__name__}) has no linear layer at its end; take another")
    return classifier


def _pad(name, model, tokenizer):
    """See that batches can be padded: as is usual, by the end-of-text token where a tokenizer has no token for it.

    The attention mask hides what is padded; models such as GPT-2 look for the last token that is not padding.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"the tokenizer of {name} has neither a padding nor an end-of-text token; name one in tokenizer_config.json"
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _load(name, options):
    options = options | {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    model, found = AutoModelForSequenceClassification.from_pretrained(name, **options)
    if found["missing_keys"] and {"cls_layer.weight", "cls_layer.bias"} <= set(found["unexpected_keys"]):
        model, found = BertWithClsLayer.from_pretrained(name, **options)
    # transformers would go on with random numbers in place of what does not fit or is not there.
    if found["mismatched_keys"]:
        raise UserError(f"the weights of the text model {name} do not fit its config.json; take both from one training")
    if found["missing_keys"]:
        raise UserError(
            f"the text model {name} has no trained {min(found['missing_keys'])}; give a model that was fine-tuned for "
            "sequence classification"
        )
    return model


def _positions(model):
    """Tokens for which the model has position embeddings; None where it needs none."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Embedding) and name.endswith("position_embeddings"):
            # RoBERTa counts positions from behind the padding's.
            return layer.num_embeddings - (0 if layer.padding_idx is None else layer.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)


def _reason(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
