"""The training loop: an interrupted run goes on as if nothing had happened, and Muon does what its paper says."""

import json

import numpy as np
import pytest
import torch

from training import loop
from training.muon import Muon, orthogonalised


class Line:
    """A task: fit one weight matrix to a map known beforehand."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Module()
        self.model.q_proj, self.model.bias = torch.nn.Linear(4, 4, bias=False), torch.nn.Parameter(torch.zeros(4))
        self.modules = {"model": self.model}
        self.optimizers = loop.muon_and_adamw(self.model, 0.02, 0.01, weight_decay=0.0)
        self.goal = torch.eye(4).flip(0)

    def loss(self, rng, step):
        x = torch.from_numpy(rng.normal(size=(32, 4))).float()
        return (self.model.q_proj(x) + self.model.bias - x @ self.goal.T - 1).square().mean()

    def evaluate(self):
        return {"error": (self.model.q_proj.weight - self.goal).abs().max().item()}


def settings(steps, **changes):
    return loop.RunSettings(steps=steps, warmup_steps=5, log_every=10, save_every=10, **changes)


def test_a_run_learns_and_reports(tmp_path):
    report = loop.train(Line(), tmp_path, settings(300))
    assert report["steps"] == 300 and report["error"] < 0.1
    assert json.loads((tmp_path / "report.json").read_text())["error"] == report["error"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 31


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    whole, first, second = Line(), Line(), Line()
    loop.train(whole, tmp_path / "whole", settings(40))

    def stops(rng, step, loss=first.loss):
        if step == 25:  # after the checkpoint of step 20
            raise KeyboardInterrupt
        return loss(rng, step)

    first.loss = stops
    with pytest.raises(KeyboardInterrupt):
        loop.train(first, tmp_path / "parts", settings(40))
    loop.train(second, tmp_path / "parts", settings(40))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value)


def test_a_run_that_goes_on_has_the_rates_that_it_asks_for(tmp_path):
    loop.train(Line(), tmp_path, settings(20))
    slower = Line()
    slower.optimizers = loop.muon_and_adamw(slower.model, 0.002, 0.001, weight_decay=0.0)
    loop.train(slower, tmp_path, settings(40))
    assert [o.param_groups[0]["first_lr"] for o in slower.optimizers] == [0.002, 0.001]


def test_a_run_that_diverges_at_its_end_keeps_the_checkpoint_before(tmp_path):
    task = Line()
    task.loss = lambda rng, step: task.model.bias.sum() * (torch.nan if step > 33 else 1)
    with pytest.raises(SystemExit, match="smaller learning rate"):
        loop.train(task, tmp_path, settings(35))
    assert all(weight.isfinite().all() for weight in loop.weights(tmp_path).values())


def test_a_report_of_weights_that_were_trained_further_is_none(tmp_path):
    loop.train(Line(), tmp_path, settings(20))
    assert loop.report_of(tmp_path) == tmp_path / "report.json"
    longer = Line()

    def stops(rng, step, loss=longer.loss):
        if step == 35:
            raise KeyboardInterrupt
        return loss(rng, step)

    longer.loss = stops
    with pytest.raises(KeyboardInterrupt):
        loop.train(longer, tmp_path, settings(40))
    assert loop.report_of(tmp_path) is None and loop.report_of(tmp_path / "none") is None


def test_a_run_that_diverges_says_so(tmp_path):
    task = Line()
    task.loss = lambda rng, step: task.model.bias.sum() * torch.nan
    with pytest.raises(SystemExit, match="smaller learning rate"):
        loop.train(task, tmp_path, settings(20))


def test_rates_rise_hold_and_fall():
    s = settings(100, fall_from=0.5)
    factors = [loop.rate_factor(step / 100, step, s) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(f == 1 for f in factors[5:50])
    assert np.all(np.diff(factors[51:]) < 0) and factors[-1] < 0.05


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalised(matrix[None])[0]
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ result @ v.T  # the result in the matrix's own singular vectors
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-3
    assert inner.diagonal().min() > 0.3 and inner.diagonal().max() < 1.3


def test_matrices_of_one_shape_take_the_step_they_would_take_alone():
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    together = [torch.nn.Parameter(m.clone()) for m in start]
    alone = [torch.nn.Parameter(m.clone()) for m in start]
    for group in (together, *([m] for m in alone)):
        optimizer = Muon(group, lr=0.1)
        for parameter in group:
            parameter.grad = gradients[next(i for i, s in enumerate(start) if torch.equal(s, parameter.data))]
        optimizer.step()
    torch.testing.assert_close(torch.stack(list(together)), torch.stack(list(alone)))
