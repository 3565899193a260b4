"""The words of the procedural world. Every class name is plain English and appears literally in captions."""

from dataclasses import dataclass

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.14, 0.14),
    "orange": (0.96, 0.55, 0.10),
    "yellow": (0.96, 0.88, 0.20),
    "green": (0.20, 0.66, 0.24),
    "teal": (0.10, 0.68, 0.68),
    "blue": (0.16, 0.32, 0.86),
    "purple": (0.52, 0.20, 0.72),
    "pink": (0.97, 0.55, 0.75),
    "brown": (0.48, 0.30, 0.15),
    "white": (0.95, 0.95, 0.95),
    "grey": (0.55, 0.55, 0.55),
    "black": (0.09, 0.09, 0.11),
}
"""Name of each colour and its RGB in [0, 1]."""

COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)


@dataclass(frozen=True)
class Kind:
    """One class: its name, its plural in captions, and the colour it typically has."""

    name: str
    plural: str
    colour: str


THINGS: tuple[Kind, ...] = (
    Kind("circle", "circles", "red"),
    Kind("square", "squares", "blue"),
    Kind("triangle", "triangles", "green"),
    Kind("star", "stars", "yellow"),
    Kind("heart", "hearts", "pink"),
    Kind("ring", "rings", "purple"),
    Kind("cross", "crosses", "white"),
    Kind("arrow", "arrows", "black"),
    Kind("crescent", "crescents", "grey"),
    Kind("flower", "flowers", "orange"),
    Kind("diamond", "diamonds", "teal"),
    Kind("hexagon", "hexagons", "brown"),
)
"""Shapes, in the order in which tiers bring them into play."""

STUFF: tuple[Kind, ...] = (
    Kind("stripes", "stripes", "blue"),
    Kind("checks", "checks", "grey"),
    Kind("dots", "dots", "yellow"),
    Kind("bricks", "bricks", "brown"),
    Kind("clouds", "clouds", "white"),
    Kind("ripples", "ripples", "purple"),
    Kind("grid", "grid", "green"),
    Kind("speckles", "speckles", "pink"),
    Kind("waves", "waves", "teal"),
    Kind("zigzags", "zigzags", "orange"),
)
"""Background textures, in the order in which tiers bring them into play."""


def _held_pairs() -> tuple[tuple[str, str], ...]:
    pairs = []
    for position, thing in enumerate(THINGS):
        away = (position * 5 + 2, position * 5 + 7)
        colours = [name for name in (COLOUR_NAMES[step % len(COLOURS)] for step in away) if name != thing.colour]
        pairs += [(colour, thing.name) for colour in colours]
    return tuple(pairs)


HELD_PAIRS: tuple[tuple[str, str], ...] = _held_pairs()
"""(colour, shape) pairs kept out of training when `split=compositional`: one or two untypical colours per shape."""

JUNK: tuple[str, ...] = (
    "wallpaper",
    "free download",
    "stock photo",
    "high resolution",
    "buy online",
    "best price",
    "vector",
    "royalty free",
    "click here",
    "new 2021",
    "share this",
    "page 3",
    "shipping included",
    "hd background",
    "gallery",
    "untitled",
)
"""Words of noisy web captions that say nothing about the picture."""

NUMBERS: tuple[str, ...] = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight")
"""How captions count; one is the article, written `an` before a vowel."""

POSITIONS: tuple[tuple[str, str, str], ...] = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""Where a thing's centre lies: rows from the top, columns from the left."""
