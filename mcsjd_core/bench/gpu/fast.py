"""Part: seconds of a forward against the window in the shapes of public models, and the share of the bandwidth limit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...decoding.grid import Grid
from ...decoding.runners import CompilationError, compiled_by_shape, graphs_compiled
from ...decoding.settings import DecodeSettings
from ...errors import InputError, first_line
from ...nn.weights import tensor_bytes
from .. import peer
from ..shapes import ShapedModel
from ..stopwatch import seconds_of, spread
from ..timing import overhead_share, part_seconds
from .day import LAW, Day

# Step compression of the paper's own tables is not at hand; these stand for what a run may have.
COMPRESSIONS = (2, 3, 4)
OVERHEAD_WINDOW = 32


def measure(day: Day) -> dict:
    shapes: dict = {}
    for name in day.shapes:
        for weights in day.weights:
            found = day.attempt(f"{name}, {weights}", _measure_shape, day, name, weights)
            if found is not None:
                shapes.setdefault(name, {})[weights] = found
    overhead = day.attempt("overhead of the loop", _overhead, day)
    against = day.attempt("plain AR against transformers", peer.measure, day.bench)
    return {"shapes": shapes, "overhead": overhead, "peer": against}


def _measure_shape(day: Day, name: str, weights: str) -> dict:
    shape = day.shapes[name]
    try:
        model = ShapedModel(
            shape, day.layers or shape.config.layers, max(day.windows), day.device, day.dtype, weights=weights
        )
    except (InputError, torch.cuda.OutOfMemoryError) as error:
        return {"why_not": first_line(error)}
    found: dict = {"layers": [model.layers, shape.config.layers], "bytes_read": bytes_read(model), "seconds": {}}
    for execution in day.executions:
        try:
            found["seconds"][execution] = _seconds(day, model, execution)
        except (RuntimeError, InputError) as error:  # it cannot be here
            found["seconds"][execution] = {"why_not": first_line(error)}
        except Exception as error:
            found["seconds"][execution] = day.note_failure(f"{name}, {weights}, {execution}", error)
    return found | _limits(day, found)


def _seconds(day: Day, model: ShapedModel, execution: str) -> dict[str, dict]:
    result = {}
    for window in day.windows:
        forward = prepared(model, window, execution)
        forward()
        repeats = [seconds_of(forward, day.device) for _ in range(day.plan.forward_repeats)]
        result[str(window)] = spread(repeats)
    return result


@torch.no_grad()
def prepared(model: ShapedModel, window: int, execution: str) -> Callable[[], object]:
    """A forward of the whole model over a window, ready to be timed. Raises InputError where that `execution` cannot be."""
    if execution == "compiled":
        return torch.no_grad()(_compiled(model.whole(window)))
    forward = torch.no_grad()(model.whole(window))
    if execution == "eager":
        return forward
    if not str(model.device).startswith("cuda"):
        raise InputError("Forwards can be captured on a CUDA device only.")
    with torch.cuda.device(model.device):  # streams and recordings are the current device's
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, stream=stream
        ):  # torch's own stream for this is that of the first device that recorded
            forward()
    return graph.replay


def _compiled(forward: Callable[[], object]) -> Callable[[], object]:
    """By torch.compile, which can be told to run all as it is, in silence: then this raises CompilationError."""
    torch._dynamo.reset()  # drops the graphs of other windows and models, one of which might serve here and count as none
    run, before = compiled_by_shape(forward), graphs_compiled()
    run()
    if graphs_compiled() == before:
        raise CompilationError("torch.compile compiled nothing and ran the forward as it is")
    return run


def bytes_read(model: ShapedModel) -> int:
    """What a forward of one token has to read: every matrix but the embeddings, and the filled part of the cache."""
    named = model.token_model.named_parameters()
    weights = sum(tensor_bytes(parameter) for name, parameter in named if "embed" not in name)
    filled = (model.prefix + 1) / model.cache.capacity
    return weights + int(model.cache.nbytes * filled)


def _limits(day: Day, found: dict) -> dict:
    """Share of the bandwidth limit at a window of 1, and the speed-ups that follow: computed, not measured."""
    times = {name: values for name, values in found["seconds"].items() if "1" in values}
    best = min(times, key=lambda name: times[name]["1"]["median"], default=None)
    if best is None:
        return {}
    one = times[best]["1"]["median"]
    share = None if day.peak is None else found["bytes_read"] / day.peak / one
    speedups = {
        window: {str(c): c * one / values["median"] for c in COMPRESSIONS} for window, values in times[best].items()
    }
    return {"best": best, "share_of_bandwidth_limit": share, "computed_speedups": speedups}


def _overhead(day: Day) -> dict:
    """Share of an iteration that is not the forward, in the first of the shapes."""

    name, shape = next(iter(day.shapes.items()))
    layers = day.layers or shape.config.layers
    model = ShapedModel(shape, layers, OVERHEAD_WINDOW, day.device, day.dtype)
    settings = DecodeSettings("maximal", OVERHEAD_WINDOW, LAW)
    parts = part_seconds(
        model.token_model, model.prompt, Grid(24, 24), settings, iterations=day.plan.iterations, warm_up=3
    )
    return {
        "shape": name,
        "layers": [model.layers, shape.config.layers],
        "seconds": parts,
        "share": overhead_share(parts),
    }
