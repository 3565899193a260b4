"""Lines and markers of cells and of levels, in colours of `distill.show.palette`."""

CELLS: tuple[str, ...] = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#783c4b")
LEVELS: tuple[str, ...] = ("#0072b2", "#d55e00", "#000000", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#783c4b")
"""For the levels of a factor: what lies side by side is blue, vermilion and black."""
LINES: tuple[str, ...] = ("-", "--", ":")
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X", "*")


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
