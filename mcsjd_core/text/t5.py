"""Captions to hidden states with a T5 encoder, loaded for the moment of use: it is larger than many a token model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .text_tokenizer import read_tokenizer
from .words import Words


class T5Captions:
    """The encoder in a directory as transformers saves it: config.json, safetensors, tokenizer.json.

    `tokens` is the most that a caption may have, its end token included; what is longer is cut. Encoded captions are kept,
    so that the encoder is read again for new ones only. It runs on the CPU in float32: a caption is short, and the device's
    memory belongs to the token model.
    """

    KEPT = 256  # captions, a megabyte each at the most

    def __init__(self, directory: Path, tokens: int):
        self.directory, self.known = directory, {}
        if not directory.is_dir():
            raise InputError(f"{directory} is missing: the T5 encoder that this model reads its prompts with.")
        self.tokenizer = read_tokenizer(directory / "tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(tokens)

    @property
    def words(self) -> Words:
        return Words(self.tokenizer, self.directory)

    def encode(self, texts: list[str]) -> list[Tensor]:
        """Hidden states [n, width] float32 of every text, n its number of tokens."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            found = dict(zip(new, self._encode(new), strict=True))
            kept = list(self.known.items())[-self.KEPT :]
            self.known = dict(kept) | found
        return [self.known[text] for text in texts]

    def _encode(self, texts: Iterable[str]) -> list[Tensor]:
        """One caption at a time, so that none is padded; the encoder is gone when this returns."""
        encoder = self._read_encoder()
        ids = [self.tokenizer.encode(text).ids for text in texts]
        with torch.no_grad():
            return [encoder(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids]

    def _read_encoder(self):
        try:
            from transformers import T5EncoderModel
        except ImportError:
            raise InputError("This model's captions need the package transformers, which is not installed.") from None
        try:
            encoder = T5EncoderModel.from_pretrained(self.directory, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{self.directory} holds no whole T5 encoder ({reason}); download it again.") from None
        return encoder.float().eval()
