"""Write the tables of docs/benchmarks.md, and README's highlights, from what the bench measured.

    python -m mcsjd_core bench --json docs/bench.json
    python scripts/make_benchmarks.py

replaces what stands between two marks in each of these pages. Nothing between them is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mcsjd_core import bench  # noqa: E402
from mcsjd_core.bench.machine import sentence  # noqa: E402
from mcsjd_core.reporting.report import METHOD_LABELS  # noqa: E402
from mcsjd_core.reporting.tables import wrapped  # noqa: E402

README, PAGE, JSON = ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "bench.json"
FOLDED = ("forward", "breakdown", "memory", "transfers")  # sections for those who look closer


def tables(result: dict) -> str:
    """What docs/benchmarks.md says, from the JSON of a bench."""
    parts = [_introduction(result, "bench.json"), "\n".join(_highlights(result) + _overhead(result))]
    for measured in bench.SECTIONS:
        data = result["sections"].get(measured.NAME)
        if data is not None:
            text = "\n\n".join(table.markdown() for table in bench.tables_of(measured, data))
            parts.append(_folded(measured.TITLE, text) if measured.NAME in FOLDED else text)
    return "\n\n".join(parts)


def highlights(result: dict) -> str:
    """What README says, from the JSON of a bench."""
    return "\n\n".join((_introduction(result, "docs/bench.json"), *_highlights(result)))


def replaced(page: str, name: str, text: str) -> str:
    """`page` with `text` between the marks of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, mark, rest = page.partition(begin)
    if not mark or end not in rest:
        raise SystemExit(f"The page needs the lines {begin} and {end}, one below the other.")
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def _introduction(result: dict, link: str) -> str:
    plan = "" if result["plan"]["name"] == "full" else f" A {result['plan']['name']} run: few pictures, not all tokens."
    return wrapped(
        f"Measured in one run on {sentence(result['machine'])}. Written by `scripts/make_benchmarks.py` from "
        f"[`docs/bench.json`]({link}), which `python3 dev.py bench --json docs/bench.json` makes.{plan}"
    )


def _highlights(result: dict) -> list[str]:
    """The fastest method, and the comparison with transformers."""
    lines = []
    if "speedup" in result:
        speedups = {(c, w): f for c, windows in result["speedup"].items() for w, f in windows.items()}
        coupling, window = max(speedups, key=speedups.get)
        compression = result["step_compression"][coupling][window]
        found = next(m for m in _methods(result) if (m["coupling"], m["window"]) == (coupling, window))["speedup"]
        spread = f"quartiles over the prompts {found['low']:.2f} to {found['high']:.2f}"
        lines.append(
            f"- Highest median for one picture with the embedded image model: {METHOD_LABELS[coupling]}, window {window}: "
            f"{found['median']:.2f} times as fast as plain AR ({spread}), at {compression:.2f} tokens per forward."
        )
    ratios = result.get("ar_ratio_to_transformers")
    if ratios:
        parts = ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in ratios.items())
        lines.append(
            f"- Plain AR over transformers' `generate`, same Janus of random weights, tokens per second: {parts}."
        )
    return ["\n".join(map(wrapped, lines))] if lines else []


def _overhead(result: dict) -> list[str]:
    """What an iteration costs beside the forward."""
    if not (shares := result.get("overhead_share")):
        return []
    parts = "; ".join(f"{shape} {100 * share:.1f} %" for shape, share in shares.items())
    text = (
        f"- Share of an iteration that is not the forward, maximal coupling, on this machine: {parts}. Janus-Pro-1B is one of "
        "random weights, whose forward is scaled from fewer layers."
    )
    return [wrapped(text)]


def _methods(result: dict) -> list[dict]:
    return result["sections"]["couplings"]["methods"]


def _folded(title: str, text: str) -> str:
    return f"<details>\n<summary>{title[0].upper()}{title[1:]}</summary>\n\n{text}\n\n</details>"


PAGES = {PAGE: ("tables", tables), README: ("highlights", highlights)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # there is nothing but --help
    result = json.loads(JSON.read_text(encoding="utf-8"))
    for file, (name, write) in PAGES.items():
        page = replaced(file.read_text(encoding="utf-8"), name, write(result))
        file.write_text(page, encoding="utf-8")
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
