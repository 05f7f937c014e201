"""SimpleAR family (arXiv 2504.11455): a plain Qwen2 that draws the codes of Cosmos' video tokenizer, one frame of them.

Reads `Daniel0724/SimpleAR-0.5B-SFT` and its kin with `nvidia/Cosmos-1.0-Tokenizer-DV8x16x16` in a directory of that name in
it or beside it. What of the published files was not seen (config.json as a whole, whether the head is tied, which form the
tokenizer has) is read from the files, in either form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..checkpoints.naming import own_names
from ..codecs.still import StillCodec
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import Transformer
from ..text.qwen_tokenizer import ADDED, read_qwen_tokenizer
from ..text.text_tokenizer import control_ids, text_ids
from .cosmos_codec import FIRST_CODEC, open_cosmos_codec
from .hf_config import generation_fields, transformer_config
from .interface import PictureFamily, SamplingDefaults, check_prompt_lengths
from .sizes import size_name
from .token_model import TransformerTokenModel

NAME, CLASS, PUBLISHED_VOCABULARY = "simplear", "SimpAR", 215672
TEXT_TO_IMAGE, BEGIN_OF_IMAGE = "<|t2i|>", "<|soi|>"
CONTROL = re.compile(r"<\|.*\|>")
# Both texts are those of the authors' script.
PREFIX, NEGATIVE_PREFIX = "A highly realistic image of ", "An image of "
NEGATIVE = (
    "aerial view, overexposed, low quality, deformation, a poor composition, bad hands, bad teeth, bad eyes, bad limbs, "
    "distortion"
)
SIDE = 1024  # pixels; what the published weights were tuned for, last of all
CONTEXT = 32768  # tokens, where config.json leaves them out: those of Qwen2Config
DEFAULTS = SamplingDefaults(LawSettings(cfg_scale=6.0))


@dataclass(frozen=True)
class Vocabulary:
    """The ids that matter for drawing; codes have no names, they follow the last token of the tokenizer."""

    text_to_image: int
    begin_of_image: int
    first_code: int

    @classmethod
    def of(cls, tokenizer) -> Vocabulary:
        task, begin = (tokenizer.token_to_id(name) for name in (TEXT_TO_IMAGE, BEGIN_OF_IMAGE))
        if task is None or begin is None:
            raise InputError(
                f"The vocabulary lacks {TEXT_TO_IMAGE} or {BEGIN_OF_IMAGE}; this is not SimpleAR's tokenizer."
            )
        return cls(task, begin, tokenizer.get_vocab_size())


class SimpleAR(PictureFamily):
    """A loaded checkpoint; one size, square. Without a negative prompt, guidance leads away from the authors' own."""

    name = NAME
    defaults = DEFAULTS

    def __init__(self, token_model: TransformerTokenModel, codec: StillCodec, tokenizer, side: int, context: int):
        self.token_model, self.codec, self.tokenizer, self.context = token_model, codec, tokenizer, context
        self.vocabulary, self.control_ids = Vocabulary.of(tokenizer), control_ids(tokenizer, CONTROL)
        cells = side // codec.config.spatial_compression
        self.sizes, self._grid = (size_name(side, side),), Grid(cells, cells)

    def picture_grid(self, size: str) -> Grid:
        return self._grid

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        rows: list[list[int]] = []
        for text, negative in zip(texts, negatives, strict=True):
            rows.append(self._row(PREFIX + text if text.strip() else ""))
            if guided:
                rows.append(self._row(NEGATIVE_PREFIX + (negative if negative.strip() else NEGATIVE)))
        check_prompt_lengths(rows, self.context - self.picture_grid(size).num_tokens)
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, request: str) -> list[int]:
        """`<|t2i|> request <|soi|>`; without a request as in caption dropout."""
        v = self.vocabulary
        return [v.text_to_image, *text_ids(self.tokenizer, request, self.control_ids), v.begin_of_image]


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family: a Qwen2 by its config.json, so its class or name has to tell."""
    file = path / "config.json"
    config = read_json(file) if file.is_file() else {}
    if config.get("model_type") != "qwen2":
        return False
    classes = str(config.get("architectures"))
    return CLASS in classes or config.get("vocab_size") == PUBLISHED_VOCABULARY or NAME in own_names(path)


def companions(path: Path) -> list[Path]:
    """The published codec, where it lies beside the checkpoint."""
    return [path.parent / FIRST_CODEC] if (path.parent / FIRST_CODEC).is_dir() else []


def load(path: Path, *, dtype: torch.dtype, device, operations) -> SimpleAR:
    """Load a checkpoint directory; the codec runs in float32, or as it was published."""
    config = Fields.of_file(path / "config.json")
    added = read_json(path / ADDED) if (path / ADDED).is_file() else {}
    tokenizer = read_qwen_tokenizer(path, added)
    # The codec comes first: what is missing is reported before gigabytes are read.
    codec = StillCodec(open_cosmos_codec(path, (FIRST_CODEC,), 1, device, operations))
    checkpoint, codes = Checkpoint.of_directory(path), codec.config.codebook_size
    vocab_size, first_code = checkpoint.shape("model.embed_tokens.weight")[0], Vocabulary.of(tokenizer).first_code
    if first_code + codes > vocab_size:
        raise InputError(
            f"{path} embeds {vocab_size} ids, fewer than its tokenizer's {first_code} plus {codes} codes; its files do not "
            "belong together, so download all of them again."
        )
    factory = {"dtype": dtype, "device": "meta", "operations": operations}
    body = Transformer(transformer_config(config, norm_eps=1e-6, qkv_bias=True), **factory)
    token_model = TransformerTokenModel(body, vocab_size, codes, first_code, **factory)
    tensors = checkpoint.tensors(lambda name: "rotary_emb" not in name)
    tensors = token_model.own_tensors(tensors, tied="lm_head.weight" not in checkpoint)
    fill(token_model, tensors, dtype=dtype, device=device, source=path)
    side, context = generation_fields(path).count("image_side", SIDE), config.count("max_position_embeddings", CONTEXT)
    return SimpleAR(token_model, codec, tokenizer, side, context)
