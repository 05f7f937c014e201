"""Emu3-Gen family (arXiv 2409.18869): text and image tokens in one vocabulary, a Llama body, a MoVQ codec of its own.

Reads `BAAI/Emu3-Gen` or `BAAI/Emu3-Stage1`, as published, with `BAAI/Emu3-VisionTokenizer` as a directory of that name
inside it or beside it. A prompt ends with the picture's size in codes; every row of codes is followed by a separator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Checkpoint, Fields, fill, read_json
from ..codecs.emu3_vq import Emu3VQ
from ..codecs.vqgan import VQGANConfig
from ..errors import InputError
from ..grid import Grid
from ..hf_config import transformer_config
from ..rank_tokenizer import RankTokenizer
from ..sizes import choose_size, side_lengths, size_name
from ..token_model import TransformerTokenModel
from ..transformer import Transformer, TransformerConfig
from .interface import Prompt, SamplingDefaults

MODEL_TYPE = "Emu3"
RATIOS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))  # width : height
AREA = 720 * 720  # pixels, of Emu3-Gen
RANKS, VISION_TOKENS, CODEC_DIRECTORY = "emu3.tiktoken", "emu3_vision_tokens.txt", "Emu3-VisionTokenizer"
# Ids go on behind the text tokens with these names, then those of emu3_vision_tokens.txt.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))
CODEC = VQGANConfig(
    channels=256, channel_multipliers=(1, 2, 2, 4), attention_levels=(3,), z_channels=4, embed_dim=4,
    codebook_size=32768, spatial_norm=True,
)  # fmt: skip


def code_name(code: int) -> str:
    return f"<|visual token {code:06d}|>"


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
             "<|extra_204|>", code_name(0))  # fmt: skip

    @classmethod
    def of_names(cls, vision_names: list[str], text_tokens: int, codebook_size: int) -> Vocabulary:
        """From the names of emu3_vision_tokens.txt and the number of text tokens."""
        ids = {name: text_tokens + place for place, name in enumerate((*SPECIAL, *vision_names))}
        last = code_name(codebook_size - 1)
        missing = [name for name in (*cls.NAMES, last) if name not in ids]
        if missing:
            raise InputError(f"{VISION_TOKENS} lacks {', '.join(missing)}; it is of another model, or incomplete.")
        if ids[last] - ids[code_name(0)] != codebook_size - 1:
            raise InputError(f"{VISION_TOKENS} does not count the visual tokens one by one; it is of another model.")
        return cls(*(ids[name] for name in cls.NAMES))


def codes_along(ratio: tuple[int, int], area: int, cell: int) -> tuple[int, int]:
    """(rows, columns) of a picture of width : height `ratio` and about `area` pixels, `cell` pixels a code."""
    width, height = ratio
    scale = (area / (width * height)) ** 0.5 / cell
    return round(height * scale), round(width * scale)


class Emu3:
    """A loaded checkpoint of the family; the sizes have one area and several aspect ratios."""

    name = "emu3"
    defaults = SamplingDefaults(cfg_scale=3.0, top_k=2048)

    def __init__(self, token_model: TransformerTokenModel, codec: Emu3VQ, tokenizer: RankTokenizer, vocabulary: Vocabulary,
                 area: int, context: int):  # fmt: skip
        self.token_model, self.codec, self.tokenizer = token_model, codec, tokenizer
        self.vocabulary, self.context = vocabulary, context
        self.cell = codec.config.downsampling
        codes = [codes_along(ratio, area, self.cell) for ratio in RATIOS]
        self.sizes = tuple(dict.fromkeys(size_name(columns * self.cell, rows * self.cell) for rows, columns in codes))

    def grid(self, size: str | None = None) -> Grid:
        """A separator behind every row, the last included; then end of frame, of image and of sequence."""
        width, height = side_lengths(choose_size(size, self.sizes))
        v, forced = self.vocabulary, self.token_model.forced_token
        end = (forced(v.frame_end), forced(v.end_of_image), forced(v.eos))
        return Grid(height // self.cell, width // self.cell, row_end=forced(v.row_end), end=end)

    def prompt(self, texts: list[str], negatives: list[str] | None, guided: bool, size: str | None = None) -> Prompt:
        grid, rows = self.grid(size), []
        for i, text in enumerate(texts):
            for part in (text, negatives[i] if negatives else "") if guided else (text,):
                rows.append(self._row(part, grid))
        room = self.context - grid.num_tokens
        if max(map(len, rows)) > room:
            raise InputError(
                f"The prompt takes {max(map(len, rows))} tokens, and beside a picture of this size the model reads {room}; "
                "shorten it."
            )
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, text: str, grid: Grid) -> list[int]:
        """Text, then the size in codes, rows first; the unconditional row has the same size."""
        v, encode = self.vocabulary, self.tokenizer.encode
        return [v.bos, *encode(text), v.begin_of_image, *encode(f"{grid.rows}*{grid.columns}"), v.size_end]


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family."""
    config = path / "config.json"
    return config.is_file() and read_json(config).get("model_type") == MODEL_TYPE


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Emu3:
    """Load a checkpoint directory; the codec always runs in float32."""
    config = Fields.of_file(path / "config.json")
    codec_path = next((p for p in (path / CODEC_DIRECTORY, path.parent / CODEC_DIRECTORY) if p.is_dir()), None)
    if codec_path is None:
        raise InputError(
            f"{path / CODEC_DIRECTORY} is missing: the codec that turns this model's tokens into pictures is published as "
            f"BAAI/{CODEC_DIRECTORY}; download it to there."
        )
    codec_shape = codec_config(Fields.of_file(codec_path / "config.json"))
    tokenizer = RankTokenizer.of_file(path / RANKS)
    vocabulary = Vocabulary.of_names(_vision_names(path), len(tokenizer.ranks), codec_shape.codebook_size)
    vocab_size = config.count("vocab_size")
    if vocabulary.first_code + codec_shape.codebook_size > vocab_size:
        raise InputError(
            f"{path} embeds {vocab_size} ids, fewer than its vocabulary has; its files do not belong together."
        )
    checkpoint, codec_checkpoint = Checkpoint.of_directory(path), Checkpoint.of_directory(codec_path)
    factory = {"dtype": dtype, "device": "meta", "operations": operations}
    body = Transformer(body_config(config), **factory)
    token_model = TransformerTokenModel(body, vocab_size, codec_shape.codebook_size, vocabulary.first_code, **factory)
    fill(token_model, model_tensors(checkpoint, token_model), dtype=dtype, device=device, source=path)
    codec = Emu3VQ(codec_shape, device="meta", operations=operations)
    codec_tensors = codec_checkpoint.tensors(lambda name: not name.endswith("num_batches_tracked"))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=codec_path)
    area, context = config.count("image_area", AREA), config.count("max_position_embeddings", 9216)
    return Emu3(token_model, codec, tokenizer, vocabulary, area, context)


def body_config(config: Fields) -> TransformerConfig:
    return transformer_config(Fields({"rope_theta": 1e6} | config.data, config.where), norm_eps=1e-5)


def codec_config(config: Fields) -> VQGANConfig:
    """From the codec's `config.json`, whose attention is given by the number of the level."""
    return VQGANConfig(
        channels=config.count("ch", CODEC.channels),
        channel_multipliers=config.counts("ch_mult", CODEC.channel_multipliers),
        res_blocks=config.count("num_res_blocks", CODEC.res_blocks),
        attention_levels=config.counts("attn_resolutions", CODEC.attention_levels),
        z_channels=config.count("z_channels", CODEC.z_channels),
        embed_dim=config.count("embed_dim", CODEC.embed_dim),
        codebook_size=config.count("codebook_size", CODEC.codebook_size),
        spatial_norm=True,
    )


def model_tensors(checkpoint: Checkpoint, model: TransformerTokenModel) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a published directory; of the head, the rows of the codes."""
    codes = slice(model.first_code, model.first_code + model.codebook_size)
    for name, tensor in checkpoint.tensors(lambda name: "rotary_emb" not in name):
        yield name, tensor[codes] if name == "lm_head.weight" else tensor


def _vision_names(path: Path) -> list[str]:
    file = path / VISION_TOKENS
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file} is missing or no text; download it again.") from None
    return [line.strip() for line in lines if line.strip()]
