"""Train the transformer of the embedded image model on captions and codes of scenes that are drawn for every step.

    python -m training.train_scene_transformer --sprites build/sprites.npz --places build/places.npz \
        --codec build/codec --tokenizer build/tokenizer.json --out build/transformer --minutes 80

One sequence is `<s> caption <reserved08706> <racm3:break> code ...`; the loss counts codes alone. A tenth of the captions is
dropped, which is what classifier-free guidance needs. Codes that look alike stand for one another: what is fed is drawn among
them, and what is asked for is their distribution. In half of the sequences a stretch of codes is wrong in the input, as drafts
are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from mcsjd_core.families.chameleon import ChameleonTransformer, Vocabulary
from mcsjd_core.nn.transformer import TransformerConfig

from . import loop
from .chameleon_files import trained_tensors
from .disturbance import disturb
from .patch_encoder import CONFIG as CODEC
from .patch_encoder import PatchEncoder, load_encoder
from .scenes import COLUMNS, Scene, Scenes

CONFIG = TransformerConfig(dim=192, layers=6, heads=3, kv_heads=3, head_dim=64, ffn_dim=512, qk_norm="layer")
BATCH = 8
MATRIX_RATE, VECTOR_RATE = 3e-3, 2e-3
CAPTION_DROPOUT = 0.1
DISTURBED, LONGEST = 0.5, 128  # share of the sequences with a stretch of wrong codes, and its most codes
LENGTH_STEP = 16  # sequences are padded to a multiple
HELD_OUT = 48  # scenes a figure
# Codes with some of a thing weigh more than ground, whose noise would drown them. A thing's first code, rare at each place where
# it may stand, then is less often cut with the law's tail. The price: a law that is fitted so begins things up to THING_WEIGHT
# times as often as the data.
THING_WEIGHT = 2.0


@dataclass(frozen=True)
class Batch:
    """Sequences of B scenes of N codes each."""

    ids: Tensor  # [B, S], right-padded
    predicting: Tensor  # bool [B, S]: whether the place is asked for a code; N in every row
    choices: Tensor  # [B, N, CHOICES] codes that may be right
    shares: Tensor  # their probabilities
    covered: Tensor  # bool [B * N]: whether the code shows some of a thing


def drawn_codes(choices: Tensor, shares: Tensor, rng: np.random.Generator) -> Tensor:
    """One of the codes [B, N, CHOICES] of every place, by their shares: [B, N]."""
    points = torch.from_numpy(rng.random((*choices.shape[:2], 1))).to(shares)
    chosen = (shares.cumsum(-1) < points).sum(-1, keepdim=True).clamp_max(choices.shape[-1] - 1)
    return choices.gather(-1, chosen)[..., 0]


class Sequences:
    """Token sequences of scenes."""

    def __init__(self, scenes: Scenes, encoder: PatchEncoder, tokenizer: Tokenizer, device: str):
        self.scenes, self.encoder, self.tokenizer, self.device = scenes, encoder, tokenizer, device
        self.vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), CODEC.codebook_size)

    def batch(self, rng: np.random.Generator, count: int, unseen: bool = False, disturbed: float = 0.0) -> Batch:
        """`count` fresh scenes; a stretch of the input's codes is wrong in `disturbed` of them."""
        drawn = [self.scenes.draw(rng, unseen) for _ in range(count)]
        choices, shares = self.codes(drawn)
        codes = drawn_codes(choices, shares, rng)
        seen = disturb(codes, rng, disturbed, LONGEST, COLUMNS, 0, CODEC.codebook_size)
        prefixes = [self.prefix(scene, rng) for scene in drawn]
        length = max(map(len, prefixes)) + codes.shape[1] - 1  # the last code is predicted, never fed
        length = -(-length // LENGTH_STEP) * LENGTH_STEP
        ids = torch.ones(count, length, dtype=torch.long)
        predicting = torch.zeros(count, length, dtype=torch.bool)
        for row, prefix in enumerate(prefixes):
            first = len(prefix)
            ids[row, :first] = torch.tensor(prefix)
            ids[row, first : first + codes.shape[1] - 1] = seen[row, :-1] + self.vocabulary.first_code
            predicting[row, first - 1 : first - 1 + codes.shape[1]] = True
        covered = torch.from_numpy(np.stack([self.scenes.covered(scene) for scene in drawn])).flatten()
        return Batch(*(part.to(self.device) for part in (ids, predicting, choices, shares, covered)))

    def codes(self, drawn: list[Scene]) -> tuple[Tensor, Tensor]:
        """The codes [B, N, CHOICES] that each patch of the scenes may have, and their shares."""
        pixels = torch.from_numpy(np.stack([self.scenes.render(scene) for scene in drawn]))
        choices, shares = self.encoder.spread(pixels.permute(0, 3, 1, 2).float() / 255)
        return choices.flatten(1, 2), shares.flatten(1, 2)

    def prefix(self, scene: Scene, rng: np.random.Generator) -> list[int]:
        v = self.vocabulary
        if rng.random() < CAPTION_DROPOUT:
            return [v.bos, v.begin_of_image]
        text = self.tokenizer.encode(self.scenes.caption(scene, rng), add_special_tokens=False)
        return [v.bos, *text.ids, v.turn_end, v.begin_of_image]


def thing_weights(drawn: Mapping[str, list[bool]]) -> dict[str, float]:
    """How often each thing comes in training, from which of its pictures showed it whole (`training.whole_things`): in
    proportion to the pictures that did not, and two more for all."""
    return {name: 2.0 + pictures.count(False) for name, pictures in drawn.items()}


def build_model(tokenizer: Tokenizer, seed: int) -> ChameleonTransformer:
    torch.manual_seed(seed)
    vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), CODEC.codebook_size)
    model = ChameleonTransformer(CONFIG, tokenizer.get_vocab_size(), vocabulary, CODEC.codebook_size)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "norm" not in name:
            nn.init.normal_(parameter, std=0.02)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.normal_(parameter, std=0.02 / (2 * CONFIG.layers) ** 0.5)
    return model


def start_from(model: ChameleonTransformer, checkpoint: Path) -> None:
    """Begin with the weights of a checkpoint directory, whose tokenizer and codebook have to be the training's."""
    first = model.vocabulary.first_code
    stored = load_file(checkpoint / "model.safetensors")
    model.load_state_dict(trained_tensors(stored, CONFIG, slice(first, first + CODEC.codebook_size)))


class Training:
    """The task of `loop.train`."""

    def __init__(
        self,
        sequences: Sequences,
        seed: int,
        compiled: bool = False,
        rate_scale: float = 1.0,
        thing_weight: float = THING_WEIGHT,
        measured: Sequences | None = None,
    ):
        """measured: what figures are taken on; None takes `sequences`."""
        self.sequences, self.seed, self.thing_weight = sequences, seed, thing_weight
        self.measured = measured or sequences
        self.model = build_model(sequences.tokenizer, seed).to(sequences.device)
        self.modules = {"model": self.model}
        self.optimizers = loop.muon_and_adamw(self.model, rate_scale * MATRIX_RATE, rate_scale * VECTOR_RATE)
        self.learned_nats = torch.compile(self.nats) if compiled else self.nats

    def loss(self, rng: np.random.Generator, step: int) -> Tensor:
        batch = self.sequences.batch(rng, BATCH, disturbed=DISTURBED)
        weights = torch.where(batch.covered, self.thing_weight, 1.0)
        return (weights * self.learned_nats(batch)).sum() / weights.sum()

    def nats(self, batch: Batch) -> Tensor:
        """Cross-entropy of every code [B * N], in nats, with the shares of those that may be right."""
        ids = batch.ids
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        # Right padding needs no mask: nothing real looks at it.
        hidden = self.model.model(self.model.embed_ids(ids), positions)
        logits = self.model.lm_head(hidden[batch.predicting]).float()
        said = (batch.shares.flatten(0, 1) * logits.gather(-1, batch.choices.flatten(0, 1))).sum(-1)
        return logits.logsumexp(-1) - said

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Nats a code on scenes never drawn in training: of trained pairs of thing and place, and of held-out pairs; for
        both also of the codes with some of a thing, and the entropy of the shares, below which no model gets."""
        figures = {}
        for name, unseen in (("fresh", False), ("held_out_pairs", True)):
            rng = np.random.default_rng((self.seed, 2**32, unseen))
            batches = [self.measured.batch(rng, BATCH, unseen) for _ in range(HELD_OUT // BATCH)]
            nats = torch.cat([self.nats(batch) for batch in batches])
            figures[name] = nats.mean().item()
            figures[f"{name}_things"] = nats[torch.cat([batch.covered for batch in batches])].mean().item()
            figures[f"{name}_shares"] = (
                torch.cat([torch.special.entr(batch.shares).sum(-1) for batch in batches]).mean().item()
            )
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sprites", "places", "codec", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--start-from", type=Path, help="checkpoint directory whose transformer to begin with")
    parser.add_argument(
        "--rate-scale", type=float, default=1.0, help="factor on the learning rates; under 1 to refine weights"
    )
    parser.add_argument(
        "--thing-weight",
        type=float,
        default=THING_WEIGHT,
        help="of codes with some of a thing; ground weighs 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--drawn",
        type=Path,
        help="file of `training.whole_things --prompts things --out`; things drawn badly then come more often",
    )
    parser.add_argument("--compile", action="store_true", help="compile the loss; needs a C++ compiler on CPUs")
    loop.add_options(parser, minutes=80)
    a = parser.parse_args()
    settings = loop.settings_from(a)
    encoder, tokenizer = load_encoder(a.codec), Tokenizer.from_file(str(a.tokenizer))
    alike = Sequences(Scenes.load(a.sprites, a.places), encoder, tokenizer, settings.device)
    sequences = alike
    if a.drawn:
        weighted = Scenes(alike.scenes.sprites, alike.scenes.places, thing_weights(json.loads(a.drawn.read_text())))
        sequences = Sequences(weighted, encoder, tokenizer, settings.device)
    task = Training(sequences, settings.seed, a.compile, a.rate_scale, a.thing_weight, measured=alike)
    if a.start_from:
        start_from(task.model, a.start_from)
    loop.train(task, a.out, settings)


if __name__ == "__main__":
    main()
