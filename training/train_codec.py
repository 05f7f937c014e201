"""Train the codec of the embedded model: a small VQGAN, 128 x 128 pixels to 16 x 16 codes.

    python -m training.train_codec --data build/emoji --out build/codec --minutes 52

The loss is L1 + squared error: no adversary and no perceptual network, so nothing has to be downloaded and the figure
reported (PSNR on held-out glyphs) is what the training asks for. The codebook follows the latents by exponential moving
averages (van den Oord et al., 2017, appendix A.1); codes that nobody uses are moved onto current latents.
Interrupted runs continue with the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mcsjd_core.codecs.vqgan import VQGAN, VQGANConfig

from . import emoji_data
from .schedule import Budget, Log, cosine, save, set_learning_rate

CONFIG = VQGANConfig(
    channels=32,
    channel_multipliers=(1, 1, 2, 4),
    res_blocks=1,
    z_channels=64,
    embed_dim=8,
    codebook_size=1024,
)
SKIN_WEIGHT = 0.5  # skin tones are half of the glyphs and nearly alike
FIRST_PICTURES = 256  # whose latents the codebook starts on


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
    """Rows that follow the latents by exponential moving averages."""

    def __init__(self, weight: Tensor, settings: Settings, generator: torch.Generator):
        self.weight, self.settings, self.generator = weight, settings, generator
        self.counts = torch.ones(len(weight))
        self.sums = weight.detach().clone()

    def initialise(self, latents: Tensor) -> None:
        """Put the rows on latents [n, d]: random picks, then a few rounds of k-means."""
        rows = latents[torch.randperm(len(latents), generator=self.generator)[: len(self.weight)]].clone()
        for _ in range(10):
            nearest = torch.cdist(latents, rows).argmin(1)
            counts = torch.bincount(nearest, minlength=len(rows)).float()
            sums = torch.zeros_like(rows).index_add_(0, nearest, latents)
            rows = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), rows)
        self.weight.data.copy_(rows)
        self.sums, self.counts = rows.clone(), torch.ones(len(rows))

    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Move the rows towards the latents [n, d] that chose them with codes [n]."""
        decay = self.settings.ema_decay
        one_batch = torch.bincount(codes, minlength=len(self.weight)).float()
        self.counts.mul_(decay).add_(one_batch, alpha=1 - decay)
        self.sums.mul_(decay).add_(torch.zeros_like(self.sums).index_add_(0, codes, latents), alpha=1 - decay)
        unused = (self.counts < self.settings.unused_below).nonzero().flatten()
        if len(unused):
            picks = torch.randint(len(latents), (len(unused),), generator=self.generator)
            self.sums[unused], self.counts[unused] = latents[picks], 1.0
        self.weight.data.copy_(self.sums / self.counts[:, None])


class Pictures:
    """The data set's pictures: training rows drawn by weight, and the held-out identity rows."""

    def __init__(self, data: Path, generator: torch.Generator):
        emoji = emoji_data.load(data)
        self.images, self.generator = emoji.images, generator
        rows = list(zip(emoji.glyph_of, emoji.variants, strict=True))
        self.train = [row for row, (glyph, _) in enumerate(rows) if glyph["split"] == "train"]
        self.held_out = [
            row
            for row, (glyph, variant) in enumerate(rows)
            if glyph["split"] == "held_out" and variant["kind"] == "identity"
        ]
        self.weights = torch.tensor([SKIN_WEIGHT if rows[row][0]["skin"] else 1.0 for row in self.train])

    def draw_rows(self, count: int) -> list[int]:
        """Rows of `count` training pictures."""
        picks = torch.multinomial(self.weights, count, replacement=True, generator=self.generator)
        return [self.train[i] for i in picks.tolist()]

    def draw(self, count: int) -> Tensor:
        """`count` training pictures [count, 3, H, W] in 0..1."""
        return pixels_of(self.images, self.draw_rows(count))


def pixels_of(images, rows) -> Tensor:
    """Pictures [n, 3, H, W] in 0..1 of the uint8 array [M, H, W, 3]."""
    # Contiguous: on a CPU the backward pass of group norm is several times slower in channels-last order.
    return torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float().div_(255).contiguous()


def codec_loss(model: VQGAN, book: CodebookTrainer, pixels: Tensor, quantise: bool) -> Tensor:
    """Loss (scalar) of pictures [B, 3, H, W]; moves the codebook when `quantise`."""
    settings = book.settings
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = model.latents(pixels).float()
        vectors, commitment = latents, latents.new_zeros(())
        if quantise:
            codes = model.quantize.nearest(latents.detach())
            rows = model.quantize.lookup(codes).detach()
            commitment = F.mse_loss(latents, rows)
            vectors = latents + (rows - latents).detach()  # straight through
            book.update(latents.detach().flatten(0, 2), codes.flatten())
        picture = model.reconstruct(vectors)
    return picture_error(picture, pixels) + settings.commitment * commitment


def picture_error(picture: Tensor, pixels: Tensor) -> Tensor:
    """Loss (scalar) of a reconstruction [B, 3, H, W]."""
    error = picture.float() - pixels
    # Squared error alone blurs edges, L1 alone lets flat areas drift; 4 brings the two to one size on this data.
    return error.abs().mean() + 4 * error.square().mean()


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


def train(data: Path, out: Path, minutes: float, settings: Settings) -> None:
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    pictures, model = Pictures(data, generator), VQGAN(CONFIG)
    book = CodebookTrainer(model.quantize.embedding.weight, settings, generator)
    learned = [p for name, p in model.named_parameters() if not name.startswith("quantize.")]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "training.pt", Log(out / "log.jsonl")
    step, budget = 0, Budget(minutes)
    if checkpoint.exists():
        step, budget = restore(checkpoint, model, optimizer, book, minutes)
    losses: list[float] = []
    while budget.progress < 1:
        set_learning_rate(optimizer, min(1.0, (step + 1) / settings.warmup_steps) * cosine(budget.progress))
        if step == settings.continuous_steps:
            with torch.no_grad():
                book.initialise(model.latents(pictures.draw(FIRST_PICTURES)).flatten(0, 2))
        loss = codec_loss(model, book, pictures.draw(settings.batch), step >= settings.continuous_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            sample = evaluate(model, pictures.images, pictures.held_out[:128]) if step % 500 == 0 else {}
            log(step=step, seconds=budget.seconds, loss=sum(losses) / len(losses), **sample)
            losses.clear()
        if step % 500 == 0 or budget.progress >= 1:
            save(checkpoint, training_state(model, optimizer, book, step, budget))
    report = {"steps": step, "seconds": budget.seconds, "settings": asdict(settings), "config": asdict(CONFIG)}
    report |= evaluate(model, pictures.images, pictures.held_out)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)


def training_state(model: VQGAN, optimizer, book: CodebookTrainer, step: int, budget: Budget) -> dict:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "book": {"counts": book.counts, "sums": book.sums},
        "generator": book.generator.get_state(),
        "step": step,
        "seconds": budget.seconds,
    }


def restore(path: Path, model: VQGAN, optimizer, book: CodebookTrainer, minutes: float) -> tuple[int, Budget]:
    """Continue an interrupted run: its step, and the budget less what it has used."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    book.counts, book.sums = state["book"]["counts"], state["book"]["sums"]
    book.generator.set_state(state["generator"])
    return state["step"], Budget(minutes, state["seconds"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder written by training.emoji_data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=52.0, help="time budget of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    train(a.data, a.out, a.minutes, Settings(seed=a.seed))
