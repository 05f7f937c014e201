"""Section: memory of weights, cache and window, and the most that the process held."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

import torch

from ..decoding.loop import DecodeSettings, prepare
from ..laws.law import Law
from ..nn.weights import stored_bytes
from ..reporting.tables import Table
from .drawing import checkpoint_law, draw, texts
from .machine import peak_bytes
from .plan import Bench
from .shapes import SHAPES, ModelShape

NAME, TITLE = "memory", "memory"
COUPLING, WINDOW = "maximal", 64


def measure(bench: Bench) -> dict:
    """Of one picture. What a run lays out is asked of the run itself; the peak is the system's figure for the process."""
    law = checkpoint_law(bench)
    settings = DecodeSettings(COUPLING, WINDOW, law)
    model, before = bench.model, peak_bytes(bench.device)
    prompt = model.prompt(texts(0, 1), None, law.guided)
    _, iteration, _ = prepare(model.token_model, prompt, model.grid(), settings, None, None)
    sizes = {
        "weights": stored_bytes(model.token_model),
        "codec": stored_bytes(cast("torch.nn.Module", model.codec)),
        "cache": iteration.cache.nbytes,
        "laws": law_bytes(iteration.state.law),
        "state": sum(t.numel() * t.element_size() for t in vars(iteration.state).values() if torch.is_tensor(t)),
    }
    draw(bench, texts(0, 1), settings, rows=bench.plan.rows)
    return {
        "model": bench.model_name,
        "coupling": COUPLING,
        "window": WINDOW,
        "law": asdict(law),
        "bytes": sizes,
        "peak_bytes_before": before,
        "peak_bytes": peak_bytes(bench.device),
        "shapes": {name: shape_bytes(shape, WINDOW, bench.dtype) for name, shape in SHAPES.items()},
    }


def law_bytes(law: Law | None) -> int:
    tensors = () if law is None else (law.probs, law.codes)
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def shape_bytes(shape: ModelShape, window: int, dtype: torch.dtype) -> dict[str, int]:
    """Computed for a public model: layers and head (tables of text left out), cache of one guided picture, dense laws."""
    config = shape.config
    weights = stored_bytes(shape.build(config, shape.codebook_size, dtype=dtype, device="meta"))
    channels = config.kv_heads * config.head_dim
    cache = 2 * 2 * config.layers * channels * (shape.tokens + window) * dtype.itemsize
    return {"weights": weights, "cache": cache, "laws": 4 * (window + 1) * shape.codebook_size}


def headline(data: dict) -> dict:
    return {"memory": data["bytes"] | {"peak": data["peak_bytes"]}}


def tables(data: dict) -> list[Table]:
    sizes = data["bytes"]
    own = [
        data["model"],
        *(_mib(sizes[name]) for name in ("weights", "cache", "laws", "state")),
        _mib(data["peak_bytes"]),
    ]
    rows = [own] + [
        [name, *(_mib(found[part]) for part in ("weights", "cache", "laws")), "-", "-"]
        for name, found in data["shapes"].items()
    ]
    note = (
        f"One guided picture, W {data['window']}, in MiB. The peak is what the process had resident (on a GPU: allocated) "
        "at most, Python and torch included. Public models: computed from their sizes, in this run's dtype, without text "
        "embedding tables and with dense laws; noise is computed where it is needed and takes no memory."
    )
    return [Table("Memory", ["model", "weights", "KV cache", "laws", "state", "peak"], rows, note)]


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.1f}"
