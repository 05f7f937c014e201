"""Packed matrices: the same maps, names and pictures; what is not a plain matrix of the CPU stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mcsjd_core
from mcsjd_core import METHODS, DecodeSettings, LawSettings
from mcsjd_core.nn import packing
from mcsjd_core.nn.packing import PackedLinear, ShortRMSNorm, pack
from oracle import cached_logits, relative
from tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("packing") / "tiny")


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch):
    monkeypatch.setattr(packing, "LEAST", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_same_map_for_any_number_of_rows(bias, dtype):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16 products")
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(96, 160, bias=bias, dtype=dtype)
    packed, double = PackedLinear(linear), copy.deepcopy(linear).double()
    with torch.no_grad():
        for shape in ((1,), (2, 1), (2, 3), (40, 7), (0, 4)):
            x = torch.randn(*shape, 96, generator=generator).to(dtype)
            exact = double(x.double())
            assert packed(x).dtype == dtype and packed(x).shape == exact.shape
            if x.numel():
                assert relative(packed(x).double(), exact) < 4 * torch.finfo(dtype).eps
        x = torch.randn(96, 5, generator=generator).to(dtype).t()  # not contiguous
        assert relative(packed(x).float(), linear(x).float()) < 4 * torch.finfo(dtype).eps


def test_a_short_norm_is_the_same_norm():
    norm = nn.RMSNorm(48, eps=1e-3)
    x = 0.05 * torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(0))  # eps counts beside its mean square
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
        assert relative(ShortRMSNorm(norm)(x), norm(x)) < 1e-6
        assert not ShortRMSNorm(norm)(torch.zeros(1, 48)).any()


def test_names_shapes_and_values_of_weights_stay(directory):
    plain, packed = (mcsjd_core.load(directory, packed=flag).token_model for flag in (False, True))
    assert any(isinstance(layer, PackedLinear) for layer in packed.modules())
    assert not any(type(layer) is nn.Linear for layer in packed.modules())
    state = packed.state_dict()
    for name, tensor in plain.state_dict().items():
        held = state.pop(name)
        assert held.shape == tensor.shape and held.dtype == tensor.dtype
        assert torch.equal(held.to_dense() if held.layout != torch.strided else held, tensor)
    assert not state


def test_a_packed_model_gives_the_same_logits_and_pictures(directory):
    plain, packed = (mcsjd_core.load(directory, packed=flag) for flag in (False, True))
    prompt = plain.prompt(["red apple", "owl"], None, True)
    tokens = torch.randint(24, (2, 20), generator=torch.Generator().manual_seed(1))
    for window in (1, 7):
        ours, theirs = (cached_logits(model.token_model, prompt, tokens, window) for model in (packed, plain))
        assert relative(ours, theirs) < 1e-5
    for method in METHODS:
        settings = DecodeSettings(method, 8, LawSettings(cfg_scale=2.0, top_k=10))
        ours, theirs = (mcsjd_core.sample(model, ["owl"], settings).tokens for model in (packed, plain))
        assert torch.equal(ours, theirs)


def test_layers_of_a_host_or_in_eight_bits_are_left_alone(directory):
    class Operations:
        Embedding, RMSNorm, Conv2d, GroupNorm = nn.Embedding, nn.RMSNorm, nn.Conv2d, nn.GroupNorm

        class Linear(nn.Linear):
            pass

    of_host = mcsjd_core.load(directory, operations=Operations, packed=True).token_model
    in_eight_bits = mcsjd_core.load(directory, weights="fp8", packed=True).token_model
    assert not any(isinstance(layer, PackedLinear) for model in (of_host, in_eight_bits) for layer in model.modules())


@pytest.mark.parametrize(("side", "kind"), [(512, PackedLinear), (511, nn.Linear)])
def test_only_a_large_matrix_is_packed(monkeypatch, side, kind):
    monkeypatch.undo()
    assert type(pack(nn.Sequential(nn.Linear(side, 512)))[0]) is kind


@pytest.mark.parametrize("change", [{"dtype": torch.float64}, {"device": "meta"}])
def test_what_cannot_be_packed_stays(change):
    model = pack(nn.Sequential(nn.Linear(4, 4, **change)))
    assert type(model[0]) is nn.Linear
