"""Train the encoder of the small video model's codec, cell by cell.

    python -m training.train_video_encoder --sprites build-video/sprites.npz --out build-video/encoder --minutes 7

The encoder is local: a code depends on its own cell alone. So cells that show something are trained by themselves, with a
small decoder that knows no neighbours and is thrown away; that is many times cheaper than whole videos, most of which is
background. `train_video_codec` then trains the decoder that is kept. Interrupted runs continue with the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mcsjd_core.codecs.fsq_video import FSQVideoCodec, FSQVideoConfig

from . import motion_data
from .motion_data import CELL, CHUNK, Drawer, Sprites
from .schedule import Budget, Log, cosine, save, set_learning_rate

CONFIG = FSQVideoConfig(
    channels=64,
    channel_multipliers=(1, 2),
    res_blocks=1,
    z_channels=16,
    levels=(8, 8, 8, 8),
    spatial_compression=CELL,
    temporal_compression=CHUNK,
    local_encoder=True,
)
PIXELS = 3 * CHUNK * CELL * CELL  # of a cell


@dataclass
class Settings:
    seed: int = 0
    clips: int = 2500  # whose cells are trained
    side: int = 10  # cells along a side of a mosaic
    chunks: int = 4  # frames of codes of a mosaic after the first
    plain: float = 0.05  # share of the cells that show background alone
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    continuous_steps: int = 150  # steps before latents are rounded: the decoder has to mean something first
    whitening: float = 0.05  # weight of the loss that keeps latents spread over all combinations of levels


def cells_of(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the first frame [n, 1, CELL, CELL, 3], and of the chunks after it [m, CHUNK, CELL, CELL, 3]."""

    def cut(part: np.ndarray, length: int) -> np.ndarray:
        chunks, side = len(part) // length, part.shape[1] // CELL
        grid = part.reshape(chunks, length, side, CELL, side, CELL, 3)
        return grid.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, length, CELL, CELL, 3)

    return cut(frames[:1], 1), cut(frames[1:], CHUNK)


class Cells:
    """Different cells of training clips: those that show a glyph, and plain ones; still ones (first frames) and moving ones."""

    def __init__(self, sprites: Sprites, settings: Settings):
        clips = Drawer(len(sprites.names), settings.seed).draw(
            settings.clips, np.random.default_rng((settings.seed, 7))
        )
        found: tuple[dict, dict] = {}, {}
        for clip in clips:
            for kind, cells in zip(found, cells_of(motion_data.render(sprites, clip)), strict=True):
                kind.update((cell.tobytes(), cell) for cell in cells)
        self.settings, self.pools = settings, []
        for kind in found:
            cells = np.stack(list(kind.values()))
            plain = (cells == cells[:, :1, :1, :1]).all((1, 2, 3, 4))
            self.pools.append((cells[~plain], cells[plain]))

    def draw(self, moving: bool, count: int, rng: np.random.Generator) -> np.ndarray:
        shown, plain = self.pools[moving]
        cells = shown[rng.integers(len(shown), size=count)]
        few = round(count * self.settings.plain)
        cells[:few] = plain[rng.integers(len(plain), size=few)]
        return cells

    def mosaic(self, rng: np.random.Generator) -> Tensor:
        """A video [1, 3, 1 + CHUNK chunks, CELL side, CELL side] in 0..1 that is a heap of cells."""
        side, chunks = self.settings.side, self.settings.chunks
        first = self.draw(False, side * side, rng).reshape(1, side, side, 1, CELL, CELL, 3)
        later = self.draw(True, chunks * side * side, rng).reshape(chunks, side, side, CHUNK, CELL, CELL, 3)
        frames = [
            part.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, side * CELL, side * CELL, 3) for part in (first, later)
        ]
        return torch.from_numpy(np.concatenate(frames)).permute(3, 0, 1, 2)[None].float().div_(255)


def targets(mosaic: Tensor) -> Tensor:
    """Pixels [chunks + 1, side, side, PIXELS] of every cell of a mosaic, a still one counted as standing for a chunk."""
    video = torch.cat((mosaic[:, :, :1].expand(-1, -1, CHUNK - 1, -1, -1), mosaic), 2)[0]
    grid = (
        video.unflatten(3, (-1, CELL)).unflatten(2, (-1, CELL)).unflatten(1, (-1, CHUNK))
    )  # 3, t, CHUNK, h, CELL, w, CELL
    return grid.permute(1, 3, 5, 0, 2, 4, 6).flatten(3)


def colour_of(latents: Tensor) -> Tensor:
    """How far latents [n, channels] are from mean 0, deviation 1 and no correlation; without it they end in a few codes."""
    mean = latents.mean(0)
    covariance = (latents - mean).T @ (latents - mean) / len(latents)
    return mean.square().mean() + (covariance - torch.eye(len(mean))).square().mean()


class CellCodec(nn.Module):
    """The codec, of which only the encoder is used, and a decoder of single cells."""

    def __init__(self):
        super().__init__()
        self.codec = FSQVideoCodec(CONFIG)
        self.decoder = nn.Sequential(
            nn.Linear(len(CONFIG.levels), 256), nn.SiLU(), nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, PIXELS)
        )
        nn.init.zeros_(self.decoder[-1].weight)
        nn.init.constant_(self.decoder[-1].bias, 0.5)

    @torch.no_grad()
    def prepare(self, mosaic: Tensor) -> None:
        """Scale the last layer before rounding: latents of `mosaic` get mean 0 and deviation 1 in every channel."""
        latents, layer = self.codec.latents(mosaic).flatten(0, -2), self.codec.quant_conv.conv3d
        deviation, mean = latents.std(0), latents.mean(0)
        layer.weight /= deviation[:, None, None, None, None]
        layer.bias.copy_((layer.bias - mean) / deviation)

    def forward(self, mosaic: Tensor, rounding: bool) -> tuple[Tensor, Tensor]:
        """Pixels of all cells as in `targets`, and latents [n, channels]."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents, quantizer = self.codec.latents(mosaic).float(), self.codec.quantizer
            vectors = quantizer.bound(latents) / latents.new_tensor([level // 2 for level in CONFIG.levels])
            if rounding:  # straight through
                vectors = vectors + (quantizer.quantize(latents) - vectors).detach()
            return self.decoder(vectors[0]).float(), latents.flatten(0, -2)


def train(sprites: Path, out: Path, minutes: float, settings: Settings) -> None:
    torch.manual_seed(settings.seed)
    cells, model = Cells(Sprites.load(sprites), settings), CellCodec()
    model.prepare(cells.mosaic(np.random.default_rng((settings.seed, 8))))
    learned = [p for name, p in model.named_parameters() if not name.startswith(("codec.decoder.", "codec.post_"))]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "training.pt", Log(out / "log.jsonl")
    log(shown=[len(shown) for shown, _ in cells.pools], plain=[len(plain) for _, plain in cells.pools])
    step, budget = 0, Budget(minutes)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, budget = state["step"], Budget(minutes, state["seconds"])
    losses: list[float] = []
    while budget.progress < 1:
        set_learning_rate(optimizer, min(1.0, (step + 1) / settings.warmup_steps) * cosine(budget.progress))
        mosaic = cells.mosaic(np.random.default_rng((settings.seed, 9, step)))
        pixels, latents = model(mosaic, step >= settings.continuous_steps)
        error = pixels - targets(mosaic)
        loss = error.square().mean()
        (error.abs().mean() + 4 * loss + settings.whitening * colour_of(latents)).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            log(step=step, seconds=budget.seconds, psnr=-10 * float(np.log10(np.mean(losses))))
            losses.clear()
        if step % 200 == 0 or budget.progress >= 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save(checkpoint, state | {"step": step, "seconds": budget.seconds})
    report = {"steps": step, "seconds": budget.seconds, "settings": asdict(settings), "config": asdict(CONFIG)}
    report |= evaluate(model, cells)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)


@torch.no_grad()
def evaluate(model: CellCodec, cells: Cells, mosaics: int = 40) -> dict:
    """Error of the small decoder on single cells in dB (of the mean squared error, peak 1), and the codes in use."""
    errors, used = [], set()
    for number in range(mosaics):
        mosaic = cells.mosaic(np.random.default_rng((cells.settings.seed, 10, number)))
        pixels, latents = model(mosaic, True)
        errors.append((pixels - targets(mosaic)).square().mean().item())
        quantizer = model.codec.quantizer
        used |= set(quantizer.codes(quantizer.quantize(latents)).tolist())
    return {"psnr": -10 * float(np.log10(np.mean(errors))), "codes_used": len(used)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", type=Path, required=True, help="file written by training.motion_data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=7.0, help="time budget of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    train(a.sprites, a.out, a.minutes, Settings(seed=a.seed))
