"""Several prompts for one run."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core.errors import InputError
from .schema import schema
from .types import CATEGORY, PromptsSocket

MOST_PICTURES = 64  # of one run
EXAMPLE = "a red apple on grass\na rocket in a starry sky\na panda in front of autumn trees\na house in the mountains"


class PromptList(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_PromptList",
            display_name="MC-SJD Prompt List",
            category=CATEGORY,
            description="Several prompts, one on each line, for one run of the sampler: a whole sheet is drawn at "
            "once, in forwards that all pictures share.",
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    dynamic_prompts=True,
                    default=EXAMPLE,
                    tooltip="One prompt on each line; empty lines are skipped.",
                ),
            ],
            outputs=[PromptsSocket.Output(display_name="prompts", tooltip="For the sampler's prompts input.")],
        )

    @classmethod
    def execute(cls, prompts: str) -> io.NodeOutput:
        return io.NodeOutput(lines_of(prompts))


def lines_of(text: str) -> list[str]:
    """The prompts of a text, one on each line; InputError if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("The list of prompts is empty; write one prompt on each line.")
    return lines


def prompts_input() -> io.Input:
    return PromptsSocket.Input(
        "prompts",
        optional=True,
        tooltip="From Prompt List, in place of prompt: batch_size pictures of each. Prompt k, counted from 0, gives the "
        "pictures that it draws alone with seed + k x batch_size, unless batch_seeds is new with every seed.",
    )


def texts_of(prompt: str, prompts: list[str] | str | None, batch_size: int) -> list[str]:
    """The prompt of every picture of the batch."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}.")
    given = [prompt] if prompts is None else checked_texts(prompts) or [prompt]
    texts = [text for text in given for _ in range(batch_size)]
    if len(texts) > MOST_PICTURES:
        raise InputError(
            f"{len(given)} prompts with {batch_size} pictures each make {len(texts)}; one run draws at most "
            f"{MOST_PICTURES} pictures."
        )
    return texts


def checked_texts(prompts: list[str] | str) -> list[str]:
    """What is connected as prompts; a node of another pack may give one text, which is read as Prompt List reads it."""
    if isinstance(prompts, str):
        return lines_of(prompts)
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        raise InputError("prompts must be texts: connect MC-SJD Prompt List, or a text with one prompt on each line.")
    return list(prompts)
