"""The parts of the training recipe that decide what the embedded model is taught."""

import numpy as np
import torch

from mcsjd_core.codecs.vqgan import VQGAN
from training import emoji_data, fit_codec, plain_codes, sequences, train_transformer
from training.train_codec import CONFIG


def test_a_patch_is_plain_when_it_and_one_pixel_around_it_are_white():
    pictures = np.full((1, 32, 32, 3), 255, np.uint8)
    pictures[0, 15, 3] = (255, 255, 0)  # lowest row of the second patch row, first column
    plain = plain_codes.plain_patches(pictures)[0]
    expected = torch.ones(4, 4, dtype=torch.bool)
    expected[1, 0] = expected[2, 0] = False  # the patch below touches the pixel
    assert torch.equal(plain, expected)


def test_white_gets_its_most_frequent_code_and_takes_in_equal_rows(monkeypatch):
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    drawn = np.zeros((1, 16, 16, 3), np.uint8)
    emoji = emoji_data.EmojiSet(np.concatenate([white, white, drawn, white]), [], [])
    monkeypatch.setattr(emoji_data, "load", lambda path: emoji)
    codes = torch.tensor([[5, 5, 1, 5], [5, 2, 2, 2], [2, 3, 7, 0], [-1, -1, -1, -1]], dtype=torch.int16)
    book = torch.arange(8.0)[:, None].repeat(1, 2)
    book[7] = book[5] + 0.1
    unified = plain_codes.unify("", codes, book)
    assert unified.tolist() == [[5] * 4, [5] * 4, [2, 3, 5, 0], [-1] * 4]
    assert unified.dtype == codes.dtype


def test_retired_rows_are_chosen_by_no_latent_near_those_in_use():
    torch.manual_seed(0)
    codec = VQGAN(CONFIG)
    book = codec.quantize.embedding.weight.data.normal_()
    used = torch.arange(0, len(book), 2)
    before = book[used].clone()
    fit_codec.retire_unused(book, used.view(1, -1))
    assert torch.equal(book[used], before)
    latents = torch.cat([before + 0.5 * torch.randn_like(before), before.mean(0, keepdim=True)])
    assert set(codec.quantize.nearest(latents).tolist()) <= set(used.tolist())


def test_a_recoloured_copy_never_takes_the_name_of_another_picture():
    glyphs = [{"name": name, "skin": False} for name in ("red heart", "green heart", "red heart", "blue heart", "tree")]
    kinds = ["identity", "identity", "recoloured", "recoloured", "shifted"]
    colours = [None, None, "green", "pink", None]
    variants = [{"kind": kind, "colour": colour} for kind, colour in zip(kinds, colours, strict=True)]
    weights = sequences.picture_weights(glyphs, variants)
    assert (weights > 0).tolist() == [True, True, False, True, False]


def test_badly_known_pictures_are_drawn_more_often():
    drawing = object.__new__(sequences.Sequences)
    drawing.settings = sequences.Settings(batch=20_000)
    drawing.weights, drawing.losses = np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0])
    drawing.kinds = [drawing.weights > 0]
    drawing.learned(np.array([0]), torch.tensor([0.2]))
    share = np.bincount(drawing.rows(np.random.default_rng(0), by_loss=True), minlength=3) / 20_000
    losses = np.array([0.6, 1.0])  # the running mean of 1 and 0.2, and what was taken for the unseen one
    np.testing.assert_allclose(share, [*(losses / losses.sum()), 0], atol=0.02)
    plain = np.bincount(drawing.rows(np.random.default_rng(0), by_loss=False), minlength=3) / 20_000
    np.testing.assert_allclose(plain, [0.5, 0.5, 0], atol=0.02)


def test_a_kind_that_is_known_badly_takes_no_draws_from_another():
    drawing = object.__new__(sequences.Sequences)
    drawing.settings = sequences.Settings(batch=20_000)
    drawing.weights, drawing.losses = np.array([1.0, 1.0, 0.5]), np.array([0.04, 0.06, 2.0])
    drawing.kinds = [np.array([True, True, False]), np.array([False, False, True])]
    share = np.bincount(drawing.rows(np.random.default_rng(0), by_loss=True), minlength=3) / 20_000
    np.testing.assert_allclose(share, [0.32, 0.48, 0.2], atol=0.02)


def test_a_surprising_code_weighs_more_in_its_sequence_and_every_sequence_the_same():
    losses = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    train_transformer.emphasised(losses).backward()
    torch.testing.assert_close(losses.grad.sum(1), torch.tensor([0.5, 0.5]))
    ratio = losses.grad[0, 3] / losses.grad[0, 0]
    torch.testing.assert_close(ratio, torch.tensor(1 + train_transformer.EMPHASIS))
