"""Charts of what a run did, and a map of it over the picture. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .analysis import (
    NO_DETAILS,
    by_age,
    drawn_by_forward,
    drawn_together,
    mean_and_variance,
    mean_token_difference,
    of_drafted_laws,
)
from .report import METHOD_LABELS, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOKENS_PER_FORWARD, ONE_DOT_EACH, BY_FRAME = (
    "tokens per forward",
    "NFE against token difference",
    "compression by frame",
)
WITHOUT_DETAILS = (TOKENS_PER_FORWARD, BY_FRAME)
WIDTH, HEIGHT, DPI = 640, 480, 100  # pixels; a node shows a chart at about this size
LINES = 40  # single trajectories drawn behind their mean
LEAST_PLACES = 5  # that a mean is drawn of: where fewer grew so old, it says nothing
LEAST_MAP_SIDE, LEGEND_HEIGHT = 512, 76  # pixels
MAP_OPACITY = 0.55
INK, GREY, BLUE, ORANGE, GREEN = "#1c1c22", "#9aa0aa", "#2563eb", "#ea580c", "#16a34a"
STYLE: Any = {"font.size": 12, "axes.titlesize": 12, "legend.fontsize": 11} | {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
}  # fmt: skip


def chart(name: str, report: Report, baseline: Report | None = None) -> Tensor:
    """One of CHARTS as [HEIGHT, WIDTH, 3] float32 in 0..1. `baseline` is drawn beside the run where the chart has room.

    Raises InputError where there is nothing to draw.
    """
    if name not in CHARTS:
        raise InputError(f"chart must be one of {', '.join(CHARTS)}, got {name!r}.")
    reason = why_not(name, report)
    if reason is not None:
        raise InputError(reason)
    return _draw(lambda axes: CHARTS[name](axes, report, baseline), WIDTH, HEIGHT)


def all_charts(report: Report, baseline: Report | None = None) -> Tensor:
    """[n, HEIGHT, WIDTH, 3]: every chart that can be drawn of a run, or a card that says why there is none."""
    names = available(report)
    if not names:
        return _card(why_not(TOKENS_PER_FORWARD, report) or "")[None]
    return torch.stack([chart(name, report, baseline) for name in names])


def available(report: Report) -> list[str]:
    """Names of the charts that can be drawn of a run."""
    return [name for name in CHARTS if why_not(name, report) is None]


def why_not(name: str, report: Report) -> str | None:
    """Why a chart would show nothing of a run, in a sentence; None if it can be drawn."""
    if name == BY_FRAME and report.grid.frames == 1:
        return f"The chart {BY_FRAME!r} is for videos, but these stats are of pictures; choose another chart."
    if report.settings.effective_window == 1:
        return "This run committed one token per forward, so a chart of it shows nothing; draw with another coupling or window."
    if name in WITHOUT_DETAILS:
        return None
    if not _has_details(report):
        return NO_DETAILS
    if name == ONE_DOT_EACH and len(report.traces) == 1:
        return f"The chart {ONE_DOT_EACH!r} has one dot for each picture, and this run drew one; set batch_size to 2 or more."
    return None


def _has_details(report: Report) -> bool:
    return all(trace.details for trace in report.traces)


def _card(text: str) -> Tensor:
    """A chart-sized picture with a sentence in it, [HEIGHT, WIDTH, 3]."""

    return _draw(_write(textwrap.fill(text, 44)), WIDTH, HEIGHT)


def _draw(paint: Callable[[Axes], None], width: int, height: int) -> Tensor:
    """What `paint` puts into a figure of its own; nothing of pyplot's global state is touched."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "Charts need matplotlib, which is not installed: install this pack's requirements.txt with ComfyUI's Python."
        ) from None
    with matplotlib.rc_context(STYLE):
        # Matplotlib turns inches back into pixels, by cutting or rounding as its version does: a quarter more suits both.
        inches = ((width + 0.25) / DPI, (height + 0.25) / DPI)
        figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        paint(figure.subplots())
        canvas.draw()
        pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    return pixels.view(height, width, 4)[..., :3].float() / 255


def _label(report: Report) -> str:
    return f"{METHOD_LABELS[report.settings.coupling]}, window {report.settings.window_name}"


# -- the charts --------------------------------------------------------------------------------------------------------


def _tokens_per_forward(axes: Axes, report: Report, baseline: Report | None) -> None:
    """Bars of the first picture; the mean of all."""
    trace = report.traces[0]
    drawn = drawn_by_forward(trace, report.kept_codes[0]).tolist()
    axes.bar(range(1, trace.nfe + 1), drawn, width=1.0, color=BLUE, alpha=0.7)
    axes.axhline(
        report.step_compression, color=ORANGE, linewidth=2, label=f"step compression {report.step_compression:.2f}"
    )
    if baseline is not None:
        name = METHOD_LABELS[baseline.settings.coupling]
        value = baseline.step_compression
        axes.axhline(value, color=INK, linewidth=2, linestyle="--", label=f"baseline ({name}) {value:.2f}")
    axes.set(xlabel="forward", ylabel="tokens drawn", title=f"Tokens per forward: {_label(report)}")
    axes.set(xlim=(0.5, trace.nfe + 0.5), ylim=(0, 1.3 * max(drawn)))  # room for the legend
    axes.legend(loc="upper right")


def _trajectories(axes: Axes, report: Report, baseline: Report | None) -> None:
    """The paper's figure 3: acceptance of a position's draft from forward to forward, mean and variance over all positions."""
    table = _acceptance(report)
    mean, variance = mean_and_variance(table)
    old = table[table.isfinite().sum(1) > 1]
    for row in old[:: max(1, len(old) // LINES)]:
        axes.plot(row[: len(mean)], color=GREY, linewidth=0.7, alpha=0.5)
    ages = range(len(mean))
    axes.plot(ages, mean, color=BLUE, linewidth=2.5, label="mean of all positions")
    low, high = ((mean + sign * variance).clamp(0, 1) for sign in (-1, 1))
    axes.fill_between(ages, low, high, color=BLUE, alpha=0.25, label="mean ± variance")
    if baseline is not None and _has_details(baseline):
        other, _ = mean_and_variance(_acceptance(baseline))
        name = METHOD_LABELS[baseline.settings.coupling]
        axes.plot(other, color=ORANGE, linewidth=2, linestyle="--", label=f"mean of the baseline ({name})")
    axes.set(xlabel="forwards since the position was drafted", ylabel="acceptance probability", ylim=(0, 1.02))
    axes.set_title(f"Acceptance: {_label(report)}")
    axes.legend(loc="lower right")


def _acceptance(report: Report) -> Tensor:
    """Acceptance [positions, ages] of all pictures, up to the last age that enough positions reached."""
    table = torch.cat(_padded([by_age(trace, "acceptance") for trace in report.traces]))
    reached = table.isfinite().sum(0) >= min(LEAST_PLACES, len(table))
    return table[:, : max(1, int(reached.sum()))]


def _collision_histogram(axes: Axes, report: Report, baseline: Report | None) -> None:
    """The paper's figure 4 (a, b): how likely a draft stays the token that it is."""
    bins = [i / 40 for i in range(41)]
    for run, colour in ((report, BLUE), (baseline, ORANGE)):
        if run is None or not _has_details(run):
            continue
        values = of_drafted_laws(run.traces, "collision")
        name = METHOD_LABELS[run.settings.coupling]
        mean = f", mean {values.mean():.2f}" if len(values) else ""
        axes.hist(values.numpy(), bins=bins, color=colour, alpha=0.6, density=bool(len(values)), label=f"{name}{mean}")
    axes.set(xlabel="probability that a draft is drawn again", ylabel="density", title=f"Collisions: {_label(report)}")
    axes.legend(loc="upper center")


def _collision_against_tv(axes: Axes, report: Report, baseline: Report | None) -> None:
    """The paper's figure 4 (c), with the bounds: no coupling is above 1 - TV, Gumbel is above (1 - TV) / (1 + TV)."""
    tv = torch.linspace(0, 1, 101)
    points = [of_drafted_laws(report.traces, name).numpy() for name in ("tv", "collision")]
    axes.scatter(*points, s=4, color=BLUE, alpha=0.25, linewidths=0, zorder=3, rasterized=True, label="drafts")
    axes.plot(tv, 1 - tv, color=INK, linewidth=1.5, label="1 - TV: most that is possible")
    axes.plot(tv, (1 - tv) / (1 + tv), color=GREEN, linewidth=2, linestyle=":", label="(1 - TV) / (1 + TV)")
    axes.set(xlabel="total variation between two forwards", ylabel="probability that a draft is drawn again")
    axes.set(title=f"Collision and change: {_label(report)}", xlim=(0, 1), ylim=(0, 1.02))
    for handle in axes.legend(loc="upper right", markerscale=4).legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _nfe_against_difference(axes: Axes, report: Report, baseline: Report | None) -> None:
    """The paper's figure 2: pictures whose drafts change less need fewer forwards."""
    for run, colour in ((report, BLUE), (baseline, ORANGE)):
        if run is None or not _has_details(run):
            continue
        differences = [mean_token_difference(trace) for trace in run.traces]
        name = METHOD_LABELS[run.settings.coupling]
        axes.scatter(differences, [trace.nfe for trace in run.traces], s=60, color=colour, label=name)
    axes.set(xlabel="share of drafts that a forward changes", ylabel="NFE (forwards)")
    axes.set_title(f"Forwards against token difference, pictures: {len(report.traces)}")
    axes.legend()


def _compression_by_frame(axes: Axes, report: Report, baseline: Report | None) -> None:
    """Bars of a video's code frames: the first drawn one has nothing like it in front, so it takes most forwards."""
    for run, colour, offset in ((report, BLUE, 0.0), (baseline, ORANGE, 0.4)):
        if run is None or run.grid.frames == 1 or not (figures := run.compression_by_frame()):
            continue
        numbers, means = zip(*figures, strict=True)
        name = METHOD_LABELS[run.settings.coupling]
        centres = [number + offset for number in numbers]
        axes.bar(centres, means, width=0.4, color=colour, alpha=0.8, label=f"{name}, {run.step_compression:.2f} in all")
    axes.set(xlabel="code frame", ylabel="tokens per forward", title=f"By frame: {_label(report)}")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left")


# Names are in saved graphs: add, do not change.
CHARTS: dict[str, Callable[[Axes, Report, Report | None], None]] = {
    TOKENS_PER_FORWARD: _tokens_per_forward,
    "acceptance trajectories": _trajectories,
    "collision histogram": _collision_histogram,
    "collision against TV": _collision_against_tv,
    ONE_DOT_EACH: _nfe_against_difference,
    BY_FRAME: _compression_by_frame,
}


def _padded(tables: list[Tensor]) -> list[Tensor]:
    """The tables [n, ages] with as many ages as the longest has."""
    ages = max(table.shape[1] for table in tables)
    return [F.pad(table, (0, ages - table.shape[1]), value=float("nan")) for table in tables]


# -- the map -----------------------------------------------------------------------------------------------------------


def acceptance_map(report: Report, pictures: Tensor | None = None) -> Tensor:
    """[B, H, W, 3] float32: every cell of the pictures [B, h, w, 3] coloured by how many tokens its forward committed.

    Without pictures the colours lie on grey. A legend is put below; small pictures are enlarged. Of videos, B counts the
    frames of all, each coloured by its code frame; of a long video those of the run alone.
    """
    grid = report.grid
    used = [window for trace in report.traces for window in trace.windows]
    most = max(2, max(used) if report.settings.adapts else report.settings.effective_window)
    rows = zip(report.traces, report.kept_codes, strict=True)
    counts = grid.codes(torch.stack([drawn_together(trace, kept) for trace, kept in rows]))
    if pictures is not None and report.skipped_frames and len(pictures) % len(counts) == 0:
        pictures = pictures.unflatten(0, (len(counts), -1))[:, report.skipped_frames :].flatten(0, 1)
    if grid.frames > 1:
        counts = _for_each_frame(counts, len(counts) if pictures is None else len(pictures))
    if pictures is None:
        side = max(1, LEAST_MAP_SIDE // max(grid.rows, grid.columns))
        pictures = torch.full((len(counts), grid.rows * side, grid.columns * side, 3), 0.5)
    if pictures.ndim != 4 or len(pictures) != len(counts) or pictures.shape[-1] != 3:
        raise InputError(
            f"The map needs the {len(counts)} picture(s) that these stats describe, got an image of shape "
            f"{list(pictures.shape)}; connect the decoded tokens of the same run."
        )
    enlarged = _enlarged(pictures.float().cpu())
    if report.settings.effective_window == 1:
        return _with_strip(enlarged, _write("every forward committed one token"))
    return _with_strip(_tint(enlarged, counts, most), _ramp(most))


def _for_each_frame(counts: Tensor, frames: int) -> Tensor:
    """counts [B, code frames, rows, columns] as [n, rows, columns]: one for each of `frames` frames of all videos.

    The first code frame holds one frame, every later one equally many; where that does not fit, one a code frame.
    """
    videos, code_frames = counts.shape[:2]
    each, rest = divmod(frames - videos, videos * (code_frames - 1))
    if not each or rest:
        return counts.flatten(0, 1)
    lengths = torch.tensor([1] + [each] * (code_frames - 1))
    return counts.repeat_interleave(lengths, 1).flatten(0, 1)


def _enlarged(pictures: Tensor) -> Tensor:
    """Small pictures in whole multiples of their pixels."""
    times = max(1, -(-LEAST_MAP_SIDE // max(pictures.shape[1:3])))
    return pictures.repeat_interleave(times, 1).repeat_interleave(times, 2)


def _tint(pictures: Tensor, counts: Tensor, most: int) -> Tensor:
    """Grey pictures under the colours of counts [B, rows, columns]; given cells (0) keep the picture as it is."""
    import matplotlib

    share = counts.clamp_min(1).float().log2() / torch.tensor(float(most)).log2()
    table = torch.from_numpy(matplotlib.colormaps["viridis"](range(256))[:, :3]).float()
    index = (share * 255).round().long().clamp(0, 255)
    height, width = pictures.shape[1:3]
    row = torch.arange(height) * counts.shape[1] // height
    column = torch.arange(width) * counts.shape[2] // width

    def of_pixels(cells: Tensor) -> Tensor:
        return cells[:, row][:, :, column]

    red, green, blue = pictures.unbind(-1)
    grey = ((red + green + blue) * ((1 - MAP_OPACITY) / 3))[..., None]
    return torch.where(of_pixels(counts > 0)[..., None], of_pixels(table[index] * MAP_OPACITY) + grey, pictures)


def _with_strip(maps: Tensor, paint: Callable[[Axes], None]) -> Tensor:
    """The maps with what `paint` draws below."""
    strip = _draw(paint, maps.shape[2], LEGEND_HEIGHT)
    return torch.cat((maps, strip.expand(len(maps), -1, -1, -1)), 1)


def _ramp(most: int) -> Callable[[Axes], None]:
    """A colour bar of 1 to `most` tokens."""
    ticks = [2**i for i in range(most.bit_length())]

    def paint(axes: Axes) -> None:
        import matplotlib

        ramp = torch.linspace(0, 1, 256)[None].numpy()
        end = float(torch.tensor(float(most)).log2())
        axes.imshow(ramp, aspect="auto", cmap=matplotlib.colormaps["viridis"], extent=(0, end, 0, 1))
        axes.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_xlabel("tokens that the same forward committed")

    return paint


def _write(text: str) -> Callable[[Axes], None]:
    """A line of text."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, text, ha="center", va="center", color=INK)

    return paint
