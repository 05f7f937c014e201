"""The classes of ImageNet by name: the prompts of models that draw a class instead of a text."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from ..errors import InputError

_FILE = Path(__file__).with_name("imagenet_classes.txt")
_LISTED = 6  # names shown where several would do
LONGEST_NUMBER = 18  # digits


@cache
def class_names() -> tuple[tuple[str, ...], ...]:
    """The names of every class, most usual first; a class's index is its number."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split(", ")) for line in lines if not line.startswith("#"))


@cache
def class_labels() -> tuple[str, ...]:
    """One line for every class, `golden retriever (207)`, which `find_class` understands; all names can be searched."""
    return tuple(f"{', '.join(names)} ({number})" for number, names in enumerate(class_names()))


def find_class(text: str) -> int:
    """The class that `text` names: a number from 0 to 999, a label, or one of a class's names in upper or lower case.

    Raises InputError for no class or several, with the nearest labels.
    """
    count, name = len(class_names()), " ".join(text.lower().split())
    if name.isdecimal():
        return numbered_class(name, count, f"ImageNet has classes 0 to {count - 1}")
    found = _classes_by_name().get(name, ())
    # `crayfish` is the first name of one class and a second name of another: the first counts.
    best = [number for number in found if class_names()[number][0].lower() == name] or found
    if len(best) == 1:
        return best[0]
    if best:
        raise InputError(f"{text!r} names several ImageNet classes: {_listed(best)}; give the number.")
    near = _near(name)
    hint = f"similar names are {_listed(near)}." if near else "the class picker lists them all."
    raise InputError(f"{text!r} is no ImageNet class, and this model draws nothing else; {hint}")


def numbered_class(digits: str, count: int, rule: str) -> int:
    """The number in decimal digits; raises InputError with the rule if there are not so many classes."""
    # Of thousands of digits, int() makes an error of its own.
    if len(digits) > LONGEST_NUMBER or int(digits) >= count:
        raise InputError(f"{rule}, got {digits[:LONGEST_NUMBER]}{'...' * (len(digits) > LONGEST_NUMBER)}.")
    return int(digits)


@cache
def _classes_by_name() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for number, names in enumerate(class_names()):
        labels = (class_labels()[number], f"{names[0]} ({number})")
        for name in dict.fromkeys(map(str.lower, (*names, *labels))):
            found[name] = (*found.get(name, ()), number)
    return found


def _near(name: str) -> list[int]:
    """Classes whose names contain `name`, else those that are spelled much like it."""
    names = [known for known in _classes_by_name() if not known.endswith(")")]
    inside = [known for known in names if name and name in known]
    near = inside or difflib.get_close_matches(name, names, n=_LISTED)
    return list(dict.fromkeys(number for known in near for number in _classes_by_name()[known]))


def _listed(numbers) -> str:
    shown = ", ".join(f"{class_names()[number][0]} ({number})" for number in list(numbers)[:_LISTED])
    return shown + (" ..." if len(numbers) > _LISTED else "")
