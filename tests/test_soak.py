"""Two hundred prompts with changing settings in one server: memory does not grow, and no file is left behind.

Takes minutes, so it runs only where MCSJD_SOAK says how many prompts: `MCSJD_SOAK=200 COMFYUI_PATH=... pytest -s
tests/test_soak.py`. The figures are printed. On a CPU, torch keeps what it compiled for every new shape, up to a bound that 200
prompts do not reach: set ONEDNN_PRIMITIVE_CACHE_CAPACITY=0 and LRU_CACHE_CAPACITY=1, or its growth is measured, too.
"""

from __future__ import annotations

import os
import random
import statistics

import pytest

from comfy_server import Events, resident_bytes
from test_server import start

PROMPTS = int(os.environ.get("MCSJD_SOAK", "0"))
WARM_UP = 0.25  # share of the prompts after which memory has to be flat
ALLOWED_GROWTH = 32 * 2**20  # bytes, of the median of the last prompts over that of those after the warm-up

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.slow,
    pytest.mark.skipif(not PROMPTS, reason="set MCSJD_SOAK to a number of prompts, 200 for instance"),
]


def graph(choose: random.Random, number: int) -> dict:
    """Everything in use at once, with other settings for every number. Nothing here writes a file on purpose."""
    coupling = choose.choice(
        ["plain AR", "SJD (independent)", "MC-SJD (maximal)", "MC-SJD (Gumbel)", "seed-exact (Gumbel)"]
    )
    settings = {
        "model": ["1", 0],
        "prompt": choose.choice(["red apple", "rocket", "cat face", ""]),
        "negative": choose.choice(["", "green"]),
        "seed": number,
        "coupling": coupling,
        "window": choose.choice([1, 8, 32, 64]),
        "cfg": choose.choice([1.0, 3.0]),
        "temperature": choose.choice([0.0, 0.8, 1.0]),
        "top_k": choose.choice([0, 50]),
        "top_p": choose.choice([0.9, 1.0]),
        "batch_size": choose.randint(1, 6),
        "initialiser": choose.choice(["random", "left", "above"]),
        "record_details": choose.random() < 0.3,
    }
    loader = {"model": choose.choice(["tiny", "many-rows"]), "dtype": choose.choice(["fp32", "bf16", "fp8 weights"])}
    return {
        "1": {"class_type": "MCSJD_LoadModel", "inputs": loader},
        "2": {"class_type": "MCSJD_Sampler", "inputs": settings},
        "3": {"class_type": "MCSJD_Decode", "inputs": {"model": ["1", 0], "tokens": ["2", 0]}},
        "4": {"class_type": "MCSJD_Encode", "inputs": {"model": ["1", 0], "image": ["3", 0]}},
        "5": {"class_type": "MCSJD_CropTokens", "inputs": {"tokens": ["4", 0], "rows": 2}},
        "6": {"class_type": "MCSJD_Sampler", "inputs": settings | {"first_tokens": ["5", 0]}},
        "7": {"class_type": "MCSJD_Stats", "inputs": {"stats": ["6", 1], "baseline": ["2", 1], "image": ["3", 0]}},
    }


def files_below(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_memory_is_flat_and_no_file_stays(comfyui):
    """Every tenth prompt is stopped on its way, and every twentieth fails."""
    choose, base = random.Random(0), comfyui.log_file.parent
    before, resident, ends = [files_below(base / name) for name in ("temp", "output", "input")], [], []
    for number in range(PROMPTS):
        prompt = graph(choose, number)
        if number % 20 == 19:
            prompt["2"]["inputs"]["initialiser"] = "warm"
        with Events(comfyui, f"soak-{number}") as events:
            for message in events.until_done(start(comfyui, prompt, f"soak-{number}")):
                if number % 10 == 4 and message["type"] == "progress":
                    comfyui.post("/interrupt", {})
        ends.append(message["type"])
        resident.append(resident_bytes(comfyui.process.pid))
    assert [files_below(base / name) for name in ("temp", "output", "input")] == before
    report(resident, ends)
    assert all(end == "execution_error" for end in ends[19::20])
    assert ends.count("execution_success") >= 0.8 * PROMPTS
    warm = resident[int(WARM_UP * PROMPTS) :]
    third = max(1, len(warm) // 3)
    growth = statistics.median(warm[-third:]) - statistics.median(warm[:third])
    assert growth < ALLOWED_GROWTH, f"{growth / 2**20:.1f} MiB"


def report(resident: list[int], ends: list[str]) -> None:
    print(f"\n{len(ends)} prompts:", {kind: ends.count(kind) for kind in sorted(set(ends))})
    step = max(1, len(resident) // 20)
    for number in (*range(0, len(resident), step), len(resident) - 1):
        print(f"after prompt {number + 1:4}: {resident[number] / 2**20:8.1f} MiB resident")
