"""Logits of a tiny Cosmos checkpoint in float64, by the formulas of NVIDIA's code and nothing of the core's."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from tiny_cosmos import CODES, COLUMNS, FRAME, HEAD_DIM, HEADS, KV_HEADS, LAYERS, ROWS, YARN, random_state


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def place_angles(n: int, yarn: bool) -> list[float]:
    cell, angles = (n // FRAME, n // COLUMNS % ROWS, n % COLUMNS), []
    for axis, width in enumerate(
        (8, 4, 4)
    ):  # 16 channels: a third in whole pairs for height and width, the rest for time
        for j in range(width // 2):
            turn = 500000.0 ** (-2 * j / width)
            if yarn:
                turns = turn * YARN["original_latent_shape"][min(axis, 1)] / (2 * math.pi)
                fast, slow = YARN["yarn_beta_fast"], YARN["yarn_beta_slow"]
                kept = min(max((turns - slow) / (fast - slow), 0), 1)
                turn *= kept + (1 - kept) / YARN["yarn_scale"]
            angles.append(cell[axis] * turn)
    return angles


def absolute(n: int) -> list[float]:
    cell, row = (n // FRAME, n // COLUMNS % ROWS, n % COLUMNS), []
    for axis, width in enumerate((16, 12, 12)):
        turns = [cell[axis] * 10000 ** (-2 * j / width) for j in range(width // 2)]
        row += [math.sin(turn) for turn in turns] + [math.cos(turn) for turn in turns]
    return row


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """x [heads, L, HEAD_DIM] with channel i and i + HEAD_DIM / 2 as one complex number."""
    z = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((z.real, z.imag), -1)


def attention(x, source, state, name, angles=None) -> torch.Tensor:
    """Heads one by one; causal where there are angles."""

    def heads(w, of):
        return (of @ state[f"{name}.{w}.weight"].T).unflatten(-1, (-1, HEAD_DIM)).transpose(0, 1)

    q, k = rms(heads("wq", x), state[f"{name}.q_norm.weight"]), rms(heads("wk", source), state[f"{name}.k_norm.weight"])
    v, out = heads("wv", source), []
    if angles is not None:
        q, k = turned(q, angles), turned(k, angles)
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        scores = q[head] @ k[shared].T / HEAD_DIM**0.5
        if angles is not None:
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
        out.append(scores.softmax(-1) @ v[shared])
    return torch.cat(out, -1) @ state[f"{name}.wo.weight"].T


def reference_logits(codes: torch.Tensor, context: torch.Tensor | None, yarn: bool) -> torch.Tensor:
    """Logits [.., CODES] float64 after every token but the last of codes [N]; with a context, also before the first."""
    state = {n.removeprefix("model."): t.double() for n, t in random_state(context is not None).items()}
    ids = [CODES, *codes[:-1].tolist()] if context is not None else codes[:-1].tolist()
    cells = [max(i - (context is not None), 0) for i in range(len(ids))]
    angles = torch.tensor([place_angles(cell, yarn) for cell in cells], dtype=torch.float64)
    x = state["tok_embeddings.weight"][ids]
    if context is not None:
        added = torch.tensor([absolute(cell) for cell in cells], dtype=torch.float64)
        added[0] = 0
    for n in range(LAYERS):
        layer = f"layers.{n}."
        if context is not None:
            x = x + added
        h = rms(x, state[f"{layer}attention_norm.weight"])
        x = x + attention(h, h, state, f"{layer}attention", angles)
        if context is not None:
            h = rms(x, state[f"{layer}cross_attention_norm.weight"])
            x = x + attention(h, context, state, f"{layer}cross_attention")
        h = rms(x, state[f"{layer}ffn_norm.weight"])
        w1, w2, w3 = (state[f"{layer}feed_forward.w{i}.weight"] for i in (1, 2, 3))
        x = x + (F.silu(h @ w1.T) * (h @ w3.T)) @ w2.T
    return rms(x, state["norm.weight"]) @ state["output.weight"].T
