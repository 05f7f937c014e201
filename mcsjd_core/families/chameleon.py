"""Chameleon family (arXiv 2405.09818): text and image tokens in one vocabulary, one transformer, a VQGAN codec.

Lumina-mGPT (arXiv 2408.02657), Anole (arXiv 2407.06135) and the embedded model. Reads Hugging Face directories:
`config.json`, sharded safetensors, `tokenizer.json`, and the codec in the taming-transformers layout, from the directory or
from one that several models share. What lies between the codes of a picture is the matter of a layout.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..checkpoints.naming import own_names
from ..codecs.vqgan import CODEC_PARTS, VQGAN, VQGANConfig
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import Transformer, TransformerConfig
from ..text.text_tokenizer import control_ids, read_tokenizer, text_ids
from ..text.words import Words
from .chameleon_parts import (
    BEGIN_OF_IMAGE,
    TURN_END,
    DrawingIds,
    LuminaLayout,
    first_file,
    head_norm_rows,
    named_id,
    shared_file,
    transformer_config,
)
from .hf_config import codec_config as common_codec_config
from .hf_config import generation_fields, sampling_defaults
from .interface import PictureFamily, SamplingDefaults, alternating, check_prompt_lengths
from .sizes import size_name
from .token_model import TransformerTokenModel

IMAGE_PREFIX, DIGITS = "IMGIMG", "ABCDEFGHIJ"
BOS = "<s>"
CONTEXT = 4096  # tokens, of Chameleon and Anole
# Lumina-mGPT's config.json has Chameleon's 4096, which a picture of 1024 px exceeds; its authors draw up to this many tokens.
LUMINA_CONTEXT = 8192
LUMINA_DEFAULTS = SamplingDefaults(LawSettings(cfg_scale=4.0, top_k=2000), window=32)
ANOLE_DEFAULTS = SamplingDefaults(LawSettings(cfg_scale=3.0, temperature=0.7, top_p=0.9))
# Names that steer the model. Tokenizers of the family differ in which of them they list as added tokens.
CONTROL = re.compile(
    rf"<(/?s|pad|unk|eoss|racm3:break|image|\|image\||reserved\d+|sentinel:\d+)>|{IMAGE_PREFIX}[{DIGITS}]+Z"
)
TOKENIZERS = ("tokenizer.json", "text_tokenizer.json", "tokenizer/text_tokenizer.json")
SHARED_CODEC = "chameleon-vqgan"  # a directory beside the checkpoints
CODECS = ("vqgan.safetensors", "vqgan.ckpt", "tokenizer/vqgan.ckpt", "original_tokenizers/vqgan.ckpt",
          f"../{SHARED_CODEC}/model.safetensors", f"../{SHARED_CODEC}/vqgan.ckpt")  # fmt: skip
CODEC_INSIDE = "model.vqmodel."  # prefix of a codec among the transformer's own tensors


def image_token_name(code: int) -> str:
    """Vocabulary name of a code: its decimal digits as letters, `IMGIMGBCZ` for 12."""
    return IMAGE_PREFIX + "".join(DIGITS[int(d)] for d in str(code)) + "Z"


class Vocabulary(DrawingIds):
    """The ids that matter for drawing, looked up by name."""

    @classmethod
    def from_names(cls, ids: dict[str, int], codebook_size: int) -> Vocabulary:
        named = [named_id(ids, name) for name in (BOS, BEGIN_OF_IMAGE, TURN_END, image_token_name(0))]
        first = named[-1]
        for code in range(codebook_size):
            name = image_token_name(code)
            if ids.get(name) != first + code:
                raise InputError(
                    f"Image token {name} is not at id {first + code}; the tokenizer belongs to another model."
                )
        return cls(*named)


class RasterLayout:
    """Anole and the embedded model: begin-of-image, then the raster of codes, nothing in between; one size."""

    ids = ()  # of the vocabulary, beside those of `Vocabulary`

    def __init__(self, vocabulary: Vocabulary, grid: Grid, cell: int, empty_is_unconditional: bool):
        self.vocabulary, self._grid, self.empty_is_unconditional = vocabulary, grid, empty_is_unconditional
        self.sizes = (size_name(grid.columns * cell, grid.rows * cell),)

    def grid(self, size: str) -> Grid:
        return self._grid

    def request(self, text: str, size: str) -> str:
        return text

    def row(self, text: list[int], size: str) -> list[int]:
        """`<s> text <reserved08706> <racm3:break>`; this project's models know empty texts as those of caption dropout."""
        if self.empty_is_unconditional and not text:
            return self.unconditional(size)
        return [self.vocabulary.bos, *text, self.vocabulary.turn_end, self.vocabulary.begin_of_image]

    def unconditional(self, size: str) -> list[int]:
        return [self.vocabulary.bos, self.vocabulary.begin_of_image]


class ChameleonTransformer(TransformerTokenModel):
    """The token model. `lm_head` holds the rows of the image tokens only: nothing else is ever drawn."""

    def __init__(self, config: TransformerConfig, vocab_size: int, vocabulary: Vocabulary, codebook_size: int,
                 *, dtype=None, device=None, operations=nn):  # fmt: skip
        factory = {"dtype": dtype, "device": device, "operations": operations}
        super().__init__(Transformer(config, **factory), vocab_size, codebook_size, vocabulary.first_code, **factory)
        self.vocabulary = vocabulary


def codec_config(vq: Fields) -> VQGANConfig:
    """From `config.json`'s `vq_config`, whose attention is given by side lengths of the feature map."""
    sides, resolution, common = vq.counts("attn_resolutions", ()), vq.count("resolution", 512), common_codec_config(vq)
    levels = tuple(i for i in range(len(common.channel_multipliers)) if resolution >> i in sides)
    return replace(common, attention_levels=levels)


class Chameleon(PictureFamily):
    """A loaded checkpoint of the family."""

    name = "chameleon"

    def __init__(self, token_model: ChameleonTransformer, codec: VQGAN, tokenizer, layout, defaults: SamplingDefaults,
                 words: Words, context: int):  # fmt: skip
        self.token_model, self.codec, self.tokenizer, self.words = token_model, codec, tokenizer, words
        self.context = context
        self.layout, self.sizes, self.defaults = layout, layout.sizes, defaults
        self.control_ids = control_ids(tokenizer, CONTROL)

    def picture_grid(self, size: str) -> Grid:
        return self.layout.grid(size)

    def text_ids(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text, self.control_ids)

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        rows = [self._row(text, size) for text in alternating(texts, negatives, guided)]
        check_prompt_lengths(rows, self.context - self.picture_grid(size).num_tokens)
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, text: str | None, size: str) -> list[int]:
        if text is None:
            return self.layout.unconditional(size)
        return self.layout.row(self.text_ids(self.layout.request(text, size)), size)


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family."""
    config = path / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "chameleon"


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Chameleon:
    """Load a checkpoint directory; the codec always runs in float32, since lower precision shows in flat areas."""
    config = Fields.of_file(path / "config.json")
    codec_shape = codec_config(config.part("vq_config", {}))
    tokenizer, vocab_size = read_tokenizer(first_file(path, TOKENIZERS)), config.count("vocab_size")
    vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), codec_shape.codebook_size)
    layout, defaults = _drawing(path, config, vocabulary, tokenizer.get_vocab(), codec_shape)
    _check_ids(tokenizer, vocabulary, layout, codec_shape.codebook_size, vocab_size)
    # All files are opened before any is read: a missing codec is reported at once, not after gigabytes of transformer.
    checkpoint = Checkpoint.of_directory(path)
    codec_checkpoint, codec_prefix = _codec_checkpoint(path, checkpoint)
    token_model = ChameleonTransformer(
        transformer_config(config, head_norm_rows(checkpoint)), vocab_size, vocabulary, codec_shape.codebook_size,
        dtype=dtype, device="meta", operations=operations,
    )  # fmt: skip
    wanted = checkpoint.tensors(lambda name: not name.startswith(CODEC_INSIDE) and "rotary_emb" not in name)
    fill(token_model, token_model.own_tensors(wanted), dtype=dtype, device=device, source=path)
    codec = VQGAN(codec_shape, device="meta", operations=operations)
    codec_tensors = codec_checkpoint.renamed(lambda name: _codec_name(name, codec_prefix))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=next(iter(codec_checkpoint.files.values())))
    context = _context(config, layout)
    return Chameleon(token_model, codec, tokenizer, layout, defaults, Words(tokenizer, path), context)


def companions(path: Path) -> list[Path]:
    """The codec that several checkpoints share, if it is this one's."""
    return shared_file(path, CODECS, SHARED_CODEC)


def _codec_checkpoint(path: Path, checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """The codec's tensors and the prefix of their names: from a file of its own, else from among the transformer's."""
    file = first_file(path, CODECS)
    if file.exists():
        return Checkpoint([file]), ""
    if f"{CODEC_INSIDE}decoder.conv_in.weight" in checkpoint:
        return checkpoint, CODEC_INSIDE
    raise InputError(
        f"{path / CODECS[0]} is missing: this model turns its tokens into pictures with Chameleon's VQGAN, so put "
        f"vqgan.ckpt or vqgan.safetensors there, or into the directory {SHARED_CODEC} beside it for all such models."
    )


def _codec_name(name: str, prefix: str) -> str | None:
    """Without the prefix; None for what is no part of the codec, such as the losses that a training checkpoint holds."""
    inner = name.removeprefix(prefix)
    return inner if name.startswith(prefix) and inner.startswith(CODEC_PARTS) else None


def _check_ids(tokenizer, vocabulary: Vocabulary, layout, codebook_size: int, vocab_size: int) -> None:
    """Every id that a prompt or picture can hold has to have an embedding."""
    controls = control_ids(tokenizer, CONTROL)
    text = max((id for id in tokenizer.get_vocab().values() if id not in controls), default=0)
    image = vocabulary.first_code + codebook_size - 1
    largest = max(text, image, vocabulary.bos, vocabulary.begin_of_image, vocabulary.turn_end, *layout.ids)
    if largest >= vocab_size:
        raise InputError(
            f"tokenizer.json has ids up to {largest}, the model embeds {vocab_size}; it belongs to another model."
        )


def _drawing(path: Path, config: Fields, vocabulary: Vocabulary, ids: dict[str, int], codec: VQGANConfig):
    """Layout and default settings; `image_grid` of generation_config.json is this project's, Anole's is 32 x 32."""
    settings = generation_fields(path)
    if "mask_image_logits" in config.data or "lumina" in own_names(path):  # a field of Lumina-mGPT's config class
        side = trained_side(path, settings)
        layout = LuminaLayout(vocabulary, ids, codec.codebook_size, side, codec.downsampling)
        return layout, sampling_defaults(settings, LUMINA_DEFAULTS)
    grid = settings.counts("image_grid", (32, 32))
    if len(grid) != 2:
        raise InputError(f"`image_grid` in {settings.where} has to be [rows, columns], got {list(grid)}.")
    own = "image_grid" in settings.data
    return RasterLayout(vocabulary, Grid(*grid), codec.downsampling, own), sampling_defaults(settings, ANOLE_DEFAULTS)


def _context(config: Fields, layout: RasterLayout | LuminaLayout) -> int:
    """Tokens of prompt and picture that the model reads."""
    context = config.count("max_position_embeddings", CONTEXT)
    return max(context, LUMINA_CONTEXT) if isinstance(layout, LuminaLayout) else context


def trained_side(path: Path, settings: Fields) -> int:
    """Pixels of the square that a Lumina-mGPT was trained for: only the published name tells, `-768` or `-768-Omni`."""
    names = re.findall(r"-(512|768|1024)(?!\d)", own_names(path))
    if not names and "image_side" not in settings.data:
        raise InputError(
            f"{path} does not tell its picture size: name the directory as it was published, "
            "Lumina-mGPT-7B-512, -768 or -1024."
        )
    return settings.count("image_side", int(names[-1]) if names else None)
