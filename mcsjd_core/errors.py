"""The one exception for input that a person can put right, and what it tells of others."""

import torch

SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory")


class InputError(ValueError):
    """Bad input: its message names the value, the rule it breaks and the way out, in one sentence."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough to stand in brackets in a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def is_out_of_memory(error: BaseException) -> bool:
    """On a CPU, torch raises a plain RuntimeError for it."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
