"""Train the transformer of the embedded model on captions and codes.

    python -m training.train_transformer --data build/emoji --codes build/codes.safetensors \
        --tokenizer build/tokenizer.json --out build/transformer --minutes 90

One sequence is `<s> caption <reserved08706> <racm3:break> code ...`; the loss counts codes alone. A few captions are dropped,
which is what classifier-free guidance needs; some codes are replaced on the way in, so that the model can go on after a draw
that was wrong. Matrices are trained with Muon (Jordan et al., 2024), the rest with AdamW. Interrupted runs continue with the
same command. A run that begins with trained weights (`--start-from`) learns more slowly, and slows down earlier.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from mcsjd_core import load
from mcsjd_core.families.chameleon import ChameleonTransformer, Vocabulary
from mcsjd_core.nn import transformer
from mcsjd_core.nn.transformer import TransformerConfig

from .schedule import Budget, Log, hold_then_fall, save, set_learning_rate
from .sequences import IGNORED, Sequences, Settings
from .train_codec import CONFIG as CODEC

EMPHASIS = 8.0  # weight that a nat adds to its code
# Settings of a run that begins with trained weights.
CONTINUED = {"matrix_lr": 1e-3, "vector_lr": 7e-4, "fall_from": 0.4}
LOG_EVERY, SAVE_EVERY = 25, 100  # steps
CONFIG = TransformerConfig(dim=320, layers=8, heads=5, kv_heads=5, head_dim=64, ffn_dim=896, qk_norm="layer")


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    """Causal attention [B, heads, S, head_dim] in plain matrix products.

    A training step takes 0.7 times as long with it as with torch's fused attention, whose backward pass is slow in
    bfloat16 on a CPU.
    """
    length = q.shape[2]
    future = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1)
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + future).softmax(-1) @ v


def code_losses(model: ChameleonTransformer, ids: Tensor, targets: Tensor) -> Tensor:
    """Nats of every code [B, N]; all sequences have equally many codes."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(model.embed_ids(ids), positions)  # right padding needs no mask: nothing real looks at it
        logits = model.lm_head(hidden[targets != IGNORED])
    return F.cross_entropy(logits.float(), targets[targets != IGNORED], reduction="none").view(len(ids), -1)


def emphasised(losses: Tensor) -> Tensor:
    """Loss (scalar) of nats [B, N] in which surprising codes of a sequence weigh more; every sequence weighs the same.

    Where pictures part, a few codes decide what the caption's picture becomes, and the rest follows from them.
    """
    weights = 1 + EMPHASIS * losses.detach().clamp_max(2)
    return (losses * weights / weights.mean(1, keepdim=True)).mean()


def build_model(tokenizer: Tokenizer, seed: int) -> ChameleonTransformer:
    torch.manual_seed(seed)
    vocabulary = Vocabulary.from_names(tokenizer.get_vocab(), CODEC.codebook_size)
    model = ChameleonTransformer(CONFIG, tokenizer.get_vocab_size(), vocabulary, CODEC.codebook_size)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "norm" not in name:
            nn.init.normal_(parameter, std=0.02)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.normal_(parameter, std=0.02 / (2 * CONFIG.layers) ** 0.5)
    return model


def exported_weights(directory: Path, model: ChameleonTransformer) -> dict[str, Tensor]:
    """Weights of a checkpoint directory for `model`; of the head norms, which are exported once a head, the first rows."""
    weights = load(directory).token_model.state_dict()
    return {name: weights[name][: len(like)] for name, like in model.state_dict().items()}


def build_optimizers(model: ChameleonTransformer, settings: Settings) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if name.endswith("_proj.weight")]
    vectors = [p for name, p in model.named_parameters() if not name.endswith("_proj.weight")]
    return [
        torch.optim.Muon(
            matrices, lr=settings.matrix_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(vectors, lr=settings.vector_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    data: Path, codes: Path, tokenizer_file: Path, out: Path, minutes: float, settings: Settings,
    start_from: Path | None = None,
) -> None:  # fmt: skip
    transformer.grouped_attention = causal_attention
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    if start_from:
        settings = replace(settings, **CONTINUED)
    sequences = Sequences(data, load_file(codes)["codes"].long(), tokenizer, settings)
    model = build_model(tokenizer, settings.seed)
    model.model.compile(dynamic=False)
    optimizers = build_optimizers(model, settings)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "training.pt", Log(out / "log.jsonl")
    step, budget = 0, Budget(minutes)
    if checkpoint.exists():
        step, budget = restore(checkpoint, model, optimizers, sequences, minutes)
    elif start_from:
        model.load_state_dict(exported_weights(start_from, model))
    losses: list[float] = []
    while budget.progress < 1:
        factor = min(1.0, (step + 1) / settings.warmup_steps) * hold_then_fall(budget.progress, settings.fall_from)
        losses.append(training_step(model, optimizers, sequences, step, factor))
        step += 1
        if step % LOG_EVERY == 0:
            log(step=step, seconds=budget.seconds, loss=sum(losses) / len(losses), lr_factor=factor)
            losses.clear()
        if step % SAVE_EVERY == 0 or budget.progress >= 1:
            save(checkpoint, training_state(model, optimizers, sequences, step, budget))
    report = evaluate(model, sequences) | {"steps": step, "seconds": budget.seconds, "settings": asdict(settings)}
    report |= {"parameters": sum(p.numel() for p in model.parameters()), "config": asdict(CONFIG)}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    log(**report)


def training_step(
    model: ChameleonTransformer, optimizers: list, sequences: Sequences, step: int, factor: float
) -> float:
    """One batch; returns its nats per code. `factor` scales the learning rates."""
    rng = np.random.default_rng((sequences.settings.seed, step))  # keyed by step: a resumed run repeats nothing
    rows = sequences.rows(rng, by_loss=True)
    losses = code_losses(model, *sequences.batch(rows, rng))
    model.zero_grad(set_to_none=True)
    emphasised(losses).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        set_learning_rate(optimizer, factor)
        optimizer.step()
    sequences.learned(rows, losses.detach().mean(1))
    return losses.mean().item()


def training_state(model, optimizers: list, sequences: Sequences, step: int, budget: Budget) -> dict:
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "losses": torch.from_numpy(sequences.losses),
        "step": step,
        "seconds": budget.seconds,
    }


def restore(path: Path, model, optimizers: list, sequences: Sequences, minutes: float) -> tuple[int, Budget]:
    """Continue an interrupted run: its step, and the budget less what it has used."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    sequences.losses = state["losses"].numpy()
    return state["step"], Budget(minutes, state["seconds"])


@torch.no_grad()
def evaluate(model: ChameleonTransformer, sequences: Sequences, batches: int = 16) -> dict:
    """Mean nats per code over fresh draws from the training distribution (the glyphs were all seen)."""
    rng = np.random.default_rng((sequences.settings.seed, 2**32))
    losses = [
        code_losses(model, *sequences.batch(sequences.rows(rng, by_loss=False), rng)).mean().item()
        for _ in range(batches)
    ]
    return {"loss": sum(losses) / len(losses), "sequences": batches * sequences.settings.batch}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "codes", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90.0, help="time budget of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-from", type=Path, help="checkpoint directory whose weights to begin with")
    a = parser.parse_args()
    train(a.data, a.codes, a.tokenizer, a.out, a.minutes, Settings(seed=a.seed), a.start_from)
