"""The acceptance command of the image model of scenes."""

import csv
import math
from dataclasses import replace
from statistics import pstdev
from types import SimpleNamespace

import pytest

import tiny_checkpoint
from mcsjd_core import COUPLINGS, DecodeSettings, load
from training import acceptance, prompts, sprites
from training.places import PHRASES
from training.scenes import held_out


def test_prompts_are_answered_in_their_order():
    assert [text for some in acceptance.batches([str(i) for i in range(20)]) for text in some] == list(
        map(str, range(20))
    )


@pytest.fixture
def scenes():
    with sprites.THINGS.open() as file:
        things = [row["name"] for row in csv.DictReader(file) if row["scenes"]]
    return SimpleNamespace(things=things, place_names=list(PHRASES))


def pair(scenes, prompt: str) -> tuple[int, int]:
    """Numbers of the thing and of the place that a prompt names."""
    place = next(i for i, name in enumerate(PHRASES) if prompt.endswith(f" {PHRASES[name]}"))
    words = prompt.removesuffix(f" {PHRASES[scenes.place_names[place]]}")
    return max((i for i, name in enumerate(scenes.things) if words.endswith(f" {name}")), default=None), place


def test_prompts_of_the_judgement_are_new_to_the_tuning_and_as_held_out_as_they_say(scenes):
    unseen = prompts.unseen_pairs(scenes)
    assert len(prompts.QUALITY) == 24 and len(unseen) == 8
    assert not set(prompts.TUNING) & set(prompts.QUALITY)
    assert all(held_out(*pair(scenes, prompt)) for prompt in unseen)
    assert not any(held_out(*pair(scenes, prompt)) for prompt in (*prompts.QUALITY, *prompts.TUNING))


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


def test_the_interval_of_a_ratio_is_that_of_its_prompts():
    one = [1.0, 2.0, 3.0, 4.0] * 8
    assert acceptance.ratio_of_means(one, [1.5 * value for value in one]) == "1.50 (1.50 to 1.50)"
    # Of a constant divisor, the ratio's interval is that of the mean: 1.96 deviations of the 32 over their root.
    ratio, low, _, high = acceptance.ratio_of_means([2.0] * 32, one).replace("(", "").replace(")", "").split()
    half = 1.96 * pstdev(one) / 32**0.5 / 2
    assert float(ratio) == 1.25
    assert [float(low), float(high)] == pytest.approx([1.25 - half, 1.25 + half], abs=0.03)


def test_groups_go_from_the_surest_prompts_to_the_least_sure():
    nats, independent, maximal = [2.0, 0.1, 1.0, 0.3], [2.0, 1.0, 4.0, 3.0], [5.0, 1.0, 6.0, 4.5]
    lines = acceptance.by_entropy(nats, independent, maximal)[2:]
    cells = [[float(cell) for cell in line.split("|")[2:-1]] for line in lines]
    assert cells == [[0.1, 1, 1, 1], [0.3, 3, 4.5, 1.5], [1, 4, 6, 1.5], [2, 2, 5, 2.5]]


def test_more_seeds_are_the_mean_of_single_runs(tmp_path):
    tiny_checkpoint.write_tiny_checkpoint(tmp_path)
    model = load(tmp_path)
    settings = DecodeSettings("maximal", 8, model.defaults.law, seed=7)
    single = [acceptance.compressions(model, ["red", "green"], replace(settings, seed=seed)) for seed in (7, 107)]
    both = acceptance.compressions(model, ["red", "green"], settings, seeds=2)
    assert single[0] != single[1] and both == pytest.approx([(a + b) / 2 for a, b in zip(*single, strict=True)])
