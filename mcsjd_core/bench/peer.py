"""Section: plain AR against transformers' own `generate` for Janus, with the same checkpoint, on the same threads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..decoding.grid import Grid
from ..decoding.interface import Prompt
from ..decoding.loop import AUTOREGRESSIVE, DecodeSettings, decode
from ..families.janus import Janus
from ..families.loading import load
from ..laws.law import LawSettings
from ..reporting.tables import Table
from . import janus_checkpoint
from .failures import not_measured
from .janus_checkpoint import JanusSize
from .plan import Bench
from .stopwatch import interleaved, spread

NAME, TITLE = "peer", "plain AR against transformers"
GUIDANCE, PROMPT_WORDS, BATCHES = 5.0, 14, (1, 4)
OLDEST = (4, 56)  # of transformers that takes `dtype=`; Janus came a few versions before


@dataclass(frozen=True)
class Contest:
    """Both sides with one checkpoint: `ours(batch, greedy)` and `theirs(batch, greedy)` give tokens [batch, tokens]."""

    ours: Callable[[int, bool], Tensor]
    theirs: Callable[[int, bool], Tensor]
    parameters: int
    tokens: int


def measure(bench: Bench) -> dict:
    """None of the figures where transformers is not installed, or too old; the reason instead."""
    if missing := _missing():
        return {"missing": missing, "batches": {}}
    size = JanusSize(side=bench.plan.peer_side)
    with _silent_transformers(), _folder() as folder:
        bench.tell("writing a random Janus checkpoint")
        contest = prepare(janus_checkpoint.write(Path(folder), size), size, bench)
        batches = {str(batch): _compare(bench, contest, batch) for batch in BATCHES}
    return {
        "transformers": version("transformers"),
        "parameters": contest.parameters,
        "tokens": contest.tokens,
        "guidance": GUIDANCE,
        "repeats": bench.plan.repeats,
        "batches": batches,
    }


def _missing() -> str | None:
    """Why there is nothing to compare with."""
    try:
        found = version("transformers")
    except PackageNotFoundError:
        return "transformers is not installed: python -m pip install transformers"
    if tuple(map(int, found.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"transformers {found} is too old, {oldest} or newer is needed: python -m pip install -U transformers"
    return None


def _folder() -> tempfile.TemporaryDirectory:
    """For the checkpoint. Windows deletes no file that is mapped, as models hold it: that is no reason to lose the figures."""
    return tempfile.TemporaryDirectory(prefix="mcsjd-bench-", ignore_cleanup_errors=True)


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Without its progress bars and advice."""
    logging: Any = import_module("transformers.utils.logging")

    verbosity, showed = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if showed:
            logging.enable_progress_bar()


def prepare(directory: Path, size: JanusSize, bench: Bench) -> Contest:
    """Load the checkpoint on both sides. Only the part that draws counts as parameters."""
    transformers: Any = import_module("transformers")  # to check types, its hundreds of models would be read

    model = load(directory, dtype=bench.dtype, device=bench.device, packed=True)
    assert isinstance(model, Janus)
    reference: Any = transformers.JanusForConditionalGeneration.from_pretrained(directory, dtype=bench.dtype)
    reference = reference.to(bench.device).eval()
    ids = model.vocabulary
    row = [ids.bos, *[0] * PROMPT_WORDS, ids.begin_of_image]
    config = reference.generation_config
    config.bos_token_id, config.pad_token_id = ids.bos, ids.pad
    config.generation_kwargs = {"boi_token_id": ids.begin_of_image}

    def theirs(batch: int, greedy: bool) -> Tensor:
        prompt = torch.tensor([row] * batch, device=bench.device)
        return reference.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_mode="image",
            do_sample=not greedy,
            top_k=0,
            guidance_scale=GUIDANCE,
            use_cache=True,
        )

    parameters = sum(parameter.numel() for parameter in model.token_model.parameters())
    return Contest(lambda batch, greedy: _ours(model, row, size, batch, greedy), theirs, parameters, size.side**2)


def _ours(model: Janus, row: list[int], size: JanusSize, batch: int, greedy: bool) -> Tensor:
    """The same rows as transformers makes: the unconditional one has pad tokens in place of the text."""
    empty = [row[0], *[model.vocabulary.pad] * PROMPT_WORDS, row[-1]]
    token_model = model.token_model
    prompt = Prompt.of_ids([row, empty] * batch, token_model.embed_ids, True, token_model.prompt_device)
    law = LawSettings(cfg_scale=GUIDANCE, temperature=0.0 if greedy else 1.0)
    return decode(token_model, prompt, Grid(size.side, size.side), DecodeSettings(AUTOREGRESSIVE, 1, law)).tokens


def _compare(bench: Bench, contest: Contest, batch: int) -> dict:
    """Greedy tokens are compared, sampling is timed: from ids to tokens, prompt included."""
    bench.tell(f"batch of {batch}")
    same = contest.ours(batch, True) == contest.theirs(batch, True)
    works = {"ours": lambda: contest.ours(batch, False), "transformers": lambda: contest.theirs(batch, False)}
    seconds = interleaved(works, bench.plan.repeats, bench.device)
    ratios = [slow / fast for slow, fast in zip(seconds["transformers"], seconds["ours"], strict=True)]
    return {
        "same_greedy_tokens": int(same.sum()),
        "greedy_tokens": same.numel(),
        "seconds": seconds,
        "ratio": spread(ratios),
    }


def headline(data: dict) -> dict:
    return {"ar_ratio_to_transformers": {batch: found["ratio"]["median"] for batch, found in data["batches"].items()}}


def tables(data: dict) -> list[Table]:
    if "missing" in data:
        return [not_measured(TITLE, data["missing"])]
    header = ["batch", "transformers, tokens/s", "ours, tokens/s", "ratio", "same greedy tokens"]
    rows = [_row(data, batch, found) for batch, found in data["batches"].items()]
    note = (
        f"transformers {data['transformers']}, `JanusForConditionalGeneration.generate`, and ours, the same checkpoint with "
        f"random weights: {data['parameters'] / 1e6:.0f} M parameters, guidance {data['guidance']:g}, temperature 1, no "
        f"truncation, {data['tokens']} tokens a picture, prompt included; medians of {data['repeats']} rounds, quartiles of "
        "their ratios."
    )
    return [Table("Plain AR against transformers", header, rows, note)]


def _row(data: dict, batch: str, found: dict) -> list[str]:
    tokens, ratio = int(batch) * data["tokens"], found["ratio"]
    return [
        batch,
        *(f"{tokens / spread(found['seconds'][side])['median']:.1f}" for side in ("transformers", "ours")),
        f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
        f"{found['same_greedy_tokens']} of {found['greedy_tokens']}",
    ]
