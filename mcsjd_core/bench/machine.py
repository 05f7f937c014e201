"""What the figures were measured on, as the system tells it. No name of a host, a user or a path."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def describe(device: str, dtype: torch.dtype) -> dict:
    gpu = torch.cuda.get_device_name(device) if str(device).startswith("cuda") else None
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": memory_gib(),
        "gpu": gpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
    }


def sentence(machine: dict) -> str:
    cores, threads = counted(machine["cores"], "core"), counted(machine["threads"], "thread")
    where = machine["gpu"] or f"{machine['cpu']} ({cores}, {threads})"
    return f"{where}, {machine['dtype']}, torch {machine['torch']}, Python {machine['python']} on {machine['system']}"


def counted(number: int, unit: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float | None:
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    if not hasattr(os, "sysconf") or not set(names) <= set(os.sysconf_names):
        return None
    page, pages = map(os.sysconf, names)
    return round(page * pages / 2**30, 1)


def peak_bytes(device: str) -> int | None:
    """The most memory that this process has held so far: on a GPU what torch allocated there, else what was resident."""
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
