"""Training sequences of the transformer: which picture is drawn, under which caption, and what is disturbed of it.

One sequence is `<s> caption <reserved08706> <racm3:break> code ...`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcsjd_core.families.chameleon import Vocabulary

from . import emoji_data
from .train_codec import CONFIG as CODEC

# How often a picture is drawn, by its kind. Shifted copies are the codec's alone: one caption is to mean one picture.
KIND_WEIGHTS = {"identity": 1.0, "shifted": 0.0, "recoloured": 0.05}
SKIN_WEIGHT = 0.03  # half of the glyphs are skin tones of one another
LENGTH_STEP = 16  # sequences are padded to a multiple: every length is compiled once
IGNORED = -100  # cross_entropy's mark for "no loss here"
UNSEEN = 1.0  # nats per code taken for a picture that was not drawn yet
RARELY, OFTEN = 0.5, 2.0  # bounds of how much its loss makes a picture rarer or more frequent among those of its kind
MEMORY = 0.5  # share of a picture's earlier losses in its running loss


@dataclass
class Settings:
    seed: int = 0
    batch: int = 16
    matrix_lr: float = 3e-3
    vector_lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    fall_from: float = 0.7  # share of the budget after which the learning rates fall
    caption_dropout: float = 0.06
    noisy: float = 0.4  # share of the sequences whose codes are disturbed on the way in
    noise: float = 0.15  # largest share of codes replaced in one of them


def picture_weights(glyphs: list[dict], variants: list[dict]) -> np.ndarray:
    """How often each picture is drawn [M]; 0 where a recoloured copy would take the name of another picture.

    `red heart` in green is left out: there is a green heart.
    """
    taken = {glyph["name"] for glyph in glyphs}
    weights = np.zeros(len(variants))
    for row, (glyph, variant) in enumerate(zip(glyphs, variants, strict=True)):
        if variant["kind"] == "recoloured":
            name = emoji_data.recoloured_name(glyph, variant)
            if name in taken:
                continue
            taken.add(name)
        weights[row] = KIND_WEIGHTS[variant["kind"]] * (SKIN_WEIGHT if glyph["skin"] else 1.0)
    return weights


class Sequences:
    """Draws training batches: a picture by weight and by how badly it is known, one of its captions, its codes."""

    def __init__(self, data: Path, codes: Tensor, tokenizer: Tokenizer, settings: Settings):
        emoji = emoji_data.load(data)
        self.glyphs, self.variants = emoji.glyph_of, emoji.variants
        if len(codes) != len(self.variants):
            raise SystemExit(
                f"{len(codes)} rows of codes do not belong to {len(self.variants)} pictures; encode them again."
            )
        self.codes, self.tokenizer, self.settings = codes, tokenizer, settings
        self.vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), CODEC.codebook_size)
        self.weights = picture_weights(self.glyphs, self.variants)
        self.drawn = self.weights.nonzero()[0]
        # Losses are compared within a kind: recoloured copies, which are hardly known, would take the draws of all others.
        kinds = np.array([variant["kind"] for variant in self.variants])
        self.kinds = [(kinds == kind) & (self.weights > 0) for kind, weight in KIND_WEIGHTS.items() if weight]
        self.losses = np.full(len(self.weights), UNSEEN)  # nats per code of every picture, a running mean

    def rows(self, rng: np.random.Generator, by_loss: bool) -> np.ndarray:
        """Rows of a batch [B]. With `by_loss` badly known pictures come more often than well-known ones of their kind."""
        weights = self.weights
        if by_loss:
            weights = weights.copy()
            for kind in self.kinds:
                mean = np.average(self.losses[kind], weights=weights[kind])
                weights[kind] *= np.clip(self.losses[kind] / mean, RARELY, OFTEN)
        cumulative = np.cumsum(weights)
        return np.searchsorted(cumulative, rng.random(self.settings.batch) * cumulative[-1], side="right")

    def learned(self, rows: np.ndarray, losses: Tensor) -> None:
        """Take note of the losses [B] that the pictures `rows` [B] had."""
        self.losses[rows] = MEMORY * self.losses[rows] + (1 - MEMORY) * losses.numpy()

    def prefix(self, row: int, rng: np.random.Generator) -> list[int]:
        v = self.vocabulary
        if rng.random() < self.settings.caption_dropout:
            return [v.bos, v.begin_of_image]
        text = emoji_data.caption(self.glyphs[row], self.variants[row], rng)
        return [v.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids, v.turn_end, v.begin_of_image]

    def disturbed(self, row: int, rng: np.random.Generator) -> Tensor:
        """Codes [N] as the model sees them: in some sequences a few are wrong, while the right ones are asked for.

        A model that was always fed right codes leaves what it knows at its first wrong draw. Half of the wrong codes are
        any code, half come from the same place of another picture.
        """
        codes = self.codes[row].numpy().copy()
        if rng.random() < self.settings.noisy:
            wrong = rng.random(len(codes)) < rng.uniform(0, self.settings.noise)
            anything = rng.integers(CODEC.codebook_size, size=len(codes))
            another = self.codes[rng.choice(self.drawn)].numpy()
            codes[wrong] = np.where(rng.random(len(codes)) < 0.5, anything, another)[wrong]
        return torch.from_numpy(codes)

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """ids [B, S] of pictures `rows` [B], right-padded, and the code each place predicts [B, S], IGNORED elsewhere."""
        prefixes = [self.prefix(int(row), rng) for row in rows]
        count = self.codes.shape[1]
        length = max(map(len, prefixes)) + count - 1  # the last code is predicted, never fed
        length = -(-length // LENGTH_STEP) * LENGTH_STEP
        ids = torch.ones(len(rows), length, dtype=torch.long)
        targets = torch.full((len(rows), length), IGNORED)
        for b, (row, prefix) in enumerate(zip(rows, prefixes, strict=True)):
            first = len(prefix)
            ids[b, :first] = torch.tensor(prefix)
            ids[b, first : first + count - 1] = self.disturbed(row, rng)[:-1] + self.vocabulary.first_code
            targets[b, first - 1 : first - 1 + count] = self.codes[row]
        return ids, targets
