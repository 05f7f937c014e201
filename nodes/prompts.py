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
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise InputError("The list of prompts is empty; write one prompt on each line.")
        return io.NodeOutput(lines)


def prompts_input() -> io.Input:
    return PromptsSocket.Input(
        "prompts",
        optional=True,
        tooltip="From Prompt List, in place of prompt: batch_size pictures of each. Prompt k, counted from 0, gives the "
        "pictures that it draws alone with seed + k x batch_size, unless batch_seeds is new with every seed.",
    )


def texts_of(prompt: str, prompts: list[str] | None, batch_size: int) -> list[str]:
    """The prompt of every picture of the batch."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}.")
    texts = [text for text in (prompts or [prompt]) for _ in range(batch_size)]
    if len(texts) > MOST_PICTURES:
        raise InputError(
            f"{len(prompts or [prompt])} prompts with {batch_size} pictures each make {len(texts)}; one run draws at most "
            f"{MOST_PICTURES} pictures."
        )
    return texts
