"""The video tokenizer of Cosmos as it is published: a TorchScript encoder and decoder, behind the interface of the plain one.

A TorchScript file is a program. It is no pickle of Python objects: its language knows torch's operators and nothing else,
imports nothing and calls no Python. Those operators can still use up memory and time, and some read and write files of
tensors; so a file is run only if a person has put it beside the model under its published name, and plain weights go first
where there are both.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, first_line, is_out_of_memory
from ..file_contents import check_contents
from .fsq_video import FSQVideoConfig

ENCODER, DECODER = "encoder.jit", "decoder.jit"


class TorchScriptVideoCodec(nn.Module):
    """`encoder` gives (codes, ...) of frames in -1..1, `decoder` frames of codes.

    A trace may have kept what depends on the length of its example. It always gets a clip of the model's full length, as
    NVIDIA's own code does it: the last frame is repeated, and what comes of the repetition is cut off.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, code_frames: int, config: FSQVideoConfig):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.code_frames, self.config = code_frames, config
        self.pixels_per_code, self.frames_per_code = config.spatial_compression, config.temporal_compression

    @property
    def input_device(self) -> torch.device:
        return next(self.decoder.parameters()).device

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes [B, 1 + k, h, w] of pixels [B, 3, 1 + k * frames_per_code, H, W] in 0..1."""
        count, side = pixels.shape[2], self.pixels_per_code
        if (count - 1) % self.frames_per_code or pixels.shape[3] % side or pixels.shape[4] % side:
            raise InputError(
                f"The codec needs 1 + {self.frames_per_code} k frames with sides that are multiples of {side} px, got "
                f"{count} frames of {pixels.shape[4]} x {pixels.shape[3]}."
            )
        dtype = next(self.encoder.parameters()).dtype
        whole = _extend(pixels.to(dtype) * 2 - 1, 1 + (self.code_frames - 1) * self.frames_per_code)
        codes = run_program(self.encoder, whole)[0].long()
        return codes[:, : 1 + (count - 1) // self.frames_per_code]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Frames [B, 3, 1 + k * frames_per_code, H, W] in 0..1 of codes [B, 1 + k, h, w]."""
        low, high = torch.stack(codes.aminmax()).tolist()  # a code out of range would end a GPU's use by this process
        if low < 0 or high >= self.config.codebook_size:
            raise InputError(f"This codec has codes 0 to {self.config.codebook_size - 1}, got {low} to {high}.")
        frames = run_program(self.decoder, _extend(codes[:, None], self.code_frames)[:, 0])
        frames = frames[:, :, : 1 + (codes.shape[1] - 1) * self.frames_per_code]
        return (frames.float() / 2 + 0.5).clamp(0, 1)

    def decode_clips(self, codes: Tensor) -> Tensor:
        """Clips [B, T, 3, H, W] in 0..1 of codes [B, t, h, w]."""
        return self.decode(codes).movedim(2, 1)


def run_program(program: nn.Module, x: Tensor):
    try:
        return program(x)
    except RuntimeError as error:  # traces are made for one device and one dtype
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"The video tokenizer's TorchScript program does not run on {x.device} ({reason}); it is made for another device."
        ) from None


def _extend(x: Tensor, length: int) -> Tensor:
    """x [B, C, T, H, W] with its last frame repeated up to `length`."""
    return torch.cat((x, x[:, :, -1:].expand(-1, -1, max(length - x.shape[2], 0), -1, -1)), 2)


def load_torchscript_codec(directory: Path, code_frames: int, device, config: FSQVideoConfig) -> TorchScriptVideoCodec:
    """The codec in a directory that holds `encoder.jit` and `decoder.jit`; raises InputError if one cannot be read."""
    encoder, decoder = load_program(directory / ENCODER, device), load_program(directory / DECODER, device)
    return TorchScriptVideoCodec(encoder, decoder, code_frames, config)


def load_program(file: Path, device) -> nn.Module:
    """A TorchScript file, loaded and not run."""
    check_contents(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have another format
            return torch.jit.load(str(file), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise InputError(f"{file} is not a whole TorchScript file ({reason}); download it again.") from None
