"""Checkpoint directories of the Cosmos family at the smallest size, with random weights: both kinds, both codecs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from mcsjd_core.codecs.fsq_video import FSQVideoCodec, FSQVideoConfig
from tiny_checkpoint import randomise

DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 40, 2, 4, 2, 16, 48  # heads are wider than dim / heads, as in the 12B
CONTEXT_DIM, CONTEXT_TOKENS = 20, 7
FRAMES, ROWS, COLUMNS = 3, 2, 3
FRAME = ROWS * COLUMNS  # codes of a frame
CODEC = FSQVideoConfig(
    channels=4, channel_multipliers=(1, 2, 2), res_blocks=1, z_channels=4, levels=(5, 4, 3), patch_size=4,
    spatial_compression=16, temporal_compression=8,
)  # fmt: skip
TOKENIZER = "Cosmos-1.0-Tokenizer-DV8x16x16"
CODES = CODEC.codebook_size
EXTRA_IDS = 4  # of the kind that reads text: one begins a video, the others fill up
WORDS = ("the", "ball", "moves", "left")
YARN = {"apply_yarn": True, "original_latent_shape": [2, 2, 3], "yarn_scale": 3.0, "yarn_beta_fast": 0.2,
        "yarn_beta_slow": 0.05}  # fmt: skip


def published_shapes(reads_text: bool, *, dim=DIM, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM,
                     ffn=FFN, codes=CODES, extra=EXTRA_IDS, context_dim=CONTEXT_DIM) -> dict[str, list[int]]:  # fmt: skip
    """Names and shapes of a published file."""
    queries, keys = heads * head_dim, kv_heads * head_dim
    shapes = {"tok_embeddings.weight": [codes + extra * reads_text, dim], "norm.weight": [dim]}
    shapes["output.weight"] = [codes, dim]
    for n in range(layers):
        for part, width in (("attention", dim), ("cross_attention", context_dim))[: 1 + reads_text]:
            shapes |= {
                f"layers.{n}.{part}_norm.weight": [dim],
                f"layers.{n}.{part}.wq.weight": [queries, dim],
                f"layers.{n}.{part}.wk.weight": [keys, width],
                f"layers.{n}.{part}.wv.weight": [keys, width],
                f"layers.{n}.{part}.wo.weight": [dim, queries],
                f"layers.{n}.{part}.q_norm.weight": [head_dim],
                f"layers.{n}.{part}.k_norm.weight": [head_dim],
            }
        shapes[f"layers.{n}.ffn_norm.weight"] = [dim]
        shapes |= {f"layers.{n}.feed_forward.{w}.weight": [ffn, dim] for w in ("w1", "w3")}
        shapes[f"layers.{n}.feed_forward.w2.weight"] = [dim, ffn]
    return {f"model.{name}": shape for name, shape in shapes.items()}


def random_state(reads_text: bool, seed: int = 5) -> dict[str, torch.Tensor]:
    """Weights under the published names; attention is sharp, so that what a token looks at shows."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in published_shapes(reads_text).items():
        values = torch.randn(shape, generator=generator)
        if "norm" in name:
            values = 1 + 0.3 * values
        elif "embed" not in name:
            values /= shape[-1] ** 0.5
        state[name] = values * (2 if "q_norm" in name or "output" in name else 1)
    return state


def write_checkpoint(
    directory: Path, *, reads_text: bool, file: str = "model.pt", codec: str = "plain", **fields
) -> Path:
    """A whole directory; `fields` go into config.json. The codec is "plain", "jit" or "none"."""
    directory.mkdir(parents=True)
    state = random_state(reads_text)
    if file.endswith(".pt"):
        torch.save(state, directory / file)
    else:
        save_file({name.removeprefix("model."): tensor for name, tensor in state.items()}, directory / file)
    config = {
        "dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "ffn_hidden_size": FFN,
        "input_types": ["text_and_video"] if reads_text else ["video"], "vocab_size": CODES + EXTRA_IDS * reads_text,
        "video_latent_shape": [FRAMES, ROWS, COLUMNS], "context_tokens": CONTEXT_TOKENS,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config | fields))
    if codec == "plain":
        write_plain_codec(directory / "tokenizer")
    elif codec == "jit":
        write_torchscript_codec(directory / TOKENIZER)
    if reads_text:
        write_t5(directory / "t5")
    return directory


def plain_codec() -> FSQVideoCodec:
    return randomise(FSQVideoCodec(CODEC), 1)


def write_plain_codec(directory: Path) -> None:
    directory.mkdir()
    save_file(plain_codec().state_dict(), directory / "model.safetensors")
    config = {
        "channels": CODEC.channels, "channels_mult": list(CODEC.channel_multipliers), "num_res_blocks": CODEC.res_blocks,
        "z_channels": CODEC.z_channels, "levels": list(CODEC.levels),
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))


class _Encoder(nn.Module):
    """What `encoder.jit` gives: codes, vectors and a third thing, of frames in -1..1."""

    def __init__(self, codec: FSQVideoCodec):
        super().__init__()
        self.codec = codec

    def forward(self, frames):
        vectors = self.codec.quantizer.quantize(self.codec.latents(frames / 2 + 0.5))
        return self.codec.quantizer.codes(vectors).int(), vectors.movedim(-1, 1), frames.new_zeros(1)


class _Decoder(nn.Module):
    def __init__(self, codec: FSQVideoCodec):
        super().__init__()
        self.codec = codec

    def forward(self, codes):
        return self.codec.reconstruct(self.codec.quantizer.vectors(codes)) * 2 - 1


def write_torchscript_codec(directory: Path) -> None:
    """Traces of the plain codec at the model's full length, as the published files are traces."""
    directory.mkdir()
    codec = plain_codec().requires_grad_(False)
    frames = torch.rand(1, 3, 1 + (FRAMES - 1) * 8, ROWS * 16, COLUMNS * 16) * 2 - 1
    codes = torch.zeros(1, FRAMES, ROWS, COLUMNS, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that branches are frozen is what the test is about
        for name, module, example in (("encoder", _Encoder(codec), frames), ("decoder", _Decoder(codec), codes)):
            torch.jit.trace(module, example, check_trace=False).save(str(directory / f"{name}.jit"))


def write_t5(directory: Path, width: int = CONTEXT_DIM) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers has T5")

    vocabulary = {name: id for id, name in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=4, num_heads=2, d_ff=8, num_layers=1
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(4)
        transformers.T5EncoderModel(config).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
