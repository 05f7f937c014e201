"""How an iteration is run: as it is written, compiled, or recorded once and replayed.

What is compiled or recorded is made for one `Shape`, so the last two round shapes up to a few, and carry complete rows along
until their number halves. A row that is complete commits nothing more, and no position after the end is ever read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.nn import functional

from ..errors import InputError, first_line
from .interface import Prompt
from .iteration import Iteration, Shape

SMALLEST_EXTENT = 256  # cache slots that a compiled iteration looks at as the least
PROMPT_STEP = 64  # tokens


class CompilationError(InputError):
    """Iterations cannot be compiled on this machine, whatever they draw."""


class Eager:
    """Operation by operation, over no more rows, positions and slots than are needed."""

    def rows(self, at_work: int) -> int:
        """Rows to carry on with when `at_work` of them are not complete."""
        return at_work

    def window(self, wanted: int, remaining: int) -> int:
        """Window to run where the schedule wants `wanted` and the row furthest behind has `remaining` positions left."""
        return min(wanted, remaining)

    def extent(self, needed: int, capacity: int) -> int:
        """Cache slots to look at where `needed` of them are in use."""
        return needed

    def prompt(self, prompt: Prompt, counts_padding: bool) -> Prompt:
        """The prompt to run with: the same, perhaps with more padding in front, where the model does not count that."""
        return prompt

    def __call__(self, iteration: Iteration, shape: Shape) -> bool:
        """Run it; gives whether that took about what later calls with this shape will take."""
        iteration(shape)
        return True


class Compiled(Eager):
    """By torch.compile, as one graph a shape; what was compiled serves later runs of the same sizes.

    A prompt's length is one of the sizes, so prompts are padded to a multiple of PROMPT_STEP. Extents double from
    SMALLEST_EXTENT, rows halve: a run over S slots and B rows compiles log2(S / 256) + log2(B) + 2 times at most for every
    window that its schedule asks for.
    """

    def __init__(self, backend="inductor"):
        self._run = compiled_by_shape(_run, backend)

    def rows(self, at_work: int) -> int:
        return _power_of_two(at_work)

    def window(self, wanted: int, remaining: int) -> int:
        return wanted

    def prompt(self, prompt: Prompt, counts_padding: bool) -> Prompt:
        missing = -prompt.embeddings.shape[1] % PROMPT_STEP
        if counts_padding or prompt.planes is not None:  # positions of planes are counted from the first slot, too
            return prompt
        return replace(
            prompt, embeddings=functional.pad(prompt.embeddings, (0, 0, missing, 0)), padding=prompt.padding + missing
        )

    def extent(self, needed: int, capacity: int) -> int:
        return min(_power_of_two(max(needed, SMALLEST_EXTENT)), capacity)

    def __call__(self, iteration: Iteration, shape: Shape) -> bool:
        before = graphs_compiled()
        self._run(iteration, shape)
        return graphs_compiled() == before


class Captured(Compiled):
    """As CUDA graphs: the second iteration of a shape is recorded, the later ones are replayed by a single launch.

    The graphs hold the addresses of one run's state, so that a run records its own. An iteration allocates nothing that it
    keeps, waits for nothing and looks at no value, which is what makes that possible.
    """

    def __init__(self, device: torch.device):
        if device.type != "cuda":
            raise InputError(
                f"Iterations can be captured on a CUDA device only, got {device}; run them eager or compiled."
            )
        self._device = device
        self._seen: set[Shape] = set()
        self._graphs: dict[Shape, torch.cuda.CUDAGraph] = {}
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def prompt(self, prompt: Prompt, counts_padding: bool) -> Prompt:
        return prompt  # every run records its own graphs

    def __call__(self, iteration: Iteration, shape: Shape) -> bool:
        is_replay = shape in self._graphs
        with torch.cuda.device(self._device):  # streams and recordings are the current device's
            self._call(iteration, shape)
        return is_replay

    def _call(self, iteration: Iteration, shape: Shape) -> None:
        if shape not in self._seen:
            # The first one runs beside: libraries allocate what they need at their first call, which cannot be recorded.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                iteration(shape)
            torch.cuda.current_stream().wait_stream(self._stream)
            self._seen.add(shape)
            return
        if shape not in self._graphs:
            self._graphs[shape] = torch.cuda.CUDAGraph()
            # A host's other threads use the device meanwhile, and must not end the recording.
            with torch.cuda.graph(
                self._graphs[shape], pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                iteration(shape)
        self._graphs[shape].replay()


def compiled_by_shape(work: Callable, backend="inductor") -> Callable:
    """`work` by torch.compile, as one graph for every shape that it meets; a call raises CompilationError where that fails."""
    run = torch.compile(work, fullgraph=True, dynamic=False, backend=backend)

    def call(*arguments):
        # A shape is a new graph, not a mistake: torch gives up after eight, and would fall back to running it uncompiled.
        with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=10_000), _compiler_errors():
            return run(*arguments)

    return call


@contextmanager
def _compiler_errors() -> Iterator[None]:
    """What torch's compiler raises, such as for want of a C++ compiler, as one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        cause = getattr(error, "inner_exception", error)
        raise CompilationError(f"Iterations cannot be compiled here ({first_line(cause)}); run them eager.") from None


def finish(device: torch.device | str) -> None:
    """Wait for what a GPU was told to do."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize(device)
    elif str(device).startswith("mps"):
        torch.mps.synchronize()


def _run(iteration: Iteration, shape: Shape) -> None:
    # Torch 2.7 ties a graph to the very object that is called, and would compile anew for every run.
    type(iteration).__call__(iteration, shape)


def graphs_compiled() -> int:
    """By this process so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << (number - 1).bit_length()


def runner(execution: str, device: torch.device) -> Eager:
    """The runner of that name, one of EXECUTIONS, for one run on `device`."""
    return {"eager": Eager, "compiled": _compiled, "captured": lambda: Captured(device)}[execution]()


@functools.cache
def _compiled() -> Compiled:
    return Compiled()
