"""What an iteration costs in time and memory as a video grows, beside what attention alone costs: a table.

    python scripts/measure_scaling.py [--tokens 1024,4096,16384] [--coupling maximal] [--window 64] [--device cpu]

A small random model of the Cosmos family has a grid of about 16,000 tokens. It is given the first tokens of it and draws
a few windows from there. Attention is timed by itself over as many slots, for the same layers, heads and window.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mcsjd_core import METHODS, DecodeSettings, Grid, LawSettings, Step, decode
from mcsjd_core.decoding.interface import Prompt
from mcsjd_core.families.cosmos import CosmosModel
from mcsjd_core.nn.grid_positions import GridPositions
from mcsjd_core.nn.transformer import TransformerConfig, group_mask, grouped_attention
from tests.live_bytes import LiveBytes

CONFIG = TransformerConfig(dim=64, layers=2, heads=4, kv_heads=1, head_dim=32, ffn_dim=128, qk_norm="rms")
CODES, ROWS, COLUMNS, FRAMES = 1024, 32, 32, 17
WARM_UP, TIMED, WATCHED = 2, 13, 3  # iterations


class Enough(Exception):
    pass


def random_model(device: torch.device) -> CosmosModel:
    positions = GridPositions(ROWS, COLUMNS, 0, CONFIG.head_dim, CONFIG.dim)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CosmosModel(CONFIG, CODES, CODES, positions, absolute=False)
    return model.to(device).eval().requires_grad_(False)


def draw_from(model: CosmosModel, given: int, settings: DecodeSettings, on_step: Callable[[Step], None]) -> None:
    """Decode after `given` tokens until `on_step` has seen enough."""
    embeddings, padding = model.start(1)
    first = torch.arange(given, device=embeddings.device)[None] * 7 % CODES
    with contextlib.suppress(Enough):
        decode(model, Prompt(embeddings, padding, False), Grid(ROWS, COLUMNS, FRAMES), settings, first_tokens=first,
               on_step=on_step)  # fmt: skip


def now(device: torch.device) -> float:
    """Seconds of work: on a CPU those of this thread alone, whatever else the machine does."""
    if device.type == "cpu":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class Cost:
    """Median seconds of an iteration, the bytes that it has alive at most, and what it leaves allocated."""

    seconds: float
    peak: int
    left: int


def iteration_cost(model: CosmosModel, given: int, settings: DecodeSettings) -> Cost:
    moments, alive, peaks, live = [], [], [], LiveBytes()

    def note(step: Step) -> None:
        """Times the first iterations, then watches the memory of some more."""
        if step.iteration <= TIMED:
            moments.append(now(model.prompt_device))
            if step.iteration == TIMED:
                live.__enter__()
            return
        alive.append(sum(size for storage, size in live.alive.values() if not storage.expired()))
        peaks.append(live.peak - (alive[-2] if len(alive) > 1 else 0))
        live.peak = 0
        if step.iteration == TIMED + WATCHED:
            raise Enough

    try:
        draw_from(model, given, settings, note)
    finally:
        live.__exit__(None, None, None)
    seconds = [b - a for a, b in zip(moments[WARM_UP:], moments[WARM_UP + 1 :], strict=False)]
    return Cost(statistics.median(seconds), peaks[-1], alive[-1] - alive[-2])


def attention_alone(given: int, window: int, device: torch.device) -> tuple[float, int]:
    """Median seconds of all layers' attention over `given` slots, and the bytes that one layer's takes."""
    c = CONFIG
    q = torch.randn(1, c.heads, window, c.head_dim, device=device)
    k, v = torch.randn(2, 1, c.kv_heads, given + window, c.head_dim, device=device).unbind(0)
    slots = torch.arange(given, given + window, device=device)[:, None]
    times, groups = [], c.heads // c.kv_heads

    def attend(layers: int) -> None:
        mask = group_mask((torch.arange(given + window, device=device) <= slots)[None, None], groups, q.dtype)
        for _ in range(layers):
            grouped_attention(q, k, v, mask)

    for _ in range(TIMED):
        started = now(device)
        attend(c.layers)
        times.append(now(device) - started)
    with LiveBytes() as live:
        attend(1)
    return statistics.median(times[WARM_UP:]), live.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="1024,2048,4096,8192,16384", help="committed tokens, comma-separated")
    parser.add_argument("--coupling", choices=METHODS, default="maximal")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--top-p", type=float, default=0.8)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    model = random_model(arguments.device)
    law = LawSettings(top_p=arguments.top_p)
    settings = DecodeSettings(arguments.coupling, arguments.window, law, "previous_frame", trace_detail=True)
    print(
        "| tokens | ms an iteration | attention alone | the rest | MB alive in it | attention alone | the rest | MB it leaves |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for given in map(int, arguments.tokens.split(",")):
        cost = iteration_cost(model, given, settings)
        alone, needed = attention_alone(given, settings.effective_window, arguments.device)
        times = (f"{1e3 * value:.1f}" for value in (cost.seconds, alone, cost.seconds - alone))
        sizes = (f"{value / 1e6:.2f}" for value in (cost.peak, needed, cost.peak - needed))
        print(f"| {given} | {' | '.join(times)} | {' | '.join(sizes)} | {cost.left / 1e6:.3f} |", flush=True)


if __name__ == "__main__":
    main()
