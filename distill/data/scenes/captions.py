"""Three captions per picture, written from its parameters.

`alt` names some of what is there among web junk, `short` names the things and the main texture in one clause,
`detailed` gives counts, colours, places and every background texture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distill.config import Granularity
from distill.data.scenes.hashing import Draws
from distill.data.scenes.sampling import Parameters
from distill.data.scenes.vocabulary import COLOUR_NAMES, JUNK, NUMBERS, POSITIONS, STUFF, THINGS

_NUM_CHANCES = 24
_LEADS = ("", "", "a photo of ", "a picture of ", "an image of ")
_THING_NAMES = tuple(kind.name for kind in THINGS)
_THING_PLURALS = tuple(kind.plural for kind in THINGS)
_STUFF_NAMES = tuple(kind.name for kind in STUFF)


@dataclass(frozen=True, slots=True)
class Content:
    """What one picture shows: (kind, colour, place) of each thing, (kind, colour) of each region, and the
    sides of the regions when there are two, the larger region first."""

    things: list[tuple[int, int, str]]
    stuff: list[tuple[int, int]]
    sides: tuple[str, str]


def write(
    parameters: Parameters, granularity: Granularity, *, indices: np.ndarray, world_seed: int, split: str
) -> list[str]:
    """Captions of a batch of pictures; the same picture always gets the same three."""
    chances = Draws(world_seed, split, indices)(f"caption {granularity}", _NUM_CHANCES).tolist()
    speak = _WRITERS[granularity]
    return [speak(content, chance) for content, chance in zip(contents(parameters), chances, strict=True)]


def contents(parameters: Parameters) -> list[Content]:
    """Plain Python facts of every picture of the batch."""
    things, ground = parameters.things, parameters.ground
    counts = things.present.sum(1).tolist()
    kinds, colours = things.kind.tolist(), things.colour.tolist()
    places = ((things.centre > 0.42).long() + (things.centre > 0.58).long()).tolist()
    stuff, tints, divided = ground.kind.tolist(), ground.colour.tolist(), ground.split.tolist()
    normals = ground.border_normal.tolist()
    # The bow shifts the border by a sixth of its height on average.
    leans = (ground.border_offset + ground.border_bend * 0.17).tolist()
    found = []
    for row, count in enumerate(counts):
        seen = [
            (kinds[row][slot], colours[row][slot], POSITIONS[places[row][slot][1]][places[row][slot][0]])
            for slot in range(count)
        ]
        regions, sides = [(stuff[row][0], tints[row][0])], ("", "")
        if divided[row]:
            regions.append((stuff[row][1], tints[row][1]))
            sides = _sides(*normals[row])
            if leans[row] < 0:
                regions, sides = regions[::-1], sides[::-1]
        found.append(Content(seen, regions, sides))
    return found


def _sides(normal_x: float, normal_y: float) -> tuple[str, str]:
    """Where region 0 and region 1 lie; the border's normal points into region 1 and y runs down."""
    if abs(normal_x) > abs(normal_y):
        return ("left", "right") if normal_x > 0 else ("right", "left")
    return ("top", "bottom") if normal_y > 0 else ("bottom", "top")


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _counted(count: int, kind: int, colour: str = "") -> str:
    """`a red circle`, `an arrow`, `two circles`."""
    words = f"{colour} " if colour else ""
    if count > 1:
        return f"{NUMBERS[count]} {words}{_THING_PLURALS[kind]}"
    words += _THING_NAMES[kind]
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def alt(content: Content, chance: list[float]) -> str:
    """Each thing with probability 0.6, each texture with 0.35, at least one of them, between junk words."""
    named = [_THING_NAMES[kind] for (kind, _, _), draw in zip(content.things, chance, strict=False) if draw < 0.6]
    named += [_STUFF_NAMES[kind] for (kind, _), draw in zip(content.stuff, chance[8:], strict=False) if draw < 0.35]
    if not named:
        named = [_THING_NAMES[content.things[-1][0]]]
    named = list(dict.fromkeys(named))
    if chance[10] < 0.5:
        named.reverse()
    before = [f"img_{int(chance[11] * 10000):04d}.jpg"] if chance[12] < 0.4 else []
    if chance[13] < 0.4:
        before.append(JUNK[int(chance[14] * len(JUNK))])
    after = [JUNK[int(chance[15] * len(JUNK))]] if chance[16] < 0.6 else []
    return " ".join(before + named + after)


def short(content: Content, chance: list[float]) -> str:
    """How many of which shape, and the main texture."""
    counts: dict[int, int] = {}
    for kind, _, _ in reversed(content.things):
        counts[kind] = counts.get(kind, 0) + 1
    things = _join([_counted(count, kind) for kind, count in counts.items()])
    return f"{_LEADS[int(chance[0] * len(_LEADS))]}{things} on {_STUFF_NAMES[content.stuff[0][0]]}"


def detailed(content: Content, chance: list[float]) -> str:
    """Counts, colours and places of all things, nearest first, then every texture with its colour and side."""
    groups: dict[tuple[int, int], list[str]] = {}
    for kind, colour, place in reversed(content.things):
        groups.setdefault((kind, colour), []).append(place)
    things = [
        f"{_counted(len(places), kind, COLOUR_NAMES[colour])} at the {_join(list(dict.fromkeys(places)))}"
        for (kind, colour), places in groups.items()
    ]
    textures = [f"{COLOUR_NAMES[colour]} {_STUFF_NAMES[kind]}" for kind, colour in content.stuff]
    if len(textures) == 2:
        textures = [f"{texture} on the {side}" for texture, side in zip(textures, content.sides, strict=True)]
    return f"{_LEADS[int(chance[0] * len(_LEADS))]}{', '.join(things)}, with a background of {_join(textures)}"


_WRITERS: dict[Granularity, Callable[[Content, list[float]], str]] = {
    "alt": alt,
    "short": short,
    "detailed": detailed,
}
