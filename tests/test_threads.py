"""The command line's threads: as many as cores are idle, and the user's choice before all."""

from __future__ import annotations

import os

import pytest
import torch

from mcsjd_core.cli import threads


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight cores, `running` threads at work, torch with 6 threads; gives the number that it has afterwards."""
    chosen = []
    monkeypatch.setattr(threads, "RUNNING", tmp_path / "loadavg")
    monkeypatch.setattr(threads, "PAUSE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    for name in threads.CHOSEN_BY_THE_USER:
        monkeypatch.delenv(name, raising=False)

    def run(running: int | None) -> list[int]:
        if running is not None:
            threads.RUNNING.write_text(f"9.00 9.00 9.00 {running}/700 12345\n")
        threads.leave_busy_cores_alone()
        return chosen

    return run


@pytest.mark.parametrize(("running", "expected"), [(1, 6), (3, 6), (5, 4), (8, 1), (40, 1), (None, 6)])
def test_no_more_threads_than_idle_cores(machine, running, expected):
    assert machine(running) == [expected]


@pytest.mark.parametrize("name", threads.CHOSEN_BY_THE_USER)
def test_the_user_s_own_number_stays(machine, monkeypatch, name):
    monkeypatch.setenv(name, "5")
    assert machine(40) == []
