"""Train the encoder of the small video model's codec, cell by cell.

The encoder is local: a code depends on its own cell alone. So cells of clips are trained by themselves, with a small decoder
that knows no neighbours and is thrown away; that is many times cheaper than whole videos. `train_video_codec` then trains
the decoder that is kept.

    python -m training.train_video_encoder --stage build-video/stage.npz --out build-video/encoder --minutes 7
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mcsjd_core.codecs.fsq_video import FSQVideoCodec, FSQVideoConfig

from . import loop, motion_data
from .motion_data import CELL, CHUNK, Stage
from .precision import full_precision

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
    clips: int = 1000  # whose cells are trained
    side: int = 10  # cells along a side of a mosaic
    chunks: int = 4  # frames of codes of a mosaic after the first
    things: float = 0.5  # share of the cells that show a thing
    learning_rate: float = 2e-3
    continuous_steps: int = 150  # steps before latents are rounded: the decoder has to mean something first
    whitening: float = 0.05  # weight of the loss that keeps latents spread over all combinations of levels


def cells_of(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the first frame [n, 1, CELL, CELL, C], and of the chunks after it [m, CHUNK, CELL, CELL, C]."""

    def cut(part: np.ndarray, length: int) -> np.ndarray:
        chunks, side, channels = len(part) // length, part.shape[1] // CELL, part.shape[-1]
        grid = part.reshape(chunks, length, side, CELL, side, CELL, channels)
        return grid.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, length, CELL, CELL, channels)

    return cut(frames[:1], 1), cut(frames[1:], CHUNK)


class Cells:
    """Different cells of training clips: first frames' and later ones', those that show a thing and those of ground alone."""

    def __init__(self, stage: Stage, settings: Settings):
        self.settings = settings
        found: dict[tuple[bool, bool], dict[bytes, np.ndarray]] = {
            (moving, thing): {} for moving in (False, True) for thing in (False, True)
        }
        rng = np.random.default_rng((settings.seed, 7))
        for _ in range(settings.clips):
            clip = motion_data.draw_clip(stage, rng)
            shown = cells_of(motion_data.silhouette(stage, clip)[..., None])
            for moving, cells in enumerate(cells_of(motion_data.render(stage, clip))):
                for cell, thing in zip(cells, shown[moving].any((1, 2, 3, 4)), strict=True):
                    found[bool(moving), bool(thing)].setdefault(cell.tobytes(), cell)
        self.pools = {kind: np.stack(list(cells.values())) for kind, cells in found.items()}

    def draw(self, moving: bool, count: int, rng: np.random.Generator) -> np.ndarray:
        with_thing = round(count * self.settings.things)
        parts = [
            (pool := self.pools[moving, thing])[rng.integers(len(pool), size=number)]
            for thing, number in ((True, with_thing), (False, count - with_thing))
        ]
        return np.concatenate(parts)

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
    # 3, t, CHUNK, h, CELL, w, CELL
    grid = video.unflatten(3, (-1, CELL)).unflatten(2, (-1, CELL)).unflatten(1, (-1, CHUNK))
    return grid.permute(1, 3, 5, 0, 2, 4, 6).flatten(3)


def colour_of(latents: Tensor) -> Tensor:
    """How far latents [n, channels] are from mean 0, deviation 1 and no correlation; without it they end in a few codes."""
    mean = latents.mean(0)
    covariance = (latents - mean).T @ (latents - mean) / len(latents)
    return mean.square().mean() + (covariance - torch.eye(len(mean), device=latents.device)).square().mean()


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
        latents, quantizer = self.codec.latents(mosaic), self.codec.quantizer
        vectors = quantizer.bound(latents) / latents.new_tensor([level // 2 for level in CONFIG.levels])
        if rounding:  # straight through
            vectors = vectors + (quantizer.quantize(latents) - vectors).detach()
        return self.decoder(vectors[0]), latents.flatten(0, -2)


class EncoderTask:
    """The encoder's training, for `loop.train`."""

    def __init__(self, stage: Stage, settings: Settings, device: str):
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self.cells, self.model = Cells(stage, settings), CellCodec()
        self.model.prepare(self.cells.mosaic(np.random.default_rng((settings.seed, 8))))
        self.modules = {"model": self.model.to(device)}
        unused = ("codec.decoder.", "codec.post_quant_conv.")
        learned = [p for name, p in self.model.named_parameters() if not name.startswith(unused)]
        self.optimizers = [torch.optim.AdamW(learned, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)]

    def loss(self, rng: np.random.Generator, step: int) -> Tensor:
        mosaic = self.cells.mosaic(rng).to(self.device)
        pixels, latents = self.model(mosaic, step >= self.settings.continuous_steps)
        error = pixels - targets(mosaic)
        return error.abs().mean() + 4 * error.square().mean() + self.settings.whitening * colour_of(latents)

    @torch.no_grad()
    def evaluate(self, mosaics: int = 10) -> dict[str, float]:
        """Error of the small decoder on single cells in dB (of the mean squared error, peak 1), and the codes in use."""
        errors, used, quantizer = [], set(), self.model.codec.quantizer
        for number in range(mosaics):
            mosaic = self.cells.mosaic(np.random.default_rng((self.settings.seed, 10, number))).to(self.device)
            pixels, latents = self.model(mosaic, True)
            errors.append((pixels - targets(mosaic)).square().mean().item())
            used |= set(quantizer.codes(quantizer.quantize(latents)).tolist())
        return {"psnr": -10 * float(np.log10(np.mean(errors))), "codes_used": len(used)}


def read_encoder(folder: Path) -> FSQVideoCodec:
    """A codec with the trained encoder as it will be stored: a rounded one can give other codes. Its decoder begins grey."""
    codec, state = FSQVideoCodec(CONFIG), loop.weights(folder)
    codec.load_state_dict({name.removeprefix("codec."): t for name, t in state.items() if name.startswith("codec.")})
    for parameter in codec.decoder.conv_out[-1].conv3d.parameters():
        nn.init.zeros_(parameter)
    return codec.half().float()


def codes_of(codec: FSQVideoCodec, pixels: Tensor) -> Tensor:
    """The codec's codes, [B, t, h, w] of pixels [B, 3, T, H, W] in 0..1, in full precision whatever the training has."""
    with full_precision(pixels.device):
        return codec.encode(pixels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=Path, required=True, help="file written by training.stage")
    parser.add_argument("--out", type=Path, required=True)
    loop.add_options(parser, minutes=7.0)
    a = parser.parse_args()
    loop.train(EncoderTask(Stage.load(a.stage), Settings(seed=a.seed), a.device), a.out, loop.settings_from(a))
