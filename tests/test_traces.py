"""The trace of a decode: its counts add up, and its details are what the coupling saw."""

from __future__ import annotations

import pytest
import torch

from mcsjd_core import COUPLINGS, METHODS, LawSettings
from small_picture import GRID, GUIDED, picture


@pytest.mark.parametrize("coupling", METHODS)
@pytest.mark.parametrize("given", [0, 7])
def test_trace_counts_add_up(coupling, given):
    first = torch.zeros(3, given, dtype=torch.long) if given else None
    result = picture(3, coupling=coupling, window=9, first_tokens=first)
    for trace in result.traces:
        assert sum(trace.committed) == trace.num_tokens == GRID.num_tokens - given
        assert trace.starts == [given + sum(trace.committed[:i]) for i in range(trace.nfe)]
        assert trace.seconds == sorted(trace.seconds) and min(trace.committed) >= 1 and max(trace.committed) <= 9
        assert trace.step_compression == trace.num_tokens / trace.nfe
    assert result.nfe == max(trace.nfe for trace in result.traces)
    assert result.seconds >= result.prefill_seconds > 0


@pytest.mark.parametrize("law", [LawSettings(), GUIDED], ids=["plain", "guided and truncated"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_details_are_what_the_coupling_saw(coupling, law, monkeypatch):
    seen, couple = [], COUPLINGS[coupling].couple

    class Watched(type(COUPLINGS[coupling])):
        def couple(self, p, q, drafts, noise):
            tokens = couple(p, q, drafts, noise)
            seen.append((p.dense().double(), q.dense().double(), drafts, tokens, noise.positions))
            return tokens

    monkeypatch.setitem(COUPLINGS, coupling, Watched())
    result = picture(1, coupling=coupling, window=6, law=law, trace_detail=True)
    details = result.traces[0].details
    assert set(details) >= {"acceptance", "tv", "changed", "collision"}
    assert all(len(rows) == len(seen) == result.nfe for rows in details.values())
    for i, (p, q, drafts, tokens, positions) in enumerate(seen):
        assert positions[0, 0] == result.traces[0].starts[i]
        close(details["acceptance"][i], torch.minimum(p, q).sum(-1)[0])
        close(details["tv"][i], (p - q).abs().sum(-1)[0] / 2)
        assert details["changed"][i].bool().tolist() == (tokens != drafts)[0].tolist()
        close(details["collision"][i], independent_collision(coupling, p, q)[0])
        if "entropy" in details:
            close(details["entropy"][i], -torch.xlogy(p, p).sum(-1)[0])
    assert result.traces[0].as_dict()["acceptance"][0] == details["acceptance"][0].tolist()


def test_details_end_with_the_picture():
    """The window of a row that is ahead of others reaches past its end."""
    result, cut = picture(5, coupling="maximal", window=9, trace_detail=True), 0
    for trace in result.traces:
        for i, (start, values) in enumerate(zip(trace.starts, trace.details["acceptance"], strict=True)):
            behind = min(other.starts[i] for other in result.traces if i < other.nfe)
            window = min(9, GRID.num_tokens - behind)
            assert len(values) == min(window, GRID.num_tokens - start)
            cut += len(values) < window
    assert cut


def independent_collision(coupling: str, p, q):
    """Chance that a draft from q, coupled by `coupling` to p after the first mismatch, stays the same; [B, L, V] float64."""
    if coupling == "independent":
        return (p * q).sum(-1)
    if coupling == "maximal":
        return torch.minimum(p, q).sum(-1)
    ratio = torch.maximum(p[..., None, :] / p[..., None], q[..., None, :] / q[..., None])
    return torch.where((p > 0) & (q > 0), 1 / ratio.sum(-1), 0).sum(-1)


def close(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


def test_details_do_not_change_what_is_drawn():
    for coupling in COUPLINGS:
        with_detail, without = (picture(2, coupling=coupling, window=7, trace_detail=flag) for flag in (True, False))
        assert torch.equal(with_detail.tokens, without.tokens) and not without.traces[0].details
