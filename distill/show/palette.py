"""Colours of classes that people with and without colour vision deficiency tell apart.

The first six are Okabe and Ito's. The others were chosen one after the other, each the sRGB colour farthest (in OKLab,
the worst of normal vision and simulated protanopia and deuteranopia) from all before it, things deep and stuff pale:
deep ones lie at least 0.11 apart, pale ones at least 0.04. A legend with the names goes with every picture.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_hex, to_rgb

from distill.show.vision import DEUTERANOPIA, PROTANOPIA, oklab, seen_with

DEEP: tuple[str, ...] = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#3c0000",
    "#000087",
    "#783c4b",
    "#0000ff",
    "#a569ff",
    "#4b2db4",
)
"""For things."""

PALE: tuple[str, ...] = (
    "#e1fff0",
    "#87e1a5",
    "#c3d2ff",
    "#fff087",
    "#96c3c3",
    "#ffc369",
    "#f0d2d2",
    "#f0a578",
    "#b4f0ff",
    "#d2f0b4",
    "#96c3ff",
    "#ff96a5",
)
"""For stuff."""

IGNORED = "#ffffff"
"""Of pixels that do not count."""

STEP = 1 / 15
"""Between the levels of red, green and blue that further colours are chosen from."""


def class_colours(num_classes: int, num_things: int | None, shown: Sequence[int]) -> dict[int, str]:
    """A colour for every class in `shown` (most important first).

    Classes that fit the palette keep their colour in every picture; of larger sets only the first of `shown` differ.
    """
    things = num_classes if num_things is None else num_things
    if things <= len(DEEP) and num_classes - things <= len(PALE):
        return {k: DEEP[k] if k < things else PALE[k - things] for k in shown}
    deep, pale = [k for k in shown if k < things], [k for k in shown if k >= things]
    return {k: DEEP[n % len(DEEP)] for n, k in enumerate(deep)} | {k: PALE[n % len(PALE)] for n, k in enumerate(pale)}


def distinct_colours(num: int) -> list[str]:
    """Colours for classes that are not known to be things or stuff, by their place in the list.

    The palette above, deep ones first, and then one colour after the other chosen by the same rule, so that a longer
    list never changes the colours of a shorter one. Beyond a few dozen only the legend and the place tell classes
    apart.
    """
    return [*DEEP, *PALE, *_further(max(0, num - len(DEEP) - len(PALE)))][:num]


@cache
def _further(num: int) -> tuple[str, ...]:
    levels = np.arange(0, 1 + STEP / 2, STEP)
    candidates_C3 = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    places = _as_seen(candidates_C3)
    nearest_C = np.min([_distances(places, _as_seen(np.array([to_rgb(each)]))) for each in (*DEEP, *PALE, IGNORED)], 0)
    chosen = []
    for _ in range(num):
        best = int(nearest_C.argmax())
        chosen.append(to_hex(candidates_C3[best]))
        nearest_C = np.minimum(nearest_C, _distances(places, places[:, best : best + 1]))
    return tuple(chosen)


def _as_seen(colours_C3: Float[np.ndarray, "C 3"]) -> Float[np.ndarray, "eyes C 3"]:
    """In OKLab, by normal vision, protanopia and deuteranopia."""
    eyes = (colours_C3, seen_with(colours_C3, PROTANOPIA), seen_with(colours_C3, DEUTERANOPIA))
    return np.stack([oklab(seen) for seen in eyes])


def _distances(places: np.ndarray, one: np.ndarray) -> Float[np.ndarray, " C"]:
    """By the eye that tells them apart least."""
    return np.linalg.norm(places - one, axis=-1).min(0)
