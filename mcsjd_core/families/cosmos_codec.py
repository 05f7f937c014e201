"""The video tokenizer of Cosmos, as its files are published; models of pictures use it as well, one frame at a time."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint, Fields, fill
from ..codecs.fsq_video import FSQVideoCodec, FSQVideoConfig
from ..codecs.torchscript_video import DECODER, ENCODER, load_program, load_torchscript_codec
from ..errors import InputError

PLAIN_CODEC = "tokenizer"
PUBLISHED_CODEC = FSQVideoConfig()
# Parts of the codec that a program holds, and what among them it computes anew.
ARCHIVES = {ENCODER: ("encoder.", "quant_conv."), DECODER: ("decoder.", "post_quant_conv.")}
TABLES = ("encoder.patcher3d.", "decoder.unpatcher3d.")
# The tokenizers of the two generations of models, which have other codes.
FIRST_CODEC, SECOND_CODEC = "Cosmos-1.0-Tokenizer-DV8x16x16", "Cosmos-Tokenize1-DV8x16x16-720p"


def open_cosmos_codec(path: Path, names: tuple[str, ...], code_frames: int, device, operations):
    """Plain weights inside the directory, or the published TorchScript files in it or beside it.

    `names` are the tokenizers that the model may have, its own first. A TorchScript file gets clips of `code_frames`.
    """
    if (path / PLAIN_CODEC / "config.json").is_file():
        return _plain_codec(path / PLAIN_CODEC, device, operations)
    for folder in (path, path / names[0], path.parent / names[0], *(path / name for name in names[1:])):
        if (folder / ENCODER).is_file() and (folder / DECODER).is_file():
            return _codec_of_archives(folder, code_frames, device, operations)
    raise InputError(
        f"{path / names[0]} lacks {ENCODER} and {DECODER}: the video tokenizer that turns this model's tokens into pixels is "
        f"published as nvidia/{names[0]}; download these two files there."
    )


def _codec_of_archives(directory: Path, code_frames: int, device, operations):
    """The plain codec with the tensors of the published programs, which hold them all: in float32 it runs anywhere and takes
    clips of any length. Programs of another shape are run as they are."""
    tensors = {}
    for name, parts in ARCHIVES.items():
        state = load_program(directory / name, "cpu").state_dict()
        tensors |= {key: t for key, t in state.items() if key.startswith(parts) and not key.startswith(TABLES)}
    codec = FSQVideoCodec(PUBLISHED_CODEC, device="meta", operations=operations)
    if {key: t.shape for key, t in tensors.items()} != {key: t.shape for key, t in codec.state_dict().items()}:
        return load_torchscript_codec(directory, code_frames, device, PUBLISHED_CODEC)
    fill(codec, tensors.items(), dtype=torch.float32, device=device, source=directory)
    return codec


def _plain_codec(directory: Path, device, operations) -> FSQVideoCodec:
    fields, published = Fields.of_file(directory / "config.json"), PUBLISHED_CODEC
    config = FSQVideoConfig(
        channels=fields.count("channels", published.channels),
        channel_multipliers=fields.counts("channels_mult", published.channel_multipliers),
        res_blocks=fields.count("num_res_blocks", published.res_blocks),
        z_channels=fields.count("z_channels", published.z_channels),
        levels=fields.counts("levels", published.levels),
        patch_size=fields.count("patch_size", published.patch_size),
        spatial_compression=fields.count("spatial_compression", published.spatial_compression),
        temporal_compression=fields.count("temporal_compression", published.temporal_compression),
        local_encoder=fields.flag("local_encoder", published.local_encoder),
    )
    codec = FSQVideoCodec(config, device="meta", operations=operations)
    tensors = Checkpoint.of_directory(directory).tensors()
    fill(codec, tensors, dtype=torch.float32, device=device, source=directory)
    return codec
