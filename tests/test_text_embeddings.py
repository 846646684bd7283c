"""Embeddings of texts: an encoder's own hidden states, whatever is in the batch beside them. Built here, and tiny."""

import numpy as np
import pytest
import torch
from failure_directions.commands import find
from failure_directions.embeddings.texts import embed_texts
from failure_directions.runtime.errors import UserError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast, GPT2Config, GPT2Model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(30))]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w2"]


def saved(folder, model, **special):
    model.save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}, **special).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=35, max_position_embeddings=12, initializer_range=0.3, **sizes)).eval()
    return saved(tmp_path / "bert", model), model


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAILURE_DIRECTIONS_CACHE", str(tmp_path / "cache"))


def test_a_text_s_embedding_is_the_mean_of_its_own_tokens(encoder):
    folder, model = encoder
    found = embed_texts(TEXTS, f"hf:{folder}", batch_size=3)
    for text, row in zip(TEXTS, found, strict=True):
        ids = [WORDS.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]
        with torch.inference_mode():
            wanted = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_an_encoder_half_of_whose_weights_are_missing_is_not_made_up(encoder):
    folder, _ = encoder
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[::2]), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks .* of its weights"):
        embed_texts(TEXTS, folder)


def test_long_texts_are_cut_where_the_encoder_ends(encoder):
    folder, _ = encoder
    long, longer = (" ".join(["w3"] * n) for n in (10, 50))
    np.testing.assert_allclose(*embed_texts([long, longer], folder), atol=1e-5)


def test_they_are_kept_by_content(encoder, tmp_path):
    for texts in (TEXTS, TEXTS, TEXTS[::-1]):
        embed_texts(texts, encoder[0])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_encoder_without_a_padding_token_pads_with_the_end_of_text(tmp_path):
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=35, n_positions=40, n_embd=16, n_layer=2, n_head=2))
    folder = saved(tmp_path / "gpt", model, pad_token=None, eos_token="w29")
    apart = np.concatenate([embed_texts([text], folder, cache=False) for text in TEXTS])
    np.testing.assert_allclose(embed_texts(TEXTS, folder, cache=False), apart, atol=1e-5)


def test_an_encoder_that_is_not_there_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"text encoder .* cannot be loaded"):
        embed_texts(TEXTS, f"hf:{tmp_path / 'empty'}")


def test_find_embeds_a_column_of_texts(encoder, tmp_path):
    rows = "".join(f"w{i} w{i + 1},{'ab'[i % 2]},{'ab'[i % 3 == 0]}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"text,label,pred\n{rows}")
    arguments = ["--predictions", str(tmp_path / "t.csv"), "--embedding", f"hf:{encoder[0]}"]
    inputs = find.prepare(find.parse_arguments(arguments))
    np.testing.assert_array_equal(inputs.embeddings, embed_texts([f"w{i} w{i + 1}" for i in range(20)], encoder[0]))
    assert inputs.metadata["text"][0] == "w0 w1"
