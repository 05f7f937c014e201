"""The acceptance command of the image model of scenes."""

import math
from types import SimpleNamespace

import pytest

import tiny_checkpoint
from mcsjd_core import COUPLINGS, load
from training import acceptance, prompts
from training.places import PHRASES
from training.scenes import held_out


def test_intervals_are_students():
    values = [float(i) for i in range(32)]
    deviation = math.sqrt(sum((v - 15.5) ** 2 for v in values) / 31)
    mean, half = map(float, acceptance.interval(values).split(" ± "))
    assert mean == 15.5 and half == pytest.approx(2.04 * deviation / math.sqrt(32), abs=0.005)


def test_prompts_are_answered_in_their_order():
    assert [text for some in acceptance.batches([str(i) for i in range(20)]) for text in some] == list(
        map(str, range(20))
    )


def test_no_prompt_of_the_tuning_is_judged_and_the_unseen_pairs_are_held_out():
    scenes = SimpleNamespace(things=[f"thing {i}" for i in range(67)], place_names=list(PHRASES))
    unseen = prompts.unseen_pairs(scenes)
    assert len(prompts.QUALITY) == 24 and len(unseen) == 8
    assert not set(prompts.TUNING) & set(prompts.QUALITY)
    for prompt in unseen:
        thing = next(i for i, name in enumerate(scenes.things) if prompt.startswith(f"a {name} "))
        place = next(i for i, place in enumerate(PHRASES) if prompt.endswith(f" {PHRASES[place]}"))
        assert held_out(thing, place)


def test_the_report_has_a_line_for_every_figure_and_coupling(tmp_path, monkeypatch):
    tiny_checkpoint.write_tiny_checkpoint(tmp_path)
    monkeypatch.setattr(acceptance, "WINDOWS", (4, 8))
    monkeypatch.setattr(acceptance, "BATCH", 2)
    lines = acceptance.table(load(tmp_path), ["red", "green", "re", "d", "e"])
    entropy = float(next(line for line in lines if "entropy" in line).split()[2])
    assert 0 < entropy < math.log(tiny_checkpoint.CODEC.codebook_size)
    shared = float(next(line for line in lines if "share" in line).split("share: ")[1].split()[0].rstrip(":"))
    assert 0 <= shared < 50
    for coupling in COUPLINGS:
        cells = next(line for line in lines if line.startswith(f"| {coupling} |")).split("|")[2:-1]
        assert all(float(cell.split("±")[0]) >= 1 for cell in cells) and len(cells) == 2
