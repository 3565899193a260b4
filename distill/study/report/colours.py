"""Colours that people with and without colour vision deficiency tell apart.

The first six are Okabe and Ito's. The others were chosen one after the other, each the sRGB colour farthest (in OKLab,
the worst of normal vision and simulated protanopia and deuteranopia) from all before it, things deep and stuff pale:
deep ones lie at least 0.11 apart, pale ones at least 0.04. A legend with the names goes with every picture.
"""

from collections.abc import Sequence

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

CELLS: tuple[str, ...] = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#783c4b")
LEVELS: tuple[str, ...] = ("#0072b2", "#d55e00", "#000000", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#783c4b")
"""For the levels of a factor: what lies side by side is blue, vermilion and black."""
LINES: tuple[str, ...] = ("-", "--", ":")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X", "*")
IGNORED = "#ffffff"


def class_colours(num_classes: int, num_things: int | None, shown: Sequence[int]) -> dict[int, str]:
    """A colour for every class in `shown` (most important first).

    Classes that fit the palette keep their colour in every study; of larger sets only the first of `shown` differ.
    """
    things = num_classes if num_things is None else num_things
    if things <= len(DEEP) and num_classes - things <= len(PALE):
        return {k: DEEP[k] if k < things else PALE[k - things] for k in shown}
    deep, pale = [k for k in shown if k < things], [k for k in shown if k >= things]
    return {k: DEEP[n % len(DEEP)] for n, k in enumerate(deep)} | {k: PALE[n % len(PALE)] for n, k in enumerate(pale)}


def cell_style(number: int) -> dict[str, str]:
    """matplotlib's colour, line and marker of the study's cell with this number: at least two of them differ."""
    return {
        "color": CELLS[number % len(CELLS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def level_style(colour: int, dash: int) -> dict[str, str]:
    """matplotlib's colour, line and marker of two levels: equal levels look equal wherever they are drawn."""
    return {
        "color": LEVELS[colour % len(LEVELS)],
        "linestyle": LINES[dash % len(LINES)],
        "marker": MARKERS[(colour + dash) % len(MARKERS)],
    }
