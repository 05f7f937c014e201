"""Load Model's choice of a device, on a host that lists two graphics cards.

Both are this computer's CPU, under two names that the host's books keep apart. The host's own device is one that holds no
numbers: what goes there instead of where the model is cannot end well.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from comfy_host import draw

CARDS = {"gpu:0": torch.device("cpu", 0), "gpu:1": torch.device("cpu", 1)}


@pytest.fixture
def on_default(pack, model) -> torch.Tensor:
    """The picture as a host with one device draws it."""
    return pack.run("MCSJD_Decode", model=model, tokens=draw(pack, model, seed=5)[0])[0]


@pytest.fixture
def current(on_default, monkeypatch) -> list[torch.device]:
    """The host with two cards; gives the devices that were made the current ones, in order."""
    import comfy.model_management as mm

    made: list[torch.device] = []

    @contextmanager
    def context(device):
        made.append(device)
        yield

    monkeypatch.setattr(mm, "get_gpu_device_options", lambda: ["default", "cpu", *CARDS], raising=False)
    monkeypatch.setattr(mm, "resolve_gpu_device_option", CARDS.get, raising=False)
    monkeypatch.setattr(mm, "cuda_device_context", context, raising=False)
    monkeypatch.setattr(mm, "get_torch_device", lambda: torch.device("meta"))
    return made


def load(pack, choice: str):
    return pack.run("MCSJD_LoadModel", model="tiny", dtype="fp32", device=choice)[0]


def test_the_menu_lists_what_the_host_lists_and_stays_last(pack, current):
    *_, last = pack.nodes["MCSJD_LoadModel"].define_schema().inputs
    assert (last.id, last.options, last.default, last.optional) == (
        "device",
        ["default", "cpu", *CARDS],
        "default",
        True,
    )


def test_two_models_draw_side_by_side_each_on_its_own_card(pack, current, on_default):
    models = [load(pack, choice) for choice in CARDS]
    for model, device in zip(models, CARDS.values(), strict=True):
        assert {model.token_patcher.load_device, model.codec_patcher.load_device} == {device}
    drawn = [draw(pack, model, seed=5)[0] for model in models]
    shown = [
        pack.run("MCSJD_Decode", model=model, tokens=tokens)[0] for model, tokens in zip(models, drawn, strict=True)
    ]
    assert current == [*CARDS.values()] * 2
    assert all(picture.equal(on_default) for picture in shown)


def test_pictures_are_encoded_on_the_models_card(pack, current, on_default):
    tokens = pack.run("MCSJD_Encode", model=load(pack, "gpu:1"), image=on_default, size="")[0]
    assert current == [CARDS["gpu:1"]] and tokens.tokens.device.type == "cpu"


def test_one_models_tokens_go_on_in_a_model_on_another_card(pack, current):
    first, second = (load(pack, choice) for choice in CARDS)
    tokens, _ = draw(pack, first, seed=5)
    again, _ = draw(pack, second, seed=5, first_tokens=pack.run("MCSJD_CropTokens", tokens=tokens, rows=1)[0])
    assert again.tokens.shape == tokens.tokens.shape and current == [*CARDS.values()]


def test_a_card_that_this_computer_lacks_is_the_hosts_own_with_a_line_in_the_log(pack, current, monkeypatch, log_lines):
    import comfy.model_management as mm

    assert pack.nodes["MCSJD_LoadModel"].validate_inputs(model="tiny", device="gpu:7") is True
    monkeypatch.setattr(mm, "get_torch_device", lambda: CARDS["gpu:0"])
    assert load(pack, "gpu:7").token_patcher.load_device == CARDS["gpu:0"]
    assert any("no device gpu:7; the default is used" in line for line in log_lines)
    assert load(pack, "cpu").token_patcher.load_device == torch.device("cpu")


def test_weights_for_another_device_wait_in_ordinary_memory(pack, current, monkeypatch):
    """With --highvram, the host keeps its own models on its card."""
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "unet_offload_device", lambda: torch.device("meta"))
    loaded = load(pack, "cpu")
    assert {str(patcher.offload_device) for patcher in loaded.get_models()} == {"cpu"}
    assert {parameter.device.type for parameter in loaded.family.token_model.parameters()} == {"cpu"}
