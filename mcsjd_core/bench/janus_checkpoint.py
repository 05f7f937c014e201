"""A Janus checkpoint with random weights on disk, in the layout of transformers: what both sides of the comparison load."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models

from ..families.janus import BEGIN_OF_IMAGE, BOS, PAD, PRO_ROLES
from .shapes import randomise

SHARPER = 8  # attention to single tokens: a model that attends to all alike draws the same code again and again


@dataclass(frozen=True)
class JanusSize:
    """Janus-Pro-1B made narrower. `side` is that of the square of tokens that a picture has."""

    dim: int = 768
    layers: int = 12
    heads: int = 6
    ffn_dim: int = 2112
    codes: int = 16384
    side: int = 8


def write(directory: Path, size: JanusSize) -> Path:
    """Write config, weights and tokenizer with transformers."""
    transformers: Any = import_module("transformers")  # to check types, its hundreds of models would be read

    tokenizer = _tokenizer()
    text = transformers.LlamaConfig(**_language_fields(size, tokenizer))
    parts = {"text_config": text.to_dict(), **_picture_fields(size)}
    config = transformers.JanusConfig(**parts, tie_word_embeddings=False)
    with torch.device("meta"):
        model = transformers.JanusForConditionalGeneration(config)
    model = model.to_empty(device="cpu")
    _fill(model)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def _language_fields(size: JanusSize, tokenizer: Tokenizer) -> dict[str, Any]:
    """Those of transformers' LlamaConfig."""
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": size.dim,
        "intermediate_size": size.ffn_dim,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.token_to_id(PAD),
        "bos_token_id": tokenizer.token_to_id(BOS),
    }


def _picture_fields(size: JanusSize) -> dict[str, Any]:
    """The codec, and the parts for understanding pictures, which are as small as can be."""
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": size.dim,
        "image_size": 16 * size.side,
        "num_image_tokens": size.side**2,
    }
    codec = {
        "base_channels": 32,
        "num_embeddings": size.codes,
        "embed_dim": 8,
        "projection_dim": size.dim,
        "image_token_embed_dim": size.dim,
    }
    return {"vision_config": vision, "vq_config": codec}


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.fill_(1.0 if parameter.dim() == 1 else 0.0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    randomise(model, torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if "language_model.layers" in name and name.endswith("self_attn.q_proj.weight"):
            parameter.mul_(SHARPER)


def _tokenizer() -> Tokenizer:
    """Two words, and the control tokens by which a Janus checkpoint is steered."""
    tokenizer = Tokenizer(models.WordLevel({"red": 0, "apple": 1}, unk_token="red"))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (BOS, PAD, BEGIN_OF_IMAGE, *PRO_ROLES)])
    return tokenizer
