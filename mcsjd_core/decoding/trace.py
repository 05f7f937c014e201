"""What one decode cost, and how its drafts changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..laws.law import Law

DETAILS = ("acceptance", "tv", "changed", "collision", "entropy")


@dataclass
class RowTrace:
    """One picture's iterations, in order: window starts (grid index), committed counts, seconds since prefill, window widths.

    With detail, every entry of `details` is a list of [L] float tensors, one an iteration, for the window's positions in the
    picture: `acceptance` sum_v min(p, q), `tv` the total variation between p and q, `changed` whether the token changed,
    `collision` the probability that the coupling in use gives the same token again, and `entropy` of p in nats.
    """

    starts: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    details: dict[str, list[Tensor]] = field(default_factory=dict)
    windows: list[int] = field(default_factory=list)

    @property
    def nfe(self) -> int:
        """Forwards after prefill."""
        return len(self.committed)

    @property
    def num_tokens(self) -> int:
        return sum(self.committed)

    @property
    def step_compression(self) -> float:
        return self.num_tokens / self.nfe if self.nfe else 1.0

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON."""
        record = {
            "num_tokens": self.num_tokens,
            "nfe": self.nfe,
            "step_compression": self.step_compression,
            "starts": self.starts,
            "windows": self.windows,
            "committed": self.committed,
            "seconds": self.seconds,
        }
        return record | {name: [row.tolist() for row in rows] for name, rows in self.details.items()}


def window_details(p: Law, q: Law, drafts: Tensor, tokens: Tensor, collision: Tensor) -> Tensor:
    """[5, B, L] float32 in the order of DETAILS, on the device of the laws."""
    acceptance = torch.minimum(p.probs, q.probs_at(p)).sum(-1)
    entropy = -(p.probs * p.probs.clamp_min(2.0**-126).log()).sum(-1)  # torch.special.entr is not on every device
    return torch.stack((acceptance, 1 - acceptance, (tokens != drafts).float(), collision, entropy))
