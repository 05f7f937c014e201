"""The token grid: how a picture's (or video's) codes lie in the sequence, and what each position may hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError

FREE = -1  # entry of `Grid.forced` where the model decides


@dataclass(frozen=True)
class Grid:
    """`frames` x `rows` x `columns` codes in raster order, with an optional forced token after every row and at the end.

    Forced tokens are ids at or above the codebook size, which the model family embeds itself; they have probability 1.
    After the very last row comes `last_end` instead of `row_end`, if it is given.
    `preview` are rows and columns of a raster that is drawn first and is no part of the picture; it has no forced tokens.
    `forbidden` [R, codebook_size] bool and `forbidden_row` [num_tokens] (row of `forbidden` in force at a position, -1 for
    none) cut codes per position.
    """

    rows: int
    columns: int
    frames: int = 1
    row_end: int | None = None
    end: tuple[int, ...] = ()
    preview: tuple[int, int] | None = None
    last_end: int | None = None
    forbidden: Tensor | None = field(default=None, compare=False)
    forbidden_row: Tensor | None = field(default=None, compare=False)

    def __post_init__(self):
        if min(self.rows, self.columns, self.frames) < 1:
            size = f"{self.frames} x {self.rows} x {self.columns}"
            raise InputError(f"A token grid needs at least one frame, row and column, got {size}.")
        if (self.forbidden is None) != (self.forbidden_row is None):
            raise InputError("Forbidden codes need both `forbidden` and `forbidden_row`.")
        if self.forbidden is not None and self.forbidden_row is not None:
            self._check_forbidden(self.forbidden, self.forbidden_row)

    def _check_forbidden(self, forbidden: Tensor, forbidden_row: Tensor) -> None:
        if forbidden_row.shape != (self.num_tokens,):
            got = list(forbidden_row.shape)
            raise InputError(f"`forbidden_row` needs one entry for each of {self.num_tokens} tokens, got shape {got}.")
        if forbidden_row.max() >= len(forbidden):
            raise InputError(f"`forbidden_row` names row {forbidden_row.max()} of {len(forbidden)}.")
        if forbidden.all(-1).any():
            raise InputError("A row of `forbidden` cuts every code, so nothing can be drawn there; leave at least one.")

    @property
    def stride(self) -> int:
        """Tokens from a code to the one below it."""
        return self.columns + (self.row_end is not None)

    @property
    def start(self) -> int:
        """Tokens before the picture's own."""
        return 0 if self.preview is None else self.preview[0] * self.preview[1]

    @property
    def num_tokens(self) -> int:
        return self.start + self.frames * self.frame_tokens + len(self.end)

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame."""
        return self.rows * self.stride

    @property
    def has_forced(self) -> bool:
        return self.row_end is not None or bool(self.end)

    def forced(self) -> Tensor:
        """Forced token of every position, [num_tokens], FREE where the model decides."""
        forced = torch.full((self.num_tokens,), FREE)
        if self.row_end is not None:
            body = forced[self.start : self.start + self.frames * self.frame_tokens]
            body[self.stride - 1 :: self.stride] = self.row_end
            if self.last_end is not None:
                body[-1] = self.last_end
        if self.end:
            forced[-len(self.end) :] = torch.tensor(self.end)
        return forced

    def upper(self, rows: int) -> Grid:
        """The grid of the first `rows` token rows alone (rows of all frames are counted together)."""
        self._refuse_preview()
        if not 1 <= rows <= self.rows * self.frames:
            raise InputError(
                f"This grid has {self.rows * self.frames} rows of tokens; keep 1 or more of them, got {rows}."
            )
        return Grid(rows, self.columns, row_end=self.row_end)

    def codes(self, tokens: Tensor) -> Tensor:
        """Codes [B, rows, columns], or [B, frames, rows, columns] for video, of whole token rows [B, num_tokens]."""
        if tokens.ndim != 2 or tokens.shape[1] != self.num_tokens:
            raise InputError(f"This grid has {self.num_tokens} tokens, got tokens of shape {list(tokens.shape)}.")
        body = tokens[:, self.start : self.start + self.frames * self.frame_tokens]
        codes = body.view(len(tokens), self.frames, self.rows, self.stride)[..., : self.columns]
        return codes if self.frames > 1 else codes[:, 0]

    def tokens(self, codes: Tensor) -> Tensor:
        """Token rows for codes [B, r, columns] of the first r rows (a picture to continue, or a whole one).

        Codes of the first f frames of a video may also come as [B, f, rows, columns].
        """
        self._refuse_preview()
        if codes.ndim == 4 and codes.shape[2] == self.rows:
            codes = codes.flatten(1, 2)
        if codes.ndim != 3 or codes.shape[2] != self.columns or not 1 <= codes.shape[1] <= self.rows * self.frames:
            raise InputError(
                f"Codes for this grid have shape [B, 1 to {self.rows * self.frames}, {self.columns}], got {list(codes.shape)}."
            )
        forced = self.forced()[: codes.shape[1] * self.stride].view(1, codes.shape[1], self.stride)
        body = forced.to(codes.device).repeat(len(codes), 1, 1)
        body[..., : self.columns] = codes
        tokens = body.flatten(1)
        whole = codes.shape[1] == self.rows * self.frames
        return (
            torch.cat((tokens, tokens.new_tensor(self.end).expand(len(tokens), -1)), 1)
            if whole and self.end
            else tokens
        )

    def _refuse_preview(self) -> None:
        if self.preview is not None:
            raise InputError(
                "This model draws a small preview before the picture, which cannot be derived from part of a picture, so "
                "it cannot continue one."
            )
