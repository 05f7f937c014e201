"""Wrong codes in the input of a transformer that is being trained; what it is asked for stays right.

While it decodes, a model sees windows of drafts, most of them wrong at first. One trained on finished pictures alone has
never seen such input, and may take wrong codes for parts of things.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SHORTEST = 8  # codes of a stretch


def disturb(codes: Tensor, rng: np.random.Generator, share: float, longest: int, row_length: int, first: int,
            codebook_size: int) -> Tensor:  # fmt: skip
    """Codes [B, N] with a stretch of some wrong ones in the first `share` of the rows.

    A stretch begins at code `first` or later and has SHORTEST to `longest` codes, or those that are left. Of these, 10 to 100 %
    are wrong: any code, the one `row_length` before, or the last one before the stretch again; the sequence's first code stands
    in for those before it.
    """
    seen, length = codes.clone(), codes.shape[1]
    for row in seen[: int(len(seen) * share)]:
        start = int(rng.integers(first, length))
        places = torch.arange(start, min(length, start + int(rng.integers(SHORTEST, longest + 1))), device=codes.device)
        guesses = (
            torch.from_numpy(rng.integers(codebook_size, size=len(places))).to(codes.device),
            row[(places - row_length).clamp_min(0)],
            row[max(start - 1, 0)].expand(len(places)),
        )
        wrong = torch.from_numpy(rng.random(len(places)) < rng.uniform(0.1, 1.0)).to(codes.device)
        row[places] = torch.where(wrong, guesses[rng.integers(len(guesses))], row[places])
    return seen
