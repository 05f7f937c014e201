"""Train the decoder of the small video model's codec: 5 x 8 x 8 codes to 17 frames of 64 x 64 pixels.

    python -m training.train_video_codec --sprites build-video/sprites.npz --encoder build-video/encoder \
        --out build-video/codec --minutes 45

The encoder is the one of `train_video_encoder` and stays as it is, so that codes made with it stay valid. The loss is L1 +
squared error. Three frames of codes are trained at a time, most of the time cut to a window around the glyph: backgrounds
are learned soon. Interrupted runs continue with the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mcsjd_core.codecs.fsq_video import FSQVideoCodec

from . import motion_data
from .motion_data import CELL, CHUNK, SIZE, STEPS, Clip, Drawer, Sprites
from .schedule import Budget, Log, cosine, save, set_learning_rate
from .train_video_encoder import CONFIG


@dataclass
class Settings:
    seed: int = 0
    batch: int = 8
    matrix_lr: float = 3e-3
    vector_lr: float = 1e-3
    warmup_steps: int = 50
    chunks: int = 2  # frames of codes in a sample after its first
    window: int = 40  # pixels, side of a sample while samples are cut
    whole_from: float = 0.8  # part of the budget after which they are not


def pixels_of(videos: list[np.ndarray]) -> Tensor:
    """Videos [B, 3, T, H, W] in 0..1 of frames uint8 [T, H, W, 3]."""
    return torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).float().div_(255).contiguous()


def sample(sprites: Sprites, clip: Clip, settings: Settings, whole: bool, rng: np.random.Generator) -> np.ndarray:
    """A piece of a clip, frames uint8 [1 + CHUNK chunks, side, side, 3]: a stretch of it, and a window unless `whole`."""
    first = CHUNK * rng.integers(STEPS - settings.chunks + 1)
    frames = motion_data.render(sprites, clip)[first : first + CHUNK * settings.chunks + 1]
    if whole:
        return frames
    corner = motion_data.path(clip)[0][first] // CELL + rng.integers(-2, 2, size=2)
    x, y = corner.clip(0, (SIZE - settings.window) // CELL) * CELL
    return frames[:, y : y + settings.window, x : x + settings.window]


def read_encoder(directory: Path) -> FSQVideoCodec:
    """A codec with the trained encoder as it will be stored: a rounded one can give other codes. Its decoder begins grey."""
    codec, state = FSQVideoCodec(CONFIG), torch.load(directory / "training.pt", weights_only=True)["model"]
    codec.load_state_dict({name.removeprefix("codec."): t for name, t in state.items() if name.startswith("codec.")})
    for parameter in codec.decoder.conv_out[-1].conv3d.parameters():
        nn.init.zeros_(parameter)
    return codec.half().float()


def decoder_loss(model: FSQVideoCodec, pixels: Tensor) -> Tensor:
    vectors = model.quantizer.vectors(model.encode(pixels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        video = model.reconstruct(vectors)
    error = video.float() - pixels
    # Squared error alone blurs edges, L1 alone lets flat areas drift; 4 brings the two to one size on this data.
    return error.abs().mean() + 4 * error.square().mean()


@torch.no_grad()
def evaluate(model: FSQVideoCodec, sprites: Sprites, clips: list[Clip], batch: int = 8) -> dict:
    """Mean PSNR in dB (peak 1, over whole clips) and the number of codes in use, over the given clips."""
    psnr, used = [], set()
    for start in range(0, len(clips), batch):
        pixels = pixels_of([motion_data.render(sprites, clip) for clip in clips[start : start + batch]])
        codes = model.encode(pixels)
        error = (model.decode(codes) - pixels).square().flatten(1).mean(1)
        psnr += (-10 * error.clamp_min(1e-10).log10()).tolist()
        used |= set(codes.unique().tolist())
    return {"psnr": sum(psnr) / len(psnr), "clips": len(psnr), "codes_used": len(used)}


class DecoderOptimizer:
    """Muon for the convolutions, each taken for a matrix [out, in x kernel]; AdamW for vectors and the last layers."""

    def __init__(self, model: FSQVideoCodec, settings: Settings):
        self.parameters = [*model.post_quant_conv.parameters(), *model.decoder.parameters()]
        # A pixel is a sum over all bands of its Haar patch: what the last layers step too far adds up.
        last = list(model.decoder.conv_out.parameters())
        outer = set(map(id, [*last, *model.post_quant_conv.parameters()]))
        self.kernels = [p for p in self.parameters if p.ndim == 5 and id(p) not in outer]
        self.matrices = [nn.Parameter(kernel.data.flatten(1)) for kernel in self.kernels]  # views of the same numbers
        chosen = set(map(id, [*last, *self.kernels]))
        rest = [p for p in self.parameters if id(p) not in chosen]
        groups = [{"params": rest}, {"params": last, "lr": settings.vector_lr / CONFIG.patch_size}]
        self.parts = (
            torch.optim.Muon(self.matrices, lr=settings.matrix_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, lr=settings.vector_lr, betas=(0.9, 0.95), weight_decay=0.01),
        )

    def step(self, factor: float) -> None:
        """Step at `factor` of the learning rates, and forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        for part in self.parts:
            set_learning_rate(part, factor)
            part.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def restore(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def some(clips: list[Clip], count: int, seed: int) -> list[Clip]:
    """`count` of the clips, always the same."""
    picks = np.random.default_rng((seed, 1)).choice(len(clips), count, replace=False)
    return [clips[pick] for pick in picks]


def train(sprites_file: Path, encoder: Path, out: Path, minutes: float, settings: Settings) -> None:
    torch.manual_seed(settings.seed)
    sprites = Sprites.load(sprites_file)
    drawer, model = Drawer(len(sprites.names), settings.seed), read_encoder(encoder)
    optimizer = DecoderOptimizer(model, settings)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "training.pt", Log(out / "log.jsonl")
    step, budget = 0, Budget(minutes)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.restore(state["optimizers"])
        step, budget = state["step"], Budget(minutes, state["seconds"])
    losses: list[float] = []
    while budget.progress < 1:
        rng = np.random.default_rng((settings.seed, step))  # keyed by step: a resumed run repeats nothing
        whole = budget.progress >= settings.whole_from
        clips = drawer.draw(settings.batch, rng)
        pixels = pixels_of([sample(sprites, clip, settings, whole, rng) for clip in clips])
        loss = decoder_loss(model, pixels)
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / settings.warmup_steps) * cosine(budget.progress))
        losses.append(loss.item())
        step += 1
        if step % 25 == 0:
            measured = evaluate(model, sprites, some(drawer.held_out, 16, settings.seed)) if step % 250 == 0 else {}
            log(step=step, seconds=budget.seconds, loss=sum(losses) / len(losses), **measured)
            losses.clear()
        if step % 100 == 0 or budget.progress >= 1:
            state = {"model": model.state_dict(), "optimizers": optimizer.state()}
            save(checkpoint, state | {"step": step, "seconds": budget.seconds})
    report = {"steps": step, "seconds": budget.seconds, "settings": asdict(settings), "config": asdict(CONFIG)}
    report |= evaluate(model, sprites, some(drawer.held_out, 200, settings.seed))
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", type=Path, required=True, help="file written by training.motion_data")
    parser.add_argument("--encoder", type=Path, required=True, help="folder written by training.train_video_encoder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45.0, help="time budget of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    train(a.sprites, a.encoder, a.out, a.minutes, Settings(seed=a.seed))
