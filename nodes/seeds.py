"""The seed of a run, and those of the pictures of its batch."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core import InputError
from ..mcsjd_core.decoding.settings import COUNTED, OWN

# Saved graphs contain the labels: add, do not change.
COUNTED_LABEL, OWN_LABEL = "seed + 1, seed + 2 ...", "new with every seed"
ROW_SEEDS = {COUNTED_LABEL: COUNTED, OWN_LABEL: OWN}


def seed_input(tooltip: str) -> io.Int.Input:
    """A seed of 64 bits, which the browser can count up after every run."""
    return io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip=tooltip)


def batch_seeds_input() -> io.Combo.Input:
    return io.Combo.Input(
        "batch_seeds",
        optional=True,
        options=list(ROW_SEEDS),
        default=COUNTED_LABEL,
        tooltip="Seeds of the other pictures of a batch. seed + 1, seed + 2 ...: each picture equals the "
        "one that its seed draws alone, so batches with neighbouring seeds share pictures. new "
        "with every seed: another seed gives a completely new batch; its first picture is the one "
        "that the seed draws alone.",
    )


def row_seeds_of(label: str) -> str:
    """The core's name of it."""
    if label not in ROW_SEEDS:
        raise InputError(f"batch_seeds must be one of {', '.join(ROW_SEEDS)}, got {label!r}.")
    return ROW_SEEDS[label]
