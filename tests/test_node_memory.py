"""Runs that are stopped, run out of memory, or ask for too little of it: what is left behind, and that the next one works."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from comfy_host import draw


@pytest.fixture
def model(pack, model_folder):
    """Loaded anew, not the one that many tests share: what was made and measured for earlier runs would count."""
    return pack.run("MCSJD_LoadModel", model="tiny", dtype="auto")[0]


class Forwards:
    """Counts the forwards of a model and keeps an eye on its KV cache; presses Stop during forward `stop_at`."""

    def __init__(self, model, monkeypatch, stop_at: int | None = None):
        import comfy.model_management as mm

        self.count, self.cache = 0, None
        token_model = model.family.token_model
        hidden, new_cache = token_model.hidden, token_model.new_cache

        def counted(*args):
            self.count += 1
            if self.count == stop_at:
                mm.interrupt_current_processing()
            return hidden(*args)

        def watched(*args):
            cache = new_cache(*args)
            self.cache = weakref.ref(cache)
            return cache

        monkeypatch.setattr(token_model, "hidden", counted)
        monkeypatch.setattr(token_model, "new_cache", watched)


def test_stop_works_within_one_iteration_and_frees_the_cache(pack, model, monkeypatch):
    import comfy.model_management as mm

    forwards = Forwards(model, monkeypatch, stop_at=4)
    gc.disable()  # the memory has to come back by itself
    try:
        with pytest.raises(mm.InterruptProcessingException) as held:  # as the host holds it
            draw(pack, model, coupling="plain AR")
        assert forwards.cache() is None
    finally:
        gc.enable()
    assert forwards.count == 4 and held.value is not None
    tokens, _ = draw(pack, model)
    assert tokens.tokens.shape[1] == model.family.grid().num_tokens


def test_stop_is_seen_while_a_checkpoint_loads(pack, model_folder, monkeypatch):
    import comfy.model_management as mm

    looks, look = [], mm.throw_exception_if_processing_interrupted

    def pressed_at_the_third_look():
        looks.append(True)
        if len(looks) == 3:
            mm.interrupt_current_processing()
        look()

    monkeypatch.setattr(mm, "throw_exception_if_processing_interrupted", pressed_at_the_third_look)
    with pytest.raises(mm.InterruptProcessingException):
        pack.run("MCSJD_LoadModel", model="tiny", dtype="auto")
    assert len(looks) == 3
    draw(pack, pack.run("MCSJD_LoadModel", model="tiny", dtype="auto")[0])


def test_stop_is_seen_between_pictures_that_are_decoded(pack, model):
    import comfy.model_management as mm

    tokens, _ = draw(pack, model, batch_size=6)
    mm.interrupt_current_processing()
    with pytest.raises(mm.InterruptProcessingException):
        pack.run("MCSJD_Decode", model=model, tokens=tokens)


def test_running_out_of_memory_reaches_comfyui_untouched(pack, model, monkeypatch):
    error = torch.OutOfMemoryError("no memory left")

    def hidden(*_):
        raise error

    monkeypatch.setattr(model.family.token_model, "hidden", hidden)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        draw(pack, model)
    assert raised.value is error


def test_a_partly_loaded_model_draws_the_same(pack, model):
    """As on a device that is too small: ComfyUI leaves layers behind and casts their weights at every use."""
    import comfy.ops

    if not hasattr(comfy.ops.disable_weight_init.Linear, "comfy_cast_weights"):
        pytest.skip("the stand-in for ComfyUI loads models whole")
    whole, _ = draw(pack, model)
    patcher = model.token_patcher
    patcher.detach()
    patcher.load(patcher.load_device, lowvram_model_memory=patcher.model_size() // 2)
    casting = [getattr(layer, "comfy_cast_weights", None) for layer in patcher.model.modules()]
    assert patcher.model.model_lowvram and True in casting and False in casting
    assert draw(pack, model)[0].tokens.equal(whole.tokens)


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made under it held at one time."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes and storage.nbytes():
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 3, "window": 16},
        {"cfg": 1.0, "coupling": "MC-SJD (Gumbel)"},
        {"coupling": "plain AR"},
        {"prompt": "red apple " * 40},
        {"top_k": 5, "top_p": 0.9},
        {"record_details": True},
        {"record_details": True, "coupling": "MC-SJD (Gumbel)", "batch_size": 2, "top_k": 5},
        {"initialiser": "recall", "batch_size": 2},
        {"initialiser": "recall", "top_k": 5, "coupling": "MC-SJD (Gumbel)"},
    ],
)
def test_memory_asked_for_covers_what_a_decode_takes(pack, model, monkeypatch, changes):
    import comfy.model_management as mm

    asked = []
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, memory_required, **_: asked.append(memory_required))
    with LiveBytes() as live:
        tokens, _ = draw(pack, model, live_preview=False, **changes)
    assert live.peak <= asked[0] < 4 * live.peak
    with LiveBytes() as live:
        pack.run("MCSJD_Decode", model=model, tokens=tokens)
    assert live.peak <= asked[-1] < 4 * live.peak


def test_memory_asked_for_covers_a_continued_picture(pack, model, monkeypatch):
    import comfy.model_management as mm

    tokens, _ = draw(pack, model, batch_size=4)
    (upper,) = pack.run("MCSJD_CropTokens", tokens=tokens, rows=3)
    asked = []
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, memory_required, **_: asked.append(memory_required))
    with LiveBytes() as live:
        draw(pack, model, live_preview=False, batch_size=4, window=4, first_tokens=upper)
    assert live.peak <= asked[0] < 4 * live.peak


def test_memory_asked_for_covers_encoding(pack, model, monkeypatch):
    import comfy.model_management as mm

    asked, images = [], torch.rand(4, 8, 12, 3)
    monkeypatch.setattr(mm, "load_models_gpu", lambda models, memory_required, **_: asked.append(memory_required))
    with LiveBytes() as live:
        pack.run("MCSJD_Encode", model=model, image=images)
    assert live.peak <= asked[0] < 4 * live.peak


STAGES = ["prefill", "loop", "preview", "decode", "encode"]


class Fault:
    """Raises `error` in one stage of a run, once."""

    def __init__(self, model, monkeypatch, stage: str, error: BaseException):
        self.error, self.raised = error, False
        token_model, codec = model.family.token_model, model.family.codec
        owner, name, first = {
            "prefill": (token_model, "hidden", 1),
            "loop": (token_model, "hidden", 3),
            "preview": (codec, "decode", 2),
            "decode": (codec, "decode", 1),
            "encode": (codec, "encode", 1),
        }[stage]
        calls, real = [0], getattr(owner, name)

        def faulty(*args):
            calls[0] += 1
            if calls[0] == first and not self.raised:
                self.raised = True
                raise self.error
            return real(*args)

        self.token_model = token_model
        monkeypatch.setattr(owner, name, faulty)


def go_through(pack, model, stage: str) -> None:
    """The run that comes by a stage."""
    if stage == "encode":
        pack.run("MCSJD_Encode", model=model, image=torch.rand(1, 8, 12, 3))
        return
    tokens, _ = draw(pack, model, window=4, live_preview=stage == "preview")
    pack.run("MCSJD_Decode", model=model, tokens=tokens)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["stop", "memory"])
def test_a_run_ended_at_any_stage_leaves_nothing_and_the_next_one_works(pack, model, monkeypatch, stage, kind):
    """Stop is passed on everywhere; a preview alone may run out of memory without ending the run."""
    import comfy.model_management as mm

    budget = pack.part("mcsjd_core.pipeline.preview").Budget
    monkeypatch.setattr(pack.part("nodes.progress"), "Budget", lambda: budget(share=1e9, interval=0.0))
    error = mm.InterruptProcessingException() if kind == "stop" else torch.OutOfMemoryError("no memory left")
    forwards = Forwards(model, monkeypatch)
    fault = Fault(model, monkeypatch, stage, error)
    if (stage, kind) == ("preview", "memory"):
        go_through(pack, model, stage)
        error.__traceback__ = None  # the test alone still holds it, and with it the frames
    else:
        with pytest.raises(type(error)) as raised:
            go_through(pack, model, stage)
        assert raised.value is error
    assert fault.raised
    assert forwards.cache is None or forwards.cache() is None
    for each in ("encode", "loop"):
        go_through(pack, model, each)
