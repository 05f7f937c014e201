"""The window `auto`: which width commits the most tokens a second, from measured time and committed counts alone.

A wider window commits more tokens per forward and makes the forward costlier; where the balance lies depends on the device, the
batch and the picture. `ForwardTimes` remembers what forwards took, `CommitModel` what they committed, `AutoWindow` weighs
one against the other. None of them sees a draft or a law: the couplings by modified rejection stay exact only as long as
the schedule depends on committed tokens, counts and time (rule E2 in docs/algorithm.md).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from statistics import median
from typing import ClassVar
from weakref import WeakKeyDictionary

LADDER = (1, 2, 4, 8, 16, 32, 64, 128)  # few widths, for every one is a shape that has to be measured, perhaps compiled
PROBES = (1, 4, 16)  # measured first where nothing is known: plain AR's cost, and the slope

Points = dict[tuple[int, int], list[float]]  # (rows, window): seconds, the latest last


class ForwardTimes:
    """Seconds an iteration takes at (rows, window): those of this run, and those that the process remembers of others.

    The first call of a shape pays for choosing kernels or compiling, so a shape is known from its second call on.
    """

    _remembered: ClassVar[WeakKeyDictionary[object, dict[Hashable, Points]]] = WeakKeyDictionary()
    LATEST = 5

    def __init__(self, model: object, kind: Hashable):
        """`kind` is whatever else the time depends on: coupling, guidance, truncation, device ..."""
        self.memory = self._remembered.setdefault(model, {}).setdefault(kind, {})
        self.before = {shape: median(seconds[1:]) for shape, seconds in self.memory.items() if len(seconds) > 1}
        self.now: Points = {}

    @classmethod
    def forget(cls) -> None:
        """Forget what every model took; the next run measures anew."""
        cls._remembered.clear()

    def add(self, rows: int, window: int, seconds: float) -> None:
        memory = self.memory.setdefault((rows, window), [])
        memory.append(seconds)
        del memory[1 : -self.LATEST]  # the first call stays in front, out of the median
        if len(memory) > 1:
            now = self.now.setdefault((rows, window), [])
            now.append(seconds)
            del now[: -self.LATEST]

    def known(self, rows: int, window: int) -> bool:
        return (rows, window) in self.now or (rows, window) in self.before

    def widest(self, rows: int) -> int:
        """The most positions a row that any known shape would have at this number of rows."""
        return max((r * w for r, w in (*self.now, *self.before)), default=0) // rows

    def seconds(self, rows: int, window: int) -> float:
        """Measured, or read off a line through the neighbouring widths; without two of them, shapes of as many positions."""
        known = self._known()
        if (rows, window) in known:
            return known[rows, window]
        widths = sorted((w, t) for (r, w), t in known.items() if r == rows)
        if len(widths) > 1:
            return _on_line(widths, window)
        return _on_line(sorted((r * w, t) for (r, w), t in known.items()), rows * window)

    def _known(self) -> dict[tuple[int, int], float]:
        now = {shape: median(seconds) for shape, seconds in self.now.items()}
        # A machine that is busier than in earlier runs is so at every width.
        drift = median([now[shape] / self.before[shape] for shape in now if shape in self.before] or [1.0])
        return {shape: seconds * drift for shape, seconds in self.before.items()} | now


def _on_line(points: list[tuple[int, float]], at: int) -> float:
    """Piecewise linear through points sorted by their first member, the outer pieces prolonged; times grow with width."""
    if len(points) < 2:
        return points[0][1] if points else 1.0
    right = next((i for i, (x, _) in enumerate(points) if x >= at), len(points) - 1)
    (x0, t0), (x1, t1) = points[max(right, 1) - 1], points[max(right, 1)]
    slope = max(t1 - t0, 0.0) / max(x1 - x0, 1)
    return max(t0 + slope * (at - x0), t0 / 2 if at < x0 else t0)


class CommitModel:
    """Tokens committed a forward against the window: 1 + level * SHAPE + tilt * SHAPE * (steps of the ladder from 8).

    Level and tilt are fitted by recursive least squares with forgetting, from a prior; the shape is what an earlier
    embedded image model showed under fixed windows, at two laws, a window of 16 being 1.
    """

    SHAPE = (0.0, 0.12, 0.30, 0.58, 1.0, 1.37, 1.65, 1.80)  # of LADDER
    LEVEL, LEVEL_SD, TILT_SD = 2.4, 1.6, 0.2  # levels seen: 3.6 at its own settings, 2.0 at guidance 3, temperature 1
    SPREAD = 0.8  # standard deviation of a count over its mean
    MEMORY = 0.99  # weight of an iteration against the next: pictures have easy and hard parts
    HOPE = 0.2  # standard deviations by which `promised` exceeds `expected`

    def __init__(self):
        self.level, self.tilt = self.LEVEL, 0.0
        self.cov = (self.LEVEL_SD**2, 0.0, self.TILT_SD**2)  # of level and tilt: variance, covariance, variance

    def expected(self, window: float) -> float:
        a, b = self._features(window)
        return min(max(1 + self.level * a + self.tilt * b, 1.0), window)

    def promised(self, window: float) -> float:
        """The same as a hopeful reading of what is known: a window of 1 teaches nothing, so a doubt must be tried out."""
        (a, b), (v, c, w) = self._features(window), self.cov
        doubt = math.sqrt(max(a * a * v + 2 * a * b * c + b * b * w, 0.0))
        return min(max(1 + self.level * a + self.tilt * b + self.HOPE * doubt, 1.0), window)

    def observe(self, window: float, mean_count: float, rows: int) -> None:
        """What `rows` rows committed on average in one forward of a `window`, which may lie between two steps."""
        a, b = self._features(window)
        if a == 0:
            return
        v, c, w = (value / self.MEMORY for value in self.cov)
        v, w = min(v, self.LEVEL_SD**2), min(w, self.TILT_SD**2)
        ka, kb = v * a + c * b, c * a + w * b
        noise = (self.SPREAD * self.expected(window)) ** 2 / rows
        total = a * ka + b * kb + noise
        error = mean_count - (1 + self.level * a + self.tilt * b)
        self.level += ka / total * error
        self.tilt += kb / total * error
        self.cov = (v - ka * ka / total, c - ka * kb / total, w - kb * kb / total)

    def _features(self, window: float) -> tuple[float, float]:
        step = min(math.log2(max(window, 1)), len(self.SHAPE) - 1)
        low = min(int(step), len(self.SHAPE) - 2)
        shape = self.SHAPE[low] + (step - low) * (self.SHAPE[low + 1] - self.SHAPE[low])
        return shape, shape * (step - 3)


class AutoWindow:
    """A `Schedule` that takes the width with the most tokens a second.

    It starts with those of PROBES whose time is not known yet, then takes the best step of the ladder, going no further
    than twice the widest forward that was measured. A window of 1 is among them, so where wider ones do not pay a run
    comes down to plain AR, after what the probes cost.
    """

    MARGIN = 1.03  # a change has to promise this much: drafts are lost, or have to be refined first
    CURIOSITY = 2.5  # a width that seems worse than plain AR by no more is probed: two points make a poor line

    def __init__(self, times: ForwardTimes, largest: int):
        self.times, self.commits, self.largest = times, CommitModel(), largest
        self.ladder = [window for window in LADDER if window <= largest]
        self.probes = [window for window in PROBES if window <= largest]
        self.window = 0
        # For each position, the window under which its draft has been refined since it entered.
        self.refined: list[int] = []
        self.last_commit = 0

    def next(self, rows: int) -> int:
        self.probes = [window for window in self.probes if self._worth_a_probe(rows, window)]
        if self.probes:
            self.window = self.probes[0]
            return self.window
        reach = max(2 * self.times.widest(rows), 2)
        rates = {w: self.commits.promised(w) / self.times.seconds(rows, w) for w in self.ladder if w <= reach}
        best = max(rates, key=lambda window: rates[window])
        if rates[best] > self.MARGIN * rates.get(self.window, 0.0):
            self.window = best
        return self.window

    def _worth_a_probe(self, rows: int, window: int) -> bool:
        if self.times.known(rows, window):
            return False
        plain = self.times.seconds(rows, 1)
        return self.times.seconds(rows, window) < self.CURIOSITY * plain * self.commits.promised(window)

    def observe(self, window: int, committed: list[int], seconds: float | None) -> None:
        counts = [count for count in committed if count]  # a compiled iteration carries complete rows along for a while
        mean = sum(counts) / len(counts)
        if seconds is not None:
            self.times.add(len(committed), window, seconds)
        del self.refined[window:]
        # In a first window, and while a window grows, the first drafts have been refined less than its width suggests.
        self.refined += [min(offset + self.last_commit, window) for offset in range(len(self.refined) + 1, window + 1)]
        self.commits.observe(min(self.refined[0], window), mean, len(counts))
        self.last_commit = max(round(mean), 1)
        del self.refined[: self.last_commit]
