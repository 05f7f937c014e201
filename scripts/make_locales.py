"""Write `locales/en/nodeDefs.json`, the English texts of the nodes in the form that translations copy.

    python scripts/make_locales.py --server http://127.0.0.1:8188

The texts are those of the nodes themselves, read from a running ComfyUI that has the pack. Other languages are written by
hand; a test says what a translation lacks.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "locales"
PREFIX = "MCSJD_"


def node_texts(info: dict) -> dict:
    """The texts of one node, from its entry in `/object_info`."""
    given = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    inputs = {name: {"name": name, "tooltip": options["tooltip"]} for name, (_, options) in given.items()}
    pairs = zip(info["output_name"], info["output_tooltips"], strict=True)
    outputs = {str(slot): {"name": name, "tooltip": tooltip} for slot, (name, tooltip) in enumerate(pairs)}
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def node_definitions(object_info: dict) -> dict:
    return {name: node_texts(info) for name, info in object_info.items() if name.startswith(PREFIX)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="a running ComfyUI that has the pack")
    with urllib.request.urlopen(parser.parse_args().server.rstrip("/") + "/object_info") as answer:
        definitions = node_definitions(json.load(answer))
    text = json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"
    (FOLDER / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
