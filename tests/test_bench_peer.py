"""The bench's comparison with transformers: equal tokens, a ratio that follows from the seconds, and what is too old for it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from statistics import median

import pytest
import torch

import mcsjd_core
from mcsjd_core import bench
from mcsjd_core.bench import peer
from mcsjd_core.bench.janus_checkpoint import JanusSize
from tiny_checkpoint import write_tiny_checkpoint
from tiny_failure import raising

TINY_JANUS = JanusSize(dim=32, layers=2, heads=2, ffn_dim=48, codes=64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    model = mcsjd_core.load(write_tiny_checkpoint(tmp_path_factory.mktemp("bench") / "tiny"))
    return bench.Bench(model, "tiny", replace(bench.QUICK, repeats=3, peer_side=3), "cpu", torch.float32)


def test_ar_draws_the_greedy_tokens_of_transformers_and_the_ratio_follows_from_the_seconds(tiny, monkeypatch, capfd):
    pytest.importorskip("transformers", reason="transformers is the peer")
    monkeypatch.setattr(peer, "JanusSize", lambda side: replace(TINY_JANUS, side=side))
    capfd.readouterr()
    data = json.loads(json.dumps(peer.measure(tiny)))
    assert capfd.readouterr() == ("", "")  # `tiny` tells nothing, and transformers' bars would show in spite of --quiet
    assert set(data["batches"]) == {"1", "4"} and data["tokens"] == 9
    for batch, found in data["batches"].items():
        assert found["same_greedy_tokens"] == found["greedy_tokens"] == 9 * int(batch)
        ours, theirs = found["seconds"]["ours"], found["seconds"]["transformers"]
        ratio = peer.headline(data)["ar_ratio_to_transformers"][batch]
        assert ratio == pytest.approx(median(b / a for a, b in zip(ours, theirs, strict=True)))
    assert "same greedy tokens" in peer.tables(data)[0].text()


def test_greedy_tokens_of_the_random_model_differ_from_position_to_position(tiny, tmp_path):
    """A model that draws one code everywhere would make any two samplers look alike."""
    pytest.importorskip("transformers", reason="transformers writes the checkpoint")
    size = replace(TINY_JANUS, side=6)
    contest = peer.prepare(peer.janus_checkpoint.write(tmp_path / "janus", size), size, tiny)
    assert len(contest.theirs(1, True).unique()) > 5


def test_without_transformers_the_section_says_so(tiny, monkeypatch):
    def nothing(name):
        raise peer.PackageNotFoundError(name)

    monkeypatch.setattr(peer, "version", nothing)
    data = peer.measure(tiny)
    assert peer.headline(data) == {"ar_ratio_to_transformers": {}}
    assert "not installed" in peer.tables(data)[0].text()


@pytest.mark.parametrize("found", ["4.51.0", "4.55.4"])
def test_a_transformers_that_is_too_old_is_told_before_anything_is_written(found, tiny, monkeypatch):
    """4.51.0 was seen to have no Janus, 4.55.4 no `dtype=`."""
    monkeypatch.setattr(peer, "version", lambda name: found)
    monkeypatch.setattr(peer.janus_checkpoint, "write", raising(AssertionError("too late")))
    data = peer.measure(tiny)
    assert f"transformers {found} is too old, 4.56 or newer" in peer.tables(data)[0].text() and not data["batches"]


@pytest.mark.parametrize("found", ["4.56.0", "5.0.0rc1", "10.0.dev0"])
def test_a_newer_transformers_is_compared_with(found, tiny, monkeypatch):
    monkeypatch.setattr(peer, "version", lambda name: found)
    monkeypatch.setattr(peer, "_silent_transformers", nullcontext)
    monkeypatch.setattr(peer.janus_checkpoint, "write", raising(LookupError("this far")))
    with pytest.raises(LookupError, match="this far"):
        peer.measure(tiny)
