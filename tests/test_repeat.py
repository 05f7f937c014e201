"""Results that are found again: the same inputs, however they show."""

from __future__ import annotations

import gc

import numpy as np


def test_an_input_that_is_gone_is_not_none(pack):
    """A run's first_tokens were freed, and the next run has none connected: another picture."""
    repeats, tokens = (
        pack.part("nodes.repeat").Repeats(),
        pack.part("nodes.types").ImageTokens.__new__(pack.part("nodes.types").ImageTokens),
    )
    repeats.keep({"first_tokens": tokens}, {"live_preview": True}, "continued")
    assert repeats.find({"first_tokens": tokens}, {"live_preview": False}) == "continued"
    del tokens
    gc.collect()
    assert repeats.find({"first_tokens": None}, {"live_preview": True}) is None


def test_numbers_of_other_libraries_are_inputs_as_well(pack):
    """As a node of another pack may hand them over."""
    repeats = pack.part("nodes.repeat").Repeats()
    repeats.keep({"cfg": np.float32(3), "prompts": ["owl"]}, {"live_preview": True}, "drawn")
    assert repeats.find({"cfg": np.float32(3), "prompts": ["owl"]}, {"live_preview": False}) == "drawn"
    assert repeats.find({"cfg": np.float32(4), "prompts": ["owl"]}, {"live_preview": True}) is None
