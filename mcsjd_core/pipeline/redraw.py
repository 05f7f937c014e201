"""Which codes of a picture are drawn anew where a mask says so."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..decoding.grid import FREE, Grid
from ..errors import InputError
from .pixels import cover_cut

TOUCHED = 1 / 255  # a pixel of a mask counts from here on


def kept_tokens(tokens: Tensor, mask: Tensor, grid: Grid, width: int, height: int) -> Tensor:
    """Whole token rows [B, num_tokens] as `decode` keeps them: FREE where a pixel of the mask [1 or B, H, W] is marked (1).

    The mask is cut to the shape of width x height as `pixels.fit` cuts pictures. One row of tokens serves several masks, and
    one mask several rows; a mask of a video holds for all of its frames. Forced tokens stay.
    """
    if mask.ndim != 3 or 0 in mask.shape or not mask.isfinite().all():
        raise InputError(f"A mask must have shape [B, H, W] and finite values, got {list(mask.shape)}.")
    batch = max(len(tokens), len(mask))
    if not {len(tokens), len(mask)} <= {1, batch}:
        raise InputError(f"There are {len(mask)} masks for {len(tokens)} pictures; give one, or one for each.")
    cells = redrawn_cells(mask.to(tokens.device), grid, width, height)
    if not cells.any():
        raise InputError("The mask marks nothing to redraw; paint over the part of the picture that should change.")
    codes = grid.codes(tokens).expand(batch, *[-1] * (grid.codes(tokens).ndim - 1))
    cells = cells if codes.ndim == 3 else cells[:, None]
    return grid.tokens(codes.masked_fill(cells, FREE))


def redrawn_cells(mask: Tensor, grid: Grid, width: int, height: int) -> Tensor:
    """[B, rows, columns] bool: cells of codes in which any pixel of the mask [B, H, W] is marked."""
    touched = cover_cut((mask >= TOUCHED).float()[:, None], width, height)
    return F.adaptive_max_pool2d(touched, (grid.rows, grid.columns))[:, 0] > 0
