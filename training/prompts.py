"""Prompts that the embedded image model is judged by. None was changed after its pictures were seen."""

from __future__ import annotations

from .places import PHRASES
from .scenes import Scenes, held_out

# 24 prompts of trained pairs of thing and place, for the count by eye and `docs/quality.webp`.
QUALITY = (
    "a red apple on grass", "a rocket in a starry sky", "a cat on wood", "a blue car in a city",
    "a sunflower in a meadow", "a penguin on water", "a yellow balloon in a cloudy sky", "a fox in a forest",
    "a hamburger on a white background", "a purple heart on sand", "a panda in front of autumn trees", "a house in the mountains",
    "a sailboat on water", "a soccer ball on grass", "a pumpkin on pebbles", "a ladybug on a cork board",
    "a small strawberry on a blue background", "a crown in front of a brick wall", "a dog at sunset", "a mushroom in a forest",
    "a green book on wood", "an elephant on rocks", "a large doughnut on a pink background", "a cactus on sand",
)  # fmt: skip
# Guidance and top-k are chosen on these alone.
TUNING = (
    "a lemon on pebbles", "a bear in the mountains", "a red fish on water", "a guitar on sand",
    "a star in a starry sky", "a pig on grass", "a birthday cake on wood", "a globe on a black background",
)  # fmt: skip


def unseen_pairs(scenes: Scenes) -> tuple[str, ...]:
    """Eight prompts whose pairs of thing and place were never trained on: every fifth thing, in the first of its places."""
    prompts = []
    for thing in range(2, len(scenes.things), 5):
        place = next(p for p in range(len(scenes.place_names)) if held_out(thing, p))
        prompts.append(thing_in_place(scenes.things[thing], scenes.place_names[place]))
    return tuple(prompts)


def thing_in_place(thing: str, place: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing} {PHRASES[place]}"
