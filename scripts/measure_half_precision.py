"""How many seed-exact pictures are plain AR's in bfloat16, by how the forward is computed, and what that costs: a table.

    python scripts/measure_half_precision.py [--model DIR] [--pictures 48] [--rows 4] [--windows 1,4,16,64] [--device cpu]

Forwards of different shape add in a different order. In bfloat16 that moves logits by up to a per cent, which now and then
turns one token into another, and the rest of its picture with it. On a CPU without bfloat16 products these are summed in
float32 and rounded, which is what a GPU does and several times quicker here than torch's own. Every way of computing is
compared with itself: plain AR against windows, the same prompts and seeds, one batch each, the upper rows of the grid.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, LawSettings, decode, load
from mcsjd_core.bench.drawing import texts, upper
from mcsjd_core.decoding import loop
from mcsjd_core.decoding.runners import Eager
from mcsjd_core.reporting.tables import Table

LAWS = {
    "temperature 1": LawSettings(),
    "guidance 3, top-k 100": LawSettings(cfg_scale=3.0, top_k=100),
}
REPEATS = 3  # of a timed decode; the quickest counts


class SummedWide(torch.nn.Module):
    """A linear layer of bfloat16 numbers: sums in float32, result rounded."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight.float(), linear.bias

    def forward(self, x):
        y = torch.nn.functional.linear(x.float(), self.weight).to(x.dtype)
        return y if self.bias is None else y + self.bias


def sum_wide(module: torch.nn.Module) -> None:
    """Put them in place of the linear layers."""
    for parent in [*module.modules()]:
        for name, layer in parent.named_children():
            if type(layer) is torch.nn.Linear:
                setattr(parent, name, SummedWide(layer))


class Wrapped:
    """A token model with another way from embeddings to logits; all else is the model's own."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name: str):
        return getattr(self._model, name)


class WideHead(Wrapped):
    """Logits in float32 of hidden states in half precision."""

    def __init__(self, model):
        super().__init__(model)
        self.head = model.lm_head.weight.float()

    def logits(self, hidden, index):
        return torch.nn.functional.linear(hidden.float(), self.head)


class OneShape(Wrapped):
    """Every forward goes over the same number of positions and cache slots; what is too much is thrown away."""

    def __init__(self, model, positions: int):
        super().__init__(model)
        self.positions, self.capacity = positions, 0

    def new_cache(self, prompt, capacity):
        self.capacity = capacity + self.positions
        return self._model.new_cache(prompt, self.capacity)

    def hidden(self, embeddings, slots, cache, extent):
        rows, length, width = embeddings.shape
        missing = self.positions - length
        if missing < 0:  # the prompt, which is read in one shape as it is
            return self._model.hidden(embeddings, slots, cache, extent)
        filled = torch.cat((embeddings, embeddings[:, -1:].expand(rows, missing, width)), 1)
        after = slots[:, -1:] + 1 + torch.arange(missing, device=slots.device)
        hidden = self._model.hidden(filled, torch.cat((slots, after), 1), cache, self.capacity)
        return self._model.logits(hidden, None)[:, :length]

    def logits(self, hidden, index):
        return hidden


class AllRows(Eager):
    """Complete rows are carried along, so that the batch keeps its shape."""

    def rows(self, at_work: int) -> int:
        return self.most

    def __init__(self, most: int):
        self.most = most


@contextmanager
def rows_that_stay(count: int) -> Iterator[None]:
    runner = loop.runner
    loop.runner = lambda *_: AllRows(count)
    try:
        yield
    finally:
        loop.runner = runner


def ways(arguments) -> dict[str, Callable[[], object]]:
    """How a forward may be computed, each made when it is asked for."""

    half, full = torch.bfloat16, torch.float32

    def model(dtype, held=None):
        family = load(arguments.model, dtype=held or dtype, device=arguments.device, packed=False)
        tokens = family.token_model.to(dtype)
        tokens.compute_dtype = dtype
        if dtype == half and arguments.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            sum_wide(tokens)
        family.token_model = tokens
        return family

    return {
        "bfloat16": lambda: model(half),
        "bfloat16, float32 logits": lambda: wrapped(model(half), WideHead),
        "bfloat16, one forward shape": lambda: wrapped(model(half), lambda m: OneShape(m, max(arguments.windows))),
        "bfloat16 weights, float32 activations": lambda: model(full, half),
        "float32": lambda: model(full),
    }


def wrapped(family, wrapper):
    family.token_model = wrapper(family.token_model)
    return family


def measure(family, arguments, law: LawSettings) -> tuple[dict[int, float], dict[int, float]]:
    """For every window the share of pictures that equal plain AR's, and seconds over those of plain AR."""
    grid = upper(family.grid(), arguments.rows)
    prompt = family.prompt(texts(0, arguments.pictures), None, law.guided)

    def draw(coupling: str, window: int):
        settings = DecodeSettings(coupling, window, law, seed=1000)
        best, tokens = float("inf"), None
        for _ in range(REPEATS if arguments.time else 1):
            began = time.perf_counter()
            tokens = decode(family.token_model, prompt, grid, settings).tokens
            best = min(best, time.perf_counter() - began)
        return tokens, best

    expected, plain = draw("autoregressive", 1)
    found = {window: draw("gumbel_exact", window) for window in arguments.windows}
    shares = {window: (tokens == expected).all(1).float().mean().item() for window, (tokens, _) in found.items()}
    return shares, {1: plain} | {window: seconds for window, (_, seconds) in found.items() if window > 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--rows", type=int, default=4, help="of tokens that are drawn of every picture")
    parser.add_argument("--windows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", default="", help="only those whose name begins so, separated by ;")
    parser.add_argument("--time", action="store_true", help="also print seconds: on a machine that does nothing else")
    arguments = parser.parse_args()
    rows = []
    starts = tuple(arguments.ways.split(";"))
    chosen = {name: make for name, make in ways(arguments).items() if name.startswith(starts)}
    if not chosen:
        parser.error(f"--ways: no name begins with {' or '.join(starts)}; there are {'; '.join(ways(arguments))}.")
    for name, make in chosen.items():
        family = make()
        for title, law in LAWS.items():
            with rows_that_stay(arguments.pictures):
                shares, seconds = measure(family, arguments, law)
            cells = [f"{100 * share:.0f} %" for share in shares.values()]
            rows.append(
                [f"{name}; {title}", *cells, *([f"{s:.2f}" for s in seconds.values()] if arguments.time else [])]
            )
            print(rows[-1], file=sys.stderr, flush=True)
    header = ["way, law", *(f"W {window}" for window in arguments.windows)]
    if arguments.time:
        header += ["s, AR", *(f"s, W {window}" for window in arguments.windows if window > 1)]
    note = f"{arguments.model.name}, {arguments.pictures} pictures of {arguments.rows} rows of tokens, torch {torch.__version__}"
    print(Table("Seed-exact pictures equal to plain AR's", header, rows, note).markdown())


if __name__ == "__main__":
    main()
