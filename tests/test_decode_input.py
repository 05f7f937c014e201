"""Bad settings, prompts, tokens and logits are refused in one sentence that names value and rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mcsjd_core import METHODS, DecodeSettings, DecodingError, Grid, InputError, LawSettings, decode
from mcsjd_core.decoding.interface import Prompt
from small_picture import CODES, GRID, MODEL
from tiny import TableModel, prompt, run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coupling": "magic"}, r"coupling must be one of autoregressive, .*, got 'magic'"),
        ({"initialiser": "below"}, r"initialiser must be one of random, .*, got 'below'"),
        ({"window": -3}, r"window must be .*at least 1, or 0 for auto, got -3"),
        ({"seed": -1}, r"seed must be .*between 0 and 2\^64 - 1, got -1"),
        ({"seed": 2**64}, r"seed must be .*between 0 and 2\^64 - 1, got 18446744073709551616"),
        ({"row_seeds": "new"}, r"row_seeds must be one of counted, own, got 'new'"),
        ({"part": -1}, r"part must be .*at least 0, got -1"),
        *(
            ({"coupling": name, "initialiser": "warm"}, f"warm works only with seed-exact .*, got {name}")
            for name in METHODS[:-1]
        ),
    ],
)
def test_bad_settings_are_named_with_value_and_rule(settings, message):
    with pytest.raises(InputError, match=message):
        DecodeSettings(**settings)


def codes(*shape, fill=0, dtype=torch.long):
    return torch.full(shape, fill, dtype=dtype)


WARM = {"coupling": "gumbel_exact", "initialiser": "warm"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_tokens": codes(1, 36)}, r"36 first tokens leave nothing to draw on a grid of 36"),
        ({"first_tokens": codes(1, 50)}, r"50 first tokens leave nothing to draw"),
        ({"first_tokens": codes(36)}, r"first_tokens must be whole numbers of shape \[batch, n\], got \[36\]"),
        ({"first_tokens": codes(1, 6, dtype=torch.float32)}, r"first_tokens must be whole numbers.*torch\.float32"),
        ({"first_tokens": codes(1, 6, dtype=torch.bool)}, r"first_tokens must be whole numbers.*torch\.bool"),
        ({"first_tokens": codes(3, 6)}, r"first_tokens has 3 rows for a batch of 2; give one row, or one for each"),
        ({"first_tokens": codes(1, 6, fill=16)}, r"first tokens do not fit this model.* from 0 to 15"),
        ({"first_tokens": codes(1, 6, fill=-1)}, r"first tokens do not fit this model.* from 0 to 15"),
        (WARM, r"warm initialiser needs the tokens of an earlier result"),
        ({**WARM, "earlier_tokens": codes(1, 20)}, r"fill the grid of 36, got 20"),
        ({**WARM, "earlier_tokens": codes(3, 36)}, r"earlier_tokens has 3 rows for a batch of 2"),
        ({**WARM, "earlier_tokens": codes(36)}, r"earlier_tokens must be whole numbers"),
    ],
)
def test_bad_arguments_are_named_with_value_and_rule(arguments, message):
    with pytest.raises(InputError, match=message):
        run(MODEL, GRID, 2, **arguments)


def test_first_tokens_have_to_hold_the_grid_s_forced_tokens():
    grid = Grid(3, 3, row_end=CODES)
    run(MODEL, grid, 1, first_tokens=torch.tensor([[1, 2, 3, CODES]]))
    with pytest.raises(InputError, match="first tokens do not fit"):
        run(MODEL, grid, 1, first_tokens=torch.tensor([[1, 2, 3, 4]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, embeddings=p.embeddings[0]), r"needs embeddings \[rows, P, dim\].*got \[4, 16\]"),
        (lambda p: replace(p, embeddings=p.embeddings[:, :0]), r"P of at least 1, got \[2, 0, 16\]"),
        (lambda p: replace(p, embeddings=p.embeddings[:0]), r"needs embeddings \[rows, P, dim\]"),
        (lambda p: replace(p, embeddings=p.embeddings.long()), r"must be floating point, got torch\.int64"),
        (lambda p: replace(p, padding=p.padding[:1]), r"one padding count for each of its 2 rows, got \[1\]"),
        (
            lambda p: Prompt(p.embeddings[[0, 1, 1]], p.padding[[0, 1, 1]], True),
            r"unconditional row for every picture, got 3",
        ),
        (lambda p: replace(p, guided=True), r"cfg_scale 1\.0 needs a prompt without unconditional rows"),
    ],
)
def test_bad_prompts_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        decode(MODEL, change(prompt(MODEL, 2)), GRID)


def test_guidance_needs_a_guided_prompt():
    with pytest.raises(InputError, match=r"cfg_scale 3\.0 needs a prompt with unconditional rows"):
        decode(MODEL, prompt(MODEL, 2), GRID, DecodeSettings(law=LawSettings(cfg_scale=3.0)))


class Faulty(TableModel):
    """Its logits are `spoil`ed from the third forward on."""

    def __init__(self, spoil):
        super().__init__(3, 6)
        self.spoil, self.forwards = spoil, 0

    def logits(self, hidden, index):
        self.forwards += 1
        logits = super().logits(hidden, index)
        return self.spoil(logits) if self.forwards == 3 else logits


def one(value: float):
    def spoil(logits):
        return logits.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(1)), torch.tensor(value))

    return spoil


@pytest.mark.parametrize(
    "law", [LawSettings(), LawSettings(top_k=2), LawSettings(top_p=0.5), LawSettings(temperature=0.0)], ids=str
)
@pytest.mark.parametrize("coupling", METHODS)
@pytest.mark.parametrize(
    "spoil",
    [one(float("nan")), one(float("inf")), lambda x: x * float("nan"), lambda x: torch.full_like(x, float("-inf"))],
    ids=["one NaN", "one infinity", "all NaN", "all minus infinity"],
)
def test_unusable_logits_stop_the_decode_at_their_forward(spoil, coupling, law):
    model = Faulty(spoil)
    with pytest.raises(DecodingError, match=r"NaN or infinite logits at forward 3; .* load it as float32 or bfloat16"):
        decode(model, model.prompt(1, False), Grid(1, 6), DecodeSettings(coupling, 2, law))
    assert model.forwards == 3


def test_a_model_of_another_vocabulary_is_refused():
    model = TableModel(3, 4)
    model.float_table = model.float_table[:, :2]
    with pytest.raises(InputError, match=r"gave 2 logits for a codebook of 3 codes"):
        decode(model, model.prompt(1, False), Grid(1, 4))


def test_forbidden_codes_of_another_codebook_are_refused():
    grid = Grid(1, 4, forbidden=torch.zeros(1, 7, dtype=torch.bool), forbidden_row=torch.zeros(4, dtype=torch.long))
    model = TableModel(3, 4)
    with pytest.raises(InputError, match=r"covers 7 codes, but the model has 3"):
        decode(model, model.prompt(1, False), grid)


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (DecodeSettings, "window", 2.5),
        (DecodeSettings, "window", "4"),
        (DecodeSettings, "seed", 1.0),
        (LawSettings, "top_k", 1.5),
        (LawSettings, "top_k", float("nan")),
    ],
)
def test_counts_have_to_be_whole_numbers(make, field, value):
    with pytest.raises(InputError, match=f"{field} must be .*got {value!r}"):
        make(**{field: value})
