"""Measure in how many pictures the embedded image model draws its thing whole.

    python -m training.whole_things --sprites build/sprites.npz --places build/places.npz --top-p 1
    python -m training.whole_things ... --prompts things --seeds 12 --out build/drawn.json

The codes of a picture are compared with those of every depiction, size and place of the thing: a code shows its own 8 x 8 px
alone, and things lie on the grid of codes, so that the codes a thing covers entirely look alike in every scene. It sees
neither second things nor wrong grounds, and replaces no look at the pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, load, sample
from mcsjd_core.cli.options import add_law_arguments, law_settings
from mcsjd_core.reporting.report import describe_law

from .patch_encoder import PatchEncoder
from .places import PHRASES
from .prompts import QUALITY, TUNING, thing_in_place, unseen_pairs
from .scenes import CELL, SIZES, Scenes, held_out
from .sprites import SCENE_COLOURS

NEAR = 0.4  # distance of two codes that look alike; the median code has 16 others within it
WHOLE = 0.8  # share of the thing's codes that have to look like the depiction's
FEWEST_CODES = 4  # a depiction with fewer covered codes than this says nothing
WINDOW = 32


def thing_in(prompt: str, scenes: Scenes) -> tuple[str, str]:
    """The name of a prompt's thing, and its colour or ""."""
    phrase = max((p for p in PHRASES.values() if prompt.endswith(p)), key=len, default="")
    words = prompt.removesuffix(phrase).strip()
    name = max((name for name in scenes.things if words.endswith(name)), key=len)
    said = words.removesuffix(name).split()
    return name, next((colour for colour in SCENE_COLOURS[1:] if colour in said), "")


def depictions(prompt: str, scenes: Scenes, encoder: PatchEncoder) -> list[tuple[Tensor, Tensor]]:
    """Of every sprite of the prompt's thing and colour, in every size: codes [n, n], and which it covers entirely [n, n]."""
    name, colour = thing_in(prompt, scenes)
    rows = [row for row in scenes.rows_of[scenes.things.index(name)] if colour in ("", scenes.sprites.colours[row])]
    found = [depiction(scenes.scaled[size][row], encoder) for row in rows for size in SIZES.values()]
    return [(codes, covered) for codes, covered in found if covered.sum() >= FEWEST_CODES]


def depiction(sprite: np.ndarray, encoder: PatchEncoder) -> tuple[Tensor, Tensor]:
    """Codes [n, n] of a premultiplied sprite [8 n, 8 n, 4], and which of them it covers entirely [n, n]."""
    pixels = torch.from_numpy(sprite).permute(2, 0, 1).float() / 255
    n = len(sprite) // CELL
    return encoder.encode(pixels[None, :3])[0], pixels[3].view(n, CELL, n, CELL).amin((1, 3)) > 0.98


def likeness(grid: Tensor, shown: list[tuple[Tensor, Tensor]], near: Tensor) -> float:
    """The largest share of a depiction's covered codes that a picture's codes [h, w] match anywhere.

    near: whether two codes look alike, bool [K, K].
    """
    shares = []
    for codes, covered in shown:
        n = len(codes)
        windows = grid.unfold(0, n, 1).unfold(1, n, 1)  # [h - n + 1, w - n + 1, n, n]
        shares.append(near[windows[..., covered], codes[covered]].float().mean(-1).max().item())
    return max(shares)


def prompts_of(kind: str, scenes: Scenes, seeds: int) -> dict[str, list[str]]:
    """The `seeds` prompts whose pictures are counted together, by what they are called.

    kind: "tuning", "quality" or "unseen", each prompt by itself; "sizes", each of "tuning" as it is, small and large; "things",
    each thing in `seeds` places of trained pairs.
    """
    if kind == "things":
        return {name: in_places(number, scenes, seeds) for number, name in enumerate(scenes.things)}
    sized = [prompt.replace(" ", f" {word} " if word else " ", 1) for word in SIZES for prompt in TUNING]
    chosen = {"tuning": TUNING, "sizes": sized, "quality": QUALITY, "unseen": unseen_pairs(scenes)}[kind]
    return {prompt: [prompt] * seeds for prompt in chosen}


def in_places(thing: int, scenes: Scenes, count: int) -> list[str]:
    """Prompts of a thing in `count` of the places it was trained in, no plain grounds; all of them in turn if they are fewer."""
    places = [p for p, name in enumerate(scenes.place_names) if not name.startswith("plain ")]
    trained = [scenes.place_names[p] for p in places if not held_out(thing, p)]
    order = np.random.default_rng(thing).permutation(trained)
    return [thing_in_place(scenes.things[thing], order[k % len(order)]) for k in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL)
    for name in ("sprites", "places"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--prompts", choices=("tuning", "sizes", "quality", "unseen", "things"), default="tuning")
    parser.add_argument("--seeds", type=int, default=16, help="pictures a prompt, or a thing")
    parser.add_argument("--out", type=Path, help="file for which pictures are whole, JSON")
    add_law_arguments(parser)
    a = parser.parse_args()
    if a.seeds < 1:
        parser.error("--seeds must be 1 or more.")
    scenes, model = Scenes.load(a.sprites, a.places), load(a.model)
    encoder = PatchEncoder(load_file(a.model / "vqgan.safetensors")["quantize.embedding.weight"].float())
    near = torch.cdist(encoder.centres, encoder.centres) < NEAR
    settings = DecodeSettings("maximal", WINDOW, law_settings(a, model.defaults.law))
    grid, whole = model.grid(), {}
    for name, texts in prompts_of(a.prompts, scenes, a.seeds).items():
        shown = depictions(texts[0], scenes, encoder)
        rows = sample(model, texts, settings, negatives=[a.negative] * a.seeds).tokens
        whole[name] = [likeness(row.view(grid.rows, grid.columns), shown, near) >= WHOLE for row in rows]
        print(f"{name}: {sum(whole[name])} of {a.seeds}", flush=True)
    every = [one for pictures in whole.values() for one in pictures]
    print(f"{describe_law(settings.law)}: {sum(every)} of {len(every)} ({100 * sum(every) / len(every):.0f} %)")
    if a.out:
        a.out.write_text(json.dumps(whole) + "\n")


if __name__ == "__main__":
    main()
