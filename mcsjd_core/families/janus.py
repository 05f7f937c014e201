"""Janus family (arXiv 2410.13848, 2501.17811): a Llama body with an embedding and a head for images of their own, and VQ-16.

Janus-Pro 1B and 7B and Janus 1.3B, as DeepSeek published them (`language_model.model ...`) and in the layout of transformers
(`model.language_model ...`); the parts for understanding pictures are passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.checkpoint import Checkpoint, Fields, fill, read_json
from ..checkpoints.naming import own_names
from ..codecs.vq16 import VQ16, vqgan_name
from ..codecs.vqgan import VQGAN, VQGANConfig
from ..decoding.grid import Grid
from ..decoding.interface import Prompt, TokenModule
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.kv_cache import KVCache
from ..nn.transformer import Transformer, TransformerConfig
from ..text.text_tokenizer import control_ids, read_tokenizer, without_controls
from .hf_config import codec_config, generation_fields, sampling_defaults, transformer_config
from .interface import PictureFamily, SamplingDefaults, alternating, check_prompt_lengths
from .sizes import size_name

BOS, PAD, BEGIN_OF_IMAGE = "<｜begin▁of▁sentence｜>", "<｜▁pad▁｜>", "<begin_of_image>"
# Names that steer the model. Ids differ between the checkpoints, so every one is looked up by its name.
CONTROL = re.compile(r"<｜[^｜]*｜>|<(begin|end)_of_image>|<(image|patch)_placeholder>|<\|[^|]*\|>")
PRO_ROLES, ROLES = ("<|User|>", "<|Assistant|>"), ("User", "Assistant")
DEFAULTS = SamplingDefaults(LawSettings(cfg_scale=5.0), window=16)
GRID = Grid(24, 24)  # the only one that the models were trained for
# What a language_config leaves out is what LlamaConfig of transformers has.
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
         "max_position_embeddings": 2048}  # fmt: skip
LLAMA_NORM_EPS = 1e-6

NATIVE_CODEC, ORIGINAL_CODEC = "model.vqmodel.", "gen_vision_model."
NATIVE = {
    "model.language_model.": "model.",
    "model.generation_embeddings.": "gen_embed.",
    "model.generation_aligner.fc1.": "gen_aligner.layers.0.",
    "model.generation_aligner.hidden_layers.0.": "gen_aligner.layers.2.",
    "model.generation_head.proj_out.": "gen_head.output_mlp_projector.",
    "model.generation_head.": "gen_head.",
}
ORIGINAL = {"language_model.model.": "model."}
UNUSED = re.compile(r"(language_model\.)?lm_head\.|(model\.)?(vision_model|aligner)\.|.*\.rotary_emb\.")


class Aligner(nn.Module):
    """From a code's entry of `gen_embed` to an embedding of the body."""

    def __init__(self, inp: int, dim: int, operations, **factory):
        super().__init__()
        self.layers = nn.ModuleList(
            [operations.Linear(inp, dim, **factory), nn.GELU(), operations.Linear(dim, dim, **factory)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Head(nn.Module):
    """From a hidden state of the body to the logits of the codes."""

    def __init__(self, dim: int, codebook_size: int, operations, **factory):
        super().__init__()
        self.output_mlp_projector = operations.Linear(dim, dim, **factory)
        self.vision_head = operations.Linear(dim, codebook_size, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.vision_head(F.gelu(self.output_mlp_projector(x)))


class JanusTransformer(TokenModule):
    """The token model: text ids go through `model.embed_tokens`, codes through `gen_embed` and `gen_aligner`.

    Code ids overlap text ids: which table one goes through depends on where it stands, never on its value. For
    `compute_dtype` and `compute_device` see `TransformerTokenModel`.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, codec: VQGANConfig,
                 *, dtype=None, device=None, operations=nn):  # fmt: skip
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        self.codebook_size = codec.codebook_size
        self.model = Transformer(config, **factory)
        self.model.embed_tokens = operations.Embedding(vocab_size, config.dim, dtype=dtype, device=device)
        self.gen_embed = operations.Embedding(codec.codebook_size, codec.embed_dim, dtype=dtype, device=device)
        self.gen_aligner = Aligner(codec.embed_dim, config.dim, **factory)
        self.gen_head = Head(config.dim, codec.codebook_size, **factory)
        self.compute_dtype = dtype or torch.get_default_dtype()
        self.compute_device: torch.device | None = None

    @property
    def prompt_device(self) -> torch.device:
        return self.compute_device or self.gen_head.vision_head.weight.device

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Embeddings of vocabulary ids (text and control tokens)."""
        return self.model.embed_tokens(ids).to(self.compute_dtype)

    def embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        return self.gen_aligner(self.gen_embed(tokens).to(self.compute_dtype))

    def new_cache(self, prompt: Prompt, capacity: int) -> KVCache:
        return self.model.new_cache(prompt.padding, capacity, self.compute_dtype)

    def cache_bytes(self, prompt: Prompt, capacity: int) -> int:
        return self.model.cache_bytes(len(prompt.padding), capacity, self.compute_dtype)

    def hidden(self, embeddings: Tensor, slots: Tensor, cache: KVCache, extent: int) -> Tensor:
        return self.model.forward_cached(embeddings, slots, cache, extent)

    def logits(self, hidden: Tensor, index: Tensor) -> Tensor:
        return self.gen_head(hidden)


@dataclass(frozen=True)
class Vocabulary:
    """The ids that matter for drawing."""

    bos: int
    pad: int
    begin_of_image: int

    @classmethod
    def from_names(cls, ids: dict[str, int]) -> Vocabulary:
        missing = [name for name in (BOS, PAD, BEGIN_OF_IMAGE) if name not in ids]
        if missing:
            raise InputError(f"The vocabulary lacks {', '.join(missing)}; this is not a Janus tokenizer.")
        return cls(ids[BOS], ids[PAD], ids[BEGIN_OF_IMAGE])


class Janus(PictureFamily):
    """A loaded checkpoint of the family."""

    name = "janus"

    def __init__(self, token_model: JanusTransformer, codec: VQGAN, tokenizer, roles: tuple[str, str],
                 defaults: SamplingDefaults, context: int):  # fmt: skip
        self.token_model, self.codec, self.tokenizer, self.context = token_model, codec, tokenizer, context
        self.vocabulary, self.roles, self.defaults = Vocabulary.from_names(tokenizer.get_vocab()), roles, defaults
        cell = codec.config.downsampling
        self.sizes = (size_name(GRID.columns * cell, GRID.rows * cell),)
        self.control_ids = control_ids(tokenizer, CONTROL)

    def picture_grid(self, size: str) -> Grid:
        return GRID

    def request(self, text: str) -> str:
        """What the model was trained to answer with a picture; control tokens written in the text are cut out."""
        user, assistant = self.roles
        text = without_controls(self.tokenizer, text, self.control_ids).strip()
        return f"{user}: {text}\n\n{assistant}:" if text else f"{user}:{assistant}:"

    def picture_prompt(self, texts: list[str], negatives: list[str], guided: bool, size: str) -> Prompt:
        rows: list[list[int]] = []
        for text in alternating(texts, negatives, guided):
            rows.append(self._empty(len(rows[-1])) if text is None else self._row(text))
        check_prompt_lengths(rows, self.context - self.picture_grid(size).num_tokens)
        return Prompt.of_ids(rows, self.token_model.embed_ids, guided, self.token_model.prompt_device)

    def _row(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(self.request(text), add_special_tokens=False).ids
        return [self.vocabulary.bos, *ids, self.vocabulary.begin_of_image]

    def _empty(self, length: int) -> list[int]:
        """The unconditional row: pad tokens in place of the text, which the model attends to as it did in training."""
        return [self.vocabulary.bos, *[self.vocabulary.pad] * (length - 2), self.vocabulary.begin_of_image]


def detect(path: Path) -> bool:
    """Whether `path` is a checkpoint directory of this family. JanusFlow calls itself `multi_modality`, too."""
    file = path / "config.json"
    config = read_json(file) if file.is_file() else {}
    return config.get("model_type") == "janus" or (
        config.get("model_type") == "multi_modality" and "gen_vision_config" in config
    )


def load(path: Path, *, dtype: torch.dtype, device, operations) -> Janus:
    """Load a checkpoint directory of either layout; the codec always runs in float32."""
    config, tokenizer = Fields.of_file(path / "config.json"), read_tokenizer(path / "tokenizer.json")
    native = config.data.get("model_type") == "janus"
    checkpoint = Checkpoint.of_directory(path)
    codec_shape = _native_codec(config) if native else _original_codec(config, checkpoint)
    text = config.part("text_config" if native else "language_config", {}).over(LLAMA)
    vocab_size = checkpoint.shape(
        f"{'model.language_model' if native else 'language_model.model'}.embed_tokens.weight"
    )[0]
    token_model = JanusTransformer(
        transformer_config(text, LLAMA_NORM_EPS),
        vocab_size,
        codec_shape,
        dtype=dtype,
        device="meta",
        operations=operations,
    )
    codec = VQGAN(codec_shape, device="meta", operations=operations)
    defaults = sampling_defaults(generation_fields(path), DEFAULTS)
    context = text.count("max_position_embeddings")
    model = Janus(token_model, codec, tokenizer, _roles(path, tokenizer), defaults, context)
    _check_ids(model, vocab_size)
    names = NATIVE if native else ORIGINAL
    tensors = checkpoint.renamed(lambda name: _token_name(name, names))
    fill(token_model, tensors, dtype=dtype, device=device, source=path)
    codec_tensors = checkpoint.renamed(lambda name: _codec_name(name, codec_shape))
    fill(codec, codec_tensors, dtype=torch.float32, device=device, source=path)
    return model


def _native_codec(config: Fields) -> VQGANConfig:
    shape = codec_config(config.part("vq_config", {}), VQ16)
    return replace(shape, attention_levels=(len(shape.channel_multipliers) - 1,))


def _original_codec(config: Fields, checkpoint: Checkpoint) -> VQGANConfig:
    """VQ-16; the original config.json tells the codebook alone."""
    codebook = config.part("gen_vision_config").part("params", {})
    return replace(
        VQ16,
        channels=checkpoint.shape(f"{ORIGINAL_CODEC}encoder.conv_in.weight")[0],
        codebook_size=codebook.count("image_token_size", VQ16.codebook_size),
        embed_dim=codebook.count("n_embed", VQ16.embed_dim),
    )


def _check_ids(model: Janus, vocab_size: int) -> None:
    """Every id that a prompt can hold has to have an embedding."""
    ids, v = model.tokenizer.get_vocab(), model.vocabulary
    roles = [ids[role] for role in model.roles if role in ids]
    largest = max({*ids.values()} - model.control_ids | {v.bos, v.pad, v.begin_of_image, *roles})
    if largest >= vocab_size:
        raise InputError(
            f"tokenizer.json has ids up to {largest}, the model embeds {vocab_size}; it belongs to another model."
        )


def _roles(path: Path, tokenizer) -> tuple[str, str]:
    """Janus 1.3B has plain words for roles; the tokenizers alone may not tell it from Janus-Pro 1B."""
    plain = "1.3b" in own_names(path) or tokenizer.token_to_id(PRO_ROLES[0]) is None
    return ROLES if plain else PRO_ROLES


def _token_name(name: str, prefixes: dict[str, str]) -> str | None:
    """The token model's name of a public tensor; None for what belongs to the codec or to understanding pictures."""
    if name.startswith((NATIVE_CODEC, ORIGINAL_CODEC)) or UNUSED.match(name):
        return None
    return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), name)


def _codec_name(name: str, config: VQGANConfig) -> str | None:
    """The codec's name of a public tensor; None for all that is not the codec's."""
    if name.startswith(ORIGINAL_CODEC):
        return vqgan_name(name.removeprefix(ORIGINAL_CODEC), config)
    if not name.startswith(NATIVE_CODEC):
        return None
    deepest = len(config.channel_multipliers) - 1  # the native decoder counts its levels in the order they run
    return re.sub(
        r"^decoder\.up\.(\d+)", lambda m: f"decoder.up.{deepest - int(m[1])}", name.removeprefix(NATIVE_CODEC)
    )
