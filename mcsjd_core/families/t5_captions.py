"""Captions to hidden states with a T5 encoder, loaded for the moment of use: it is larger than many a token model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.checkpoint import Checkpoint, Fields, call_back, fill
from ..errors import InputError
from ..nn.weights import mapped_layers
from ..text.t5 import ACTIVATIONS, T5Config, T5Encoder
from ..text.text_tokenizer import read_tokenizer
from ..text.words import Words

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # the same table under one name or both


class T5Captions:
    """The encoder in a directory as it is published: config.json, weights (of a whole T5 or its encoder), tokenizer.json.

    `tokens` is the most that a caption may have, its end token included; what is longer is cut. Encoded captions are kept,
    those asked for last up to `KEPT_BYTES`, so that the encoder is read again for new ones only. It runs on the CPU in
    float32: a caption is short, and the device's memory belongs to the token model.
    """

    KEPT_BYTES = 256 * 2**20  # of hidden states: of whole captions 273 of LlamaGen's, 128 of Cosmos'

    def __init__(self, directory: Path, tokens: int):
        self.directory = directory
        self.known: dict[str, Tensor] = {}  # the one asked for last comes last
        if not directory.is_dir():
            raise InputError(
                f"{directory} is missing: the T5 encoder that this model reads its prompts with; put it there."
            )
        self.tokenizer = read_tokenizer(directory / "tokenizer.json")
        self.tokenizer.enable_truncation(tokens)

    @property
    def words(self) -> Words:
        return Words(self.tokenizer, self.directory)

    def encode(self, texts: list[str]) -> list[Tensor]:
        """Hidden states [n, width] float32 of every text, n its number of tokens."""
        asked = list(dict.fromkeys(texts))
        new = [text for text in asked if text not in self.known]
        found = dict(zip(new, self._encode(new), strict=True)) if new else {}
        found = {text: found[text] if text in found else self.known.pop(text) for text in asked}
        self.known |= found  # at the end: those asked for last are dropped last
        self._drop_oldest()
        return [found[text] for text in texts]

    def _drop_oldest(self) -> None:
        total = sum(states.nbytes for states in self.known.values())
        while total > self.KEPT_BYTES:
            total -= self.known.pop(next(iter(self.known))).nbytes

    @torch.no_grad()
    def _encode(self, texts: Iterable[str]) -> list[Tensor]:
        """One caption at a time, so that none is padded; the encoder is gone when this returns."""
        encoder = read_encoder(self.directory)
        for block in encoder.block:
            block.register_forward_pre_hook(lambda *_: call_back())  # a large encoder takes minutes here
        rows = [self.tokenizer.encode(text).ids for text in texts]
        if max(map(max, rows)) >= encoder.config.vocab_size:
            raise InputError(
                f"tokenizer.json in {self.directory} has more ids than the encoder; it belongs to another model."
            )
        return [encoder(torch.tensor([row]))[0] for row in rows]


def read_encoder(directory: Path) -> T5Encoder:
    """The encoder in a directory, to compute in float32; its matrices stay in their files, as these have them."""
    fields, checkpoint = Fields.of_file(directory / "config.json"), Checkpoint.of_directory(directory)
    table = next((name for name in EMBEDDINGS if name in checkpoint), EMBEDDINGS[0])
    encoder = T5Encoder(
        t5_config(fields, checkpoint.shape(table)[0]), dtype=torch.float32, device="meta", operations=mapped_layers(nn)
    )

    def own_name(name: str) -> str | None:
        """The module's name of a published tensor; None for the decoder's, and for a second copy of the embeddings."""
        if name == table:
            return "embed_tokens.weight"
        return name.removeprefix("encoder.") if name.startswith("encoder.") and name not in EMBEDDINGS else None

    fill(encoder, checkpoint.renamed(own_name), dtype=torch.float32, device="cpu", source=directory)
    return encoder


def t5_config(fields: Fields, vocab_size: int) -> T5Config:
    kind = fields.text("feed_forward_proj", "relu")
    gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
    if activation not in ACTIVATIONS:
        raise InputError(
            f"`feed_forward_proj` in {fields.where} has to be one of {', '.join(ACTIVATIONS)}, or gated-... of it, "
            f"got {kind!r}."
        )
    return T5Config(
        vocab_size=vocab_size,
        dim=fields.count("d_model"),
        layers=fields.count("num_layers"),
        heads=fields.count("num_heads"),
        head_dim=fields.count("d_kv"),
        ffn_dim=fields.count("d_ff"),
        activation=activation,
        gated=gated,
        buckets=fields.count("relative_attention_num_buckets", 32),
        max_distance=fields.count("relative_attention_max_distance", 128),
        norm_eps=fields.number("layer_norm_epsilon", 1e-6),
    )
