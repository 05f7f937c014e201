"""How to decode: the method, its window, the law, and where first drafts come from."""

from __future__ import annotations

from dataclasses import dataclass

from .coupling import COUPLINGS
from .drafts import INITIALISERS
from .errors import InputError
from .laws import LawSettings

AUTOREGRESSIVE = "autoregressive"
METHODS = (AUTOREGRESSIVE, *COUPLINGS)


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode. `coupling` is one of METHODS, `initialiser` one of INITIALISERS; a window of 1 is plain AR in cost."""

    coupling: str = "maximal"
    window: int = 64
    law: LawSettings = LawSettings()
    initialiser: str = "random"
    seed: int = 0
    trace_detail: bool = False

    def __post_init__(self):
        if self.coupling not in METHODS:
            raise InputError(f"coupling must be one of {', '.join(METHODS)}, got {self.coupling!r}.")
        if self.initialiser not in INITIALISERS:
            raise InputError(f"initialiser must be one of {', '.join(INITIALISERS)}, got {self.initialiser!r}.")
        for name, value in (("window", self.window), ("seed", self.seed)):
            if not isinstance(value, int):
                raise InputError(f"{name} must be a whole number, got {value!r}.")
        if self.window < 1:
            raise InputError(f"window must be at least 1, got {self.window}.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be between 0 and 2^64 - 1, got {self.seed}.")

    @property
    def effective_window(self) -> int:
        return 1 if self.coupling == AUTOREGRESSIVE else self.window
