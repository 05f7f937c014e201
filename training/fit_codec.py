"""Fit the codec to codes that stay as they are: the encoder learns to write them, the decoder to draw from them.

    python -m training.fit_codec --data build/emoji --codes build/codes.safetensors --codec build/codec --out build/fitted

The codes are those of `training.plain_codes`: the codec's own, but one and the same code wherever a picture is plain white.
The codebook rows in use are kept, so a transformer trained on these codes needs no change. The deep end of the encoder is
taught by cross-entropy over the distances to all codebook rows, the decoder by the pixels, each by itself. Interrupted runs
continue with the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from mcsjd_core.codecs.vqgan import VQGAN

from .schedule import Budget, Log, cosine, save, set_learning_rate
from .train_codec import CONFIG, Pictures, evaluate, picture_error, pixels_of

LOG_EVERY, SAVE_EVERY = 20, 60  # steps
DEEPEST = f"encoder.down.{len(CONFIG.channel_multipliers) - 1}."
# Modules that learn the codes, and those that learn the pixels. What the encoder sees at full size serves as it is, and is
# most of its cost.
HALVES = (
    (DEEPEST, "encoder.mid.", "encoder.norm_out.", "encoder.conv_out.", "quant_conv."),
    ("decoder.", "post_quant_conv."),
)


@dataclass
class Settings:
    seed: int = 0
    batch: int = 8
    learning_rate: float = 3e-4
    warmup_steps: int = 30
    sharpness: float = 10.0  # nats per unit of squared distance; neighbouring rows are about 0.5 apart


@torch.no_grad()
def retire_unused(book: Tensor, codes: Tensor, deviations: float = 10.0) -> None:
    """Move rows of the codebook [K, d] that no code uses to where no latent comes, so that the encoder cannot choose them.

    That is `deviations` standard deviations out along the direction in which the rows in use differ least: far for the
    search, yet no longer than other rows, so that the decoder makes nothing wild of them.
    """
    used = torch.zeros(len(book), dtype=torch.bool)
    used[codes[codes >= 0].unique()] = True
    rows = book[used]
    mean = rows.mean(0)
    _, lengths, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    book[~used] = mean + deviations * lengths[-1] / len(rows) ** 0.5 * directions[-1]


def code_loss(model: VQGAN, pixels: Tensor, codes: Tensor, sharpness: float) -> Tensor:
    """Cross-entropy (scalar) of codes [B, h, w] under a softmax over the nearness of every codebook row."""
    latents = model.latents(pixels).float()
    book = model.quantize.embedding.weight.detach()
    distance = book.square().sum(-1) - 2 * latents @ book.T + latents.square().sum(-1, keepdim=True)
    return F.cross_entropy((-sharpness * distance).flatten(0, 2), codes.flatten())


def fit_losses(model: VQGAN, pixels: Tensor, codes: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Losses (scalars) of the decoder and of the encoder for pictures [B, 3, H, W] and their codes [B, h, w]."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder = code_loss(model, pixels, codes, settings.sharpness)
        picture = model.reconstruct(model.quantize.lookup(codes).detach())
    return picture_error(picture, pixels), encoder


class CodedPictures(Pictures):
    """Training pictures that have codes, drawn together with them."""

    def __init__(self, data: Path, codes: Tensor, generator: torch.Generator):
        super().__init__(data, generator)
        kept = [i for i, row in enumerate(self.train) if codes[row, 0] >= 0]
        self.codes, self.train, self.weights = codes, [self.train[i] for i in kept], self.weights[kept]

    def draw_coded(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` pictures [count, 3, H, W] in 0..1 and their codes [count, h, w]."""
        rows = self.draw_rows(count)
        pixels = pixels_of(self.images, rows)
        height, width = (side // CONFIG.downsampling for side in pixels.shape[-2:])
        return pixels, self.codes[rows].view(-1, height, width)


def train(data: Path, codes: Path, codec: Path, out: Path, minutes: float, settings: Settings) -> None:
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    pictures, model = CodedPictures(data, load_file(codes)["codes"].long(), generator), VQGAN(CONFIG)
    halves = [[p for name, p in model.named_parameters() if name.startswith(half)] for half in HALVES]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(HALVES[0] + HALVES[1]))
    optimizer = torch.optim.AdamW(
        [{"params": half} for half in halves], lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "training.pt", Log(out / "log.jsonl")
    step, budget, totals = 0, Budget(minutes), torch.zeros(2)
    if checkpoint.exists():
        step, budget = restore(checkpoint, model, optimizer, generator, minutes)
    else:
        model.load_state_dict(torch.load(codec / "training.pt", weights_only=True)["model"])
        retire_unused(model.quantize.embedding.weight, pictures.codes)
    while budget.progress < 1:
        set_learning_rate(optimizer, min(1.0, (step + 1) / settings.warmup_steps) * cosine(budget.progress))
        losses = fit_losses(model, *pictures.draw_coded(settings.batch), settings)
        optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        for half in halves:  # they share no loss, so a large gradient of one must not slow the other
            torch.nn.utils.clip_grad_norm_(half, 1.0)
        optimizer.step()
        step, totals = step + 1, totals + torch.stack(losses).detach()
        if step % LOG_EVERY == 0:
            log(
                step=step,
                seconds=budget.seconds,
                decoder=totals[0].item() / LOG_EVERY,
                encoder=totals[1].item() / LOG_EVERY,
            )
            totals.zero_()
        if step % SAVE_EVERY == 0 or budget.progress >= 1:
            save(checkpoint, training_state(model, optimizer, generator, step, budget))
    report = {"steps": step, "seconds": budget.seconds, "settings": asdict(settings), "config": asdict(CONFIG)}
    report |= evaluate(model, pictures.images, pictures.held_out)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)


def training_state(model: VQGAN, optimizer, generator: torch.Generator, step: int, budget: Budget) -> dict:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "step": step,
        "seconds": budget.seconds,
    }


def restore(path: Path, model: VQGAN, optimizer, generator: torch.Generator, minutes: float) -> tuple[int, Budget]:
    """Continue an interrupted run: its step, and the budget less what it has used."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return state["step"], Budget(minutes, state["seconds"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codes", "codec", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="time budget of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    train(a.data, a.codes, a.codec, a.out, a.minutes, Settings(seed=a.seed))
