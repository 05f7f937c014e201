"""The transformer body against transformers' models with the same random weights, and its parts against formulas."""

from dataclasses import replace

import pytest
import torch

from mcsjd_core.errors import InputError
from mcsjd_core.nn.layers import HeadNorm, rotary_angles, rotate, rotation
from mcsjd_core.nn.transformer import Transformer, TransformerConfig, group_mask, grouped_attention
from oracle import relative
from tiny_checkpoint import randomise

transformers = pytest.importorskip("transformers", reason="transformers is the reference of these tests")

# Odd sizes and a large norm_eps, so that a mixed-up dimension or a wrong eps shows.
CHAMELEON = TransformerConfig(
    dim=48, layers=3, heads=4, kv_heads=4, head_dim=12, ffn_dim=56, norm_eps=1e-3, qk_norm="layer"
)
LLAMA = TransformerConfig(dim=42, layers=3, heads=6, kv_heads=2, head_dim=10, ffn_dim=56, norm_eps=1e-3, rope_theta=1e6)


def embeddings(config: TransformerConfig, length: int = 17) -> torch.Tensor:
    """[2, L, dim], small: eps counts beside their mean square."""
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(2, length, config.dim, generator=generator)


def run(model: Transformer, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x, torch.arange(x.shape[1]).expand(len(x), -1))


def chameleon_reference(config: TransformerConfig, state: dict[str, torch.Tensor]):
    """transformers' ChameleonModel with our weights; it wants one row of norm weights for every head."""
    vocabulary = {"<s>": 0, "<pad>": 1, "<image>": 2} | {f"IMGIMG{c}Z": 4 + i for i, c in enumerate("ABCD")}
    vq = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 4, "embed_dim": 4}
    settings = transformers.ChameleonConfig(
        vocab_size=16, hidden_size=config.dim, intermediate_size=config.ffn_dim, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}, swin_norm=config.norm_after,
        vocabulary_map=vocabulary, vq_config=vq | {"num_embeddings": 4, "resolution": 8},
    )  # fmt: skip
    reference = transformers.ChameleonModel(settings).eval()
    rows = {"q_norm": config.heads, "k_norm": config.kv_heads}
    for name, tensor in state.items():
        heads = next((count for norm, count in rows.items() if norm in name), None)
        state[name] = tensor.repeat_interleave(heads // len(tensor), 0) if heads else tensor
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith(("vqmodel.", "embed_tokens.")) for name in missing)
    return reference


@pytest.mark.parametrize("norm_after", [False, True])
@pytest.mark.parametrize(("kv_heads", "rows"), [(4, 1), (4, 2), (4, 4), (2, 1), (2, 2), (2, 4)])
def test_hidden_states_equal_chameleon(kv_heads, rows, norm_after):
    config = replace(CHAMELEON, kv_heads=kv_heads, qk_norm_groups=rows, norm_after=norm_after)
    model, x = randomise(Transformer(config)), embeddings(config)
    reference = chameleon_reference(config, model.state_dict())
    with torch.no_grad():
        theirs = reference(inputs_embeds=x).last_hidden_state
    assert relative(run(model, x), theirs) < 1e-5


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_hidden_states_equal_llama(kv_heads):
    config = replace(LLAMA, kv_heads=kv_heads)
    model, x = randomise(Transformer(config)), embeddings(config)
    settings = transformers.LlamaConfig(
        vocab_size=8, hidden_size=config.dim, intermediate_size=config.ffn_dim, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=kv_heads, head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps, rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )  # fmt: skip
    reference = transformers.LlamaModel(settings).eval()
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == (["embed_tokens.weight"], [])
    with torch.no_grad():
        theirs = reference(inputs_embeds=x).last_hidden_state
    assert relative(run(model, x), theirs) < 1e-5


def rotated(x: torch.Tensor, positions: torch.Tensor, theta: float, interleaved: bool) -> torch.Tensor:
    factors = rotation(rotary_angles(positions, x.shape[-1], theta), x.dtype, interleaved)
    return rotate(x, factors, interleaved)


def rotated_by_formula(x: torch.Tensor, positions: torch.Tensor, theta: float, interleaved: bool) -> torch.Tensor:
    """Rotary embedding of x [rows, heads, L, d] as a product of complex numbers, in float64."""
    half = x.shape[-1] // 2
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + half) for i in range(half)]
    result = torch.empty_like(x, dtype=torch.float64)
    for i, (real, imaginary) in enumerate(pairs):
        angle = positions.double() * theta ** (-2 * i / x.shape[-1])
        turned = torch.complex(x[..., real].double(), x[..., imaginary].double()) * torch.exp(1j * angle)[:, None]
        result[..., real], result[..., imaginary] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_rotation_equals_the_formula(interleaved, theta):
    x = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(2))
    positions = torch.tensor([[0, 1, 2, 3, 100], [7, 8, 500, 4000, 8000]])
    ours = rotated(x, positions, theta, interleaved)
    # Angles are float32: at position 8000 they are known to 5e-4.
    assert relative(ours, rotated_by_formula(x, positions, theta, interleaved)) < 5e-4
    near = positions[:1, :4]
    ours = rotated(x[:1, :, :4], near, theta, interleaved)
    assert relative(ours, rotated_by_formula(x[:1, :, :4], near, theta, interleaved)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_far_positions_survive_half_precision(dtype):
    """Positions above 256 are no bfloat16 numbers: the angle has to be float32 and only its cosine half precision."""
    x = torch.randn(1, 2, 4, 12, generator=torch.Generator().manual_seed(3)).to(dtype)
    positions = torch.tensor([[257, 2049, 4001, 8191]])
    ours = rotated(x, positions, 1e4, False)
    assert ours.dtype == dtype
    assert relative(ours.double(), rotated_by_formula(x, positions, 1e4, False)) < 2 * torch.finfo(dtype).eps


def test_a_rotation_in_float32_is_rounded_once():
    """As LlamaGen's own: exact to half a step of bfloat16, which factors that are rounded themselves are not."""
    x = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    angles = rotary_angles(torch.arange(64)[None], head_dim=64, theta=1e4)
    turned = {dtype: rotate(x, rotation(angles, dtype, True), True) for dtype in (torch.float32, torch.bfloat16)}
    exact = rotated_by_formula(x, torch.arange(64)[None], 1e4, True)
    steps = {dtype: ((y.double() - exact).abs() / exact.abs().clamp_min(1e-3)).max() for dtype, y in turned.items()}
    assert turned[torch.float32].dtype == torch.bfloat16
    assert steps[torch.float32] < 0.51 * torch.finfo(torch.bfloat16).eps < steps[torch.bfloat16]


def test_a_body_turns_in_float32_if_it_is_asked_to():
    plain = randomise(Transformer(replace(CHAMELEON, qk_norm=None, rope_interleaved=True)))
    exact = Transformer(replace(plain.config, rope_float32=True))
    exact.load_state_dict(plain.state_dict())
    x = embeddings(plain.config)
    assert torch.equal(run(plain, x), run(exact, x))
    halves = [run(body.bfloat16(), x.bfloat16()) for body in (plain, exact)]
    assert not torch.equal(*halves) and halves[1].dtype == torch.bfloat16


def test_interleaved_layout_is_half_split_with_regrouped_rows():
    """Raw Meta weights pair channels (2i, 2i+1); regrouping rows of q, k and their norms gives the Hugging Face layout."""
    half_split = replace(CHAMELEON, qk_norm_groups=4)
    interleaved = replace(half_split, rope_interleaved=True)
    models = Transformer(half_split), randomise(Transformer(interleaved))
    state = models[1].state_dict()
    for name, tensor in state.items():
        if any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
            per_head = tensor.reshape(4, 6, 2, -1)  # heads, pairs, 2, the rest
            state[name] = per_head.transpose(1, 2).reshape(tensor.shape)
    models[0].load_state_dict(state)
    x = embeddings(half_split)
    assert relative(run(models[0], x), run(models[1], x)) < 1e-5


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_head_norm_equals_the_formula_and_consecutive_heads_share_a_row(kind, rows):
    norm = randomise(HeadNorm(kind, rows, 8, 1e-5))
    x = 3e-3 * torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(4))  # its mean square is near eps
    x += 2e-3
    ours = norm(x)
    for head in range(6):
        row, channels = head // (6 // rows), x[:, head].double()
        if kind == "layer":
            channels = channels - channels.mean(-1, keepdim=True)
        y = channels / (channels.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight[row]
        if kind == "layer":
            y = y + norm.bias[row]
        assert relative(ours[:, head], y) < 1e-5


def test_rms_head_norm_has_no_bias():
    assert list(HeadNorm("rms", 1, 8, 1e-5).state_dict()) == ["weight"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_grouped_attention_equals_the_formula(kv_heads, masked):
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, heads, 7, 4, generator=generator).double() for heads in (6, kv_heads, kv_heads))
    mask = torch.rand(2, 1, 7, 7, generator=generator) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    seen = mask if masked else torch.ones(7, 7, dtype=torch.bool).tril()
    k6, v6 = (t.repeat_interleave(6 // kv_heads, 1) for t in (k, v))
    scores = (q @ k6.transpose(-1, -2) / 2).masked_fill(~seen, float("-inf"))
    expected = scores.softmax(-1) @ v6
    assert torch.allclose(grouped_attention(q, k, v, mask if masked else None), expected, atol=1e-12)
    if masked:
        ready = group_mask(mask, 6 // kv_heads, q.dtype)
        assert torch.allclose(grouped_attention(q, k, v, ready), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    config = replace(CHAMELEON, qk_norm_groups=4)
    model, x = randomise(Transformer(config)), embeddings(config, 64)
    half = Transformer(config, dtype=dtype)
    half.load_state_dict(model.state_dict())
    ours = run(half, x.to(dtype))
    assert ours.dtype == dtype
    exact = run(model, x)
    root_mean_square = ((ours.float() - exact).square().mean() / exact.square().mean()).sqrt()
    assert root_mean_square < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "at least 1"),
        ({"head_dim": 7}, "7 channels a head"),
        ({"heads": 4, "kv_heads": 3}, "4 heads cannot share 3 key heads"),
        ({"qk_norm": "batch"}, "'batch'"),
        ({"qk_norm_groups": 3}, "3 rows of norm weights"),
        ({"heads": 6, "kv_heads": 3, "qk_norm_groups": 2}, "2 rows of norm weights"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(CHAMELEON, **change)
