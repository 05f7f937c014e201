"""8-bit weights: what is held, what it computes, how far logits move, and what it costs to load them."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mcsjd_core
from live_bytes import LiveBytes
from mcsjd_core import DecodeSettings, InputError, LawSettings
from mcsjd_core.families.weight_error import logits_change, probe_logits
from mcsjd_core.nn.weights import FP8, WEIGHT_FORMATS, fp8_layers
from oracle import cached_logits, relative
from tiny_checkpoint import TRANSFORMER, write_tiny_checkpoint


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny")


def logits(model) -> torch.Tensor:
    tokens = torch.randint(24, (2, 24), generator=torch.Generator().manual_seed(5))
    return cached_logits(model.token_model, model.prompt(["red apple", "owl"], None, True), tokens, 6).float()


def matrices(model) -> dict[str, torch.Tensor]:
    layers = model.token_model.named_modules()
    return {name: layer.weight for name, layer in layers if isinstance(layer, nn.Linear)}


def rounded_to_fp8(weight: torch.Tensor) -> torch.Tensor:
    """The nearest e4m3 numbers on the scale of the largest: 4 significant bits, no finer than 2^-9 of the unit."""
    scale = weight.double().abs().max() / 448
    value = weight.double() / scale
    step = 2.0 ** (value.abs().clamp_min(2.0**-6).log2().floor() - 3)
    return ((value / step).round() * step * scale).float()


def test_fp8_holds_a_byte_a_weight_and_computes_with_the_rounded_matrices(directory):
    small, wide = mcsjd_core.load(directory, weights="fp8"), mcsjd_core.load(directory)
    held, exact = matrices(small), matrices(wide)
    assert held.keys() == exact.keys() and all(weight.dtype == FP8 for weight in held.values())
    others = [p for n, p in small.token_model.named_parameters() if n.removesuffix(".weight") not in held]
    assert others and all(p.dtype == torch.float32 for p in others)
    for weight in exact.values():
        weight.copy_(rounded_to_fp8(weight))
    assert relative(logits(small), logits(wide)) < 1e-5


def test_bf16_holds_two_bytes_a_weight_and_computes_in_float32_as_the_wide_model_does(directory):
    """The result of float32 from rounded matrices, bit for bit: what a checkpoint published in bfloat16 has anyway."""
    small, wide = mcsjd_core.load(directory, weights="bf16"), mcsjd_core.load(directory)
    held, exact = matrices(small), matrices(wide)
    assert held.keys() == exact.keys() and all(weight.dtype == torch.bfloat16 for weight in held.values())
    assert not torch.equal(logits(small), logits(wide))
    for weight in exact.values():
        weight.copy_(weight.bfloat16())
    assert small.token_model.compute_dtype == torch.float32
    assert torch.equal(logits(small), logits(wide))


@pytest.mark.parametrize(("weights", "error"), [("fp8", 0.1), ("int8", 0.02)])
def test_logits_move_little(directory, weights, error):
    if weights == "int8":
        pytest.importorskip("torchao", reason="torchao is optional")
    exact, ours = (logits(mcsjd_core.load(directory, weights=w)) for w in ("full", weights))
    assert 1e-4 < rms_change(ours, exact) < error


def rms_change(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return ((ours - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["full", "fp8", "int8"])
def test_what_logits_move_by_is_measured_against_the_files(directory, weights, dtype):
    """As far as they differ from those of the model in full; nothing, where it is held in full."""
    if weights == "int8":
        pytest.importorskip("torchao", reason="torchao is optional")
    model, full = (mcsjd_core.load(directory, dtype=dtype, weights=w) for w in (weights, "full"))
    change, between = logits_change(model, directory), rms_change(probe_logits(model), probe_logits(full))
    assert change == pytest.approx(between, rel=1e-4, abs=1e-7)
    assert change < 1e-6 if weights == "full" else 1e-3 < change < 0.2
    # A probe of few positions, and yet it tells about what the logits of other prompts and codes move by.
    if weights != "full":
        assert 0.5 < change / rms_change(logits(model), logits(full)) < 2


def test_measuring_reads_a_matrix_at_a_time(tmp_path):
    write_tiny_checkpoint(tmp_path, transformer=replace(TRANSFORMER, dim=128, layers=8, head_dim=32, ffn_dim=512))
    model = mcsjd_core.load(tmp_path, weights="fp8", dtype=torch.bfloat16)
    wide = 2 * sum(weight.numel() for weight in matrices(model).values())
    with LiveBytes() as memory:
        logits_change(model, tmp_path)
    assert memory.peak < wide / 2


@pytest.mark.parametrize("weights", ["bf16", "fp8", "int8"])
def test_seed_exact_holds_for_the_model_with_small_weights(directory, weights):
    if weights == "int8":
        pytest.importorskip("torchao", reason="torchao is optional")
    model, law = mcsjd_core.load(directory, weights=weights), LawSettings(3.0)
    plain, exact = (
        mcsjd_core.sample(model, ["red"], DecodeSettings(coupling, 5, law)).tokens
        for coupling in ("autoregressive", "gumbel_exact")
    )
    assert torch.equal(plain, exact)


def test_fp8_is_computed_by_the_hosts_layers(directory):
    """A host's Linear casts (and moves) its weight by itself; ours adds the scale alone."""
    seen = set()

    class Casting(nn.Linear):
        def forward(self, x):
            seen.add(self.weight.dtype)
            return F.linear(x, self.weight.to(x.dtype), self.bias)

    host = type("Host", (), {n: getattr(nn, n) for n in ("Embedding", "RMSNorm", "Conv2d", "GroupNorm")})
    host.Linear = Casting
    model = mcsjd_core.load(directory, weights="fp8", operations=host)
    assert isinstance(model.token_model.lm_head, Casting)
    assert torch.equal(logits(model), logits(mcsjd_core.load(directory, weights="fp8"))) and seen == {FP8}


def test_the_wide_model_is_never_there(tmp_path):
    """Every matrix becomes small before the next one is read."""
    write_tiny_checkpoint(tmp_path, transformer=replace(TRANSFORMER, dim=128, layers=8, head_dim=32, ffn_dim=512))
    with LiveBytes() as memory:
        model = mcsjd_core.load(tmp_path, weights="fp8", dtype=torch.bfloat16)
    held = sum(p.nbytes for part in (model.token_model, model.codec) for p in part.parameters())
    wide = 4 * max(weight.numel() for weight in matrices(model).values())  # of one matrix, while it is scaled
    assert memory.peak < held + 4 * wide < sum(weight.numel() for weight in matrices(model).values()) * 2


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_a_bias_is_added_as_it_is(weights):
    if weights == "int8":
        pytest.importorskip("torchao", reason="torchao is optional")
    generator = torch.Generator().manual_seed(1)
    matrix, bias, x = (torch.randn(shape, generator=generator) for shape in ((32, 16), (32,), (5, 16)))
    layers = [WEIGHT_FORMATS[weights](nn).Linear(16, 32, bias=with_bias) for with_bias in (True, False)]
    for layer in layers:
        layer.weight = nn.Parameter(layer.pack(matrix, torch.float32, "cpu"), requires_grad=False)
    layers[0].bias = nn.Parameter(bias)
    assert relative(layers[0](x), layers[1](x) + bias) < 1e-6


def test_fp8_stays_within_the_range_of_float16():
    """Products that are scaled only afterwards are larger than the result by hundreds of times."""
    for weight, value in ((0.5, 80.0), (1e-4, 0.5)):
        layer = WEIGHT_FORMATS["fp8"](nn).Linear(200, 4, dtype=torch.float16)
        matrix, x = torch.full((4, 200), weight), torch.full((1, 200), value, dtype=torch.float16)
        layer.weight = nn.Parameter(layer.pack(matrix, torch.float16, "cpu"), requires_grad=False)
        layer.bias = nn.Parameter(torch.ones(4, dtype=torch.float16))
        assert relative(layer(x).float(), torch.full((1, 4), 200 * weight * value + 1)) < 1e-3


def test_other_layers_stay_and_matrices_of_zeros_are_safe():
    layers = fp8_layers(nn)
    assert layers.RMSNorm is nn.RMSNorm
    layer = layers.Linear(3, 2, bias=False)
    layer.weight = nn.Parameter(layer.pack(torch.zeros(2, 3), torch.float32, "cpu"), requires_grad=False)
    assert torch.equal(layer(torch.ones(1, 3)), torch.zeros(1, 2))
    largest = layer.pack(torch.tensor([[1e-30, -7.0, 3.0], [0.0, 1.0, 2.0]]), torch.float32, "cpu")
    assert largest.float().abs().max() == 448


def test_int8_without_torchao_is_one_sentence(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(InputError, match=r"need the package torchao, which is not installed; install it, or use fp8\."):
        mcsjd_core.load(directory, weights="int8")


def test_what_takes_seconds_to_import_is_imported_only_when_it_is_asked_for(directory):
    """torch imports its compiler unasked where a model draws its first weights on the meta device."""
    load = f"import sys, mcsjd_core; mcsjd_core.load({str(directory)!r}, weights='fp8')"
    code = f"{load}; assert not {{'torchao', 'torch._dynamo', 'transformers', 'matplotlib'}} & sys.modules.keys(), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_forms_are_refused_with_those_there_are(directory):
    with pytest.raises(InputError, match=f"one of {', '.join(WEIGHT_FORMATS)}, got 'fp4'"):
        mcsjd_core.load(directory, weights="fp4")
