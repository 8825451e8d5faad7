"""Street scenes for the demonstration: what stands where, and a drawing of it.

A seed always gives the same scene, so the annotations of a sample image fit its drawing.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from PIL import Image as Pillow
from PIL import ImageDraw

WIDTH = 640
HEIGHT = 480
HORIZON = 250

#: Class name to the fill of its sign.
SIGNS = {
    "stop": (200, 30, 40),
    "yield": (235, 200, 40),
    "crossing": (30, 90, 190),
    "speed limit": (245, 245, 245),
}


class Sign(NamedTuple):
    """One sign: its class, its upper left corner and its side, in pixels."""

    name: str
    x: int
    y: int
    side: int


class Scene(NamedTuple):
    """What stands in one picture, in pixels from its upper left corner."""

    night: bool
    signs: tuple[Sign, ...]
    road: tuple[tuple[int, int], ...]
    lane: tuple[tuple[int, int], ...]
    lamp: tuple[int, int]


def scene_of(seed: str) -> Scene:
    """The scene of a seed; a seed that contains `night` is dark."""
    # The order of the draws decides what a seed gives.
    chance = random.Random(seed)

    signs: list[Sign] = []
    for slot in range(chance.randint(1, 3)):
        side = chance.randint(40, 90)
        name = chance.choice(sorted(SIGNS))
        x = 40 + slot * 190 + chance.randint(0, 60)
        y = chance.randint(60, 180)
        signs.append(Sign(name, x, y, side))

    vanish = chance.randint(280, 360)
    road = ((vanish - 20, HORIZON), (vanish + 20, HORIZON), (600, HEIGHT), (40, HEIGHT))
    lane = ((vanish, HORIZON), ((vanish + 320) // 2, 350), (320, HEIGHT - 1))
    lamp = (chance.randint(10, 630), chance.randint(20, 60))

    return Scene("night" in seed, tuple(signs), road, lane, lamp)


def paint(seed: str) -> Pillow.Image:
    """A drawing of the scene of a seed."""
    scene = scene_of(seed)
    if scene.night:
        sky = (18, 22, 48)
        ground = (22, 30, 26)
        road = (40, 40, 44)
    else:
        sky = (150, 190, 225)
        ground = (110, 140, 90)
        road = (90, 90, 95)

    picture = Pillow.new("RGB", (WIDTH, HEIGHT), sky)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=ground)
    draw.polygon(scene.road, fill=road)
    draw.line(scene.lane, fill=(235, 235, 220), width=5)

    lamp_x, lamp_y = scene.lamp
    draw.ellipse((lamp_x - 8, lamp_y - 8, lamp_x + 8, lamp_y + 8), fill=(255, 240, 190))

    for sign in scene.signs:
        _paint_sign(draw, sign)

    return picture


def _paint_sign(draw: ImageDraw.ImageDraw, sign: Sign) -> None:
    middle = sign.x + sign.side // 2
    bottom = sign.y + sign.side
    # The pole.
    draw.line((middle, bottom, middle, bottom + 90), fill=(120, 120, 125), width=6)

    box = (sign.x, sign.y, sign.x + sign.side, bottom)
    fill = SIGNS[sign.name]
    if sign.name == "stop":
        circle = (middle, sign.y + sign.side // 2, sign.side // 2)
        draw.regular_polygon(circle, 8, rotation=22, fill=fill)
    elif sign.name == "yield":
        draw.polygon(((sign.x, sign.y), (sign.x + sign.side, sign.y), (middle, bottom)), fill=fill)
    elif sign.name == "crossing":
        draw.rectangle(box, fill=fill)
    else:
        draw.ellipse(box, fill=fill, outline=(200, 30, 40), width=6)
