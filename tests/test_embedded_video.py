"""The embedded video model: small, read by the family, and what it draws goes where it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcsjd_core import DecodeSettings, LawSettings, load, sample, start_codes, videos

pytest.importorskip("transformers", reason="transformers has the text encoder")

DIRECTORY = Path(__file__).resolve().parent.parent / "embedded" / "emoji-motion"
START_FRAMES = sorted((DIRECTORY / "start_frames").glob("*.png"))
BYTES = 40e6
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}  # steps in x and y


@pytest.fixture(scope="module")
def family():
    return load(DIRECTORY)


def first_frame(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float() / 255


def law(family, top_p: float | None = None) -> LawSettings:
    d = family.defaults.law
    return LawSettings(d.cfg_scale, d.temperature, d.top_k, d.top_p if top_p is None else top_p)


def draw(family, files: list[Path], settings: DecodeSettings):
    first = torch.cat([start_codes(family, first_frame(file)) for file in files])
    return sample(family, [file.stem.replace("_", " ") for file in files], settings, first_codes=first)


def test_it_is_small_and_says_what_it_is(family):
    assert sum(file.stat().st_size for file in DIRECTORY.rglob("*") if file.is_file()) < BYTES
    assert family.name == "cosmos" and family.sizes == ("64x64",)
    assert (family.clip.frames, family.clip.start_frames, family.clip.reads_text) == (17, (1,), True)
    assert family.grid().num_tokens == 320 and family.token_model.codebook_size == 4096
    assert len(START_FRAMES) >= 8


@pytest.fixture(scope="module")
def moving(family) -> dict[str, tuple[Path, torch.Tensor]]:
    """For every direction a start frame and the tokens of its clip, all drawn in one batch."""
    files = [file for direction in DIRECTIONS for file in START_FRAMES if file.stem.endswith(f"moves_{direction}")]
    tokens = draw(family, files, DecodeSettings("maximal", 64, law(family))).tokens
    return {
        direction: (file, tokens[i : i + 1]) for i, (direction, file) in enumerate(zip(DIRECTIONS, files, strict=True))
    }


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_clip_keeps_its_start_frame_and_has_the_frames_it_promises(family, moving, direction):
    file, tokens = moving[direction]
    first = start_codes(family, first_frame(file))
    assert torch.equal(tokens[:, :64], first.flatten(1))
    frames = videos(family, tokens)
    assert frames.shape == (1, 17, 3, 64, 64) and frames.min() >= 0 and frames.max() <= 1


def centre(frame: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Mean place (x, y) in pixels of what differs from the background, both [3, H, W]."""
    weight = ((frame - background).abs().amax(0) - 0.15).clamp_min(0)
    y, x = torch.meshgrid(*map(torch.arange, weight.shape), indexing="ij")
    return torch.stack((weight * x, weight * y)).sum((1, 2)) / weight.sum()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_moves_goes_where_the_caption_says(family, moving, direction):
    """Half of the way at least, and hardly to the side; both by the centre of what is no background."""
    (file, tokens), step = moving[direction], DIRECTIONS[direction]
    frames = videos(family, tokens)[0]
    given = first_frame(file)[0]
    # A column without the glyph tells the colour of every row.
    columns = (given - given[:, :1, :1]).abs().amax((0, 1))
    background = given[:, :, columns.argmin()][:, :, None].expand_as(given)
    way = centre(frames[-1], background) - centre(frames[0], background)
    along, aside = (way * torch.tensor(step)).sum(), (way * torch.tensor(step[::-1])).sum()
    assert along > 16 and aside.abs() < 8


def test_the_seed_exact_coupling_draws_the_clip_of_plain_sampling(family):
    drawn = [
        draw(family, START_FRAMES[:2], DecodeSettings(m, 64, law(family))) for m in ("autoregressive", "gumbel_exact")
    ]
    assert torch.equal(drawn[0].tokens, drawn[1].tokens)
    assert drawn[0].traces[0].nfe == 256 and max(trace.nfe for trace in drawn[1].traces) < 128


def test_words_it_does_not_know_are_no_error(family):
    first = start_codes(family, first_frame(START_FRAMES[0]))
    tokens = sample(family, ["the gizmo, slowly, moves right!"], DecodeSettings(), first_codes=first).tokens
    assert tokens.shape == (1, 320)


def test_plain_cells_have_one_code_in_every_frame(family):
    white = torch.ones(1, 3, 17, 64, 64)
    assert len(family.codec.encode(white).unique()) == 1
