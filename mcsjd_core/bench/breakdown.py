"""Section: where an iteration's time goes, and the share of it that is not the forward."""

from __future__ import annotations

from dataclasses import asdict

from ..decoding.grid import Grid
from ..decoding.loop import DecodeSettings
from ..laws.coupling import COUPLINGS
from ..laws.law import LawSettings
from ..reporting.tables import Table
from .drawing import checkpoint_law, texts, upper
from .plan import Bench
from .shapes import SHAPES, ShapedModel
from .timing import PARTS, overhead_share, part_seconds

NAME, TITLE = "breakdown", "where an iteration's time goes"
SHAPE, WINDOW = "Janus-Pro-1B", 32
LAWS = {"no truncation": LawSettings(cfg_scale=5.0), "top-k 1000": LawSettings(cfg_scale=5.0, top_k=1000)}
SHAPED = ("maximal", "gumbel_exact")  # couplings that are run in that shape
COUPLING = "maximal"  # that of the headline: the default, and one that does most work


def measure(bench: Bench) -> dict:
    return {"window": WINDOW, "cases": [*_embedded(bench), *_shaped(bench)]}


def _embedded(bench: Bench) -> list[dict]:
    bench.tell(bench.model_name)
    law, model = checkpoint_law(bench), bench.model
    grid, prompt = upper(model.grid(), bench.plan.rows), model.prompt(texts(0, 1), None, law.guided)
    return [
        _case(bench.model_name, coupling, law, _parts(bench, model.token_model, prompt, grid, coupling, law), None)
        for coupling in COUPLINGS
    ]


def _shaped(bench: Bench) -> list[dict]:
    """A model of fewer layers, and the forward of all of them: the rest of an iteration does not depend on the layers."""
    bench.tell(SHAPE)
    shape = SHAPES[SHAPE]
    model = ShapedModel(shape, shape.timed_layers * bench.plan.timed_layers, WINDOW, bench.device, bench.dtype)
    layers = model.forward_seconds((WINDOW,), bench.plan.forward_repeats)[WINDOW]["layers"]["median"]
    missing = layers * (1 - model.layers / shape.config.layers)
    grid, cases = Grid(24, 24), []
    for label, law in LAWS.items():
        for coupling in SHAPED:
            parts = _parts(bench, model.token_model, model.prompt, grid, coupling, law)
            parts["forward"] += missing
            name = f"{SHAPE}, {label}"
            cases.append(_case(name, coupling, law, parts, [model.layers, shape.config.layers]))
    return cases


def _parts(bench: Bench, model, prompt, grid: Grid, coupling: str, law: LawSettings) -> dict[str, float]:
    settings = DecodeSettings(coupling, WINDOW, law)
    return part_seconds(model, prompt, grid, settings, iterations=bench.plan.iterations)


def _case(shape: str, coupling: str, law: LawSettings, parts: dict[str, float], layers: list[int] | None) -> dict:
    return {"shape": shape, "coupling": coupling, "law": asdict(law), "seconds": parts, "timed_and_all_layers": layers}


def headline(data: dict) -> dict:
    return {
        "overhead_share": {
            case["shape"]: overhead_share(case["seconds"]) for case in data["cases"] if case["coupling"] == COUPLING
        }
    }


def tables(data: dict) -> list[Table]:
    header = ["shape", "coupling", *(f"{part}, ms" for part in PARTS), "not the forward"]
    rows = [
        [
            case["shape"],
            case["coupling"],
            *(f"{1000 * case['seconds'][part]:.2f}" for part in PARTS),
            f"{100 * overhead_share(case['seconds']):.1f} %",
        ]
        for case in data["cases"]
    ]
    scaled = next(case["timed_and_all_layers"] for case in data["cases"] if case["timed_and_all_layers"])
    note = (
        f"One picture, W {data['window']}, mean of an iteration. {SHAPE}: random weights, V 16,384, guidance 5; the forward "
        f"is scaled from {scaled[0]} layers to {scaled[1]}, the rest does not depend on them."
    )
    return [Table("Where an iteration goes", header, rows, note)]
