"""Shapes and defaults from the public JSON files of a checkpoint, in the fields that transformers gives them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..checkpoints.checkpoint import Fields, read_json
from ..codecs.vqgan import VQGANConfig
from ..errors import InputError
from ..laws.law import LawSettings
from ..nn.transformer import TransformerConfig
from .interface import SamplingDefaults

GENERATION_CONFIG = "generation_config.json"


def transformer_config(config: Fields, norm_eps: float, **special) -> TransformerConfig:
    """A Llama-like body; `norm_eps` is the family's default, `special` is what its config.json has no common field for."""
    heads, dim = config.count("num_attention_heads"), config.count("hidden_size")
    return TransformerConfig(
        dim=dim,
        layers=config.count("num_hidden_layers"),
        heads=heads,
        kv_heads=config.count("num_key_value_heads", heads),
        head_dim=config.count("head_dim", max(dim // heads, 1)),
        ffn_dim=config.count("intermediate_size"),
        norm_eps=config.number("rms_norm_eps", norm_eps),
        rope_theta=_rope_theta(config),
        **special,
    )


def _rope_theta(config: Fields) -> float:
    """`rope_theta`, which transformers from version 5 on writes inside `rope_parameters`, there or for each kind of layer."""
    parts = [part for name in ("rope_parameters", "rope_scaling") for part in _by_layer(config.part(name, {}))]
    kinds = {str(part.data.get("rope_type") or part.data.get("type") or "default") for part in parts}
    if kinds - {"default"}:
        raise InputError(
            f"{config.where} asks for scaled rotary embedding ({', '.join(sorted(kinds - {'default'}))}), which no model of "
            "this family is known to have."
        )
    thetas = {part.number("rope_theta") for part in parts if part.data.get("rope_theta") is not None}
    if len(thetas) > 1:
        raise InputError(
            f"{config.where} has layers of several rotary bases ({', '.join(map(str, sorted(thetas)))}), which no model of "
            "this family is known to have."
        )
    return thetas.pop() if thetas else config.number("rope_theta", 10000.0)


def _by_layer(rope: Fields) -> list[Fields]:
    """The settings themselves, or those of every kind of layer where they are nested."""
    nested = [name for name, value in rope.data.items() if isinstance(value, dict)]
    return [rope.part(name) for name in nested] or [rope]


def codec_config(vq: Fields, published: VQGANConfig = VQGANConfig()) -> VQGANConfig:
    """From a `vq_config`; public files leave out what the family's `published` codec has anyway."""
    return replace(
        published,
        channels=vq.count("base_channels", published.channels),
        channel_multipliers=vq.counts("channel_multiplier", published.channel_multipliers),
        res_blocks=vq.count("num_res_blocks", published.res_blocks),
        z_channels=vq.count("latent_channels", published.z_channels),
        embed_dim=vq.count("embed_dim", published.embed_dim),
        codebook_size=vq.count("num_embeddings", published.codebook_size),
    )


def generation_fields(directory: Path) -> Fields:
    """The fields of generation_config.json, none if it is missing."""
    file = directory / GENERATION_CONFIG
    return Fields(read_json(file) if file.exists() else {}, str(file))


def sampling_defaults(settings: Fields, published: SamplingDefaults) -> SamplingDefaults:
    """The sampling fields of generation_config.json, else what the family's authors use."""
    law = LawSettings(
        cfg_scale=settings.number("guidance_scale", published.law.cfg_scale),
        temperature=settings.number("temperature", published.law.temperature),
        top_k=int(settings.number("top_k", published.law.top_k)),
        top_p=settings.number("top_p", published.law.top_p),
        min_p=settings.number("min_p", published.law.min_p),
    )
    return replace(published, law=law)
