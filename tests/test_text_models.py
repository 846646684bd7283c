"""Text classifiers: their deep features, their limits, and models that cannot be used. All are built here, and tiny."""

import json
import os
import socket

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from failure_directions.models.build import weights_digest
from failure_directions.models.features import last_linear
from failure_directions.models.text_models import load_text_classifier
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.hub import without_remote_code
from failure_directions.sparse.deep_features import (
    ModelInputs,
    SparseTask,
    cached_features,
    dense_layer,
    feature_batches,
)
from failure_directions.sparse.tasks import output_rows
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    CTRLConfig,
    CTRLForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

WORDS = [f"w{i}" for i in range(30)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"vocab_size": 35, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CPU = torch.device("cpu")


def save(folder, model, **tokenizer_options):
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    model.save_pretrained(folder)
    BertTokenizerFast(vocab=vocabulary, **tokenizer_options).save_pretrained(folder)
    return str(folder)


def bert(outputs=2, **options):
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(**SIZES, max_position_embeddings=40, num_labels=outputs, initializer_range=0.3, **options)
    )


def roberta(outputs=2):
    torch.manual_seed(0)
    config = RobertaConfig(
        **SIZES, max_position_embeddings=40, num_labels=outputs, pad_token_id=0, initializer_range=0.3
    )
    return RobertaForSequenceClassification(config)


def drawn_texts(count, longest=30):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(0, longest))) for _ in range(count)]


def features_of(classifier, texts, batch_size=4):
    return np.concatenate(
        list(feature_batches(classifier, classifier.batches(classifier.encode(texts), batch_size), CPU))
    )


@torch.no_grad()
def one_by_one(classifier, texts, read):
    """What `read(model, tokens)` gives of each text alone, without any padding."""
    rows = [read(classifier.model, classifier.tokenizer(text, return_tensors="pt")) for text in texts]
    return torch.cat(rows).numpy()


def test_features_of_bert_are_its_pooled_output_whatever_the_batches(tmp_path):
    classifier = load_text_classifier(save(tmp_path, bert()))
    texts = drawn_texts(150)  # more than a window of batches
    expected = one_by_one(classifier, texts, lambda model, tokens: model.bert(**tokens).pooler_output)
    np.testing.assert_allclose(features_of(classifier, texts), expected, atol=1e-5)


def test_weights_in_half_precision_are_computed_with_in_float32(tmp_path):
    classifier = load_text_classifier(save(tmp_path, bert().to(torch.bfloat16)))
    assert {weight.dtype for weight in classifier.parameters()} == {torch.float32}


def test_features_of_roberta_are_the_tanh_of_the_dense_layer(tmp_path):
    classifier = load_text_classifier(save(tmp_path, roberta()))
    texts = drawn_texts(10)

    def read(model, tokens):
        return torch.tanh(model.classifier.dense(model.roberta(**tokens).last_hidden_state[:, 0]))

    np.testing.assert_allclose(features_of(classifier, texts), one_by_one(classifier, texts, read), atol=1e-5)


@pytest.fixture
def cls_layer_folder(tmp_path):
    """BERT with a `cls_layer`, saved by torch as its authors did, with a config that says nothing of it."""
    folder = save(tmp_path / "cls", bert())
    torch.manual_seed(1)
    state = {key: value for key, value in bert().state_dict().items() if not key.startswith("classifier")}
    state |= {"cls_layer.weight": torch.randn(1, 16), "cls_layer.bias": torch.randn(1)}
    os.unlink(f"{folder}/model.safetensors")
    torch.save(state, f"{folder}/pytorch_model.bin")
    return folder, state


def test_features_of_a_cls_layer_model_are_the_last_hidden_state(cls_layer_folder):
    folder, state = cls_layer_folder
    classifier = load_text_classifier(folder, max_length=20)
    encoder = BertModel(BertConfig(**SIZES, max_position_embeddings=40)).eval()
    encoder.load_state_dict({key.removeprefix("bert."): value for key, value in state.items() if "cls_" not in key})
    texts = drawn_texts(10, longest=15)
    expected = one_by_one(classifier, texts, lambda _, tokens: encoder(**tokens).last_hidden_state[:, 0])
    np.testing.assert_allclose(features_of(classifier, texts), expected, atol=1e-5)
    dense = dense_layer(last_linear(classifier), *output_rows(classifier, ["negative", "positive"]))
    scores = torch.tensor(expected) @ state["cls_layer.weight"].T + state["cls_layer.bias"]
    assert torch.equal(dense(torch.tensor(expected)).argmax(1), (scores[:, 0] > 0).long())


@pytest.mark.parametrize(
    "model",
    [
        bert(3),
        roberta(3),
        DistilBertForSequenceClassification(
            DistilBertConfig(vocab_size=35, dim=16, hidden_dim=32, n_heads=2, n_layers=1, num_labels=3)
        ),
    ],
    ids=["bert", "roberta", "distilbert"],
)
def test_the_last_layer_on_the_features_gives_the_models_logits(tmp_path, model):
    classifier = load_text_classifier(save(tmp_path, model))
    texts = drawn_texts(20)
    logits = one_by_one(classifier, texts, lambda model, tokens: model(input_ids=tokens["input_ids"]).logits)
    with torch.no_grad():
        found = last_linear(classifier)(torch.from_numpy(features_of(classifier, texts)))
    np.testing.assert_allclose(found, logits, atol=1e-5)
    assert not classifier.training


@pytest.mark.parametrize(
    ("model", "options", "limit"),
    [(bert(), {}, 40), (bert(), {"model_max_length": 12}, 12), (roberta(), {}, 39)],
    ids=["positions", "tokenizer", "roberta counts from behind the padding"],
)
def test_a_text_is_cut_where_the_model_ends(tmp_path, model, options, limit):
    classifier = load_text_classifier(save(tmp_path, model, **options))
    assert classifier.max_length == limit
    long, exact = " ".join(["w1"] * 200), " ".join(["w1"] * (limit - 2))  # beside [CLS] and [SEP]
    encoded = classifier.encode([long, exact, "w2", ""])
    assert encoded.cut == 1
    features = features_of(classifier, [long, exact, "w2", ""])
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert features_of(classifier, ["w2"]) == pytest.approx(features[2:3], abs=1e-5)
    assert load_text_classifier(str(tmp_path), max_length=7).max_length == 7


def test_outputs_are_matched_to_classes_by_name_else_by_number(tmp_path):
    def rows(name, labels, class_names, jigsaw_label=None):
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        classifier = load_text_classifier(save(tmp_path / name, bert(len(labels), **(names if labels[0] else {}))))
        return output_rows(classifier, class_names, jigsaw_label)

    assert rows("a", ["POSITIVE", "NEGATIVE"], ["negative", "positive"]) == ([1, 0], False)
    assert rows("b", ["good", "bad"], ["0", "1"]) == ([0, 1], False)
    assert rows("c", ["", ""], ["negative", "positive"]) == ([0, 1], False)
    assert rows("d", ["good", "bad"], ["negative", "positive"]) == (None, False)
    assert rows("e", ["", "", ""], ["negative", "positive"]) == (None, False)
    classes = ["not identity_hate", "identity_hate"]
    assert rows("f", ["toxicity", "insult", "identity_attack"], classes, "identity_hate") == ([2], True)
    assert rows("g", [""] * 6, classes, "identity_hate") == ([5], True)
    assert rows("h", ["toxicity", "insult", "male"], classes, "identity_hate") == (None, False)
    assert rows("i", ["", ""], classes, "identity_hate") == ([0, 1], False)


def task_of(folder, texts):
    classifier = load_text_classifier(folder)
    encoded = classifier.encode(texts)
    inputs = ModelInputs(
        np.zeros(len(texts), np.int64), lambda: classifier.batches(encoded, 4), f"texts {encoded.fingerprint}"
    )
    return SparseTask(classifier, f"bert {weights_digest(classifier)}", ["a", "b"], {"train": inputs}, None)


def test_features_are_kept_and_refused_for_another_model_or_other_texts(tmp_path, monkeypatch):
    folder, cache = save(tmp_path / "model", bert()), tmp_path / "cache"
    task = task_of(folder, drawn_texts(10))
    features = np.array(cached_features(cache, task, "train", CPU)[:])
    with monkeypatch.context() as patch:
        patch.setattr("failure_directions.sparse.deep_features.feature_batches", None)  # nothing is computed again
        np.testing.assert_array_equal(
            cached_features(cache, task_of(folder, drawn_texts(10)), "train", CPU)[:], features
        )
    torch.manual_seed(1)
    other = bert()
    torch.nn.init.normal_(other.classifier.weight)
    for task in (task_of(save(tmp_path / "other", other), drawn_texts(10)), task_of(folder, drawn_texts(11))):
        with pytest.raises(UserError, match="give another folder or delete"):
            cached_features(cache, task, "train", CPU)


def test_a_killed_extraction_starts_again(tmp_path):
    task = task_of(save(tmp_path / "model", bert()), drawn_texts(10))
    cached_features(tmp_path / "cache", task, "train", CPU)
    os.unlink(tmp_path / "cache" / "features.pt")
    assert cached_features(tmp_path / "cache", task, "train", CPU).shape == (10, 16)


def test_a_model_that_was_not_fine_tuned_is_refused(tmp_path):
    folder = save(tmp_path, bert().bert)
    with pytest.raises(UserError, match=r"no trained classifier\.bias"):
        load_text_classifier(folder)


def gpt(**options):
    torch.manual_seed(0)
    options = {"vocab_size": 35, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40, **options}
    return GPT2ForSequenceClassification(GPT2Config(**options, initializer_range=0.3))


def test_a_tokenizer_without_a_padding_token_pads_with_the_end_of_the_text(tmp_path):
    """Logits are those of the model on each text alone, where nothing is padded; features are the last token's."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    options = {"unk_token": "<unk>", "eos_token": "<eos>", "model_max_length": 40}
    PreTrainedTokenizerFast(tokenizer_object=words, **options).save_pretrained(tmp_path)
    gpt(eos_token_id=1, bos_token_id=1).save_pretrained(tmp_path)
    classifier = load_text_classifier(str(tmp_path))
    texts = [*drawn_texts(9), ""]
    ids = [[vocabulary[word] for word in text.split()] or [1] for text in texts]
    with torch.no_grad():
        alone = torch.cat([classifier.model(torch.tensor([row])).logits for row in ids])
    features = features_of(classifier, texts)
    weight = last_linear(classifier).weight.detach().numpy()
    np.testing.assert_allclose(features @ weight.T, alone.numpy(), atol=1e-5)


def test_a_tokenizer_without_padding_or_end_is_refused(tmp_path):
    folder = save(tmp_path, gpt(), pad_token=None)
    (tmp_path / "tokenizer_config.json").unlink()
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="neither a padding nor an end-of-text token"):
        load_text_classifier(folder)


def test_a_model_that_reads_every_token_is_refused(tmp_path):
    config = CTRLConfig(vocab_size=35, n_embd=16, dff=32, n_layer=1, n_head=2, n_positions=40, pad_token_id=0)
    classifier = load_text_classifier(save(tmp_path, CTRLForSequenceClassification(config)))
    with pytest.raises(UserError, match="CTRLForSequenceClassification are not those of a linear layer"):
        features_of(classifier, drawn_texts(3))


def test_a_model_that_ends_in_no_linear_layer_is_refused(tmp_path):
    folder = save(tmp_path, bert())
    classifier = load_text_classifier(folder)
    classifier.model.classifier = torch.nn.Sequential(classifier.model.classifier, torch.nn.Tanh())
    with pytest.raises(UserError, match="are not those of a linear layer"):
        features_of(classifier, drawn_texts(3))


class _RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_weights_that_would_run_code_are_not_loaded(tmp_path, monkeypatch):
    folder = save(tmp_path / "model", bert())
    os.unlink(f"{folder}/model.safetensors")
    torch.save({"bert.x": _RunsCode()}, f"{folder}/pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="could run code"):
        load_text_classifier(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_part_is_refused(tmp_path, lost):
    folder = save(tmp_path, bert())
    os.unlink(f"{folder}/{lost}")
    if lost == "tokenizer.json":
        os.unlink(f"{folder}/tokenizer_config.json")
    with pytest.raises(UserError, match=f"the text model {folder}") as error:
        load_text_classifier(folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_size_are_refused(tmp_path):
    folder = save(tmp_path, bert())
    BertConfig(**SIZES | {"hidden_size": 8}, max_position_embeddings=40).save_pretrained(folder)
    with pytest.raises(UserError, match=r"do not fit its config\.json"):
        load_text_classifier(folder)


def test_truncated_weights_are_refused(tmp_path):
    folder = save(tmp_path, bert())
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_text_classifier(folder)


def test_a_folder_that_does_not_exist_is_not_taken_for_a_name_on_the_hub(tmp_path):
    with pytest.raises(UserError, match="does not exist; check --model-path"):
        load_text_classifier(str(tmp_path / "no"))


def test_an_unreachable_hub_is_one_sentence_with_the_way_out(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download unitary/toxic-bert --local-dir FOLDER"):
        load_text_classifier("unitary/toxic-bert")


@pytest.mark.parametrize("trust", [None, True])
def test_code_that_a_folder_names_is_neither_run_nor_asked_about(tmp_path, monkeypatch, trust):
    folder = save(tmp_path, bert())
    (tmp_path / "own.py").write_text("open('ran', 'w')\nclass Own: ...\n")
    content = json.loads((tmp_path / "config.json").read_text())
    own = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"}
    (tmp_path / "config.json").write_text(json.dumps(content | {"auto_map": own, "model_type": "unheard-of"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_text_classifier(folder)
    # As open_clip calls it, whose configs may ask for trust.
    with without_remote_code(), pytest.raises(ValueError, match=r"custom code|which is not run"):
        AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    assert not (tmp_path / "ran").exists()
