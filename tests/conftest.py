"""Fixtures that several test files share."""

import torch

from comfy_host import clips, comfyui, model, model_folder, pack, tiny_checkpoint, tiny_video  # noqa: F401
from oracle import difference_table

# Tensors of this size gain nothing from threads, and wait for one another for minutes where the cores are busy.
torch.set_num_threads(1)


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--differences",
        action="store_true",
        help="print how far results are from those of the oracles at most, as a table (in one process: without -n)",
    )


def pytest_terminal_summary(terminalreporter, config) -> None:
    if config.getoption("--differences"):
        terminalreporter.write_line(difference_table())


def pytest_collection_modifyitems(items):
    """Slow tests first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
