"""Train the transformer of the small video model, and its text encoder, on codes of clips that are made on the fly.

The first frame of codes is given, the loss counts the others alone. In half of the sequences a stretch of codes is
replaced in the input: what comes next has to follow from the frames before, whatever stands in the window that is being
drawn. Matrices are trained with Muon, the rest with AdamW.

    python -m training.train_video_transformer --stage build-video/stage.npz --encoder build-video/encoder \
        --out build-video/transformer --minutes 60
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5EncoderModel

from mcsjd_core.codecs.fsq_video import FSQVideoCodec
from mcsjd_core.families.cosmos import CosmosModel
from mcsjd_core.families.cosmos_shapes import core_name
from mcsjd_core.nn.grid_positions import GridPositions
from mcsjd_core.nn.transformer import TransformerConfig

from . import loop, motion_data, video_captions
from .disturbance import disturb
from .motion_data import CELL, CHUNK, SIZE, STEPS, Clip, Stage
from .muon import Muon
from .train_video_codec import pixels_of
from .train_video_encoder import CONFIG as CODEC
from .train_video_encoder import codes_of, read_encoder

ROPE_THETA = 100.0  # the grid is 5 x 8 x 8: the slowest turn of an axis has to tell its ends apart
CONFIG = TransformerConfig(
    dim=192, layers=4, heads=3, kv_heads=3, head_dim=64, ffn_dim=640, qk_norm="rms", context_dim=video_captions.WIDTH
)
VOCABULARY = CODEC.codebook_size + 64  # the id that begins a video, and others that the public models have
SIDE, FRAMES = SIZE // CELL, STEPS + 1  # of the grid of codes
PER_FRAME = SIDE * SIDE
HELD_OUT = 48  # clips that measure


@dataclass
class Settings:
    seed: int = 0
    tokens: int = 5 * FRAMES * PER_FRAME  # of a batch
    short: float = 0.6  # share of the batches with fewer frames of codes: what is hard is how a motion begins
    short_frames: int = 3
    matrix_lr: float = 4e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.03
    disturbed: float = 0.5  # share of the sequences with a stretch of replaced codes
    longest: int = 128  # codes, longest stretch


class Sequences:
    """Clips made on the fly, as codes and captions."""

    def __init__(self, stage: Stage, codec: FSQVideoCodec, settings: Settings):
        self.stage, self.codec, self.settings = stage, codec, settings

    def encode(self, clips: list[Clip], frames: int = FRAMES) -> Tensor:
        """Codes [clips, frames SIDE SIDE] of their first frames of codes."""
        shown = 1 + CHUNK * (frames - 1)
        pixels = pixels_of([motion_data.render(self.stage, clip)[:shown] for clip in clips])
        return codes_of(self.codec, pixels.to(self.codec.input_device)).flatten(1)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """Codes as the model sees them [B, N], as they are, and captions."""
        s = self.settings
        frames = s.short_frames if rng.random() < s.short else FRAMES
        clips = [motion_data.draw_clip(self.stage, rng) for _ in range(s.tokens // (frames * PER_FRAME))]
        codes = self.encode(clips, frames)
        captions = [motion_data.caption(self.stage, clip, rng) for clip in clips]
        seen = disturb(codes, rng, s.disturbed, s.longest, PER_FRAME, PER_FRAME, CODEC.codebook_size)
        return seen, codes, captions


class CodeTable(nn.Module):
    """Embeddings of all codes, each the sum of one vector for every channel's level and one of its own.

    Codes that are near begin near each other, and rare ones learn from their neighbours.
    """

    def __init__(self, levels: tuple[int, ...], dim: int):
        super().__init__()
        codes, basis = torch.arange(int(np.prod(levels))), np.cumprod((1, *levels[:-1]))
        first = np.cumsum((0, *levels[:-1]))  # of every channel's rows
        rows = [codes // int(b) % level + int(f) for b, level, f in zip(basis, levels, first, strict=True)]
        self.register_buffer("rows", torch.stack(rows, 1), persistent=False)
        self.of_level = nn.Parameter(torch.randn(sum(levels), dim) * 0.4)
        self.own = nn.Parameter(torch.randn(len(codes), dim) * 0.3)

    def forward(self) -> Tensor:
        """[codes, dim]."""
        return F.embedding(self.rows, self.of_level).sum(1) + self.own


class VideoModel(nn.Module):
    """The family's token model and its text encoder. While it is trained, one table embeds codes and scores them."""

    def __init__(self, names: list[str], seed: int):
        super().__init__()
        torch.manual_seed(seed)
        positions = GridPositions(SIDE, SIDE, 1, CONFIG.head_dim, CONFIG.dim, ROPE_THETA)
        self.tokens = CosmosModel(CONFIG, VOCABULARY, CODEC.codebook_size, positions, absolute=True)
        self.tokenizer = video_captions.build_tokenizer(names)
        self.encoder = video_captions.build_encoder(self.tokenizer)
        self.table = CodeTable(CODEC.levels, CONFIG.dim)
        self.head_scale = nn.Parameter(torch.tensor(0.1))
        for name, parameter in self.tokens.model.layers.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                nn.init.normal_(parameter, std=0.02)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=0.02 / (3 * CONFIG.layers) ** 0.5)

    def forward(self, codes: Tensor, context: Tensor) -> Tensor:
        """Logits [B, N - PER_FRAME, codebook size] for the codes [B, N] after the first frame."""
        table = self.table()
        begin, _ = self.tokens.start(len(codes))
        embeddings = torch.cat((begin, F.embedding(codes[:, :-1], table)), 1)
        positions = torch.arange(codes.shape[1], device=codes.device).expand(len(codes), -1)
        hidden = self.tokens.model(embeddings, positions, context=context)[:, PER_FRAME:]
        return hidden @ (table * self.head_scale).T

    def loss(self, seen: Tensor, codes: Tensor, captions: list[str], reduction: str = "mean") -> Tensor:
        """Nats per code after the first frame."""
        logits = self(seen, video_captions.context(self.encoder, self.tokenizer, captions))
        return F.cross_entropy(logits.float().flatten(0, 1), codes[:, PER_FRAME:].flatten(), reduction=reduction)

    @torch.no_grad()
    def finished(self) -> CosmosModel:
        """The token model with the table in the two places where the family reads it."""
        table = self.table()
        self.tokens.model.embed_tokens.weight[: len(table)] = table
        self.tokens.lm_head.weight.copy_(table * self.head_scale)
        return self.tokens

    def parameters_by_optimizer(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Matrices for Muon, and the rest; what `finished` fills is not learned."""
        learned = {name: p for name, p in self.named_parameters() if name != "tokens.lm_head.weight"}
        matrices = [p for name, p in learned.items() if name.startswith("tokens.") and name.endswith("_proj.weight")]
        chosen = set(map(id, matrices))
        return matrices, [p for p in learned.values() if id(p) not in chosen]


class TransformerTask:
    """The training of transformer and text encoder, for `loop.train`."""

    def __init__(self, stage: Stage, codec: FSQVideoCodec, settings: Settings, device: str):
        self.settings = settings
        self.sequences = Sequences(stage, codec.to(device).eval(), settings)
        self.model = VideoModel(stage.names, settings.seed).to(device)
        self.modules = {"model": self.model}
        matrices, rest = self.model.parameters_by_optimizer()
        self.optimizers = [
            Muon(matrices, settings.matrix_lr, weight_decay=settings.weight_decay),
            torch.optim.AdamW(rest, lr=settings.vector_lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def loss(self, rng: np.random.Generator, step: int) -> Tensor:
        return self.model.loss(*self.sequences.batch(rng))

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Nats per code on held-out ground, fed with right codes: on the whole, by frame of codes, by kind of motion."""
        rng, stage = np.random.default_rng((self.settings.seed, 6)), self.sequences.stage
        motions = motion_data.motions()
        rows = []
        for _ in range(HELD_OUT // len(motions)):
            clips = [motion_data.draw_clip(stage, rng, motion, held_out=True) for motion in motions]
            codes = self.sequences.encode(clips)
            captions = [motion_data.caption(stage, clip) for clip in clips]
            rows.append(self.model.loss(codes, codes, captions, reduction="none").view(-1, STEPS, PER_FRAME).mean(2))
        losses = torch.stack(rows)  # [rounds, motions, STEPS]
        by_motion = {" ".join(motion): nats for motion, nats in zip(motions, losses.mean((0, 2)).tolist(), strict=True)}
        return {
            "held_out": losses.mean().item(),
            "held_out_by_frame": losses.mean((0, 1)).tolist(),
            "held_out_by_motion": by_motion,
            "clips": losses.shape[0] * losses.shape[1],
        }


def start_from(model: VideoModel, directory: Path) -> None:
    """Begin with the layers and the words of another model of this shape, whose codes may mean something else."""
    state = {core_name(name): t for name, t in load_file(directory / "model.safetensors").items()}
    kept = {name: t for name, t in state.items() if name.startswith(("model.layers.", "model.norm."))}
    heads = ("q_norm.weight", "k_norm.weight")
    kept = {name: t[None] if name.endswith(heads) else t for name, t in kept.items()}
    model.tokens.load_state_dict(kept, strict=False)
    words = Tokenizer.from_file(str(directory / "t5" / "tokenizer.json")).get_vocab()
    encoder = T5EncoderModel.from_pretrained(directory / "t5", dtype=torch.float32).state_dict()
    own = model.encoder.state_dict()
    for name, weights in encoder.items():
        if weights.shape == own[name].shape and not name.endswith(("shared.weight", "embed_tokens.weight")):
            own[name].copy_(weights)
    for word, row in model.tokenizer.get_vocab().items():
        if word in words:
            own["shared.weight"][row] = encoder["shared.weight"][words[word]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=Path, required=True, help="file written by training.stage")
    parser.add_argument("--encoder", type=Path, required=True, help="folder written by training.train_video_encoder")
    parser.add_argument("--start-from", type=Path, help="checkpoint directory of an earlier model of this shape")
    parser.add_argument("--out", type=Path, required=True)
    loop.add_options(parser, minutes=60.0)
    a = parser.parse_args()
    task = TransformerTask(Stage.load(a.stage), read_encoder(a.encoder), Settings(seed=a.seed), a.device)
    if a.start_from:
        start_from(task.model, a.start_from)
    loop.train(task, a.out, loop.settings_from(a))
