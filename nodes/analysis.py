"""Look at what a run cost, and why."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..mcsjd_core.reporting import charts
from ..mcsjd_core.reporting.report import Report
from .schema import schema
from .types import CATEGORY, StatsSocket, in_node

ALL = "all that can be drawn"
CHARTS = [ALL, *charts.CHARTS]


def report_outputs() -> list[io.Output]:
    """Text, pictures, and the numbers that other nodes may use."""
    return [
        io.String.Output(display_name="report", tooltip="The text that the node shows."),
        io.Image.Output(display_name="chart", tooltip="The chart, or several charts as a batch."),
        io.Image.Output(
            display_name="acceptance_map",
            tooltip="The picture, coloured by how many tokens the same forward committed: dark areas were expensive.",
        ),
        io.Float.Output(
            display_name="step_compression",
            tooltip="Tokens per forward of each picture, averaged over the pictures; plain AR has 1.",
        ),
        io.Int.Output(display_name="nfe", tooltip="Forwards after the prompt's; the pictures of a batch share them."),
        io.Float.Output(display_name="tokens_per_second", tooltip="For all pictures together."),
        io.Float.Output(display_name="speedup", tooltip="Measured against the baseline, or estimated."),
    ]


class Stats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MCSJD_Stats",
            display_name="MC-SJD Speed-up Stats",
            category=CATEGORY,
            description="Reports what a run cost: forwards (NFE), tokens per forward (step compression), seconds, "
            "and how much faster it was than plain AR; as text in the node, as charts, and as a map "
            "over the picture.",
            inputs=[
                StatsSocket.Input("stats", tooltip="From the sampler."),
                StatsSocket.Input(
                    "baseline",
                    optional=True,
                    tooltip="Stats of the run to compare with, usually plain AR with the same settings: the speed-up "
                    "is then measured in seconds. Without a baseline it is estimated from the number of "
                    "forwards.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The decoded pictures of the same run, as the background of the acceptance map.",
                ),
                io.Combo.Input(
                    "chart",
                    options=CHARTS,
                    default=ALL,
                    optional=True,
                    tooltip="Which chart to draw. All except tokens per forward and, for videos, compression by frame "
                    "need record_details switched on in the sampler.",
                ),
            ],
            outputs=report_outputs(),
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, stats: Report, baseline: Report | None = None, image: Tensor | None = None, chart: str = ALL
    ) -> io.NodeOutput:
        drawn = charts.all_charts(stats, baseline) if chart == ALL else charts.chart(chart, stats, baseline)[None]
        speedup = stats.speedup(baseline).factor
        numbers = (stats.step_compression, stats.nfe, stats.tokens_per_second, speedup)
        report = stats.text(baseline)
        return io.NodeOutput(report, drawn, charts.acceptance_map(stats, image), *numbers, ui=in_node(report))
