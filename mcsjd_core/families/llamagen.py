"""LlamaGen family (arXiv 2406.06525): a class of ImageNet or a caption in front, then the raster of codes.

Reads the published files: `c2i_B_256.pt` and its kin with `vq_ds16_c2i.pt` beside them, `t2i_XL_stage1_256.pt` and its kin
with `vq_ds16_t2i.pt` and the directory `flan-t5-xl`. A file holds weights alone, so its name has to tell the picture size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoints.checkpoint import Checkpoint, fill
from ..codecs.vq16 import VQ8, VQ16, vqgan_name
from ..codecs.vqgan import VQGAN, VQGANConfig
from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import TransformerConfig
from ..text.captions import LONGEST, clean_caption
from ..text.imagenet import class_names, find_class, numbered_class
from ..text.words import Words
from .interface import PictureFamily, SamplingDefaults, alternating
from .llamagen_model import CAPTION_DIM, CAPTION_TOKENS, CONDITIONS, LlamaGenModel
from .sizes import size_name
from .t5_captions import T5Captions

PUBLISHED = re.compile(r"(?P<kind>c2i|t2i)_.+_(?P<side>\d+)\.(pt|safetensors)")
CODECS, CODEC_SUFFIXES = {"vq_ds16": VQ16, "vq_ds8": VQ8}, (".safetensors", ".pt")
T5_DIRECTORY = "flan-t5-xl"
# Heads by (layers, width): B, L, XL, XXL, 3B, and 1B, XXXL, 7B, which exist as code alone. The tensors do not tell them.
HEADS = {(12, 768): 12, (24, 1024): 16, (36, 1280): 20, (48, 1536): 24, (24, 3200): 32,
         (22, 2048): 32, (48, 2560): 40, (32, 4096): 32}  # fmt: skip
DEFAULTS = {
    "c2i": SamplingDefaults(LawSettings(cfg_scale=4.0, top_k=2000)),
    "t2i": SamplingDefaults(LawSettings(cfg_scale=7.5, top_k=1000), window=16),
}
ANGLES = "freqs_cis"
UNUSED = (ANGLES, "kv_cache")  # tables that some files hold and the code computes
RENAMED = {
    "tok_embeddings.": "model.embed_tokens.",
    "output.": "lm_head.",
    "norm.": "model.norm.",
    "layers.": "model.layers.",
    "cls_embedding.uncond_embedding": "cls_embedding.uncond_embedding.weight",
}
RENAMED_IN_LAYERS = {
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".attention.wo.": ".self_attn.o_proj.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
}
FUSED = ".attention.wqkv.weight"


def transformer_config(checkpoint: Checkpoint) -> TransformerConfig:
    """From the shapes of the tensors."""
    layers = len({name.split(".")[1] for name in checkpoint.files if name.startswith("layers.")})
    dim = checkpoint.shape("tok_embeddings.weight")[-1]
    heads = HEADS.get((layers, dim))
    if heads is None:
        raise InputError(f"No LlamaGen of {layers} layers of width {dim} is known; use one of the published files.")
    return TransformerConfig(
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        ffn_dim=checkpoint.shape("layers.0.feed_forward.w1.weight")[0],
        rope_interleaved=True,
        rope_float32=True,
        count_padding=True,
    )


def model_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a published file under this project's names."""
    for name, tensor in checkpoint.tensors(lambda name: not any(part in name for part in UNUSED)):
        name = next((new + name[len(old) :] for old, new in RENAMED.items() if name.startswith(old)), name)
        for old, new in RENAMED_IN_LAYERS.items():
            name = name.replace(old, new)
        if name.endswith(FUSED) and len(tensor) % 3 == 0:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{name.removesuffix(FUSED)}.self_attn.{part}_proj.weight", rows
        else:
            yield name, tensor


class LlamaGen(PictureFamily):
    """A loaded checkpoint; one size, square. `captions` is None for models that draw classes.

    Without a class the model draws anything; an empty caption is one of no words.
    """

    name = "llamagen"

    def __init__(self, token_model: LlamaGenModel, codec: VQGAN, side: int, kind: str, captions: T5Captions | None):
        self.token_model, self.codec, self.captions = token_model, codec, captions
        self.sizes, self.defaults = (size_name(side, side),), DEFAULTS[kind]
        self._grid = Grid(side // codec.config.downsampling, side // codec.config.downsampling)

    def picture_grid(self, size: str) -> Grid:
        return self._grid

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        make = self._class_prompt if self.captions is None else self._caption_prompt
        return make(texts, negatives, guided)

    def _class_prompt(self, texts: list[str], negatives: list[str], guided: bool) -> Prompt:
        model = self.token_model
        count = model.cls_embedding.classes
        rows = [_class_or_none(text or "", count) for text in alternating(texts, negatives, guided)]
        classes = torch.tensor(rows, device=model.prompt_device)
        return Prompt(model.cls_embedding(classes).to(model.compute_dtype), torch.zeros_like(classes), guided)

    def _caption_prompt(self, texts: list[str], negatives: list[str], guided: bool) -> Prompt:
        """A caption's states come last of 120, so the positions before are padding.

        Without a negative prompt the unconditional row hides as many positions as its caption leaves empty.
        """
        captions = [text if text is None else clean_caption(text) for text in alternating(texts, negatives, guided)]
        wanted = [caption for caption in captions if caption is not None]
        assert self.captions is not None
        states = dict(zip(wanted, self.captions.encode(wanted), strict=True))
        if (width := next(iter(states.values())).shape[-1]) != CAPTION_DIM:
            raise InputError(
                f"The text encoder in {self.captions.directory} gives {width} numbers a token, and this model reads "
                f"{CAPTION_DIM}; put FLAN-T5-XL there."
            )
        empty: list[int] = []
        for caption in captions:
            empty.append(empty[-1] if caption is None else CAPTION_TOKENS - len(states[caption]))
        return self._prompt_of([caption if caption is None else states[caption] for caption in captions], empty, guided)

    def read_ahead(self, texts: Sequence[str]) -> None:
        if self.captions is not None:
            self.captions.encode([clean_caption(text) for text in texts])

    @property
    def words(self) -> Words | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None if self.captions is None else replace(self.captions.words, cleaned=clean_caption, longest=LONGEST)

    def empty_prompt(self, guided: bool) -> Prompt:
        if self.captions is None:
            return super().empty_prompt(guided)
        rows = 1 + guided
        return self._prompt_of([None] * rows, [0] * rows, guided)

    @torch.no_grad()
    def _prompt_of(self, states: list[Tensor | None], empty: list[int], guided: bool) -> Prompt:
        """Of the hidden states of every row, None for no caption, and how many of the first positions are hidden."""
        model, device = self.token_model, self.token_model.prompt_device
        nothing = model.cls_embedding.no_caption(device)
        rows = [_left_padded(nothing if row is None else row).to(device, model.compute_dtype) for row in states]
        embeddings = model.cls_embedding(torch.stack(rows)).to(model.compute_dtype)
        return Prompt(embeddings, torch.tensor(empty, device=device), guided)


def _class_or_none(text: str, count: int) -> int:
    """The class that a text names, for an empty one the number of no class; other classes than ImageNet's have no names."""
    if not text.strip():
        return count
    if count == len(class_names()):
        return find_class(text)
    rule = f"This model has {count} classes of its own: give a number from 0 to {count - 1}"
    if not text.strip().isdecimal():
        raise InputError(f"{rule}, got {text!r}.")
    return numbered_class(text.strip(), count, rule)


def _left_padded(states: Tensor) -> Tensor:
    return F.pad(states, (0, 0, CAPTION_TOKENS - len(states), 0))


def detect(path: Path) -> bool:
    """Whether `path` is a published file, or a directory with one such file."""
    return len(_model_files(path)) == 1


def _model_files(path: Path) -> list[Path]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in files if PUBLISHED.fullmatch(file.name) and file.is_file()]


def load(path: Path, *, dtype: torch.dtype, device, operations) -> LlamaGen:
    """Load a file, or the directory that holds one; the codec always runs in float32."""
    (file,) = _model_files(path)
    published = PUBLISHED.fullmatch(file.name)
    assert published is not None  # or it would not be a model file
    kind, side = published["kind"], int(published["side"])
    # Everything is opened before anything is read: what is missing is reported at once.
    codec_file, codec_config = _codec(file.parent, kind)
    checkpoint, codec_checkpoint = Checkpoint([file]), Checkpoint([codec_file])
    captions = _captions(file.parent) if kind == "t2i" else None
    codec_config = _with_codebook(codec_config, codec_checkpoint)
    columns, codes = _columns(checkpoint, kind, side, codec_config, file), checkpoint.shape("tok_embeddings.weight")[0]
    if codes != codec_config.codebook_size:
        raise InputError(f"{file.name} draws {codes} codes, {codec_file.name} has {codec_config.codebook_size}.")
    table = "cls_embedding.embedding_table.weight"
    classes = checkpoint.shape(table)[0] - 1 if table in checkpoint else len(class_names())
    token_model = LlamaGenModel(
        transformer_config(checkpoint), kind, codes, columns, classes, dtype=dtype, device="meta", operations=operations
    )
    side = columns * codec_config.downsampling
    fill(token_model, model_tensors(checkpoint), dtype=dtype, device=device, source=file)
    codec = VQGAN(codec_config, device="meta", operations=operations)
    codec_tensors = codec_checkpoint.renamed(partial(vqgan_name, config=codec_config))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=codec_file)
    return LlamaGen(token_model, codec, side, kind, captions)


def _with_codebook(config: VQGANConfig, checkpoint: Checkpoint) -> VQGANConfig:
    """Codecs of one's own training have codebooks of other sizes."""
    codes, width = checkpoint.shape("quantize.embedding.weight")
    return replace(config, codebook_size=codes, embed_dim=width)


def _columns(checkpoint: Checkpoint, kind: str, side: int, codec: VQGANConfig, file: Path) -> int:
    """Columns of the raster: what the table of angles tells, if the file has one, else the side in its name."""
    angles = checkpoint.shape(ANGLES) if ANGLES in checkpoint else []
    cells = angles[0] - CONDITIONS[kind].length if len(angles) == 3 else 0
    if cells > 0 and isqrt(cells) ** 2 == cells:
        return isqrt(cells)
    if side % codec.downsampling:
        raise InputError(f"{file.name} names a side of {side} px, no multiple of the codec's {codec.downsampling}.")
    return side // codec.downsampling


def companions(path: Path) -> list[Path]:
    """What lies beside a file of weights: the codec, and the text encoder of captions."""
    directory = path if path.is_dir() else path.parent
    codecs = [directory / f"{name}_{kind}{suffix}" for name in CODECS for kind in DEFAULTS for suffix in CODEC_SUFFIXES]
    return [path for path in (*codecs, *_caption_directories(directory)) if path.exists()]


def _codec(directory: Path, kind: str) -> tuple[Path, VQGANConfig]:
    """The codec beside a model. Those of the two kinds have equal shapes and different weights: the name tells them apart."""
    for name, config in CODECS.items():
        for suffix in CODEC_SUFFIXES:
            file = directory / f"{name}_{kind}{suffix}"
            if file.is_file():
                return file, config
    raise InputError(
        f"{directory / f'vq_ds16_{kind}.pt'} is missing: the codec that turns this model's tokens into pictures; "
        "download it with Get Model or `download`, or put it there by hand."
    )


def _caption_directories(directory: Path) -> tuple[Path, Path]:
    return directory / T5_DIRECTORY, directory.parent / T5_DIRECTORY


def _captions(directory: Path) -> T5Captions:
    beside = _caption_directories(directory)
    return T5Captions(next((path for path in beside if path.is_dir()), beside[0]), CAPTION_TOKENS)
