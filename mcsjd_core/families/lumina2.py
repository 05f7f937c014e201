"""Lumina-mGPT 2.0 (github.com/Alpha-VLLM/Lumina-mGPT-2.0): Chameleon's body trained anew, Qwen's text vocabulary, a MoVQ codec.

Reads `Alpha-VLLM/Lumina-mGPT-2.0` with `movqgan_270M.ckpt` of `ai-forever/MoVQGAN` in it, or in a directory beside it. A
picture lies in the sequence as with the first Lumina-mGPT: size tokens, a separator after every row, end-of-image.
Not seen of the published files: config.json as a whole, the names of the image codes, and the token that begins a sequence.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..checkpoints.naming import own_names
from ..codecs.vqgan import CODEC_PARTS, VQGAN, VQGANConfig
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import Transformer
from ..text.text_tokenizer import control_ids, read_tokenizer, text_ids
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
from .hf_config import generation_fields
from .interface import PictureFamily, SamplingDefaults, alternating, check_prompt_lengths
from .token_model import TransformerTokenModel

CHAMELEON_VOCABULARY = 65536  # more ids than that have the new models alone
SIDE, CONTEXT = 768, 10240
FIRST_CODE = 155000
CODE_NAME = "<MOVQGAN"  # how the names of codes begin
SEQUENCE_START = "<|im_end|>"  # Qwen's end of a turn: what a tokenizer without a begin has in its place
CONTROL = re.compile(r"<(eoss|racm3:break|image|reserved\d+|MOVQGAN.*)>|<\|.*\|>")
# Constant: the authors' script works its scale down to 4, whatever it was given.
DEFAULTS = SamplingDefaults(LawSettings(cfg_scale=4.0, top_k=4096), window=16)
CODEC = VQGANConfig(
    channels=256, channel_multipliers=(1, 2, 2, 4), attention_levels=(3,), z_channels=4, embed_dim=4,
    codebook_size=16384, spatial_norm=True,
)  # fmt: skip
SHARED_CODEC = "movqgan-270m"  # a directory beside the checkpoints
CODECS = ("movqgan_270M.ckpt", "movqgan_270M.safetensors", "movqgan/270M/movqgan_270M.ckpt",
          f"../{SHARED_CODEC}/movqgan_270M.ckpt", f"../{SHARED_CODEC}/movqgan_270M.safetensors")  # fmt: skip


class Vocabulary(DrawingIds):
    """The ids that matter for drawing, of a tokenizer that may leave out the names of codes."""

    @classmethod
    def of(cls, ids: dict[str, int], start: str, codebook_size: int) -> Vocabulary:
        """`start` is the name of the token that begins a sequence."""
        begin, image, end = (named_id(ids, name) for name in (start, BEGIN_OF_IMAGE, TURN_END))
        codes = sorted(id for name, id in ids.items() if name.startswith(CODE_NAME))[:codebook_size]
        first = codes[0] if codes else FIRST_CODE
        if codes and codes != list(range(first, first + codebook_size)):
            raise InputError("The image codes' ids are not consecutive; the tokenizer belongs to another model.")
        return cls(begin, image, end, first)


class Lumina2(PictureFamily):
    """A loaded checkpoint of the family."""

    name = "lumina2"
    defaults = DEFAULTS

    def __init__(self, token_model: TransformerTokenModel, codec: VQGAN, tokenizer, layout: LuminaLayout, context: int):
        self.token_model, self.codec, self.tokenizer = token_model, codec, tokenizer
        self.layout, self.sizes, self.context = layout, layout.sizes, context
        self.control_ids = control_ids(tokenizer, CONTROL)

    def picture_grid(self, size: str) -> Grid:
        return self.layout.grid(size)

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        """The unconditional rows begin at begin-of-image. The size tokens are given; the authors' script draws them, too."""
        rows = [self._row(text, size) for text in alternating(texts, negatives, guided)]
        check_prompt_lengths(rows, self.context - self.picture_grid(size).num_tokens)
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, text: str | None, size: str) -> list[int]:
        if text is None:
            return self.layout.unconditional(size)
        return self.layout.row(text_ids(self.tokenizer, self.layout.request(text, size), self.control_ids), size)


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family, whose config.json calls itself Chameleon's."""
    file = path / "config.json"
    config = read_json(file) if file.is_file() else {}
    size = config.get("vocab_size")
    large = isinstance(size, int) and size > CHAMELEON_VOCABULARY
    return config.get("model_type") == "chameleon" and (large or "mgpt-2" in own_names(path))


def companions(path: Path) -> list[Path]:
    """The codec that several checkpoints share, if it is this one's."""
    return shared_file(path, CODECS, SHARED_CODEC)


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Lumina2:
    """Load a checkpoint directory; the codec always runs in float32."""
    config, tokenizer = Fields.of_file(path / "config.json"), read_tokenizer(path / "tokenizer.json")
    ids, start = tokenizer.get_vocab(), _sequence_start(path / "tokenizer_config.json")
    vocabulary = Vocabulary.of(ids, start, CODEC.codebook_size)
    side = generation_fields(path).count("image_side", SIDE)
    layout = LuminaLayout(vocabulary, ids, CODEC.codebook_size, side, CODEC.downsampling)
    # All files are opened before any is read: a missing codec is reported at once, not after gigabytes of transformer.
    checkpoint, codec_file = Checkpoint.of_directory(path), _codec_file(path)
    codec_checkpoint = Checkpoint([codec_file])
    vocab_size = checkpoint.shape("model.embed_tokens.weight")[0]
    if vocabulary.first_code + CODEC.codebook_size > vocab_size or max(vocabulary.bos, *layout.ids) >= vocab_size:
        raise InputError(
            f"{path} embeds {vocab_size} ids, fewer than its vocabulary has; its files do not belong together, so download all "
            "of them again."
        )
    factory = {"dtype": dtype, "device": "meta", "operations": operations}
    body = Transformer(transformer_config(config, head_norm_rows(checkpoint)), **factory)
    token_model = TransformerTokenModel(body, vocab_size, CODEC.codebook_size, vocabulary.first_code, **factory)
    wanted = checkpoint.tensors(lambda name: "rotary_emb" not in name and ".vqmodel." not in name)
    fill(token_model, token_model.own_tensors(wanted), dtype=dtype, device=device, source=path)
    codec = VQGAN(CODEC, device="meta", operations=operations)
    codec_tensors = codec_checkpoint.tensors(lambda name: name.startswith(CODEC_PARTS))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=codec_file)
    return Lumina2(token_model, codec, tokenizer, layout, config.count("max_position_embeddings", CONTEXT))


def _sequence_start(file: Path) -> str:
    """Name of the tokenizer's begin, or else end, of a sequence."""
    fields = read_json(file) if file.is_file() else {}
    for key in ("bos_token", "eos_token"):
        token = fields.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return SEQUENCE_START


def _codec_file(path: Path) -> Path:
    file = first_file(path, CODECS)
    if not file.exists():
        raise InputError(
            f"{file} is missing: this model turns its tokens into pictures with the 270M MoVQ codec, which is published as "
            f"ai-forever/MoVQGAN; put movqgan_270M.ckpt there, or into the directory {SHARED_CODEC} beside the model's."
        )
    return file
