"""Full precision inside a training that is otherwise rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: str | torch.device) -> Iterator[None]:
    """No autocast and no TF32 convolutions: an encoder that is rounded gives other codes than those of a finished model."""
    cudnn = torch.backends.cudnn
    with torch.autocast(torch.device(device).type, enabled=False), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):
        yield
