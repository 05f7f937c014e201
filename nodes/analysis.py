"""Look at what a run cost."""

from __future__ import annotations

from comfy_api.latest import io

from ..mcsjd_core.report import Report
from . import runtime
from .types import CATEGORY, StatsSocket


class Stats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MCSJD_Stats",
            display_name="MC-SJD Stats",
            category=CATEGORY,
            description="Says what a run cost: forwards (NFE), tokens per forward (step compression), seconds. The "
            "node shows one line; connect the report to Preview Any, or anything that takes text, for the "
            "rest.",
            inputs=[StatsSocket.Input("stats", tooltip="From the sampler.")],
            outputs=[
                io.String.Output(display_name="report", tooltip="Measured and estimated figures, for every picture.")
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            not_idempotent=True,  # it shows its line in the very node that runs
        )

    @classmethod
    def execute(cls, stats: Report) -> io.NodeOutput:
        runtime.show_text(stats.headline(), getattr(cls.hidden, "unique_id", None))  # no hidden values outside a server
        return io.NodeOutput(stats.text())
