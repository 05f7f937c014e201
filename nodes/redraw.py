"""Redraw a part of a picture: the sampler's inputs for it, and what they mean together."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core.errors import InputError
from ..mcsjd_core.families.sizes import side_lengths
from ..mcsjd_core.pipeline.redraw import kept_tokens
from .types import ImageTokens, LoadedModel, TokensSocket


def redraw_inputs() -> list[io.Input]:
    return [
        TokensSocket.Input(
            "picture_tokens",
            optional=True,
            tooltip="The picture to redraw in part: whole tokens from Encode or from a sampler, together with "
            "redraw_mask. A single picture is used for the whole batch.",
        ),
        io.Mask.Input(
            "redraw_mask",
            optional=True,
            tooltip="The part of picture_tokens to redraw: the white area, for example painted in the mask editor; the "
            "rest stays, token for token. Tokens are drawn from top left to bottom right, so a new one follows "
            "from the rows above it and its own row to the left, not from what comes after.",
        ),
    ]


def to_keep(model: LoadedModel, picture: ImageTokens | None, mask: Tensor | None) -> Tensor | None:
    """Tokens [B, num_tokens] as the core keeps them; None if no part of a picture is to be redrawn."""
    if picture is None and mask is None:
        return None
    if picture is None or mask is None:
        missing, given = ("picture_tokens", "redraw_mask") if picture is None else ("redraw_mask", "picture_tokens")
        raise InputError(f"Redrawing a part needs {missing} as well as {given}; connect both, or neither.")
    tokens = picture.require(model).require_whole("redrawing a part").tokens
    kept = kept_tokens(tokens, mask, picture.grid, *side_lengths(picture.size))
    given = picture.given_tokens(model)
    kept[:, :given] = tokens[:, :given]
    return kept
