"""Captions as the text encoders of DeepFloyd IF, PixArt and LlamaGen were given them in training: cleaned as web texts are."""

from __future__ import annotations

import html
import re
from html.entities import html5
from html.parser import HTMLParser
from urllib.parse import unquote_plus

from ..errors import InputError

LONGEST = 2000  # characters, far more than an encoder's 120 tokens hold; some rules take quadratic time

DOMAINS, FILES = "com|co|ru|net|org|edu|gov|it", "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
SITE = rf"[a-z0-9.\-]+\.(?:{DOMAINS})[\w/-]*\b/?(?!@)"
DASHES = r"-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"

# (pattern, replacement), applied from the top. A caption is lower case by then.
ADDRESSES = [
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{SITE})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{SITE})", ""),
]
SIGNS = [
    (r"@\w+\b", ""),  # a nickname
    (r"[\u31c0-\u9fff]+", ""),  # Chinese characters, and the blocks of strokes, signs and hexagrams in front of them
    (rf"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # an address of the internet protocol
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#(?:\d{1,3}|\d{5,})\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{FILES})", ""),
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
]
SELLING = [
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # article numbers
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # a size; the second sign is Cyrillic
]
SPACES = [
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
]
JOINS = r"[-_]"
JOINED_WORDS = 3  # more joins than this are a file's name: this-is-my-cute-cat


def clean_caption(text: str) -> str:
    """`text` in lower case without addresses, markup, brackets and what shops add; cleaned twice, as in training.

    The rules are those of `T5Embedder` in FoundationVision/LlamaGen. They let go of Chinese characters. Raises InputError
    without the package ftfy.
    """
    return _cleaned(_cleaned(text[:LONGEST]))


def _fix_text(text: str) -> str:
    try:
        from ftfy import fix_text
    except ImportError:
        raise InputError(
            "This model's captions are cleaned with the package ftfy, which is not installed; install requirements.txt again."
        ) from None
    return fix_text(text)


def _cleaned(text: str) -> str:
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = _apply(SIGNS, _without_markup(_apply(ADDRESSES, text)))
    if len(re.findall(JOINS, text)) > JOINED_WORDS:
        text = re.sub(JOINS, " ", text)
    text = html.unescape(html.unescape(_fix_text(text))).strip()
    return _apply(SPACES, _apply(SELLING, text)).strip()


def _apply(rules: list[tuple[str, str]], text: str) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _without_markup(text: str) -> str:
    try:
        return _parsed(text)
    except AssertionError:  # how the parser answers a marked section of a kind that it does not know
        return _parsed(text.replace("<![", "&lt;!["))


def _parsed(text: str) -> str:
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


class _Text(HTMLParser):
    """The text between the tags of a page, without scripts and styles; entities that do not exist stay."""

    HIDDEN = ("script", "style", "template")

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in self.HIDDEN

    def handle_endtag(self, tag):
        self.hidden -= tag in self.HIDDEN and self.hidden > 0

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)

    def handle_charref(self, name):
        self.handle_data(html.unescape(f"&#{name};"))

    def handle_entityref(self, name):
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def unknown_decl(self, data):
        if data.startswith("cdata["):
            self.handle_data(data.removeprefix("cdata["))
