"""The power of the G-test: one broken copy for each rule that exactness rests on, all of which it must reject.

Each function e1_... to e7_... breaks one rule in position and gives the settings in which it shows. The level is that of
`test_sequence_law`, the samples are at most as many, and the unbroken core passes in the very same settings, so it is the broken
rule that is rejected.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcsjd_core import COUPLINGS, DecodeSettings, Grid, LawSettings
from mcsjd_core.decoding import iteration as iteration_module
from mcsjd_core.decoding import state as state_module
from mcsjd_core.decoding.iteration import Iteration
from mcsjd_core.decoding.state import State
from mcsjd_core.laws.coupling import Gumbel, Maximal, after_first_mismatch, draw, gumbel_max
from mcsjd_core.laws.law import Law
from mcsjd_core.laws.noise import ACCEPT, RESAMPLE, Noise, row_seeds
from sequence_law import LEVEL, SAMPLES, SHORT, WHOLE, chunks, is_rejected, pair_law, sample_p_value, table_law, whole


def reject(p: Law, q: Law, drafts, accept, resample, *, residual=None, verified=None):
    """Modified rejection with its parts open: accept and resample uniforms, the residual, the law verified against."""
    accepted = accept * q.prob_of(drafts) < (verified or p).prob_of(drafts)
    if residual is None:
        residual = (p.probs - q.probs_at(p)).clamp_min(0)
        residual = torch.where(residual.sum(-1, keepdim=True) > 0, residual, p.probs)
    return torch.where(accepted, drafts, p.pick(draw(residual, resample)))


def breaks_with(rule):
    """A coupling that is maximal but for `rule(p, q, drafts, noise)`."""

    class Broken(Maximal):
        couple = staticmethod(rule)

    return Broken()


def e1_reuse_accept_noise(patch):
    def rule(p, q, drafts, noise):
        return reject(p, q, drafts, replace(noise, step=0).uniform(ACCEPT), noise.bits(RESAMPLE))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e1_reuse_residual_noise(patch):
    def rule(p, q, drafts, noise):
        return reject(p, q, drafts, noise.uniform(ACCEPT), replace(noise, step=0).bits(RESAMPLE))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e1_share_noise_between_positions(patch):
    def rule(p, q, drafts, noise):
        return Maximal().couple(p, q, drafts, replace(noise, positions=torch.zeros_like(noise.positions)))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e1_share_gumbel_noise_between_positions(patch):
    class Broken(type(COUPLINGS["gumbel_exact"])):
        def couple(self, p, q, drafts, noise):
            return gumbel_max(p, replace(noise, positions=torch.zeros_like(noise.positions)))

    patch.setitem(COUPLINGS, "gumbel_exact", Broken())
    return {"coupling": "gumbel_exact"}


def e1_accept_with_the_gumbel_noise(patch):
    class Broken(Gumbel):
        def couple(self, p, q, drafts, noise):
            accept = torch.exp(-noise.exponentials(drafts[..., None])).squeeze(-1)
            tokens = reject(p, q, drafts, accept, noise.bits(RESAMPLE))
            return torch.where(after_first_mismatch(tokens, drafts), gumbel_max(p, noise), tokens)

    patch.setitem(COUPLINGS, "gumbel", Broken())
    return {"coupling": "gumbel"}


def drop_survivors(patch, keep):
    """Throw survivors away from the first on that keep(law at the survivors, tokens, old drafts) does not want."""
    commit = Iteration.commit

    def broken_commit(self, tokens, drafts, positions, p, usable_logits):
        commit(self, tokens, drafts, positions, p, usable_logits)
        state, (rows, window) = self.state, positions.shape
        counts = state.report[1 : rows + 1]
        wanted = keep(p, tokens, drafts) | (torch.arange(window) < counts[:, None])  # what is committed stays
        state.known[:rows] = state.law_start[:rows] + wanted.long().cumprod(-1).sum(-1)

    patch.setattr(Iteration, "commit", broken_commit)


def draft_by_position(patch):
    patch.setattr(Noise, "random_codes", lambda self, size, series=0: self.positions % size)


def e2_keep_only_drafts_that_did_not_change(patch):
    drop_survivors(patch, lambda law, drafts, old: drafts == old)
    draft_by_position(patch)  # averaged over uniform first drafts, this bias nearly cancels
    return {}


def e2_keep_only_confident_drafts(patch):
    drop_survivors(patch, lambda law, drafts, old: law.prob_of(drafts) > 0.5)
    return {}


def with_other_law(patch, other):
    """Maximal coupling that verifies drafts against other(logits, settings) and corrects from the target."""
    laws, target = {}, iteration_module.target_law

    def both(logits, settings):
        laws["other"] = other(logits, settings)
        return target(logits, settings)

    def rule(p, q, drafts, noise):
        accept, resample = noise.uniform(ACCEPT), noise.bits(RESAMPLE)
        return reject(p, q, drafts, accept, resample, verified=laws["other"])

    patch.setattr(iteration_module, "target_law", both)
    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))


def e3_verify_against_the_untruncated_law(patch):
    target = iteration_module.target_law
    with_other_law(patch, lambda logits, settings: target(logits, LawSettings()))
    return {"law": LawSettings(top_k=2)}


def e3_verify_against_the_unguided_law(patch):
    conditional, guide, target = {}, iteration_module.guide, iteration_module.target_law

    def watched_guide(logits, cfg_scale):
        conditional["logits"] = logits[::2]
        return guide(logits, cfg_scale)

    patch.setattr(iteration_module, "guide", watched_guide)
    with_other_law(patch, lambda logits, settings: target(conditional["logits"], settings))
    return {"law": LawSettings(cfg_scale=2.0)}


def e3_draft_law_before_temperature(patch):
    laws, target, keep_law = {}, iteration_module.target_law, State.keep_law

    def both(logits, settings):
        laws["plain"] = target(logits, LawSettings())
        return target(logits, settings)

    patch.setattr(iteration_module, "target_law", both)
    patch.setattr(State, "keep_law", lambda self, kept, law: keep_law(self, kept, laws["plain"]))
    return {"law": LawSettings(temperature=0.7)}


def e4_epsilon_on_the_residual(patch):
    def rule(p, q, drafts, noise):
        residual = (p.probs - q.probs_at(p)).clamp_min(0) + 1e-4  # revives what top-k cut
        return reject(p, q, drafts, noise.uniform(ACCEPT), noise.bits(RESAMPLE), residual=residual)

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {"law": LawSettings(top_k=2)}


def e4_epsilon_on_the_draft_law(patch):
    def rule(p, q, drafts, noise):
        padded = Law(q.dense() + 0.02, None, q.codebook_size)
        return reject(p, padded, drafts, noise.uniform(ACCEPT), noise.bits(RESAMPLE))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    return {}


def e5_draft_from_the_noise_that_verifies_it(patch):
    patch.setattr(Noise, "random_codes", lambda self, size: (self.uniform(ACCEPT) * size).long())
    return {}


def e5_draft_from_the_noise_that_corrects_it(patch):
    patch.setattr(Noise, "random_codes", lambda self, size: (self.uniform(RESAMPLE) * size).long())
    return {}


def e7_keep_the_old_law_with_a_kept_draft(patch):
    seen, keep_law = {}, State.keep_law

    def rule(p, q, drafts, noise):
        tokens = Maximal().couple(p, q, drafts, noise)
        seen.update(q=q, kept=tokens == drafts)
        return tokens

    def broken_keep_law(self, kept, law):
        mixed = torch.where(seen["kept"][..., None], seen["q"].dense(), law.dense())
        keep_law(self, kept, Law(mixed, None, law.codebook_size))

    patch.setitem(COUPLINGS, "maximal", breaks_with(rule))
    patch.setattr(State, "keep_law", broken_keep_law)
    return {}


BROKEN = [
    breakage
    for name, breakage in sorted(globals().items())
    if name.startswith(("e1_", "e2_", "e3_", "e4_", "e5_", "e7_"))
]


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_the_g_test_rejects(breakage, monkeypatch):
    with monkeypatch.context() as patch:
        assert is_rejected(*whole(**breakage(patch)))


@pytest.mark.parametrize("sharers", [2, SAMPLES])
def test_the_g_test_rejects_e6_rows_that_share_noise(sharers, monkeypatch):
    def shared(seed, batch, device):
        return row_seeds(seed, batch, device) // sharers

    monkeypatch.setattr(state_module, "row_seeds", shared)
    tokens = chunks(SHORT, DecodeSettings("maximal", 3), Grid(1, 3), rows=2 * SAMPLES)
    assert is_rejected((part.view(-1, 6) for part in tokens), pair_law(SHORT))


UNBROKEN = [
    {},
    {"coupling": "gumbel_exact"},
    {"coupling": "gumbel"},
    {"law": LawSettings(top_k=2)},
    {"law": LawSettings(cfg_scale=2.0)},
    {"law": LawSettings(temperature=0.7)},
]


@pytest.mark.parametrize("settings", UNBROKEN, ids=str)
def test_the_unbroken_core_passes_where_broken_copies_are_rejected(settings):
    assert sample_p_value(**settings) > LEVEL


def test_the_unbroken_core_passes_with_first_drafts_that_the_position_decides(monkeypatch):
    draft_by_position(monkeypatch)
    assert sample_p_value() > LEVEL


def test_the_g_test_rejects_a_law_that_is_off_by_three_percent():
    tokens, _ = whole()
    assert is_rejected(tokens, table_law(WHOLE, LawSettings(temperature=1.03)))
