"""What a file really is, where it bears the name of another kind: downloads that went wrong leave such files."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError

LOOK = 512  # bytes
POINTER = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")


def check_contents(file: Path) -> None:
    """Raise InputError if `file` is empty, a pointer of Git LFS or a web page; a file that cannot be read passes."""
    try:
        with file.open("rb") as stream:
            start = stream.read(LOOK).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError:  # whoever reads it next says so
        return
    if not start:
        raise InputError(f"{file} is empty; download it again.") from None  # of whatever reading it raised
    if start.startswith(POINTER):
        raise InputError(
            f"{file} is a Git LFS pointer, a few lines that stand for the file; fetch the file itself with `git lfs pull`, "
            "or download it from the model's page."
        ) from None
    if start.startswith(PAGES):
        raise InputError(
            f"{file} is a web page, such as an error or a login that came instead of the file; download it again."
        ) from None
