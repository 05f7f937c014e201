"""The small video model's text encoder: words to ids, and a T5 encoder of one layer, as transformers saves it."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from . import motion_data

WIDTH, MOST_WORDS = 128, 16  # of a context row; rows of the context, the end among them
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer(names: list[str]) -> Tokenizer:
    """One id a word, of all words that captions of things with these names have, and one for every other word."""
    phrases = [phrase.format(thing="", direction="") for kind in motion_data.PHRASES.values() for phrase in kind]
    texts = [name.replace("-", " ") for name in names] + phrases + list(motion_data.DIRECTIONS)
    words = {word for text in texts for word in text.lower().split()}
    vocabulary = {word: id for id, word in enumerate((PAD, END, UNKNOWN, *sorted(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {END}", special_tokens=[(END, vocabulary[END])])
    return tokenizer


def build_encoder(tokenizer: Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(T5Config(
        vocab_size=tokenizer.get_vocab_size(), d_model=WIDTH, d_kv=32, num_heads=4, d_ff=256, num_layers=1,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, feed_forward_proj="relu", initializer_factor=1.0,
    ))  # fmt: skip


def context(encoder: T5EncoderModel, tokenizer: Tokenizer, captions: list[str]) -> Tensor:
    """States [B, MOST_WORDS, WIDTH] of captions, zero behind their ends, as the family makes them."""
    rows = [tokenizer.encode(caption).ids for caption in captions]
    device = encoder.device
    ids = torch.tensor([row + [0] * (MOST_WORDS - len(row)) for row in rows], device=device)
    real = torch.tensor([[place < len(row) for place in range(MOST_WORDS)] for row in rows], device=device)
    states = encoder(input_ids=ids, attention_mask=real.long()).last_hidden_state
    return states * real[..., None]
