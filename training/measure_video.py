"""Measure the small video model: step compression by coupling and window, by frame of codes, and entropy per token.

    python -m training.measure_video --sprites build-video/sprites.npz --out report.json

Drawn are held-out first frames with their captions at the checkpoint's own settings. Step compression is tokens per forward
after prefill, the mean over clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from mcsjd_core import DecodeSettings, LawSettings, load, sample
from mcsjd_core.laws.coupling import COUPLINGS

from .motion_data import Sprites
from .video_examples import Example, held_out
from .video_sheet import first_codes

WINDOWS = (16, 32, 64, 128)


def frame_forwards(trace, frame_tokens: int, frames: int, first: int) -> list[float]:
    """Forwards spent on each drawn frame of codes: an iteration counts for the frames of its commits, by their shares."""
    spent = [0.0] * frames
    for start, count in zip(trace.starts, trace.committed, strict=True):
        for place in range(start, start + count):
            spent[(place - first) // frame_tokens] += 1 / count
    return spent


def measure(model, examples: list[Example], coupling: str, window: int, law: LawSettings, initialiser: str) -> dict:
    settings = DecodeSettings(coupling, window, law, initialiser, trace_detail=True)
    first = first_codes(model, examples)
    traces = sample(model, [example.caption for example in examples], settings, first_codes=first).traces
    tokens = model.grid().frame_tokens
    forwards = np.mean([frame_forwards(trace, tokens, model.grid().frames - 1, tokens) for trace in traces], 0)
    committed = [row[:count] for t in traces for row, count in zip(t.details["entropy"], t.committed, strict=True)]
    return {
        "coupling": coupling,
        "window": window,
        "initialiser": initialiser,
        "nfe": float(np.mean([trace.nfe for trace in traces])),
        "step_compression": float(np.mean([trace.step_compression for trace in traces])),
        "by_frame": (tokens / forwards).tolist(),
        "entropy": torch.cat(committed).mean().item(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("embedded/emoji-motion"))
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--initialiser", default="random")
    parser.add_argument("--top-p", type=float, help="the checkpoint's own if not given")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    family, examples = load(a.model), held_out(Sprites.load(a.sprites), a.clips)
    d = family.defaults.law
    law = LawSettings(d.cfg_scale, d.temperature, d.top_k, d.top_p if a.top_p is None else a.top_p)
    rows = []
    for coupling in COUPLINGS:
        for window in WINDOWS:
            rows.append(measure(family, examples, coupling, window, law, a.initialiser))
            print(json.dumps(rows[-1]), flush=True)
    a.out.write_text(json.dumps(rows, indent=1) + "\n")
