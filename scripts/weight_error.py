"""How far 8-bit weights, and narrow numbers, move a model's law: a table over the tokens of a few pictures.

    python scripts/weight_error.py [--model DIR] [--prompts "a red apple on grass"]

Pictures are drawn in float32 with the checkpoint's own settings; every form then gives the logits after their tokens.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, InputError, load, sample
from mcsjd_core.families.interface import Family
from mcsjd_core.laws.law import guide
from mcsjd_core.nn.weights import WEIGHT_FORMATS

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Change:
    """Root mean square of the change of the logits relative to them; means over tokens of the guided law's change."""

    logits: float
    divergence: float
    variation: float
    same_best: float

    @classmethod
    def of(cls, exact: Tensor, ours: Tensor) -> Change:
        p, q = (logits.double().log_softmax(-1) for logits in (exact, ours))
        change = (ours - exact).square().mean() / exact.square().mean()
        divergence = (p.exp() * (p - q)).sum(-1).mean()
        variation = (p.exp() - q.exp()).abs().sum(-1).mean() / 2
        same = (exact.argmax(-1) == ours.argmax(-1)).double().mean()
        return cls(*(value.item() for value in (change.sqrt(), divergence, variation, same)))


@torch.no_grad()
def guided_logits(model: Family, prompts: list[str], tokens: Tensor, cfg_scale: float) -> Tensor:
    """[B, N, codebook] after the prompts and every token but the last, in one forward."""
    token_model, prompt = model.token_model, model.prompt(prompts, None, True)
    codes = tokens.repeat_interleave(2, 0)
    index = torch.arange(codes.shape[1] - 1).expand(len(codes), -1)
    x = torch.cat((prompt.embeddings, token_model.embed(codes[:, :-1], index)), 1)
    slots = torch.arange(x.shape[1]).expand(len(x), -1)
    hidden = token_model.hidden(x, slots, token_model.new_cache(prompt, x.shape[1]), x.shape[1])
    start = prompt.embeddings.shape[1] - 1
    return guide(token_model.logits(hidden[:, start:], slots[:, start:] - start), cfg_scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, metavar="DIR")
    parser.add_argument(
        "--prompts",
        nargs="+",
        default=["a red apple on grass", "a rocket in a starry sky", "a cat on wood", "a blue car in a city"],
        metavar="TEXT",
    )
    arguments = parser.parse_args()
    reference = load(arguments.model)
    law = reference.defaults.law
    tokens = sample(reference, arguments.prompts, DecodeSettings("gumbel_exact", reference.defaults.window, law)).tokens
    exact = guided_logits(reference, arguments.prompts, tokens, law.cfg_scale)
    print("| dtype | weights | logits, rms | KL, nats | total variation | same best code |\n|---|---|---|---|---|---|")
    for dtype in DTYPES:
        for weights in WEIGHT_FORMATS:
            try:
                model = load(arguments.model, dtype=dtype, weights=weights)
            except InputError as error:
                print(f"| {dtype} | {weights} | {error} |")
                continue
            change = Change.of(exact, guided_logits(model, arguments.prompts, tokens, law.cfg_scale))
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {weights} | {change.logits:.1%} | {change.divergence:.4f} | {change.variation:.3f} | "
                  f"{change.same_best:.1%} |")  # fmt: skip


if __name__ == "__main__":
    main()
