"""Captions embedded a second by CLIP ViT-B/32 (random weights): its context of 77 tokens, or as many as they have.

    python benchmarks/bench_texts.py

One thread; the captions are of a vocabulary that ships. Prints both rates, their ratio and the largest difference.
"""

import argparse
import contextlib
import time

import numpy as np
import open_clip
import torch
from failure_directions.captions.vocabulary import get_caption_set
from failure_directions.embeddings import clip


def captions_a_second(count):
    """With the whole context and with as many tokens as the captions have, and the largest difference in deviations."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = sorted(get_caption_set("CIFAR").for_class("cat").captions("prep"), key=len)
    texts = [texts[i] for i in np.linspace(0, len(texts) - 1, count).astype(int)]

    @torch.inference_mode()
    def embed(context):
        began = time.process_time()
        parts = []
        for start in range(0, len(texts), 256):
            tokens = tokenizer(texts[start : start + 256])
            with context(model, tokens) as read:
                parts.append(model.encode_text(read))
        return torch.cat(parts), len(texts) / (time.process_time() - began)

    whole, slow = embed(lambda model, tokens: contextlib.nullcontext(tokens))
    cut, fast = embed(clip._short_context)
    return slow, fast, float((whole - cut).abs().max() / whole.std())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=512)
    args = parser.parse_args()
    slow, fast, difference = captions_a_second(args.captions)
    print(f"77 tokens: {slow:.1f} captions a second; as many as they have: {fast:.1f}, {fast / slow:.1f} times")
    print(f"largest difference {difference:.1e} of the embeddings' deviation")


if __name__ == "__main__":
    main()
