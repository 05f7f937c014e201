"""ImageNet classes by name and number."""

import pytest

from mcsjd_core import InputError
from mcsjd_core.text.imagenet import class_labels, class_names, find_class


def test_names_stand_at_their_numbers():
    """Numbers that are well known, from both ends and the middle; the list has no gap between them."""
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 388: "giant panda", 417: "balloon"}
    known |= {974: "geyser", 979: "valley", 980: "volcano", 985: "daisy", 999: "toilet tissue"}
    assert len(class_names()) == 1000
    assert {number: class_names()[number][0] for number in known} == known


@pytest.mark.parametrize(
    "text", ["207", " 207 ", "golden retriever", "Golden  Retriever", "golden retriever (207)", class_labels()[207]]
)
def test_a_class_is_named_in_several_ways(text):
    assert find_class(text) == 207


def test_every_label_means_its_class():
    assert [find_class(label) for label in class_labels()] == list(range(1000))
    assert len(set(class_labels())) == 1000


def test_every_first_name_of_one_class_means_it():
    unique = [
        number for number, names in enumerate(class_names()) if names[0].lower() not in ("crane", "cardigan", "maillot")
    ]
    assert len(unique) == 994
    assert [find_class(class_names()[number][0]) for number in unique] == unique


def test_other_names_of_a_class_will_do():
    assert find_class("Tinca tinca") == 0
    assert find_class("dark glasses") == 837


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"several ImageNet classes: crane \(134\), crane \(517\); give the number"),
        ("dog (3)", "no ImageNet class"),
        ("1000", "classes 0 to 999, got 1000"),
        ("9" * 5000, r"classes 0 to 999, got 9{18}\.\.\.\.$"),
        ("retriever", r"similar names are .*golden retriever \(207\)"),
        ("goldn retriever", r"similar names are golden retriever \(207\)"),
        ("", "no ImageNet class"),
        ("an astronaut riding a horse", "this model draws nothing else"),
        ("-1", "no ImageNet class"),
    ],
)
def test_other_texts_are_answered_in_one_sentence(text, message):
    with pytest.raises(InputError, match=message):
        find_class(text)
