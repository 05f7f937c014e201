"""Emu3.5 family (arXiv 2510.26583): a Qwen3-like body of 34 billion parameters, 131,072 codes of an IBQ codec.

Reads `BAAI/Emu3.5-Image` (or `BAAI/Emu3.5`) with `BAAI/Emu3.5-VisionTokenizer` as a directory of that name in it or beside it.
The published model may write text before a picture; here the picture begins at once, its size given: begin-of-image, size
and image token are forced as a prefix. Not seen: config.json of Emu3.5-Image (that of Emu3.5 was) and the weights' index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..checkpoints.naming import own_names
from ..codecs.vqgan import CODEC_PARTS, VQGAN, VQGANConfig
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import Transformer, TransformerConfig
from .emu_vocabulary import named_ids, read_vocabulary
from .hf_config import transformer_config
from .interface import PictureFamily, SamplingDefaults, check_prompt_lengths, each_once
from .sizes import side_lengths, size_name
from .token_model import TransformerTokenModel

EMU3_VOCABULARY = 184622  # more ids than that have the new models alone
CODEC_DIRECTORY = "Emu3.5-VisionTokenizer"
CODEC_FILES = ("model.safetensors", "model.ckpt")
CELL = 16  # pixels a code, along each side
# Rows and columns of the authors' sizes, their default first.
CODES = ((55, 73), (64, 64), (73, 55), (52, 78), (78, 52), (47, 85), (85, 47), (41, 97))
SIZES = tuple(size_name(columns * CELL, rows * CELL) for rows, columns in CODES)
REQUEST = "You are a helpful assistant for t2i task. USER: {} ASSISTANT: "
UNCONDITIONAL = "You are a helpful assistant. USER: {} ASSISTANT: "
DEFAULTS = SamplingDefaults(LawSettings(cfg_scale=5.0, top_k=5120))
# What the published models have; a config.json leaves out what is the default of its class.
BODY = {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6, "rms_norm_eps": 1e-6}  # fmt: skip
CODEC = VQGANConfig(
    channels=256, channel_multipliers=(1, 1, 2, 2, 4), res_blocks=4, attention_levels=(4,), z_channels=256, embed_dim=256,
    codebook_size=131072, product_search=True,
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """The ids that steer drawing, looked up by name."""

    bos: int
    begin_of_answer: int
    begin_of_image: int
    size_end: int  # after it come the codes
    row_end: int
    end_of_image: int
    first_code: int

    NAMES = ("<|extra_203|>", "<|extra_100|>", "<|image start|>", "<|image token|>", "<|extra_200|>", "<|image end|>")

    @classmethod
    def of_ids(cls, ids: dict[str, int], codebook_size: int) -> Vocabulary:
        return cls(*named_ids(ids, cls.NAMES, codebook_size))


class Emu35(PictureFamily):
    """A loaded checkpoint of the family."""

    name = "emu3_5"
    defaults = DEFAULTS

    def __init__(self, token_model: TransformerTokenModel, codec: VQGAN, encode: Callable[[str], list[int]],
                 vocabulary: Vocabulary, context: int):  # fmt: skip
        self.token_model, self.codec, self.encode = token_model, codec, encode
        self.vocabulary, self.context, self.sizes = vocabulary, context, SIZES

    def picture_grid(self, size: str) -> Grid:
        """A separator after every row but the last, which ends with the image."""
        (width, height), v, forced = side_lengths(size), self.vocabulary, self.token_model.forced_token
        return Grid(height // CELL, width // CELL, row_end=forced(v.row_end), last_end=forced(v.end_of_image))

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        grid, requests = self.picture_grid(size), []
        for text, negative in zip(texts, negatives, strict=True):
            requests += (REQUEST.format(text), UNCONDITIONAL.format(negative))[: 1 + guided]
        rows = each_once(lambda request: self._row(request, grid), requests)
        check_prompt_lengths(rows, self.context - grid.num_tokens)
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, request: str, grid: Grid) -> list[int]:
        v, encode = self.vocabulary, self.encode
        picture = (v.begin_of_image, *encode(f"{grid.rows}*{grid.columns}"), v.size_end)
        return [v.bos, *encode(request), v.begin_of_answer, *picture]


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family, whose config.json calls itself Emu3's."""
    file = path / "config.json"
    config = read_json(file) if file.is_file() else {}
    size = config.get("vocab_size")
    large = isinstance(size, int) and size > EMU3_VOCABULARY
    return config.get("model_type") == "Emu3" and (large or "emu3.5" in own_names(path))


def _codec_files(path: Path) -> list[Path]:
    return [folder / CODEC_DIRECTORY / name for folder in (path, path.parent) for name in CODEC_FILES]


def companions(path: Path) -> list[Path]:
    """The published codec, where it lies beside the checkpoint."""
    codec = path.parent / CODEC_DIRECTORY
    return [codec] if codec.is_dir() else []


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Emu35:
    """Load a checkpoint directory; the codec always runs in float32."""
    config = Fields.of_file(path / "config.json").over(BODY)
    tokenizer, ids = read_vocabulary(path)
    vocabulary = Vocabulary.of_ids(ids, CODEC.codebook_size)
    # All files are opened before any is read: a missing codec is reported at once, not after gigabytes of transformer.
    checkpoint, codec_file = Checkpoint.of_directory(path), _codec_file(path)
    codec_checkpoint = Checkpoint([codec_file])
    vocab_size = checkpoint.shape("model.embed_tokens.weight")[0]
    if vocabulary.first_code + CODEC.codebook_size > vocab_size:
        raise InputError(
            f"{path} embeds {vocab_size} ids, fewer than its vocabulary has; its files do not belong together, so download all "
            "of them again."
        )
    factory = {"dtype": dtype, "device": "meta", "operations": operations}
    body = Transformer(body_config(config), **factory)
    token_model = TransformerTokenModel(body, vocab_size, CODEC.codebook_size, vocabulary.first_code, **factory)
    fill(token_model, token_model.own_tensors(model_tensors(checkpoint)), dtype=dtype, device=device, source=path)
    codec = VQGAN(CODEC, device="meta", operations=operations)
    codec_tensors = codec_checkpoint.tensors(lambda name: name.startswith(CODEC_PARTS))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=codec_file)
    return Emu35(token_model, codec, tokenizer.encode, vocabulary, config.count("max_position_embeddings", 32768))


def body_config(config: Fields) -> TransformerConfig:
    """Norms of queries and keys have one row of weights for all heads, and the epsilon of the others."""
    eps = config.number("rms_norm_eps")
    return transformer_config(config, norm_eps=eps, qk_norm="rms", qk_norm_eps=eps)


def model_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in checkpoint.tensors(lambda name: "rotary_emb" not in name):
        yield name, tensor[None] if name.endswith(("q_norm.weight", "k_norm.weight")) else tensor


def _codec_file(path: Path) -> Path:
    files = _codec_files(path)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(
            f"{files[0]} is missing: the codec that turns this model's tokens into pictures is published as "
            f"BAAI/{CODEC_DIRECTORY}; download it there."
        )
    return file
