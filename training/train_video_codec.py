"""Train the decoder of the small video model's codec: 5 x 8 x 8 codes to 17 frames of 64 x 64 pixels.

    python -m training.train_video_codec --stage build-video/stage.npz --encoder build-video/encoder \
        --out build-video/codec --minutes 45

The encoder is the one of `train_video_encoder` and stays as it is, so that codes made with it stay valid. The loss is L1 +
squared error. Three frames of codes are trained at a time, later all five: what a decoder makes of a frame of codes depends on
those before it. Most samples are cut to a window around the thing: grounds are learned soon.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mcsjd_core.codecs.fsq_video import FSQVideoCodec

from . import loop, motion_data
from .motion_data import CELL, CHUNK, SIZE, STEPS, Clip, Stage
from .muon import Muon
from .train_video_encoder import CONFIG, codes_of, read_encoder


@dataclass
class Settings:
    seed: int = 0
    batch: int = 8
    matrix_lr: float = 3e-3
    vector_lr: float = 1e-3
    short_chunks: int = 2  # frames of codes in a sample after its first, for the first short_steps; STEPS afterwards
    short_steps: int = 2000
    window: int = 40  # pixels, side of a sample that is cut
    whole: float = 0.1  # share of the steps whose samples are not


def pixels_of(videos: list[np.ndarray]) -> Tensor:
    """Videos [B, 3, T, H, W] in 0..1 of frames uint8 [T, H, W, 3]."""
    return torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).float().div_(255).contiguous()


def sample(stage: Stage, clip: Clip, chunks: int, window: int, rng: np.random.Generator) -> np.ndarray:
    """A piece of a clip, frames uint8 [1 + CHUNK chunks, window, window, 3], which shows the thing at some time."""
    first = CHUNK * rng.integers(STEPS - chunks + 1)
    frames = motion_data.render(stage, clip)[first : first + CHUNK * chunks + 1]
    thing, camera = motion_data.paths(clip)
    shown = first + CHUNK * rng.integers(chunks + 1)
    corner = (thing[shown] - camera[shown]) // CELL + rng.integers(-2, 2, size=2)
    x, y = corner.clip(0, (SIZE - window) // CELL) * CELL
    return frames[:, y : y + window, x : x + window]


def decoder_loss(model: FSQVideoCodec, pixels: Tensor) -> Tensor:
    error = model.reconstruct(model.quantizer.vectors(codes_of(model, pixels))) - pixels
    # Squared error alone blurs edges, L1 alone lets flat areas drift; 4 brings the two to one size on this data.
    return error.abs().mean() + 4 * error.square().mean()


def decoder_optimizers(model: FSQVideoCodec, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions, each taken for a matrix [out, in x kernel]; AdamW for vectors and the last layers."""
    parameters = [*model.post_quant_conv.parameters(), *model.decoder.parameters()]
    # A pixel is a sum over all bands of its Haar patch: what the last layers step too far adds up.
    last = list(model.decoder.conv_out.parameters())
    outer = set(map(id, [*last, *model.post_quant_conv.parameters()]))
    kernels = [p for p in parameters if p.ndim == 5 and id(p) not in outer]
    chosen = set(map(id, [*last, *kernels]))
    rest = [p for p in parameters if id(p) not in chosen]
    groups = [{"params": rest}, {"params": last, "lr": settings.vector_lr / CONFIG.patch_size}]
    return [
        Muon(kernels, settings.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(groups, lr=settings.vector_lr, betas=(0.9, 0.95), weight_decay=0.01),
    ]


class DecoderTask:
    """The decoder's training, for `loop.train`."""

    def __init__(self, stage: Stage, codec: FSQVideoCodec, settings: Settings, device: str):
        self.stage, self.settings, self.device = stage, settings, device
        self.model = codec.to(device)
        self.modules = {"model": self.model}
        self.optimizers = decoder_optimizers(self.model, settings)

    def loss(self, rng: np.random.Generator, step: int) -> Tensor:
        s = self.settings
        window = SIZE if rng.random() < s.whole else s.window
        chunks = s.short_chunks if step < s.short_steps else STEPS
        clips = [motion_data.draw_clip(self.stage, rng) for _ in range(s.batch)]
        pieces = [sample(self.stage, clip, chunks, window, rng) for clip in clips]
        return decoder_loss(self.model, pixels_of(pieces).to(self.device))

    @torch.no_grad()
    def evaluate(self, rounds: int = 2) -> dict[str, float]:
        """On held-out ground: PSNR in dB (peak 1, mean over clips), that of the thing's pixels, and codes in use."""
        rng, psnr, thing_psnr, used = np.random.default_rng((self.settings.seed, 1)), [], [], set()
        for _ in range(rounds):
            for motion in motion_data.motions():
                clip = motion_data.draw_clip(self.stage, rng, motion, held_out=True)
                pixels = pixels_of([motion_data.render(self.stage, clip)]).to(self.device)
                shown = torch.from_numpy(motion_data.silhouette(self.stage, clip)).to(self.device)
                codes = codes_of(self.model, pixels)
                error = (self.model.decode(codes) - pixels).square().mean(1)[0]
                psnr.append(-10 * error.mean().log10().item())
                thing_psnr.append(-10 * error[shown].mean().log10().item())
                used |= set(codes.unique().tolist())
        return {"psnr": float(np.mean(psnr)), "thing_psnr": float(np.mean(thing_psnr)), "codes_used": len(used)}


def start_from(codec: FSQVideoCodec, file: Path) -> None:
    """Begin with the decoder of another codec of this shape, whose codes may mean something else."""
    state = load_file(file)
    codec.decoder.load_state_dict({n.removeprefix("decoder."): t for n, t in state.items() if n.startswith("decoder.")})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=Path, required=True, help="file written by training.stage")
    parser.add_argument("--encoder", type=Path, required=True, help="folder written by training.train_video_encoder")
    parser.add_argument("--start-from", type=Path, help="tokenizer/model.safetensors of an earlier model")
    parser.add_argument("--out", type=Path, required=True)
    loop.add_options(parser, minutes=45.0)
    a = parser.parse_args()
    codec = read_encoder(a.encoder)
    if a.start_from:
        start_from(codec, a.start_from)
    task = DecoderTask(Stage.load(a.stage), codec, Settings(seed=a.seed), a.device)
    loop.train(task, a.out, loop.settings_from(a))
