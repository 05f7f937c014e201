"""The one exception for input that a person can put right."""


class InputError(ValueError):
    """Bad input: its message names the value, the rule it breaks and the way out, in one sentence."""
