"""Fixtures that several test files share."""

import gc
import logging
import os
import sys
from collections.abc import Iterator

# Tensors of this size gain nothing from threads, and wait for one another for minutes where the cores are busy. So in the
# processes that tests start, too; and the command line, told how many threads to use, does not look for idle cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from comfy_host import clips, model, model_folder, pack, tiny_checkpoint, tiny_loaded, tiny_video  # noqa: F401
from comfy_server import comfyui  # noqa: F401
from oracle import difference_table

torch.set_num_threads(1)  # also where torch was imported before this file


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


def pytest_collection_finish() -> None:
    """What is there by now stays: thousands of tests, and what their files import. No garbage collection looks at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(
        50_000, 50, 100
    )  # what most tests make is gone before that; Python would stop for it every 700 objects


@pytest.fixture(autouse=True)
def short_garbage_collections(request):
    """A host collects garbage whenever it loads a model, and looks at every object that there is: at those that imports have
    made, which stay, and at the models of earlier tests, which it would keep."""
    imported = len(sys.modules)
    yield
    if "pack" in request.fixturenames:
        import comfy.model_management as mm

        mm.unload_all_models()
    if len(sys.modules) > imported + 20:
        gc.collect()
        gc.freeze()


class Lines(logging.Handler):
    """Messages of the log, in order."""

    def __init__(self):
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What is logged, from INFO on. Pytest's own fixture would look at thousands of loggers for every test that there is."""
    lines, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines.told
    root.setLevel(level)
    root.removeHandler(lines)
