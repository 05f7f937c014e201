"""The socket types, and the records that travel on them.

A record on MCSJD_STATS is a `mcsjd_core.report.Report`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core.errors import InputError
from ..mcsjd_core.models.interface import Family

CATEGORY = "MC-SJD"

ModelSocket = io.Custom("MCSJD_MODEL")
TokensSocket = io.Custom("MCSJD_TOKENS")
StatsSocket = io.Custom("MCSJD_STATS")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint in ComfyUI's care. `identity` changes with the files it was read from, not with the dtype."""

    name: str
    identity: str
    family: Family
    dtype: torch.dtype
    token_patcher: ModelPatcher
    codec_patcher: ModelPatcher


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """Whole token rows [B, num_tokens] int64 on the CPU, and the model whose codebook and grid give them a meaning."""

    tokens: Tensor
    model_name: str
    model_identity: str

    def require(self, model: LoadedModel) -> Tensor:
        """The tokens, if they are `model`'s."""
        if self.model_identity != model.identity:
            raise InputError(
                f"These tokens were drawn by {self.model_name!r} and mean nothing to {model.name!r}: "
                "connect the model that drew them."
            )
        return self.tokens
