"""The count of whole things: it finds what was composed, misses what was cut off, and reads prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcsjd_core import EMBEDDED_MODEL
from training.patch_encoder import PatchEncoder
from training.places import PHRASES, Places
from training.prompts import TUNING, thing_in_place, unseen_pairs
from training.scenes import Scenes, held_out
from training.sprites import Sprites
from training.whole_things import NEAR, WHOLE, depictions, likeness, prompts_of, thing_in


@pytest.fixture(scope="module")
def scenes():
    """Three kinds of blob, one of them in two colours, over noise."""
    rng = np.random.default_rng(0)
    distance = np.hypot(*np.meshgrid(*(np.arange(128) - 63.5,) * 2))
    images = rng.integers(0, 256, (4, 8, 8, 4), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    images[..., 3] = 255 * (distance < 60)
    things = Sprites(images, ["red apple", "heart", "heart", "owl"], ["", "red", "blue", ""], ["a"] * 4)
    return Scenes(things, Places({"plain blue": [rng.integers(0, 256, (220, 220, 3), dtype=np.uint8)]}))


@pytest.fixture(scope="module")
def encoder():
    return PatchEncoder(load_file(EMBEDDED_MODEL / "vqgan.safetensors")["quantize.embedding.weight"].float())


@pytest.fixture(scope="module")
def near(encoder):
    return torch.cdist(encoder.centres, encoder.centres) < NEAR


def codes_of(picture: np.ndarray, encoder: PatchEncoder) -> torch.Tensor:
    return encoder.encode(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)[0]


def scene_with(scenes: Scenes, sprite: int):
    """A scene of one thing of this sprite, 72 px large."""
    scene = scenes.draw(np.random.default_rng(5))
    return replace(scene, things=(replace(scene.things[0], sprite=sprite, size=72, left=24, top=40),))


@pytest.mark.parametrize(
    ("prompt", "sprite"), [("a red apple", 0), ("a red heart", 1), ("a blue heart", 2), ("an owl", 3)]
)
def test_a_composed_thing_is_like_its_own_depiction_and_no_other(scenes, encoder, near, prompt, sprite):
    drawn = codes_of(scenes.render(scene_with(scenes, sprite)), encoder)
    for other in ("a red apple", "a red heart", "a blue heart", "an owl"):
        found = likeness(drawn, depictions(f"{other} on a blue background", scenes, encoder), near)
        assert found == 1 if other == prompt else found < WHOLE


def test_a_thing_of_any_colour_is_right_where_the_prompt_names_none(scenes, encoder, near):
    shown = depictions("a heart on a blue background", scenes, encoder)
    for sprite in (1, 2):
        assert likeness(codes_of(scenes.render(scene_with(scenes, sprite)), encoder), shown, near) == 1


def test_half_a_thing_is_not_whole(scenes, encoder, near):
    scene = scene_with(scenes, 3)
    picture, bare = scenes.render(scene), scenes.render(replace(scene, things=()))
    picture[76:] = bare[76:]
    found = likeness(codes_of(picture, encoder), depictions("an owl", scenes, encoder), near)
    assert 0.3 < found < WHOLE


def test_every_thing_is_asked_for_in_places_that_it_was_trained_in(scenes):
    things = Sprites(scenes.sprites.images[:1].repeat(32, 0), [f"thing {k}" for k in range(32)], [""] * 32, ["a"] * 32)
    grounds = Places({place: [np.zeros((192, 192, 3), np.uint8)] for place in PHRASES})
    many = Scenes(things, grounds)
    asked = prompts_of("things", many, 12)
    assert list(asked) == many.things
    places = [name for name in many.place_names if not name.startswith("plain ")]
    for number, prompts in enumerate(asked.values()):
        trained = {
            thing_in_place(many.things[number], places[p]) for p in range(len(places)) if not held_out(number, p)
        }
        assert len(set(prompts)) == 12 and set(prompts) <= trained
    assert not set().union(*asked.values()) & set(unseen_pairs(many))
    assert len(prompts_of("things", many, 40)["thing 0"]) == 40


def test_tuning_prompts_are_asked_for_in_every_size(scenes):
    asked = prompts_of("sizes", scenes, 2)
    assert len(asked) == 3 * len(TUNING) and set(TUNING) <= set(asked)
    assert asked["a small lemon on pebbles"] == 2 * ["a small lemon on pebbles"] and "a large lemon on pebbles" in asked


def test_the_colour_of_a_ground_is_not_the_things(scenes):
    assert thing_in("a small heart on a blue background", scenes) == ("heart", "")
    assert thing_in("a large blue heart on a blue background", scenes) == ("heart", "blue")
    assert thing_in("red apple", scenes) == ("red apple", "")
