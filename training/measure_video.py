"""Measure the small video model: step compression by coupling and window, by frame of codes, and entropy per token.

    python -m training.measure_video --stage build-video/stage.npz --out report.json

Drawn are clips on held-out ground, every motion equally often, at the checkpoint's own settings. Step compression is tokens
per forward after prefill. Everything is the mean over clips; +- is half of its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from mcsjd_core import DecodeSettings, LawSettings, load, sample
from mcsjd_core.laws.coupling import COUPLINGS

from .motion_data import Stage
from .video_examples import Example, held_out
from .video_sheet import first_codes, own_law

WINDOWS = (16, 32, 64, 128)
REFERENCE = "independent"


def mean_and_half_width(values: np.ndarray) -> tuple[float, float]:
    """Mean of values [clips], and half of its 95 % interval by the normal law."""
    return float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)


def frame_forwards(trace, frame_tokens: int, frames: int) -> np.ndarray:
    """Forwards spent on each drawn frame of codes: an iteration counts for the frames of its commits, by their shares."""
    spent = np.zeros(frames)
    for start, count in zip(trace.starts, trace.committed, strict=True):
        for place in range(start, start + count):
            spent[place // frame_tokens - 1] += 1 / count
    return spent


def measure(model, examples: list[Example], coupling: str, window: int, law: LawSettings, initialiser: str) -> dict:
    """Figures of every clip: step compression [clips], that of every frame of codes [clips, frames], entropy [clips]."""
    settings = DecodeSettings(coupling, window, law, initialiser, trace_detail=True)
    captions = [example.caption for example in examples]
    traces = sample(model, captions, settings, first_codes=first_codes(model, examples)).traces
    tokens, frames = model.grid().frame_tokens, model.grid().frames - 1
    committed = [
        torch.cat([row[:count] for row, count in zip(t.details["entropy"], t.committed, strict=True)]) for t in traces
    ]
    return {
        "step_compression": np.array([trace.step_compression for trace in traces]),
        "by_frame": tokens / np.stack([frame_forwards(trace, tokens, frames) for trace in traces]),
        "entropy": np.array([entropies.mean().item() for entropies in committed]),
    }


def row_of(coupling: str, window: int, figures: dict, reference: dict) -> dict:
    ratio = figures["step_compression"] / reference["step_compression"]
    return {
        "coupling": coupling,
        "window": window,
        "step_compression": mean_and_half_width(figures["step_compression"]),
        f"times_{REFERENCE}": mean_and_half_width(ratio),
        "ratio_of_means": float(figures["step_compression"].mean() / reference["step_compression"].mean()),
        "by_frame": [mean_and_half_width(column) for column in figures["by_frame"].T],
        "entropy": mean_and_half_width(figures["entropy"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", type=Path, required=True, help="file written by training.stage")
    parser.add_argument("--model", type=Path, default=Path("embedded/motion"))
    parser.add_argument("--clips", type=int, default=36)
    parser.add_argument("--initialiser", default="random")
    parser.add_argument("--top-p", type=float, help="the checkpoint's own if not given")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    family, examples = load(a.model), held_out(Stage.load(a.stage), a.clips)
    law, rows = own_law(family, a.top_p), []
    for window in WINDOWS:
        reference = measure(family, examples, REFERENCE, window, law, a.initialiser)
        for coupling in COUPLINGS:
            figures = reference
            if coupling != REFERENCE:
                figures = measure(family, examples, coupling, window, law, a.initialiser)
            rows.append(row_of(coupling, window, figures, reference))
            print(json.dumps(rows[-1]), flush=True)
    a.out.write_text(json.dumps(rows, indent=1) + "\n")
