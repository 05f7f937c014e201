"""Train the codec of the embedded model: a small VQGAN, 128 x 128 pixels to 16 x 16 codes.

    python -m training.train_codec --data build/emoji --out build/codec --minutes 30

The loss is L1 + squared error: no adversary and no perceptual network, so nothing has to be downloaded and the figure
reported (PSNR on held-out glyphs) is what the training asks for. The codebook follows the latents by exponential moving
averages (van den Oord et al., 2017, appendix A.1); codes that nobody uses are moved onto current latents.
Interrupted runs continue with the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig

from . import emoji_data

CONFIG = VQGANConfig(
    channels=32,
    channel_multipliers=(1, 1, 2, 4),
    res_blocks=1,
    z_channels=64,
    embed_dim=8,
    codebook_size=1024,
)


@dataclass
class Settings:
    seed: int = 0
    batch: int = 16
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    continuous_steps: int = 250  # steps before the codebook is switched on: it starts on latents that mean something
    commitment: float = 0.25
    ema_decay: float = 0.98
    unused_below: float = 0.02  # moving count of a batch's uses below which a code is moved


class CodebookTrainer:
    """Straight-through quantisation whose rows follow the latents by exponential moving averages."""

    def __init__(self, weight: Tensor, settings: Settings):
        self.weight, self.settings = weight, settings
        self.counts = torch.ones(len(weight))
        self.sums = weight.detach().clone()

    def initialise(self, latents: Tensor, generator: torch.Generator) -> None:
        """Put the rows on latents [n, d]: random picks, then a few rounds of k-means."""
        rows = latents[torch.randperm(len(latents), generator=generator)[: len(self.weight)]].clone()
        for _ in range(10):
            nearest = torch.cdist(latents, rows).argmin(1)
            counts = torch.bincount(nearest, minlength=len(rows)).float()
            sums = torch.zeros_like(rows).index_add_(0, nearest, latents)
            rows = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), rows)
        self.weight.data.copy_(rows)
        self.sums, self.counts = rows.clone(), torch.ones(len(rows))

    def update(self, latents: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move the rows towards the latents [n, d] that chose them."""
        decay = self.settings.ema_decay
        one_batch = torch.bincount(codes, minlength=len(self.weight)).float()
        self.counts.mul_(decay).add_(one_batch, alpha=1 - decay)
        self.sums.mul_(decay).add_(torch.zeros_like(self.sums).index_add_(0, codes, latents), alpha=1 - decay)
        unused = (self.counts < self.settings.unused_below).nonzero().flatten()
        if len(unused):
            picks = torch.randint(len(latents), (len(unused),), generator=generator)
            self.sums[unused], self.counts[unused] = latents[picks], 1.0
        self.weight.data.copy_(self.sums / self.counts[:, None])

    def state(self) -> dict:
        return {"counts": self.counts, "sums": self.sums}

    def restore(self, state: dict) -> None:
        self.counts, self.sums = state["counts"], state["sums"]


def pixels_of(images, rows) -> Tensor:
    """Pictures [n, 3, H, W] in 0..1 of the uint8 array [M, H, W, 3]."""
    # Contiguous: on a CPU the backward pass of group norm is several times slower in channels-last order.
    return torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float().div_(255).contiguous()


def draw_rows(rows: list[int], weights: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """`count` of the rows, with replacement, in proportion to their weights."""
    return [rows[i] for i in torch.multinomial(weights, count, replacement=True, generator=generator).tolist()]


def training_step(model: VQGAN, book: CodebookTrainer, pixels: Tensor, quantise: bool, generator) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and the latents [n, d] of one batch; moves the codebook when it is on."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = model.latents(pixels).float()
        vectors, commitment = latents, latents.new_zeros(())
        if quantise:
            codes = model.quantize.nearest(latents.detach())
            rows = model.quantize.lookup(codes).detach()
            commitment = F.mse_loss(latents, rows)
            vectors = latents + (rows - latents).detach()
            book.update(latents.detach().flatten(0, 2), codes.flatten(), generator)
        picture = model.reconstruct(vectors)
    error = picture.float() - pixels
    # Squared error alone blurs edges, L1 alone lets flat areas drift; 4 brings the two to one size on this data.
    return error.abs().mean() + 4 * error.square().mean() + book.settings.commitment * commitment, latents


def learning_rate(step: int, progress: float, settings: Settings) -> float:
    """Linear warm-up over steps, then a cosine over `progress` (0 to 1 of the budget) down to a fiftieth."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def evaluate(model: VQGAN, images, rows, batch: int = 32) -> dict:
    """Mean PSNR in dB (peak 1, mean over pictures) and the number of codes used, over the given rows."""
    psnr, used = [], set()
    for start in range(0, len(rows), batch):
        pixels = pixels_of(images, rows[start : start + batch])
        codes = model.encode(pixels)
        error = (model.decode(codes) - pixels).square().flatten(1).mean(1)
        psnr += (-10 * error.clamp_min(1e-10).log10()).tolist()
        used |= set(codes.unique().tolist())
    return {"psnr": sum(psnr) / len(psnr), "pictures": len(psnr), "codes_used": len(used)}


def train(data: Path, out: Path, minutes: float, steps: int, settings: Settings) -> None:
    emoji = emoji_data.load(data)
    glyphs = emoji.glyph_of
    train_rows = [row for row, glyph in enumerate(glyphs) if glyph["split"] == "train"]
    # Skin tones are half of the glyphs and nearly alike: each is drawn half as often.
    weights = torch.tensor([0.5 if glyphs[row]["skin"] else 1.0 for row in train_rows])
    held_out = [
        row
        for row, glyph in enumerate(glyphs)
        if glyph["split"] == "held_out" and emoji.variants[row]["kind"] == "identity"
    ]
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    model = VQGAN(CONFIG)
    book = CodebookTrainer(model.quantize.embedding.weight, settings)
    learned = [p for name, p in model.named_parameters() if not name.startswith("quantize.")]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "training.pt", out / "log.jsonl"
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        book.restore(state["book"])
        generator.set_state(state["generator"])
        step, spent = state["step"], state["seconds"]
    started = time.perf_counter() - spent
    losses: list[float] = []
    while step < steps and time.perf_counter() - started < minutes * 60:
        pixels = pixels_of(emoji.images, draw_rows(train_rows, weights, settings.batch, generator))
        # The schedule follows whichever of the two budgets, steps or minutes, is nearer its end.
        progress = max(step / steps, (time.perf_counter() - started) / (minutes * 60))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, settings)
        quantise = step >= settings.continuous_steps
        if step == settings.continuous_steps:
            sample = draw_rows(train_rows, weights, 256, generator)
            with torch.no_grad():
                book.initialise(model.latents(pixels_of(emoji.images, sample)).flatten(0, 2), generator)
        loss, _ = training_step(model, book, pixels, quantise, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            record = {"step": step, "seconds": time.perf_counter() - started, "loss": sum(losses) / len(losses)}
            losses.clear()
            if step % 500 == 0:
                record |= evaluate(model, emoji.images, held_out[:128])
                save(checkpoint, model, optimizer, book, generator, step, record["seconds"])
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
    finish(out, model, optimizer, book, generator, step, time.perf_counter() - started, emoji.images, held_out, settings)


def save(path: Path, model, optimizer, book, generator, step: int, seconds: float) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "book": book.state(),
        "generator": generator.get_state(),
        "step": step,
        "seconds": seconds,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def finish(out: Path, model, optimizer, book, generator, step, seconds, images, held_out, settings) -> None:
    save(out / "training.pt", model, optimizer, book, generator, step, seconds)
    report = {"steps": step, "seconds": seconds, "settings": asdict(settings), "config": asdict(CONFIG)}
    report |= evaluate(model, images, held_out)
    (out / "report.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder written by training.emoji_data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0, help="time budget of the training itself")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.data, arguments.out, arguments.minutes, arguments.steps, Settings(seed=arguments.seed))
