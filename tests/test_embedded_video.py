"""The embedded video model: small, read by the family, and what it draws goes where it is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcsjd_core import DecodeSettings, LawSettings, load, sample, start_codes, videos

pytest.importorskip("transformers", reason="transformers has the text encoder")

DIRECTORY = Path(__file__).resolve().parent.parent / "embedded" / "motion"
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


def drawn_by_direction(family, caption: str) -> dict[str, tuple[Path, torch.Tensor]]:
    """For every direction the start frame whose name begins so, and the tokens of its clip, all drawn in one batch."""
    files = [next(file for file in START_FRAMES if re.search(caption.format(way), file.stem)) for way in DIRECTIONS]
    tokens = draw(family, files, DecodeSettings("maximal", 64, law(family))).tokens
    return {way: (file, tokens[i : i + 1]) for i, (way, file) in enumerate(zip(DIRECTIONS, files, strict=True))}


@pytest.fixture(scope="module")
def moving(family):
    return drawn_by_direction(family, "_moves_{}$")


@pytest.fixture(scope="module")
def panning(family):
    return drawn_by_direction(family, "^the_camera_pans_{}_")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_clip_keeps_its_start_frame_and_has_the_frames_it_promises(family, moving, direction):
    file, tokens = moving[direction]
    first = start_codes(family, first_frame(file))
    assert torch.equal(tokens[:, :64], first.flatten(1))
    frames = videos(family, tokens)
    assert frames.shape == (1, 17, 3, 64, 64) and frames.min() >= 0 and frames.max() <= 1


def place_of(patch: torch.Tensor, frame: torch.Tensor, weight: torch.Tensor | None = None) -> tuple[int, int]:
    """Where in a frame [3, 64, 64] the patch [3, 32, 32] is found, as (column, row) of its corner in cells of 8 px."""
    windows = frame.unfold(1, 32, 8).unfold(2, 32, 8)  # 3, rows, columns, 32, 32
    errors = (windows - patch[:, None, None]).abs()
    errors = (errors if weight is None else errors * weight).mean((0, 3, 4))
    row, column = divmod(int(errors.argmin()), errors.shape[1])
    return column, row


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_moves_goes_where_the_caption_says(family, moving, direction):
    """Three cells of four at least, and not to the side. It starts at the side that it leaves."""
    (_, tokens), step = moving[direction], DIRECTIONS[direction]
    frames = videos(family, tokens)[0]
    across = 1 if step[0] else 0  # of the picture's sides, 0 the height: along it lies where the thing is in between
    change = (frames[-1] - frames[0]).abs().sum(0).sum(across).unfold(0, 32, 8).sum(-1)
    beside, start = int(change.argmax()), 0 if sum(step) > 0 else 4
    column, row = (start, beside) if step[0] else (beside, start)
    patch, after = (frame[:, 8 * row : 8 * row + 32, 8 * column : 8 * column + 32] for frame in (frames[0], frames[-1]))
    at = place_of(patch, frames[-1], weight=(patch - after).abs().sum(0))  # where the thing was, most has changed
    along, aside = at[1 - across] - start, at[across] - beside
    assert along * sum(step) >= 3 and aside == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_camera_pans_where_the_caption_says(family, panning, direction):
    """Halfway through the middle of the first frame is found where it has to be, 16 px against the way of the camera."""
    (_, tokens), step = panning[direction], DIRECTIONS[direction]
    frames = videos(family, tokens)[0]
    assert place_of(frames[0][:, 16:48, 16:48], frames[8]) == (2 - 2 * step[0], 2 - 2 * step[1])


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
