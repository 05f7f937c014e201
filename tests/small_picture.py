"""A picture of 6 x 6 codes by a small random transformer, for the tests of the loop."""

from __future__ import annotations

import torch

from mcsjd_core import Grid, LawSettings
from tiny import run, transformer

CODES, GRID = 16, Grid(6, 6)
MODEL = transformer(CODES)
GUIDED = LawSettings(cfg_scale=2.0, top_k=8, top_p=0.95)
EARLIER = torch.arange(GRID.num_tokens)[None] % CODES


def picture(batch=1, grid=GRID, model=MODEL, **settings):
    if settings.get("initialiser") == "warm":
        settings.setdefault("earlier_tokens", EARLIER[:, : grid.num_tokens])
    return run(model, grid, batch, settings.get("law", LawSettings()).guided, **settings)
