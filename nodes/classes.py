"""Prompts for models that draw classes instead of texts."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core.text.imagenet import class_labels, class_names, find_class
from .schema import schema
from .types import CATEGORY


class ImageNetClass(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_ImageNetClass",
            display_name="MC-SJD ImageNet Class",
            category=CATEGORY,
            description="One of the 1000 ImageNet classes as a prompt, for models that draw classes instead of "
            "texts, such as the class-conditional LlamaGen. Typing a name or number into the "
            "sampler's prompt does the same.",
            inputs=[
                io.Combo.Input(
                    "class_name",
                    options=list(class_labels()),
                    default=class_labels()[find_class("golden retriever")],
                    tooltip="Open the list and type part of a name to search it; the numbers are ImageNet's.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For the sampler's prompt, or its negative prompt.")
            ],
        )

    @classmethod
    def execute(cls, class_name: str) -> io.NodeOutput:
        number = find_class(class_name)
        return io.NodeOutput(f"{class_names()[number][0]} ({number})")
