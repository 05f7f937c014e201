"""The one exception for input that a person can put right, and what it tells of others."""


class InputError(ValueError):
    """Bad input: its message names the value, the rule it breaks and the way out, in one sentence."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough to stand in brackets in a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
