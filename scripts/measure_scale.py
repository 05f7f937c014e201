"""What a model over several GPUs sends between them: the computed figures of docs/scale.md.

python scripts/measure_scale.py communication
"""

from __future__ import annotations

import argparse

LAYERS, DIM, CODES = 64, 5120, 131072  # Emu3.5, 34 B parameters
WEIGHT_BYTES = 68e9  # its matrices in bfloat16
# By name: bytes a second of a link one way and of a GPU's memory, seconds to start a collective, bytes of a GPU.
MACHINES = {
    "H100, NVLink 4": (450e9, 3350e9, 10e-6, 80e9),
    "RTX 4090, PCIe 4 x16": (25e9, 1008e9, 20e-6, 24e9),
}


def communication(arguments: argparse.Namespace) -> None:
    """A ring all-reduce sends 2 (n - 1) / n of its bytes over every link, an all-gather (n - 1) / n; activations in bfloat16."""
    print(
        "| machine | GPUs | window | sent by each, MB | collectives, ms | weights read, ms |\n|---|---|---|---|---|---|"
    )
    for machine, (link, memory, start, room) in MACHINES.items():
        for n in (2, 4, 8):
            if WEIGHT_BYTES / n > room:
                continue
            for window in (1, 16, 64):
                rows = 2 * window  # conditional and unconditional
                sums, gathers = 2 * LAYERS, 2
                share = 2 * rows * (n - 1) / n  # bytes a channel
                sent = share * (2 * sums * DIM + DIM + CODES)
                took = (sums + gathers) * start + sent / link
                reading = WEIGHT_BYTES / n / memory
                print(f"| {machine} | {n} | {window} | {sent / 1e6:.1f} | {took * 1e3:.1f} | {reading * 1e3:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("communication",))
    communication(parser.parse_args())


if __name__ == "__main__":
    main()
