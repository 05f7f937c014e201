"""Captions are cleaned as LlamaGen's own sampler cleans them; the right sides are what its published code gives."""

import sys

import pytest

from mcsjd_core import InputError
from mcsjd_core.text.captions import LONGEST, clean_caption

CLEANED = {
    "a cat, a dog,and a bird": "a cat, a dog, and a bird",
    "photo (35mm) of [red] car": "photo 35mm of red car",
    "a red/blue ball": "a red blue ball",
    "a cat...": "a cat",
    "  A RED fox \n in  the snow ": "a red fox in the snow",
    "black &amp; white &lt;b&gt;cat&lt;/b&gt;": "black white cat< b>",
    "see http://example.com/a for <b>more</b>": "see for more",
    "a caf\xc3\xa9 in K\xf6ln": "a caf\xe3 in k\xf6ln",
    "\uff26\uff55\uff4c\uff4c moon": "full moon",
    "a \u4e2d\u6587 sign": "a sign",
    "this-is-my-cute-cat": "this is my cute cat",
    "a well-known man": "a well-known man",
    "\u201cgood night\u201d": "good night",
    "a tower \u2014 tall": "a tower - tall",
    "mail me@home.com, free shipping": "mail me",
    "IMG_0042.png of a car": "of a car",
    "a 10x20 room, item jc6640, #12": "a room, item",
    "<person> with a hat": "person with a hat",
    "i <3 you & <!-- no --> me": "i <3 you me",
    "half <script>x()</script> and half": "half and half",
    "100% cotton%20shirt+hat": "100% cotton shirt hat",
    "...": "",
    "\xfcber alles \xf8l": "\xfcber alles \xf8l",
    "page 12 click for more": "",
    "a &foo; b &#65; c": "a foo b a c",
    "a cat <![x[ b": "a cat <! x b",
}


@pytest.mark.parametrize("caption", CLEANED)
def test_captions_are_cleaned_as_in_training(caption):
    assert clean_caption(caption) == CLEANED[caption]


def test_a_second_cleaning_finds_what_the_first_one_laid_bare():
    """Percent signs and entities may hide others: one pass would leave `%20` behind."""
    assert clean_caption("a%2520cat") == "a cat"


def test_a_caption_without_end_is_cut_before_rules_that_take_quadratic_time():
    assert clean_caption("<a " * 10**6) == clean_caption(("<a " * LONGEST)[:LONGEST])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(InputError, match="ftfy"):
        clean_caption("a cat")
