"""Train a small text classifier on text that is on every machine with this project: from which package is a sentence?

    python scripts/train_text_demo.py --out demo/docstrings
    failure-directions sparse --dataset csv --dataset-path demo/docstrings --model-path demo/docstrings/model \\
        --out-path demo/docstrings/sparse

The text is sentences of the docstrings of four packages; training, validation and test sentences come from different
files. It leaves OUT/{train,val,test}.csv (text,label) and OUT/model, a BERT of two layers with a vocabulary of its own.
"""

import argparse
import ast
import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import check_writable, write_csv
from tokenizers import BertWordPieceTokenizer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

PACKAGES = ("matplotlib", "scipy", "sklearn", "torch")
WORDS = range(6, 41)  # of a sentence


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=3000, help="training sentences of each package")
    parser.add_argument("--val", type=int, default=500, help="validation sentences of each package")
    parser.add_argument("--test", type=int, default=1000, help="test sentences of each package")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    out = Path(args.out)
    check_writable(out / "train.csv")
    torch.set_num_threads(args.threads)

    counts = {"train": args.train, "val": args.val, "test": args.test}
    rows = {split: [] for split in counts}
    for package in PACKAGES:
        sentences = docstring_sentences(package, counts, args.seed)
        for split in rows:
            rows[split] += [(sentence, package) for sentence in sentences[split]]
    for split in rows:
        write_csv(out / f"{split}.csv", ["text", "label"], rows[split])

    (texts, labels), (test_texts, test_labels) = (zip(*rows[split], strict=True) for split in ("train", "test"))
    labels, test_labels = (np.array([PACKAGES.index(label) for label in some]) for some in (labels, test_labels))
    model, tokenizer = train_classifier(texts, labels, PACKAGES, epochs=args.epochs, seed=args.seed)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    right = (predict(model, tokenizer, test_texts) == test_labels).mean()
    print(f"right on {right:.1%} of {len(test_texts)} test sentences, after {len(texts)} training sentences")
    print(f"model: {out / 'model'}")


def docstring_sentences(package, counts, seed):
    """dict split -> list of sentences; of every five files, in a seeded order, one is for test and one for val."""
    folder = Path(importlib.util.find_spec(package).origin).parent
    files = sorted(path for path in folder.rglob("*.py") if "test" not in str(path.relative_to(folder)))
    found, seen = {split: [] for split in counts}, set()
    for i, k in enumerate(np.random.default_rng(seed).permutation(len(files))):
        split = {0: "test", 1: "val"}.get(i % 5, "train")
        if len(found[split]) < counts[split]:
            found[split] += [sentence for sentence in _sentences(files[k]) if sentence not in seen]
            seen.update(found[split])
    for split, count in counts.items():
        if len(found[split]) < count:
            raise UserError(
                f"the docstrings of {package} have only {len(found[split])} sentences; ask for fewer, --{split}"
            )
    return {split: found[split][:count] for split, count in counts.items()}


def _sentences(path):
    """The plain sentences of a file's docstrings: no examples, tables or bare names."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    paragraphs = [part for docstring in docstrings for part in re.split(r"\n\s*\n", docstring)]
    plain = [" ".join(part.split()) for part in paragraphs if ">>>" not in part and "---" not in part]
    sentences = [sentence for part in plain for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", part)]
    return [s for s in dict.fromkeys(sentences) if s[:1].isupper() and s.endswith(".") and len(s.split()) in WORDS]


def train_classifier(texts, labels, class_names, *, words=4000, width=64, layers=2, epochs=4, max_length=64, seed=0):
    """A BERT for sequence classification, trained from nothing, and its tokenizer.

    Args:
        texts: N strings. labels: (N,) ints, numbers of `class_names`.
        words: word pieces of the vocabulary.
    """
    torch.manual_seed(seed)
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(texts, vocab_size=words, show_progress=False)
    tokenizer = BertTokenizerFast(vocab=pieces.get_vocab(), model_max_length=max_length)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 32),
        max_position_embeddings=max_length,
        id2label=dict(enumerate(class_names)),
        label2id={name: i for i, name in enumerate(class_names)},
        initializer_range=0.1,
    )
    model = BertForSequenceClassification(config).train()
    labels, batch = torch.as_tensor(labels), 32
    order = torch.cat([torch.randperm(len(texts)) for _ in range(epochs)]).split(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=len(order), pct_start=0.1)
    for rows in tqdm(order, desc="training", unit="batch", disable=None, leave=False):
        tokens = tokenizer([texts[i] for i in rows], truncation=True, padding=True, return_tensors="pt")
        loss = F.cross_entropy(model(**tokens).logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval(), tokenizer


@torch.no_grad()
def predict(model, tokenizer, texts, batch=256):
    """The predicted classes (N,) of N strings."""
    found = []
    for start in range(0, len(texts), batch):
        tokens = tokenizer(list(texts[start : start + batch]), truncation=True, padding=True, return_tensors="pt")
        found.append(model(**tokens).logits.argmax(1))
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
