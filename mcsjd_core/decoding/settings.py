"""How to decode: the method, its window, the law, and where first drafts come from."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..laws.coupling import COUPLINGS
from ..laws.law import LawSettings
from .drafts import INITIALISERS, LAW_INITIALISERS, RECALL
from .window_policy import LADDER

AUTOREGRESSIVE = "autoregressive"
METHODS = (AUTOREGRESSIVE, *COUPLINGS)
AUTO = "auto"
COUNTED, OWN = "counted", "own"
ROW_SEEDS = (COUNTED, OWN)
ALL_INITIALISERS = (*INITIALISERS, *LAW_INITIALISERS, RECALL)
EXECUTIONS = ("eager", "compiled", "captured")  # see `runners`


@dataclass(frozen=True)
class DecodeSettings:
    """How to decode. `coupling` is one of METHODS, `initialiser` one of ALL_INITIALISERS; a window of 1 is plain AR in cost.

    A window of "auto" (or 0) is chosen while decoding, from measured time and committed counts. `gumbel_exact` gives the
    same tokens under it; the other couplings follow the law just as exactly, but a seed repeats its tokens only if the
    windows repeat, which the clock decides.

    `trajectories` chains of drafts share every forward, each a window wide: more is committed, by a costlier forward. Under
    `gumbel_exact` the tokens stay the same, under the other couplings their law.

    `execution` is one of EXECUTIONS: how iterations are run, which changes what they cost and nothing else.

    `part` counts the runs by which one result is continued from its own tokens: each then has noise of its own, even where a
    run is given the very tokens that an earlier one was given.

    `row_seeds` is one of ROW_SEEDS: "counted" gives row b of a batch the seed + b, so that it equals a single run; under "own"
    batches of other seeds have no row in common with it.
    """

    coupling: str = "maximal"
    window: int | str = 64
    law: LawSettings = LawSettings()
    initialiser: str = "random"
    seed: int = 0
    trace_detail: bool = False
    trajectories: int = 1
    execution: str = "eager"
    part: int = 0
    row_seeds: str = COUNTED

    def __post_init__(self):
        if self.coupling not in METHODS:
            raise InputError(f"coupling must be one of {', '.join(METHODS)}, got {self.coupling!r}.")
        if self.initialiser not in ALL_INITIALISERS:
            raise InputError(f"initialiser must be one of {', '.join(ALL_INITIALISERS)}, got {self.initialiser!r}.")
        if self.execution not in EXECUTIONS:
            raise InputError(f"execution must be one of {', '.join(EXECUTIONS)}, got {self.execution!r}.")
        if self.row_seeds not in ROW_SEEDS:
            raise InputError(f"row_seeds must be one of {', '.join(ROW_SEEDS)}, got {self.row_seeds!r}.")
        if self.window == 0:
            object.__setattr__(self, "window", AUTO)
        if self.window != AUTO and not isinstance(self.window, int):
            raise InputError(f"window must be a whole number or {AUTO!r}, got {self.window!r}.")
        self._check_warm()
        self._check_trajectories()
        if not isinstance(self.seed, int):
            raise InputError(f"seed must be a whole number, got {self.seed!r}.")
        if self.window != AUTO and self.window < 1:
            raise InputError(f"window must be at least 1, or 0 for {AUTO}, got {self.window}.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be between 0 and 2^64 - 1, got {self.seed}.")
        if not isinstance(self.part, int) or self.part < 0:
            raise InputError(f"part must be a whole number of at least 0, got {self.part!r}.")

    def _check_warm(self) -> None:
        """The earlier tokens may have been drawn from the very numbers that would now judge them (E5 of docs/algorithm.md)."""
        if self.initialiser == "warm" and self.coupling != "gumbel_exact":
            raise InputError(
                f"The initialiser warm works only with seed-exact (gumbel_exact), got {self.coupling}: choose that coupling, "
                "or another initialiser."
            )

    def _check_trajectories(self) -> None:
        if not isinstance(self.trajectories, int) or self.trajectories < 1:
            raise InputError(f"trajectories must be a whole number of at least 1, got {self.trajectories!r}.")
        if self.trajectories > 1 and self.coupling == AUTOREGRESSIVE:
            raise InputError("Plain AR drafts nothing: choose 1 trajectory, or another coupling.")
        if self.trajectories > 1 and self.trace_detail:
            raise InputError(
                "Details of a trace are of one trajectory: leave trace_detail off, or choose 1 trajectory."
            )

    def seed_of(self, row: int) -> int | None:
        """The seed with which a single run draws row `row` of a batch; None if no single run does."""
        return None if row and self.row_seeds == OWN else (self.seed + row) % 2**64

    def side_slots(self, window: int) -> int:
        """Positions of a forward after those of its window: the side trajectories'."""
        return (self.trajectories - 1) * window

    @property
    def recalls(self) -> bool:
        """Whether drafts follow recalled laws. Plain AR has no drafts that could."""
        return self.initialiser == RECALL and self.coupling != AUTOREGRESSIVE

    @property
    def reads_laws(self) -> bool:
        """Whether drafts are drawn from laws that the run has to keep."""
        return self.recalls or self.initialiser in LAW_INITIALISERS

    @property
    def adapts(self) -> bool:
        """Whether the window changes while decoding."""
        return self.window == AUTO and self.coupling != AUTOREGRESSIVE

    @property
    def effective_window(self) -> int:
        """The window, for auto the widest that may be chosen: memory is laid out for it."""
        if self.coupling == AUTOREGRESSIVE:
            return 1
        return LADDER[-1] if self.adapts else int(self.window)

    @property
    def window_name(self) -> str:
        return AUTO if self.adapts else str(self.effective_window)


def coupling_of(settings: DecodeSettings):
    """Plain AR draws its tokens as the seed-exact coupling does: with the same seed they give the same picture."""
    return COUPLINGS["gumbel_exact" if settings.coupling == AUTOREGRESSIVE else settings.coupling]
