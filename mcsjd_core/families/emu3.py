"""Emu3-Gen family (arXiv 2409.18869): text and image tokens in one vocabulary, a Llama body, a MoVQ codec of its own.

Reads `BAAI/Emu3-Gen` or `BAAI/Emu3-Stage1`, as published, with `BAAI/Emu3-VisionTokenizer` as a directory of that name
inside it or beside it; or `BAAI/Emu3-Gen-hf`, transformers' layout, which has all in one. A prompt ends with the picture's
size in codes; every row of codes is followed by a separator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..codecs.emu3_vq import Emu3VQ, emu3_tensors
from ..codecs.vqgan import VQGANConfig
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import Transformer
from ..text.text_tokenizer import control_ids, read_tokenizer, text_ids
from .emu_vocabulary import named_ids, read_vocabulary
from .hf_config import transformer_config
from .interface import PictureFamily, SamplingDefaults, alternating, check_prompt_lengths, each_once
from .sizes import side_lengths, size_name
from .token_model import TransformerTokenModel

PUBLISHED, TRANSFORMERS = "Emu3", "emu3"  # `model_type` of the two layouts
RATIOS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))  # width : height
AREA = 720 * 720  # pixels, of Emu3-Gen
CODEC_DIRECTORY = "Emu3-VisionTokenizer"
CONTROL = re.compile(r"<\|.*\|>|<image>")
INNER_CODEC = re.compile(r"(?:model\.)?vqmodel\.(.+)")
# What the published models have; a config.json leaves out what is the default of its class.
BODY = {"vocab_size": 184622, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 1e6}  # fmt: skip
CODEC = VQGANConfig(
    channels=256, channel_multipliers=(1, 2, 2, 4), attention_levels=(3,), z_channels=4, embed_dim=4,
    codebook_size=32768, spatial_norm=True,
)  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """The ids that steer drawing, looked up by name."""

    bos: int
    begin_of_image: int
    size_end: int  # after it come the codes
    row_end: int
    frame_end: int
    end_of_image: int
    eos: int
    first_code: int

    NAMES = ("<|extra_203|>", "<|image start|>", "<|image token|>", "<|extra_200|>", "<|extra_201|>", "<|image end|>",
             "<|extra_204|>")  # fmt: skip

    @classmethod
    def of_ids(cls, ids: dict[str, int], codebook_size: int) -> Vocabulary:
        return cls(*named_ids(ids, cls.NAMES, codebook_size))


def codes_along(ratio: tuple[int, int], area: int, cell: int) -> tuple[int, int]:
    """(rows, columns) of a picture of width : height `ratio` and about `area` pixels, `cell` pixels a code."""
    width, height = ratio
    scale = (area / (width * height)) ** 0.5 / cell
    return round(height * scale), round(width * scale)


class Emu3(PictureFamily):
    """A loaded checkpoint of the family; the sizes have one area and several aspect ratios."""

    name = "emu3"
    defaults = SamplingDefaults(LawSettings(cfg_scale=3.0, top_k=2048), window=16)

    def __init__(self, token_model: TransformerTokenModel, codec: Emu3VQ, encode: Callable[[str], list[int]],
                 vocabulary: Vocabulary, area: int, context: int):  # fmt: skip
        self.token_model, self.codec, self.encode = token_model, codec, encode
        self.vocabulary, self.context = vocabulary, context
        self.cell = codec.config.downsampling
        codes = [codes_along(ratio, area, self.cell) for ratio in RATIOS]
        self.sizes = tuple(dict.fromkeys(size_name(columns * self.cell, rows * self.cell) for rows, columns in codes))

    def picture_grid(self, size: str) -> Grid:
        """A separator after every row, the last included; then end of frame, of image and of sequence."""
        width, height = side_lengths(size)
        v, forced = self.vocabulary, self.token_model.forced_token
        end = (forced(v.frame_end), forced(v.end_of_image), forced(v.eos))
        return Grid(height // self.cell, width // self.cell, row_end=forced(v.row_end), end=end)

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        grid = self.picture_grid(size)
        rows = each_once(lambda text: self._row(text or "", grid), alternating(texts, negatives, guided))
        check_prompt_lengths(rows, self.context - grid.num_tokens)
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, text: str, grid: Grid) -> list[int]:
        """Text, then the size in codes, rows first; the unconditional row has the same size."""
        v, encode = self.vocabulary, self.encode
        return [v.bos, *encode(text), v.begin_of_image, *encode(f"{grid.rows}*{grid.columns}"), v.size_end]


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family."""
    config = path / "config.json"
    return config.is_file() and read_json(config).get("model_type") in (PUBLISHED, TRANSFORMERS)


@dataclass(frozen=True)
class Files:
    """An opened checkpoint: what the two layouts have in common."""

    config: Fields
    codec_config: Fields
    encode: Callable[[str], list[int]]  # ids of a text
    ids: dict[str, int]  # of special tokens, by name
    checkpoint: Checkpoint
    codec_checkpoint: Checkpoint
    codec_name: Callable[[str], str | None] = str  # the codec's name of a tensor in its checkpoint, None for others


def _codec_directory(path: Path) -> Path | None:
    return next((p for p in (path / CODEC_DIRECTORY, path.parent / CODEC_DIRECTORY) if p.is_dir()), None)


def companions(path: Path) -> list[Path]:
    """The published codec, where it lies beside the checkpoint."""
    codec = _codec_directory(path)
    return [codec] if codec is not None and codec.parent != path else []


def open_published(path: Path) -> Files:
    codec = _codec_directory(path)
    if codec is None:
        raise InputError(
            f"{path / CODEC_DIRECTORY} is missing: the codec that turns this model's tokens into pictures is published as "
            f"BAAI/{CODEC_DIRECTORY}; download it there."
        )
    configs = Fields.of_file(path / "config.json"), Fields.of_file(codec / "config.json")
    tokenizer, ids = read_vocabulary(path)
    return Files(*configs, tokenizer.encode, ids, Checkpoint.of_directory(path), Checkpoint.of_directory(codec))


def open_transformers(path: Path) -> Files:
    config, tokenizer = Fields.of_file(path / "config.json"), read_tokenizer(path / "tokenizer.json")
    controls, checkpoint = control_ids(tokenizer, CONTROL), Checkpoint.of_directory(path)
    return Files(
        config.part("text_config", {}), config.part("vq_config", {}), lambda text: text_ids(tokenizer, text, controls),
        tokenizer.get_vocab(), checkpoint, checkpoint, lambda name: (m := INNER_CODEC.fullmatch(name)) and m[1],
    )  # fmt: skip


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Emu3:
    """Load a checkpoint directory; the codec always runs in float32."""
    published = Fields.of_file(path / "config.json").data["model_type"] == PUBLISHED
    files = (open_published if published else open_transformers)(path)
    config, codec_shape = files.config.over(BODY), codec_config(files.codec_config)
    vocabulary, vocab_size = Vocabulary.of_ids(files.ids, codec_shape.codebook_size), config.count("vocab_size")
    if vocabulary.first_code + codec_shape.codebook_size > vocab_size:
        raise InputError(
            f"{path} embeds {vocab_size} ids, fewer than its vocabulary has; its files do not belong together, so download all "
            "of them again."
        )
    factory = {"dtype": dtype, "device": "meta", "operations": operations}
    body = Transformer(transformer_config(config, norm_eps=1e-5), **factory)
    token_model = TransformerTokenModel(body, vocab_size, codec_shape.codebook_size, vocabulary.first_code, **factory)
    tensors = token_model.own_tensors(files.checkpoint.renamed(body_name))
    fill(token_model, tensors, dtype=dtype, device=device, source=path)
    codec = Emu3VQ(codec_shape, device="meta", operations=operations)
    codec_tensors = emu3_tensors(files.codec_checkpoint.renamed(files.codec_name))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=path)
    area, context = config.count("image_area", AREA), config.count("max_position_embeddings", 9216)
    return Emu3(token_model, codec, files.encode, vocabulary, area, context)


def body_name(name: str) -> str | None:
    """The token model's name of a tensor; None for the codec's and for tables that old files hold.

    transformers writes `text_model.model.layers ...` and calls it `model.text_model.layers ...` in its own modules.
    """
    if INNER_CODEC.fullmatch(name) or "rotary_emb" in name:
        return None
    return name.removeprefix("text_model.").replace("model.text_model.", "model.", 1)


def codec_config(config: Fields) -> VQGANConfig:
    """From either layout's fields, which have attention by the number of the level."""

    def either(read: Callable, published: str, transformers: str, default):
        return read(published, read(transformers, default))

    return VQGANConfig(
        channels=either(config.count, "ch", "base_channels", CODEC.channels),
        channel_multipliers=either(config.counts, "ch_mult", "channel_multiplier", CODEC.channel_multipliers),
        res_blocks=config.count("num_res_blocks", CODEC.res_blocks),
        attention_levels=config.counts("attn_resolutions", CODEC.attention_levels),
        z_channels=either(config.count, "z_channels", "latent_channels", CODEC.z_channels),
        embed_dim=config.count("embed_dim", CODEC.embed_dim),
        codebook_size=config.count("codebook_size", CODEC.codebook_size),
        spatial_norm=True,
    )
