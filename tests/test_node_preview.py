"""Live previews: what is sent while a run draws, and that it changes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from comfy_host import draw


@pytest.fixture
def sent(monkeypatch) -> list[tuple]:
    """What the bar is given to show: (format, picture, side)."""
    import comfy.utils

    seen = []

    def update(bar, value, total, preview=None):
        if preview is not None:
            seen.append(preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    return seen


@pytest.fixture
def eager(pack, monkeypatch) -> None:
    """Previews after every step, whatever they cost."""
    budget = pack.part("mcsjd_core.pipeline.preview").Budget
    monkeypatch.setattr(pack.part("nodes.progress"), "Budget", lambda: budget(share=1e9, interval=0.0))


def test_previews_are_rgb_jpegs_of_the_pictures_so_far(pack, model, sent, eager):
    tokens, stats = draw(pack, model, batch_size=3, window=4)
    assert len(sent) >= stats.nfe - 3  # the first times are for trials
    assert all(kind == "JPEG" and picture.mode == "RGB" and side is None for kind, picture, side in sent)
    assert all(picture.size == (24, 16) for _, picture, _ in sent)  # 3 pictures of 12 x 8 in two rows
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    last = torch.frombuffer(bytearray(sent[-1][1].tobytes()), dtype=torch.uint8).view(16, 24, 3) / 255
    torch.testing.assert_close(last[:8, :12], image[0], atol=0.003, rtol=0)
    torch.testing.assert_close(last[8:, :12], image[2], atol=0.003, rtol=0)
    assert 0 < stats.preview_seconds < stats.seconds


def test_the_last_preview_is_complete_even_in_a_run_too_short_for_others(pack, model, sent):
    """By the real budget, which a run of milliseconds leaves nothing of."""
    tokens, _ = draw(pack, model, batch_size=2, coupling="plain AR")
    (image,) = pack.run("MCSJD_Decode", model=model, tokens=tokens)
    last = torch.frombuffer(bytearray(sent[-1][1].tobytes()), dtype=torch.uint8).view(8, 24, 3) / 255
    torch.testing.assert_close(last, torch.cat(tuple(image), 1), atol=0.003, rtol=0)


def test_pictures_of_a_batch_take_turns(pack, model):
    """Each preview pays for one of them, whichever is furthest behind, and shows the others as they were."""
    live = pack.part("nodes.progress").LivePreview(model.family, model.family.grid())
    live.budget.rows = lambda wanted: wanted
    tokens, step = torch.zeros(3, 24, dtype=torch.long), pack.core.Step
    for turn, (drafted, expected) in enumerate(
        (([6, 12, 6], [0, 12, 0]), ([12, 18, 6], [12, 12, 0]), ([12, 18, 12], [12, 12, 12]))
    ):
        assert live.picture(step(turn, tokens, [1, 1, 1], drafted)).size == (24, 16)
        assert live.shown == expected
    live.picture(step(4, tokens, [24] * 3, [24] * 3))
    assert live.shown == [24] * 3


def test_previews_change_no_token(pack, model, sent, eager):
    with_previews = draw(pack, model, window=4)
    pack.part("nodes.sampling").DRAWN._runs.clear()
    without = draw(pack, model, window=4, live_preview=False)
    assert with_previews[0].tokens.equal(without[0].tokens)
    assert without[1].preview_seconds == 0.0


def test_switching_previews_draws_nothing_again_and_any_other_change_does(pack, model):
    first = draw(pack, model, window=4)
    assert draw(pack, model, window=4, live_preview=False)[0] is first[0]
    assert draw(pack, model, window=5, live_preview=False)[0] is not first[0]
    assert draw(pack, model, window=4)[0] is first[0]
    assert draw(pack, model, window=4)[0] is not first[0]  # asked for again as it was: ComfyUI was told to forget


def test_previews_are_left_out_where_memory_is_short(pack, model, sent, eager, monkeypatch):
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "get_free_memory", lambda *_: 2**20)
    draw(pack, model, window=4)
    assert sent == []


def test_a_preview_that_runs_out_of_memory_does_not_end_the_run(pack, model, sent, eager, monkeypatch):
    def decode(*_):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(model.family.codec, "decode", decode)
    tokens, _ = draw(pack, model, window=4)
    assert sent == [] and tokens.is_whole


def test_large_previews_are_sent_smaller(pack):
    from PIL import Image

    seen = []
    progress = pack.part("nodes.progress").Progress(10)
    progress.bar.update_absolute = lambda value, total, preview: seen.append(preview[2])
    for side in (100, 512, 513):
        progress.update(1, Image.new("RGB", (side, 10)))
    assert seen == [None, None, 512]


def test_tokens_are_not_touched_where_no_picture_is_due(pack, model):
    """They are on the device: an index there waits for it."""
    live = pack.part("nodes.progress").LivePreview(model.family, model.family.grid())
    live.budget.rows = lambda wanted: 0
    assert live.picture(pack.core.Step(1, None, [1, 1], [6, 12])) is None


def test_room_for_previews_is_made_by_others_than_the_transformer(pack, model, monkeypatch):
    """As on hosts whose patchers count what can be unloaded: the host itself would choose among all models."""
    import comfy.model_management as mm

    runtime, asked, free = pack.part("nodes.runtime"), [], [0]
    ours, other = SimpleNamespace(model=model.token_patcher), SimpleNamespace(model=object())
    monkeypatch.setattr(mm, "current_loaded_models", [other, ours])
    monkeypatch.setattr(mm, "free_memory", lambda needed, device, keep_loaded: asked.append(keep_loaded))
    monkeypatch.setattr(mm, "get_free_memory", lambda device: free[0])
    monkeypatch.setattr(runtime, "free_memory", lambda patcher: 1e15)
    loaded = []
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, **_: loaded.extend(models))
    assert not runtime._make_room_for_previews(model, 0, 1, model.family.grid()) and not loaded
    free[0] = 1e15
    assert runtime._make_room_for_previews(model, 0, 1, model.family.grid()) and loaded == [model.codec_patcher]
    assert asked == [[ours], [ours]]
