"""Part: whether the device draws what the CPU draws, and does no more than it should."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch

from ...decoding.loop import AUTOREGRESSIVE, Decoded, DecodeSettings, Step, next_shape, prepare
from ...decoding.runners import Eager
from ...errors import InputError
from ...laws.coupling import COUPLINGS
from ...laws.noise import Noise
from ...pipeline.memory import decode_bytes
from ..drawing import draw, texts
from .day import Day

WINDOW = 16
NOT_HERE = "needs a CUDA device"


def measure(day: Day) -> dict:
    """Every check: `ok` true or false, None where it cannot be made here; and what was seen. One that fails is not right."""
    checks = {}
    for name, check in CHECKS.items():
        found = day.attempt(name, check, day)
        if found is not None:
            checks[name] = {"ok": False} | found
    return {"checks": checks, "ok": all(found["ok"] is not False for found in checks.values())}


def _found(ok: bool | None, **seen) -> dict:
    return {"ok": ok, **seen}


def noise_bits(day: Day) -> dict:
    """All numbers of a window's noise, on both devices."""

    def numbers(device) -> list:
        positions = torch.arange(500, device=device).expand(4, -1)
        noise = Noise(torch.arange(4, device=device), positions, 7)
        codes = torch.arange(300, device=device)
        return [t.cpu() for t in (*noise.accept_and_resample(), noise.random_codes(16384), noise.exponentials(codes))]

    accept, resample, codes, times = zip(numbers("cpu"), numbers(day.device), strict=True)
    same = all(torch.equal(*pair) for pair in (accept, resample, codes))
    # The logarithm is the device's own; the bits under it are not.
    far = float(((times[0] - times[1]).abs() / times[0]).max())
    return _found(same and far < 1e-5, largest_relative_difference_of_exponentials=far)


def _drawn(day: Day, settings: DecodeSettings, count: int, on_step: Callable[[Step], None] | None = None) -> Decoded:
    return draw(day.bench, texts(0, count), settings, rows=day.plan.rows, on_step=on_step)


def couplings_run(day: Day) -> dict:
    """One picture by every coupling, with one chain of drafts and with two."""
    nfe = {}
    for coupling in COUPLINGS:
        for chains in (1, 2):
            settings = DecodeSettings(coupling, WINDOW, day.law, trajectories=chains)
            nfe[f"{coupling}, {chains}"] = _drawn(day, settings, 1).nfe
    return _found(True, nfe=nfe)


def exact_equals_ar(day: Day) -> dict:
    """Pictures by the seed-exact coupling against plain AR's; differing ones are ties of rounding, of which there are few."""
    exact = DecodeSettings("gumbel_exact", WINDOW, day.law)
    plain = replace(exact, coupling=AUTOREGRESSIVE, window=1)
    one, other = (_drawn(day, settings, day.seeds).tokens for settings in (exact, plain))
    same = int((one == other).all(1).sum())
    return _found(same >= 0.97 * day.seeds, same=same, of=day.seeds)


def executions_agree(day: Day) -> dict:
    """Tokens under every way to run iterations, against eager ones; a way that cannot be here gives its reason."""
    base, same = DecodeSettings("gumbel_exact", WINDOW, day.law), {}
    eager = _drawn(day, base, 2).tokens
    for execution in day.executions:
        try:
            same[execution] = bool(torch.equal(_drawn(day, replace(base, execution=execution), 2).tokens, eager))
        except InputError as error:
            same[execution] = str(error)
    return _found(False not in same.values(), same=same)


def one_transfer(day: Day) -> dict:
    """Iterations run while torch refuses every synchronisation: the report's transfer alone stands outside."""
    if not day.on_gpu:
        return _found(None, why=NOT_HERE)
    failed = {}
    for coupling in COUPLINGS:
        prompt = day.model.prompt(texts(0, 2), None, day.law.guided)
        schedule, iteration, ledger = prepare(
            day.model.token_model, prompt, day.model.grid(), DecodeSettings(coupling, WINDOW, day.law)
        )
        shape = next_shape(ledger, schedule.next(2), iteration, Eager())
        iteration(shape)  # libraries allocate at their first call
        try:
            with _no_synchronisation():
                iteration(shape)
        except RuntimeError as error:
            failed[coupling] = str(error)
    return _found(not failed, failed=failed)


@contextmanager
def _no_synchronisation() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def memory_estimate(day: Day) -> dict:
    """What a decode allocates at most, against what the pack asks a host for before it."""
    if not day.on_gpu:
        return _found(None, why=NOT_HERE)
    settings = DecodeSettings("maximal", 64, day.law)
    prompt = day.model.prompt(texts(0, 2), None, day.law.guided)
    estimate = decode_bytes(day.model, prompt, settings, day.model.grid())
    before = torch.cuda.memory_allocated(day.device)
    torch.cuda.reset_peak_memory_stats(day.device)
    _drawn(day, settings, 2)
    used = torch.cuda.max_memory_allocated(day.device) - before
    return _found(used <= estimate, estimate=estimate, used=used)


class _Cancelled(Exception):
    pass


def cancel_frees(day: Day) -> dict:
    """Memory held after a decode that was cancelled in its third iteration."""

    def stop(step: Step) -> None:
        if step.iteration == 3:
            raise _Cancelled

    if not day.on_gpu:
        return _found(None, why=NOT_HERE)
    _drawn(day, DecodeSettings("maximal", WINDOW, day.law), 2)
    gc.collect()
    before = torch.cuda.memory_allocated(day.device)
    with suppress(_Cancelled):
        _drawn(day, DecodeSettings("maximal", WINDOW, day.law), 2, stop)
    gc.collect()
    held = torch.cuda.memory_allocated(day.device) - before
    return _found(held <= 0, held=held)


CHECKS: dict[str, Callable[[Day], dict]] = {
    "noise bits": noise_bits,
    "couplings run": couplings_run,
    "seed-exact equals AR": exact_equals_ar,
    "eager, compiled and captured agree": executions_agree,
    "one transfer an iteration": one_transfer,
    "memory estimate": memory_estimate,
    "a cancelled run frees its memory": cancel_frees,
}
