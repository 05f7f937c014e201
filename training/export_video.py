"""Write the trained parts of the small video model as an ordinary checkpoint directory of the Cosmos family.

    python -m training.export_video --stage build-video/stage.npz --transformer build-video/transformer \
        --codec build-video/codec --out embedded/motion

Names and files are those that the family reads; weights are float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mcsjd_core.families.cosmos_shapes import LAYER_NAMES, TOP_NAMES

from . import loop, video_captions
from .motion_data import FRAMES, Stage, motions
from .train_video_encoder import CONFIG as CODEC
from .train_video_transformer import CONFIG, ROPE_THETA, SIDE, VOCABULARY, VideoModel
from .train_video_transformer import FRAMES as CODE_FRAMES
from .video_examples import held_out

FRAME_RATE = 8
# The settings that the project's figures are made with.
GENERATION = {"temperature": 1.0, "top_k": 0, "top_p": 0.8}


def published_name(name: str) -> str:
    """The public name of a tensor of the token model; the inverse of `cosmos.core_name`."""
    top = {core: public for public, core in TOP_NAMES.items()}
    layers = {core: public for public, core in LAYER_NAMES.items()}
    stem, _, leaf = name.rpartition(".")
    if stem in top:
        return f"model.{top[stem]}.{leaf}"
    return ".".join(layers.get(part, part) for part in name.split("."))


def public_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The token model's tensors under public names and in public shapes: a norm of heads has one row for all of them."""
    heads = ("q_norm.weight", "k_norm.weight")
    return {published_name(name): t[0] if name.endswith(heads) else t for name, t in state.items()}


def model_config() -> dict:
    return {
        "dim": CONFIG.dim,
        "n_layers": CONFIG.layers,
        "n_heads": CONFIG.heads,
        "n_kv_heads": CONFIG.kv_heads,
        "head_dim": CONFIG.head_dim,
        "ffn_hidden_size": CONFIG.ffn_dim,
        "norm_eps": CONFIG.norm_eps,
        "vocab_size": VOCABULARY,
        "context_dim": CONFIG.context_dim,
        "insert_cross_attn_every_k_layers": 1,
        "input_types": ["text_and_video"],
        "rope_theta": ROPE_THETA,
        "apply_abs_pos_emb": True,
        "apply_yarn": False,
        "video_latent_shape": [CODE_FRAMES, SIDE, SIDE],
        "start_frames": [1],
        "frame_rate": FRAME_RATE,
        "context_tokens": video_captions.MOST_WORDS,
        "num_video_frames": FRAMES,
    }


def codec_config() -> dict:
    """The tokenizer's config.json in the fields of the public one; `local_encoder` is our own."""
    return {
        "channels": CODEC.channels,
        "channels_mult": list(CODEC.channel_multipliers),
        "num_res_blocks": CODEC.res_blocks,
        "z_channels": CODEC.z_channels,
        "levels": list(CODEC.levels),
        "patch_size": CODEC.patch_size,
        "spatial_compression": CODEC.spatial_compression,
        "temporal_compression": CODEC.temporal_compression,
        "local_encoder": CODEC.local_encoder,
    }


def write_part(directory: Path, tensors: dict[str, Tensor], config: dict) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.detach().half().contiguous().clone() for name, tensor in tensors.items()}
    save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def write_start_frames(directory: Path, stage: Stage) -> None:
    """First frames on held-out ground, one for every motion, each named by its caption."""
    directory.mkdir(parents=True, exist_ok=True)
    for example in held_out(stage, len(motions())):
        file = directory / f"{example.caption.replace(' ', '_')}.png"
        Image.fromarray(example.frames[0]).save(file, optimize=True)


def export(stage_file: Path, transformer: Path, codec: Path, out: Path) -> None:
    """Write `out` from the folders of train_video_transformer and train_video_codec, with their reports beside the weights."""
    stage = Stage.load(stage_file)
    model = VideoModel(stage.names, seed=0)
    model.load_state_dict(loop.weights(transformer))
    write_part(out, public_tensors(model.finished().state_dict()), model_config())
    write_part(out / "tokenizer", loop.weights(codec), codec_config())
    model.encoder.half().save_pretrained(out / "t5")
    model.tokenizer.save(str(out / "t5" / "tokenizer.json"))
    write_start_frames(out / "start_frames", stage)
    (out / "generation_config.json").write_text(json.dumps(GENERATION, indent=1) + "\n")
    for name, part in (("transformer", transformer), ("codec", codec)):
        if report := loop.report_of(part):
            shutil.copyfile(report, out / f"{name}_report.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("stage", "transformer", "codec", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    a = parser.parse_args()
    export(a.stage, a.transformer, a.codec, a.out)
