"""What the embedded image model is taught: scenes, and captions that are true of them."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training import places, sprites, stage, textures
from training.motion_data import Stage
from training.places import Places
from training.scenes import CELL, LEAST_CROP, SIZE, SIZES, UP_AND_DOWN, Scene, Scenes, Thing, held_out
from training.sprites import Sprites


@pytest.fixture(scope="module")
def drawing():
    """Red squares and blue discs, over black and white."""
    disc = np.hypot(*np.meshgrid(*(np.arange(128) - 63.5,) * 2)) < 64
    images = np.zeros((2, 128, 128, 4), np.uint8)
    images[0], images[1][disc] = (255, 0, 0, 255), (0, 0, 255, 255)
    things = sprites.Sprites(images, ["square", "owl"], ["red", ""], ["a", "b"])
    grounds = {"plain black": [np.zeros((250, 200, 3), np.uint8)], "grass": [np.full((SIZE, SIZE, 3), 250, np.uint8)]}
    return Scenes(things, places.Places(grounds))


def test_a_thing_is_drawn_where_and_as_large_as_the_scene_says(drawing):
    scene = Scene((Thing(0, 48, 8, 40, False),), "plain black", 0, (3, 7, SIZE), False, 1.0)
    picture = drawing.render(scene)
    expected = np.zeros((SIZE, SIZE, 3), np.uint8)
    expected[40:88, 8:56, 0] = 255
    np.testing.assert_array_equal(picture, expected)


def test_a_smaller_crop_fills_the_scene(drawing):
    """Brightness grows by one a pixel, so the crop's pixel p lies at p * SIZE / 80 of the scene."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3))
    scenes = Scenes(drawing.sprites, places.Places({"grass": [ramp]}))
    picture = scenes.render(Scene((), "grass", 0, (20, 10, 80), False, 1.0))
    expected = 20 + (np.arange(SIZE) + 0.5) * 80 / SIZE - 0.5
    assert np.abs(picture - expected[None, :, None])[:, 4:-4].max() <= 1


def test_crops_of_photographs_differ_in_size_and_drawn_grounds_keep_theirs(drawing):
    grounds = {name: [np.zeros((230, 200, 3), np.uint8)] for name in ("rocks", "wood", "plain red")}
    scenes, rng = Scenes(drawing.sprites, places.Places(grounds)), np.random.default_rng(0)
    sides = {name: set() for name in grounds}
    for name in 300 * list(grounds):
        left, top, side = scenes.on_ground(rng, (), name).crop
        assert left + side <= 200 and top + side <= 230
        sides[name].add(side)
    assert min(sides["rocks"]) < LEAST_CROP + 5 and max(sides["rocks"]) == SIZE and len(sides["rocks"]) > 40
    assert sides["wood"] == sides["plain red"] == {SIZE}


@pytest.mark.parametrize("kind", [Sprites, Places, Stage])
def test_pictures_whose_writing_is_cut_short_are_not_there(kind, tmp_path, monkeypatch):
    def cut_short(path, **arrays):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    empty = np.zeros((0, 8, 8, 4), np.uint8)
    made = {
        Sprites: lambda: Sprites(empty, [], [], []),
        Places: lambda: Places({}),
        Stage: lambda: Stage([], empty, [], []),
    }
    monkeypatch.setattr(np, "savez_compressed", cut_short)
    with pytest.raises(KeyboardInterrupt):
        made[kind]().save(tmp_path / "pictures.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_turned_part_lies_on_its_side(tmp_path):
    rows = np.zeros((60, 90, 3), np.uint8)
    rows[:30] = 255
    Image.fromarray(rows).save(tmp_path / "wall.png")
    upright = places.cut(places.Part("", "wall.png"), tmp_path)
    turned = places.cut(places.Part("", "wall.png", turned=True), tmp_path)
    np.testing.assert_array_equal(turned, np.rot90(upright))


def test_cells_without_a_thing_show_the_bare_ground(drawing):
    rng = np.random.default_rng(3)
    for _ in range(20):
        scene = drawing.draw(rng)
        covered = drawing.covered(scene).repeat(8, 0).repeat(8, 1)
        changed = (drawing.render(scene) != drawing.render(replace(scene, things=()))).any(-1)
        assert (changed & ~covered).mean() < 0.02 and covered[changed].mean() > 0.9


def test_what_is_transparent_shows_the_ground(drawing):
    picture = drawing.render(Scene((Thing(1, 96, 16, 16, False),), "grass", 0, (0, 0, SIZE), False, 1.0))
    assert (picture[16, 16] == 250).all() and (picture[64, 64] == (0, 0, 255)).all()


def test_things_lie_on_the_grid_of_codes_and_nowhere_on_the_edge(drawing):
    rng, columns = np.random.default_rng(0), {size: set() for size in SIZES.values()}
    for scene in (drawing.draw(rng) for _ in range(1000)):
        covered = drawing.covered(scene)
        assert covered.any() and not (covered[[0, -1]].any() or covered[:, [0, -1]].any())
        for thing in scene.things:
            assert thing.left % 8 == thing.top % 8 == 0
            assert abs(thing.top + thing.size / 2 - SIZE / 2) <= UP_AND_DOWN + CELL / 2
            columns[thing.size].add(thing.left)
    # Every other column inside a margin of one code; two things, of the middle size, have columns of their own.
    whole = {size: set(range(8, SIZE - size, 16)) for size in SIZES.values()}
    assert columns == whole | {SIZES[""]: whole[SIZES[""]] | {8, 16, 96, 104}}


def test_captions_say_nothing_false(drawing):
    rng = np.random.default_rng(0)
    for scene in (drawing.draw(rng) for _ in range(300)):
        words = drawing.caption(scene, rng)
        if len(scene.things) == 1:
            middle = scene.things[0].left + scene.things[0].size / 2
            assert ("left" not in words or middle < SIZE / 2) and ("right" not in words or middle > SIZE / 2)
            assert "in the middle" not in words or abs(middle - SIZE / 2) <= CELL
            assert "small" not in words or scene.things[0].size == SIZES["small"]
            assert "large" not in words or scene.things[0].size == SIZES["large"]
        assert ("red" in words) <= any(thing.sprite == 0 for thing in scene.things)
        assert ("grass" in words) <= (scene.place == "grass")
        assert "a owl" not in words and "an square" not in words


def test_things_come_as_often_as_their_weights_say(drawing):
    weighted = Scenes(drawing.sprites, drawing.places, {"owl": 9.0, "square": 3.0})
    rng = np.random.default_rng(0)
    drawn = [thing.sprite for scene in (weighted.draw(rng) for _ in range(1000)) for thing in scene.things]
    assert 0.7 < np.mean(drawn) < 0.8  # owls are number 1


def test_held_out_pairs_are_drawn_on_demand_only():
    things = sprites.Sprites(
        np.zeros((32, 128, 128, 4), np.uint8), [f"thing {i}" for i in range(32)], [""] * 32, [""] * 32
    )
    grounds = {place: [np.zeros((SIZE, SIZE, 3), np.uint8)] for place in list(places.PHRASES)[:16]}
    drawing, rng = Scenes(things, places.Places(grounds)), np.random.default_rng(0)
    for unseen in (False, True):
        for scene in (drawing.draw(rng, unseen) for _ in range(300)):
            place = drawing.place_names.index(scene.place)
            assert all(held_out(thing.sprite, place) == unseen for thing in scene.things)


def test_every_thing_misses_a_place_and_every_place_some_things():
    names = [row["name"] for row in csv.DictReader(sprites.THINGS.open())]
    pairs = np.array([[held_out(t, p) for p in range(len(places.PHRASES))] for t in range(len(names))])
    assert pairs.sum(1).min() >= 1 and pairs.sum(1).max() <= 2
    assert pairs.sum(0).min() > 0.04 * len(names)


@pytest.mark.parametrize("name", ["starry sky", "meadow"])
def test_stars_and_flowers_are_large_enough_for_codes(name):
    """A code keeps the lowest waves of its 8 x 8 px: a mean over 4 x 4 px has to show them."""
    ground = textures.DRAWN[name](np.random.default_rng(0), 256).clip(0, 1).mean(-1)
    seen = ground.reshape(64, 4, 64, 4).mean((1, 3)).reshape(32, 2, 32, 2).max((1, 3))
    assert 0.05 < (seen > np.median(ground) + 0.3).mean() < 0.5


@pytest.mark.parametrize("name", textures.DRAWN)
def test_no_two_drawn_grounds_are_alike(name):
    rng = np.random.default_rng(0)
    first, second = (textures.DRAWN[name](rng, 128) for _ in range(2))
    assert first.shape == (128, 128, 3) and np.abs(first - second).mean() > 0.01


def test_the_table_of_sources_names_every_photograph_with_a_licence_that_stays_permissive():
    with open("training/sources.csv") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    for part in places.PARTS:
        row = table["skimage/data/" + part.file.removeprefix("skimage/") if "skimage" in part.file else part.file]
        assert part.place in row["shows"].split("; ")
    for part in stage.PHOTOGRAPHS:
        assert part.file in table
    assert {row["licence"] for row in table.values()} <= {"CC0-1.0", "CC-BY-4.0", "MIT", "OFL-1.1", "public domain"}
