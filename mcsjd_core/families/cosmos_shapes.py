"""A Cosmos checkpoint under this project's names, and what the shapes of its tensors tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, Fields
from ..errors import InputError
from ..nn.transformer import TransformerConfig

# Marks in the names of tensors, of layouts that Cosmos' own code writes for other purposes.
OTHER_LAYOUTS = {"medusa": "has Medusa heads", ".wqkv.": "has queries, keys and values in one matrix"}
TOP_NAMES = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "cross_attention_norm": "cross_attn_layernorm",
    "cross_attention": "cross_attn",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward": "mlp",
    "wq": "q_proj",
    "wk": "k_proj",
    "wv": "v_proj",
    "wo": "o_proj",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}


def core_name(name: str) -> str | None:
    """The token model's name of a published tensor; None for what it does not need."""
    if "_extra_state" in name:
        return None
    first, *rest = name.removeprefix("model.").split(".")
    return ".".join((TOP_NAMES.get(first, f"model.{first}"), *(LAYER_NAMES.get(part, part) for part in rest)))


class Shapes:
    """A checkpoint under this project's names, and what the shapes of its tensors tell."""

    def __init__(self, checkpoint: Checkpoint, path: Path):
        self.checkpoint, self.path = checkpoint, path
        for mark, what in OTHER_LAYOUTS.items():
            if any(mark in name.lower() for name in checkpoint.files):
                raise InputError(
                    f"{path} {what}, which this pack does not read; use the plain checkpoint of the same model."
                )
        self.names = {core_name(name): name for name in checkpoint.files}

    def of(self, name: str) -> list[int]:
        if name not in self.names:
            raise InputError(f"{self.path} has no tensor for {name}; it belongs to another model, or is incomplete.")
        return self.checkpoint.shape(self.names[name])

    def vocabulary(self) -> tuple[int, int]:
        """Ids in all, and how many of them can be drawn."""
        return self.of("model.embed_tokens.weight")[0], self.of("lm_head.weight")[0]

    def transformer(self, config: Fields) -> TransformerConfig:
        first = "model.layers.0."
        (head_dim,) = self.of(f"{first}self_attn.q_norm.weight")
        eps = config.number("norm_eps", 1e-5)
        cross = f"{first}cross_attn.k_proj.weight"
        self._check_whole(config, head_dim)
        return TransformerConfig(
            dim=self.of("model.norm.weight")[0],
            layers=len({name.split(".")[2] for name in self.names if name and name.startswith("model.layers.")}),
            heads=self.of(f"{first}self_attn.q_proj.weight")[0] // head_dim,
            kv_heads=self.of(f"{first}self_attn.k_proj.weight")[0] // head_dim,
            head_dim=head_dim,
            ffn_dim=self.of(f"{first}mlp.gate_proj.weight")[0],
            norm_eps=eps,
            qk_norm="rms",
            qk_norm_eps=eps,
            context_dim=self.of(cross)[1] if cross in self.names else None,
        )

    def _check_whole(self, config: Fields, head_dim: int) -> None:
        """A part of a model that was shared out to several devices fits together in itself; config.json tells the whole."""
        first = "model.layers.0."
        found = {
            "n_heads": self.of(f"{first}self_attn.q_proj.weight")[0] // head_dim,
            "n_kv_heads": self.of(f"{first}self_attn.k_proj.weight")[0] // head_dim,
            "ffn_hidden_size": self.of(f"{first}mlp.gate_proj.weight")[0],
        }
        for field, count in found.items():
            if (whole := config.count(field, count)) != count:
                raise InputError(
                    f"{self.path} holds {count} where config.json has `{field}` {whole}; it is one part of a model split across "
                    "several devices, or another model: use the whole checkpoint."
                )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.checkpoint.renamed(core_name):
            # One row of weights for all heads.
            yield name, tensor[None] if name.endswith(("q_norm.weight", "k_norm.weight")) else tensor
