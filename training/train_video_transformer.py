"""Train the transformer of the small video model, and its text encoder, on codes of clips.

    python -m training.train_video_transformer --sprites build-video/sprites.npz --encoder build-video/encoder \
        --out build-video/transformer --minutes 50

The first frame of codes is given, the loss counts the others alone. In half of the sequences a stretch of codes is
replaced on the way in: what comes next has to follow from the frames before, whatever stands in the window that is being
drawn. Matrices are trained with Muon, the rest with AdamW. Interrupted runs continue with the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mcsjd_core.codecs.fsq import FiniteScalarQuantizer
from mcsjd_core.codecs.fsq_video import FSQVideoCodec
from mcsjd_core.families.cosmos import CosmosModel
from mcsjd_core.nn import transformer
from mcsjd_core.nn.grid_positions import GridPositions
from mcsjd_core.nn.transformer import TransformerConfig

from . import motion_data, video_captions
from .motion_data import CELL, SIZE, STEPS, Clip, Drawer, Sprites
from .schedule import Budget, Log, hold_then_fall, save, set_learning_rate
from .train_transformer import causal_attention
from .train_video_codec import pixels_of, read_encoder, some
from .train_video_encoder import CONFIG as CODEC

ROPE_THETA = 100.0  # the grid is 5 x 8 x 8: the slowest turn of an axis has to tell its ends apart
CONFIG = TransformerConfig(
    dim=192, layers=4, heads=3, kv_heads=3, head_dim=64, ffn_dim=640, qk_norm="rms", context_dim=video_captions.WIDTH
)
VOCABULARY = CODEC.codebook_size + 64  # the id that begins a video, and others that the public models have
SIDE, FRAMES = SIZE // CELL, STEPS + 1  # of the grid of codes
PER_FRAME = SIDE * SIDE
CLIPS, HELD_OUT = 6_000, 160  # clips that are encoded beforehand


@dataclass
class Settings:
    seed: int = 0
    batch: int = 8
    matrix_lr: float = 4e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.03
    warmup_steps: int = 50
    disturbed: float = 0.5  # share of the sequences with a stretch of replaced codes
    longest: int = 128  # codes, longest stretch


@torch.no_grad()
def encode(sprites: Sprites, codec: FSQVideoCodec, clips: list[Clip], batch: int = 32) -> Tensor:
    """Codes [clips, FRAMES SIDE SIDE] int16."""
    parts = [clips[start : start + batch] for start in range(0, len(clips), batch)]
    pixels = (pixels_of([motion_data.render(sprites, clip) for clip in part]) for part in parts)
    return torch.cat([codec.encode(part).flatten(1).short() for part in pixels])


class Sequences:
    """Clips with their codes, and batches of them."""

    def __init__(self, sprites_file: Path, encoder: Path, work: Path, settings: Settings):
        self.settings, self.sprites = settings, Sprites.load(sprites_file)
        drawer = Drawer(len(self.sprites.names), settings.seed)
        self.train = drawer.draw(CLIPS, np.random.default_rng((settings.seed, 4)))
        self.held_out = some(drawer.held_out, HELD_OUT, settings.seed)
        file = work / "codes.safetensors"
        if not file.exists():
            codec = read_encoder(encoder).eval()
            parts = {"train": self.train, "held_out": self.held_out}
            save_file({name: encode(self.sprites, codec, clips) for name, clips in parts.items()}, file)
        self.codes = {name: codes.long() for name, codes in load_file(file).items()}

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """Codes as the model sees them [B, N], as they are, and captions."""
        rows = rng.integers(len(self.train), size=self.settings.batch)
        captions = [motion_data.caption(self.train[row], self.sprites.names, rng) for row in rows]
        codes = self.codes["train"][rows]
        return self.disturb(codes, rng), codes, captions

    def disturb(self, codes: Tensor, rng: np.random.Generator) -> Tensor:
        """Replace a share of the codes of a stretch in some rows: by any code, by one of the frame before, or by a repeat."""
        seen, length = codes.clone(), codes.shape[1]
        for row in seen[: int(len(seen) * self.settings.disturbed)]:
            start = int(rng.integers(PER_FRAME, length))
            places = torch.arange(start, min(length, start + int(rng.integers(8, self.settings.longest + 1))))
            guesses = (
                torch.from_numpy(rng.integers(CODEC.codebook_size, size=len(places))),
                row[places - PER_FRAME],
                row[start - 1].expand(len(places)),
            )
            wrong = torch.from_numpy(rng.random(len(places)) < rng.uniform(0.1, 1.0))
            row[places] = torch.where(wrong, guesses[rng.integers(len(guesses))], row[places])
        return seen


class VideoModel(nn.Module):
    """The family's token model and its text encoder."""

    def __init__(self, names: list[str], seed: int):
        super().__init__()
        torch.manual_seed(seed)
        positions = GridPositions(SIDE, SIDE, 1, CONFIG.head_dim, CONFIG.dim, ROPE_THETA)
        self.tokens = CosmosModel(CONFIG, VOCABULARY, CODEC.codebook_size, positions, absolute=True)
        self.tokenizer = video_captions.build_tokenizer(names)
        self.encoder = video_captions.build_encoder(self.tokenizer)
        for name, parameter in self.tokens.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                nn.init.normal_(parameter, std=0.02)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=0.02 / (3 * CONFIG.layers) ** 0.5)
        # As large as the absolute embeddings, which every layer adds; codes whose levels are near begin near each other.
        embedding = self.tokens.model.embed_tokens.weight.data
        vectors = FiniteScalarQuantizer(CODEC.levels).vectors(torch.arange(CODEC.codebook_size))
        nn.init.normal_(embedding, std=0.5)
        embedding[: CODEC.codebook_size] += vectors @ torch.randn(len(CODEC.levels), CONFIG.dim) * 0.5

    def forward(self, codes: Tensor, context: Tensor) -> Tensor:
        """Logits [B, N - PER_FRAME, codebook size] for the codes [B, N] after the first frame."""
        begin, _ = self.tokens.start(len(codes))
        embeddings = torch.cat((begin, self.tokens.embed_ids(codes[:, :-1])), 1)
        positions = torch.arange(codes.shape[1]).expand(len(codes), -1)
        return self.tokens.lm_head(self.tokens.model(embeddings, positions, context=context)[:, PER_FRAME:])

    def loss(self, seen: Tensor, codes: Tensor, captions: list[str], reduction: str = "mean") -> Tensor:
        """Nats per code after the first frame."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self(seen, video_captions.context(self.encoder, self.tokenizer, captions))
        return F.cross_entropy(logits.float().flatten(0, 1), codes[:, PER_FRAME:].flatten(), reduction=reduction)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in plain matrix products: on a CPU the fused one's backward pass is slow in bfloat16."""
    return causal_attention(q, k, v, None)


def build_optimizers(model: VideoModel, settings: Settings) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.tokens.named_parameters() if name.endswith("_proj.weight")]
    chosen = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=settings.matrix_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=settings.vector_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(sprites: Path, encoder: Path, out: Path, minutes: float, settings: Settings) -> None:
    transformer.grouped_attention = plain_attention
    out.mkdir(parents=True, exist_ok=True)
    sequences = Sequences(sprites, encoder, out, settings)
    model = VideoModel(sequences.sprites.names, settings.seed)
    model.tokens.model.compile(dynamic=False)
    optimizers = build_optimizers(model, settings)
    checkpoint, log = out / "training.pt", Log(out / "log.jsonl")
    step, budget = 0, Budget(minutes)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, budget = state["step"], Budget(minutes, state["seconds"])
    losses: list[float] = []
    while budget.progress < 1:
        rng = np.random.default_rng((settings.seed, 5, step))  # keyed by step: a resumed run repeats nothing
        factor = min(1.0, (step + 1) / settings.warmup_steps) * hold_then_fall(budget.progress)
        loss = model.loss(*sequences.batch(rng))
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            set_learning_rate(optimizer, factor)
            optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 25 == 0:
            log(step=step, seconds=budget.seconds, loss=sum(losses) / len(losses), lr_factor=factor)
            losses.clear()
        if step % 100 == 0 or budget.progress >= 1:
            save(checkpoint, {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "seconds": budget.seconds,
            })  # fmt: skip
    report = evaluate(model, sequences) | {"steps": step, "seconds": budget.seconds, "settings": asdict(settings)}
    report |= {"parameters": sum(p.numel() for p in model.parameters()), "config": asdict(CONFIG)}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)


@torch.no_grad()
def evaluate(model: VideoModel, sequences: Sequences) -> dict:
    """Mean nats per code over the held-out clips, fed with right codes, and of every frame of codes alone."""
    rng, batch, losses = np.random.default_rng((sequences.settings.seed, 6)), sequences.settings.batch, []
    for start in range(0, HELD_OUT, batch):
        clips, codes = (part[start : start + batch] for part in (sequences.held_out, sequences.codes["held_out"]))
        captions = [motion_data.caption(clip, sequences.sprites.names, rng) for clip in clips]
        losses.append(model.loss(codes, codes, captions, reduction="none").view(len(clips), STEPS, PER_FRAME))
    by_frame = torch.cat(losses).mean((0, 2))
    return {"loss": by_frame.mean().item(), "loss_by_frame": by_frame.tolist(), "clips": HELD_OUT}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sprites", "encoder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=50.0, help="time budget of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    train(a.sprites, a.encoder, a.out, a.minutes, Settings(seed=a.seed))
