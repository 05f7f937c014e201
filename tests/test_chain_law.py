"""Sequences decoded with several chains of drafts, and with drafts drawn from laws, follow the model's law.

The G-test of `sequence_law`, with fewer samples of shorter sequences: each test is one at level FAMILY_ERROR / TESTS. One
broken copy for each rule that several drafts rest on shows its power.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sequence_law
from mcsjd_core import COUPLINGS, DecodeSettings, Grid, LawSettings
from mcsjd_core.decoding import recall
from mcsjd_core.decoding import state as state_module
from mcsjd_core.decoding import trajectories as trajectories_module
from mcsjd_core.decoding.drafts import LAW_INITIALISERS, RECALL
from mcsjd_core.decoding.iteration import Iteration
from mcsjd_core.decoding.trajectories import TrajectoryIteration
from mcsjd_core.laws.coupling import Maximal, draw, modified_rejection
from mcsjd_core.laws.noise import RESAMPLE, Noise
from sequence_law import SHARPNESS, TRUNCATIONS, chunks, p_value, pair_law, sample, table_law
from tiny import TableModel

SAMPLES, CODES, TOKENS = 30_000, 3, 4
FAMILY_ERROR, TESTS = 1e-3, 60
LEVEL = FAMILY_ERROR / TESTS
VERIFIED = [name for name, coupling in COUPLINGS.items() if coupling.uses_draft_law]
GRIDS = {"random": Grid(1, 4), "left": Grid(1, 4), "above": Grid(2, 2), "left_law": Grid(1, 4),
         "above_law": Grid(2, 2), "previous_frame_law": Grid(1, 2, frames=2), RECALL: Grid(1, 4)}  # fmt: skip


def chains(
    coupling="maximal", trajectories=2, window=3, initialiser="random", law=LawSettings(), seed=0,
    codes=CODES, samples=SAMPLES,
):  # fmt: skip
    """Chunks of what is decoded from a table of so many codes, and their exact law."""
    sharpness, table = (1.0, 1) if initialiser == RECALL else (SHARPNESS, 27)  # what shows most of what could be wrong
    model = TableModel(codes, TOKENS, sharpness=sharpness, seed=table)
    settings = DecodeSettings(coupling, window, law, initialiser, seed, trajectories=trajectories)
    return chunks(model, settings, GRIDS[initialiser], samples), table_law(model, law)


def chain_p_value(*arguments, **options) -> float:
    tokens, law_of = chains(*arguments, **options)
    return p_value(torch.cat(list(tokens)), law_of)


def is_rejected(*arguments, **options) -> bool:
    return sequence_law.is_rejected(*chains(*arguments, **options), LEVEL)


def design():
    """Every coupling x number of chains x initialiser, through which windows, guidance and truncation run."""
    laws = [replace(law, cfg_scale=scale) for scale in (1.0, 2.0) for law in TRUNCATIONS.values()]
    for c, coupling in enumerate(VERIFIED):
        for trajectories in (2, 3):
            for i, initialiser in enumerate(("random", "left", "left_law")):
                number = 7 * c + 3 * i + 5 * trajectories
                yield coupling, trajectories, (2, 3, 6)[number % 3], initialiser, laws[number % len(laws)]


@pytest.mark.parametrize(("coupling", "trajectories", "window", "initialiser", "law"), list(design()))
def test_sequences_of_several_chains_follow_the_exact_law(coupling, trajectories, window, initialiser, law):
    assert chain_p_value(coupling, trajectories, window, initialiser, law, seed=1_000_003 * trajectories) > LEVEL


@pytest.mark.parametrize("initialiser", LAW_INITIALISERS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_sequences_whose_first_drafts_come_from_laws_follow_the_exact_law(coupling, initialiser):
    law = LawSettings(cfg_scale=1.5, top_p=0.95)
    assert chain_p_value(coupling, 1, 2, initialiser, law, seed=5) > LEVEL


@pytest.mark.parametrize(("window", "trajectories"), [(2, 1), (3, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_sequences_whose_drafts_follow_recalled_laws_follow_the_exact_law(coupling, window, trajectories, monkeypatch):
    monkeypatch.setattr(recall, "SURE", 0.4)  # so that the short table's laws are often sure enough
    law = LawSettings(cfg_scale=1.5, top_k=0 if window == 3 else 2)
    assert chain_p_value(coupling, trajectories, window, RECALL, law, seed=11) > LEVEL


def test_pairs_of_rows_with_several_chains_are_independent():
    model, settings = TableModel(CODES, 2, sharpness=SHARPNESS, seed=27), DecodeSettings("maximal", 2, trajectories=2)
    tokens = sample(model, settings, Grid(1, 2), 2 * SAMPLES)
    assert p_value(tokens.view(SAMPLES, 4), pair_law(model)) > LEVEL


@pytest.mark.parametrize(
    ("coupling", "initialiser"), [*((coupling, "random") for coupling in VERIFIED), ("maximal", RECALL)]
)
def test_forced_and_forbidden_tokens_leave_the_law_of_the_others_exact(coupling, initialiser):
    forbidden = torch.tensor([[True, False, False]])
    grid = Grid(2, 2, row_end=CODES, forbidden=forbidden, forbidden_row=torch.tensor([0, -1, -1, -1, -1, -1]))
    model = TableModel(CODES, 6, sharpness=SHARPNESS, forced=1, seed=26)
    tokens = sample(model, DecodeSettings(coupling, 4, initialiser=initialiser, trajectories=2), grid, SAMPLES)
    exact = table_law(model, LawSettings(), forced={2: CODES, 5: CODES}, forbidden={0: (0,)})
    assert p_value(tokens, exact) > LEVEL


# -- power: every rule, broken on purpose --------------------------------------------------------------------------------


def siblings_from_the_residual_verified_as_from_p(patch):
    """As a public sampler of SJD-PAC draws them."""

    class Broken(Maximal):
        def renew(self, p, q, drafts, noise):
            residual = (p.probs - q.probs_at(p)).clamp_min(0)
            residual = torch.where(residual.sum(-1, keepdim=True) > 1e-6, residual, p.probs)
            sibling = torch.arange(len(drafts))[:, None] % 2 == 0  # those that are offered first
            return torch.where(
                sibling, p.pick(draw(residual, noise.bits(RESAMPLE))), super().renew(p, q, drafts, noise)
            )

    patch.setitem(COUPLINGS, "maximal", Broken())


def the_chain_with_the_longest_run_is_committed(patch):
    def longest(rule, p, q, drafts, noise):
        tokens = modified_rejection(p, q, drafts.flatten(0, 1), noise).view_as(drafts)
        return tokens, tokens == drafts

    patch.setattr(trajectories_module, "couple_chains", longest)


def chains_that_share_noise(patch):
    def shared(seeds, positions, step, *rest, chain=0):
        return Noise(seeds, positions, step, *rest)

    patch.setattr(state_module, "Noise", shared)


def a_copied_chain_counts_as_independent(patch):
    keep = Iteration.keep

    def copying_keep(self, tokens, *rest):
        tokens = tokens.unflatten(0, (-1, 2))
        keep(self, torch.stack((tokens[:, 0], tokens[:, 0]), 1).flatten(0, 1), *rest)

    patch.setattr(TrajectoryIteration, "keep", copying_keep)


def the_chain_that_holds_the_likeliest_draft_comes_first(patch):
    """An order that looks at drafts not yet verified."""
    couple = trajectories_module.couple_chains

    def sorted_chains(rule, p, q, drafts, noise):
        chains = drafts.shape[1]
        order = p.prob_of(drafts.flatten(0, 1)).view_as(drafts)[..., 0].argsort(1, descending=True)
        rows = (order + chains * torch.arange(len(drafts))[:, None]).flatten()
        back = order.argsort(1)[..., None].expand_as(drafts)
        p, q = (replace(law, probs=law.probs[rows]) for law in (p, q))
        tokens, kept = couple(rule, p, q, drafts.flatten(0, 1)[rows].view_as(drafts), noise)
        return tokens.gather(1, back), kept.gather(1, back)

    patch.setattr(trajectories_module, "couple_chains", sorted_chains)


BROKEN = (
    siblings_from_the_residual_verified_as_from_p,
    the_chain_with_the_longest_run_is_committed,
    chains_that_share_noise,
    a_copied_chain_counts_as_independent,
    the_chain_that_holds_the_likeliest_draft_comes_first,
)


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_the_g_test_rejects(breakage, monkeypatch):
    breakage(monkeypatch)
    assert is_rejected()


def test_the_g_test_rejects_first_drafts_that_are_a_law_s_likeliest_code_and_count_as_drawn_from_it(monkeypatch):
    monkeypatch.setattr(Maximal, "first_draft", lambda self, law, noise: law.pick(law.probs.argmax(-1)))
    assert is_rejected("maximal", 1, 2, "left_law")


def draft_couples_to_what_later_laws_depend_on(patch):
    """The later ones alone are left, so that they are often what is recalled."""
    best_entry = recall.Recall.best_entry

    def later_entry(self, sequence, positions, block, later):
        kept_at = self.positions
        self.positions = torch.where(kept_at[: len(positions)] > positions, kept_at[: len(positions)], recall.NEVER)
        try:
            return best_entry(self, sequence, positions, block, True)
        finally:
            self.positions = kept_at

    patch.setattr(recall.Recall, "best_entry", later_entry)


def recalled_drafts_count_as_drawn_from_their_old_laws(patch):
    draft_anew = Iteration.draft_anew

    def broken(self, recall, drafts, source, positions):
        draft_anew(self, recall, drafts, source.clone(), positions)

    patch.setattr(Iteration, "draft_anew", broken)


def recalled_drafts_share_the_numbers_that_judge_them(patch):
    patch.setattr(state_module.State, "recall_noise", state_module.State.noise)


def laws_are_recalled_by_the_position_s_own_draft(patch):
    surroundings = recall.Recall.surroundings

    def broken(self, sequence, positions):
        tokens = surroundings(self, sequence, positions).clone()
        tokens[..., 0] = sequence.gather(1, positions)
        return tokens

    patch.setattr(recall.Recall, "surroundings", broken)


RECALL_BROKEN = (
    recalled_drafts_count_as_drawn_from_their_old_laws,
    recalled_drafts_share_the_numbers_that_judge_them,
    laws_are_recalled_by_the_position_s_own_draft,
)


@pytest.mark.parametrize("breakage", RECALL_BROKEN, ids=lambda breakage: breakage.__name__)
def test_the_g_test_rejects_recall_where(breakage, monkeypatch):
    breakage(monkeypatch)
    assert is_rejected("maximal", 1, 4, RECALL)


def test_the_g_test_rejects_drafts_that_couple_to_what_later_laws_depend_on(monkeypatch):
    draft_couples_to_what_later_laws_depend_on(monkeypatch)
    assert is_rejected("maximal", 1, 3, RECALL, seed=5, codes=2, samples=40_000)


def test_unbroken_recall_passes_where_broken_copies_are_rejected():
    assert chain_p_value("maximal", 1, 4, RECALL) > LEVEL
    assert chain_p_value("maximal", 1, 3, RECALL, seed=5, codes=2, samples=40_000) > LEVEL


def test_the_unbroken_core_passes_where_broken_copies_are_rejected():
    assert chain_p_value() > LEVEL
