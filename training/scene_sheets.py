"""Draw the sheets by which the embedded image model of scenes is judged.

    python -m training.scene_sheets --model build/scenes --sprites build/sprites.npz --places build/places.npz --out build

`quality.png`: 24 prompts x 4 seeds; `unseen_pairs.png`: 8 prompts whose thing never stood in that place in training. Settings
are the checkpoint's own, the coupling is `maximal`, seeds 0 to 3; nothing is picked by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mcsjd_core import load

from .prompts import QUALITY, unseen_pairs
from .scenes import Scenes
from .sheets import draw_rows

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "sprites", "places", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    model = load(a.model)
    window = model.defaults.window
    draw_rows(model, QUALITY, 3, window).save(a.out / "quality.png")
    draw_rows(model, unseen_pairs(Scenes.load(a.sprites, a.places)), 2, window).save(a.out / "unseen_pairs.png")
