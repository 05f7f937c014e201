"""Wrong codes in the input of a training."""

import numpy as np
import torch

from training.disturbance import disturb

ROW, CODES = 8, 512
SETTINGS = {"share": 0.5, "longest": 40, "row_length": ROW, "first": ROW, "codebook_size": CODES}


def test_wrong_codes_lie_in_one_stretch_of_the_first_rows_alone():
    codes = torch.arange(8 * 12 * ROW).view(8, -1) % CODES
    before = codes.clone()
    seen = disturb(codes, np.random.default_rng(0), **SETTINGS)
    wrong = seen != codes
    assert torch.equal(codes, before)
    assert not wrong[:, :ROW].any() and not wrong[4:].any() and wrong[:4].any(1).sum() > 1
    places = [row.nonzero().flatten() for row in wrong[:4] if row.any()]
    assert all(place[-1] - place[0] < SETTINGS["longest"] for place in places)


def test_wrong_codes_are_any_the_one_a_row_before_or_the_last_right_one():
    """Every right code is one of its own, so a wrong one tells where it comes from."""
    right, kinds = torch.arange(12 * ROW) + CODES, set()
    for seed in range(200):
        (row,) = disturb(right[None], np.random.default_rng(seed), **SETTINGS | {"share": 1.0})
        start = np.random.default_rng(seed).integers(ROW, len(right))
        places = (row != right).nonzero().flatten()
        if len(places) > 1:
            above = torch.equal(row[places], right[places - ROW])
            repeated = (row[places] == right[start - 1]).all().item()
            assert above or repeated or (row[places] < CODES).all()
            kinds.add((above, repeated))
    assert kinds == {(True, False), (False, True), (False, False)}


def test_a_picture_may_be_wrong_from_its_first_code_on():
    codes = torch.full((400, 3 * ROW), 7)
    seen = disturb(codes, np.random.default_rng(2), **SETTINGS | {"share": 1.0, "first": 0})
    assert (seen[:, 0] != 7).any() and (seen[:, -1] != 7).any()
    assert 0.05 < (seen != 7).float().mean() < 0.6
