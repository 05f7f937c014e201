"""The recipe of the image model of scenes: its hand-set encoder, its sequences, its checkpoint."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from mcsjd_core import EMBEDDED_MODEL, DecodeSettings, LawSettings, load, pictures, sample
from mcsjd_core.codecs.vqgan import VQGAN
from training import (
    build_scenes,
    build_tokenizer,
    export_scenes,
    figures,
    patch_encoder,
    train_scene_codec,
    train_scene_transformer,
)
from training.loop import RunSettings
from training.patch_encoder import CODES, CONFIG, PatchEncoder
from training.places import Places
from training.scenes import Scenes
from training.sprites import Sprites


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 128, 128, 4), dtype=np.uint8)
    images[..., 3] = 255
    things = Sprites(images, ["red apple", "rocket", "owl"] * 2, [""] * 6, ["a"] * 3 + ["b"] * 3)
    return Scenes(things, Places({"grass": [rng.integers(0, 256, (220, 220, 3), dtype=np.uint8)]}))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer.from_texts(iter(["a red apple on grass", "an owl and a rocket"] * 9), CODES, 40)


@pytest.fixture(scope="module")
def centres():
    return (torch.randn(CODES, CONFIG.embed_dim, generator=torch.Generator().manual_seed(0)) / 6).half().float()


@pytest.fixture(scope="module")
def codec(centres):
    return train_scene_codec.build_model(centres, seed=0)


@torch.no_grad()
def test_the_hand_set_encoder_gives_every_patch_the_projection_that_training_uses():
    model, pixels = VQGAN(CONFIG), torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    patch_encoder.write_encoder(model)
    torch.testing.assert_close(model.latents(pixels), PatchEncoder().features(pixels), atol=1e-3, rtol=0)


def test_the_features_are_weighted_cosines_of_brightness_and_colour():
    grey, red = torch.full((1, 3, 8, 8), 0.8), torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1.0
    first = PatchEncoder().features(grey).flatten()
    assert first[0] == pytest.approx(0.6 * 3**0.5, abs=1e-5) and first[1:].abs().max() < 1e-5
    stripes = (torch.arange(8).add(0.5) * torch.pi / 8).cos()  # the lowest wave across
    seen = PatchEncoder().features((grey + 0.1 * stripes).float()).flatten()
    assert (seen - first)[1:3].abs().max() > 0.02 and (seen - first)[3:].abs().max() < 1e-5
    assert PatchEncoder().features(red).flatten()[patch_encoder.LUMA :].abs().max() > 0.1


def test_a_thing_has_the_same_codes_wherever_it_lies_on_the_grid(centres):
    encoder, thing = PatchEncoder(centres), torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(1))
    found = []
    for left, top, ground in ((0, 0, 0.1), (16, 8, 0.9)):
        pixels = torch.full((1, 3, 48, 48), ground)
        pixels[0, :, top : top + 24, left : left + 24] = thing
        found.append(encoder.encode(pixels)[0, top // 8 : top // 8 + 3, left // 8 : left // 8 + 3])
    assert torch.equal(*found)


def test_codes_are_the_same_inside_a_rounded_training():
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rows = PatchEncoder().features(pixels).flatten(0, 2)
    encoder = PatchEncoder(rows[::2].repeat(8, 1) + 0.02 * torch.randn(8 * len(rows[::2]), rows.shape[1]))
    codes, features, spread = encoder.encode(pixels), encoder.features(pixels), encoder.spread(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.encode(pixels), codes) and torch.equal(encoder.features(pixels), features)
        assert all(torch.equal(*parts) for parts in zip(encoder.spread(pixels), spread, strict=True))


def test_k_means_finds_clusters_and_leaves_no_centre_empty():
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    rows = (true[:, None] + 0.1 * torch.randn(3, 200, 2, generator=generator)).flatten(0, 1)
    centres = patch_encoder.k_means(rows, 6, 20, generator)
    assert len(patch_encoder.nearest_row(rows, centres).unique()) == 6
    assert torch.cdist(true, centres).amin(1).max() < 0.2


@torch.no_grad()
def test_what_is_left_out_in_training_changes_nothing_in_the_codec(codec):
    vectors = codec.quantize.lookup(torch.randint(CODES, (1, 4, 4), generator=torch.Generator().manual_seed(0)))
    whole = train_scene_codec.whole(codec.state_dict())
    torch.testing.assert_close(whole.reconstruct(vectors), codec.reconstruct(vectors))
    again = train_scene_codec.whole(codec.state_dict()).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.state_dict().items())


def test_every_place_of_a_sequence_predicts_the_code_that_comes_next(scenes, tokenizer, centres):
    sequences = train_scene_transformer.Sequences(scenes, PatchEncoder(centres), tokenizer, "cpu")
    batch = sequences.batch(np.random.default_rng(0), 4)
    assert batch.covered.shape == (4 * 576,) and 0.05 < batch.covered.float().mean() < 0.4
    assert (batch.predicting.sum(1) == 576).all()
    first = sequences.vocabulary.first_code
    for row, predicting, choices, shares in zip(batch.ids, batch.predicting, batch.choices, batch.shares, strict=True):
        start = (row == sequences.vocabulary.begin_of_image).nonzero().item()
        assert predicting[start : start + 576].all()
        fed = row[start + 1 : start + 576, None] - first == choices[:-1]
        assert (fed.sum(1) == 1).all() and shares[:-1][fed].min() > 0


def test_codes_that_look_alike_stand_for_one_another(scenes, tokenizer, centres):
    """The shares are exp(-d^2 / SOFTNESS) of the nearest codes' distances d, and what is drawn comes as often as they say."""
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    centres = PatchEncoder().features(pixels).flatten(0, 2).repeat(CODES // 128, 1) + 0.1 * centres
    encoder = PatchEncoder(centres)
    choices, shares = encoder.spread(pixels)
    distances = torch.cdist(encoder.features(pixels).flatten(0, 2), centres)
    order = distances.argsort(-1)[:, : patch_encoder.CHOICES]
    likely = (-distances.gather(1, order).square() / patch_encoder.SOFTNESS).exp()
    assert torch.equal(choices.flatten(0, 2), order) and torch.equal(choices[..., 0], encoder.encode(pixels))
    torch.testing.assert_close(shares.flatten(0, 2), likely / likely.sum(-1, keepdim=True), atol=1e-3, rtol=0)

    rows = torch.tensor([[[5, 8, 2]]]).expand(1, 20000, 3)
    drawn = train_scene_transformer.drawn_codes(
        rows, torch.tensor([0.5, 0.3, 0.2]).expand(rows.shape), np.random.default_rng(0)
    )
    assert [(drawn == code).float().mean().item() for code in (5, 8, 2)] == pytest.approx([0.5, 0.3, 0.2], abs=0.015)


def test_wrong_codes_are_fed_and_never_asked_for(scenes, tokenizer, centres):
    sequences = train_scene_transformer.Sequences(scenes, PatchEncoder(centres), tokenizer, "cpu")
    right, wrong = (sequences.batch(np.random.default_rng(0), 4, disturbed=share) for share in (0.0, 1.0))
    first = sequences.vocabulary.first_code
    assert torch.equal(right.choices, wrong.choices) and torch.equal(right.shares, wrong.shares)
    fed = [batch.ids[0, batch.predicting[0]][1:, None] - first for batch in (right, wrong)]
    strange = [(codes != batch.choices[0, :-1]).all(-1).sum() for codes, batch in zip(fed, (right, wrong), strict=True)]
    assert right.choices.shape[1] == 576 and strange[0] == 0 < strange[1]


@torch.no_grad()
def test_nats_are_the_cross_entropy_with_the_codes_shares(scenes, tokenizer, centres):
    sequences = train_scene_transformer.Sequences(scenes, PatchEncoder(centres), tokenizer, "cpu")
    task, batch = train_scene_transformer.Training(sequences, seed=0), sequences.batch(np.random.default_rng(0), 2)
    dense = torch.zeros(*batch.choices.shape[:2], CODES).scatter_(-1, batch.choices, batch.shares)
    positions = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    logits = task.model.lm_head(task.model.model(task.model.embed_ids(batch.ids), positions)[batch.predicting])
    expected = torch.nn.functional.cross_entropy(logits, dense.flatten(0, 1), reduction="none")
    torch.testing.assert_close(task.nats(batch), expected)


@torch.no_grad()
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_loss_weighs_things_as_asked(scenes, tokenizer, centres, weight):
    sequences = train_scene_transformer.Sequences(scenes, PatchEncoder(centres), tokenizer, "cpu")
    task = train_scene_transformer.Training(sequences, seed=0, thing_weight=weight)
    disturbed = train_scene_transformer.DISTURBED
    batch = sequences.batch(np.random.default_rng(0), train_scene_transformer.BATCH, disturbed=disturbed)
    nats = task.nats(batch)
    things, ground = nats[batch.covered], nats[~batch.covered]
    expected = (weight * things.sum() + ground.sum()) / (weight * len(things) + len(ground))
    assert task.loss(np.random.default_rng(0), 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_things_that_are_drawn_badly_come_more_often():
    drawn = {"well": [True] * 6, "badly": [True, False, False, True, False, False]}
    assert train_scene_transformer.thing_weights(drawn) == {"well": 2, "badly": 6}


def test_figures_are_taken_on_scenes_of_all_things_alike(scenes, tokenizer, centres, monkeypatch):
    monkeypatch.setattr(train_scene_transformer, "HELD_OUT", train_scene_transformer.BATCH)
    first, *others = scenes.things
    weighted = Scenes(scenes.sprites, scenes.places, {first: 1.0} | dict.fromkeys(others, 0.01))
    alike, mostly_one = (
        train_scene_transformer.Sequences(some, PatchEncoder(centres), tokenizer, "cpu") for some in (scenes, weighted)
    )
    figures = [
        train_scene_transformer.Training(sequences, 0, measured=measured).evaluate()["fresh"]
        for sequences, measured in ((alike, None), (mostly_one, alike), (mostly_one, None))
    ]
    assert figures[0] == figures[1] != figures[2]


def test_a_tenth_of_the_captions_is_dropped(scenes, tokenizer, centres):
    sequences, rng = train_scene_transformer.Sequences(scenes, PatchEncoder(centres), tokenizer, "cpu"), None
    rng = np.random.default_rng(0)
    scene = scenes.draw(rng)
    lengths = np.array([len(sequences.prefix(scene, rng)) for _ in range(1000)])
    assert 0.07 < (lengths == 2).mean() < 0.13


def test_unfinished_trainings_make_a_checkpoint_that_draws(scenes, tokenizer, codec, tmp_path):
    model = train_scene_transformer.build_model(tokenizer, 0)
    for name, part in (("transformer", model), ("codec", codec)):
        (tmp_path / name).mkdir()
        torch.save({"modules": {"model": part.state_dict()}}, tmp_path / name / "training.pt")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    parts = (tmp_path / name for name in ("transformer", "codec", "tokenizer.json"))
    export_scenes.export(*parts, tmp_path / "out")
    means = export_scenes.averaged(model.state_dict(), tokenizer, tmp_path / "out", 0.25)
    assert all(torch.allclose(means[name], weight, atol=1e-3) for name, weight in model.state_dict().items())
    doubled = {name: 2 * weight for name, weight in model.state_dict().items()}
    means = export_scenes.averaged(doubled, tokenizer, tmp_path / "out", 0.25)
    assert all(torch.allclose(means[name], 1.25 * w, atol=2e-3) for name, w in model.state_dict().items())
    loaded = load(tmp_path / "out")
    assert loaded.defaults.law == LawSettings(cfg_scale=2.0, temperature=1.0, top_k=100, min_p=0.02)
    tokens = sample(loaded, ["a red apple on grass"], DecodeSettings("maximal", 64, loaded.defaults.law)).tokens
    assert pictures(loaded, tokens).shape == (1, 3, 192, 192)
    assert json.loads((tmp_path / "out/config.json").read_text())["vq_config"]["num_embeddings"] == CODES


def test_an_export_names_all_parts_of_a_training_and_of_a_mean_no_figures():
    first = export_scenes.joined({"steps": 5, "seconds": 2.0, "fresh": 1.5, "run": {"seed": 0}}, [], 1)
    second = {"steps": 3, "seconds": 1.0, "fresh": 1.25, "run": {"seed": 1}}
    whole, mean = (export_scenes.joined(second, first["parts"], share) for share in (1, 0.5))
    assert (whole["steps"], whole["seconds"], whole["fresh"]) == (8, 3.0, 1.25) and mean["steps"] == 8
    assert [part["steps"] for part in whole["parts"]] == [5, 3]
    assert "fresh" not in mean and mean["parts"][1]["averaged_with_it"] == 0.5
    longer = export_scenes.joined(second | {"steps": 9}, whole["parts"], 1)  # the same training, gone on with
    assert [part["steps"] for part in longer["parts"]] == [5, 9]


def test_a_recipe_that_starts_from_a_checkpoint_and_has_no_time_gives_it_back(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(build_tokenizer, "CAPTIONS", 200)  # of which the list of words is made
    monkeypatch.setattr(train_scene_codec, "HELD_OUT", 8)
    monkeypatch.setattr(train_scene_transformer, "HELD_OUT", 16)
    build_scenes.build(
        scenes, tmp_path, tmp_path / "out", {"codec": 0, "transformer": 0}, RunSettings(), EMBEDDED_MODEL
    )
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", EMBEDDED_MODEL))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    reports = [json.loads((folder / export_scenes.REPORT).read_text()) for folder in (tmp_path / "out", EMBEDDED_MODEL)]
    assert reports[0]["steps"] == reports[1]["steps"]
    codes = torch.randint(CODES, (1, 576), generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(pictures(load(folder), codes) for folder in (tmp_path / "out", EMBEDDED_MODEL)))


def test_weights_are_not_joined_with_the_codes_of_another_model(scenes, centres, tokenizer, tmp_path):
    (tmp_path / "codec").mkdir()
    save_file({"centres": centres}, tmp_path / "codec/codebook.safetensors")
    with pytest.raises(SystemExit, match="holds codes or words of another model"):
        build_scenes.build(
            scenes, tmp_path, tmp_path / "out", {"codec": 0, "transformer": 0}, RunSettings(), EMBEDDED_MODEL
        )


def test_the_feature_distance_is_nothing_between_equals_and_grows_with_blur():
    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    more = torch.nn.functional.avg_pool2d(blurred, 3, 1, 1)
    same, some, much = (figures.feature_distance(p, pixels) for p in (pixels, blurred, more))
    assert abs(same) < 1e-4 < some < much
    assert figures.psnr(pixels * 0 + 0.5, pixels * 0 + 0.6) == pytest.approx(20, abs=1e-3)
