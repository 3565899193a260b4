"""Rows of small pictures with a title at the left of each row, 1600 pixels wide."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from distill.study.report.figures import INCHES, NORMAL, SMALL, blank, save

LABEL, GAP, MARGIN, BELOW = 2.5, 0.08, 0.12, 0.24
"""Inches: titles, between pictures, around everything, and for the words beneath a picture."""
LETTER = 0.105
"""Inches: how wide an average letter of a title is."""
PER_LEGEND_ROW = 9


class Sheet:
    """Every place is as wide as the columns allow; pictures that are not square keep their aspect in it."""

    def __init__(self, titles: list[str], *, columns: int, legend: list[tuple[str, str]]):
        self.side = (INCHES - LABEL - 2 * MARGIN - GAP * (columns - 1)) / columns
        self._pitch = self.side + BELOW
        self._legend_inches = 0.3 * -(-len(legend) // PER_LEGEND_ROW) + 0.2 * bool(legend)
        self._height = MARGIN + len(titles) * self._pitch + self._legend_inches
        self.figure = blank(self._height)
        for row, title in enumerate(titles):
            lines = textwrap.wrap(title, int(LABEL / LETTER))
            self.figure.text(
                MARGIN / INCHES,
                self._bottom(row, self.side / 2),
                "\n".join(lines),
                va="center",
                fontsize=NORMAL if len(lines) < 6 else SMALL,
                linespacing=1.25,
            )
        patches = [Patch(facecolor=colour, edgecolor="#666666", label=name) for name, colour in legend]
        if patches:
            self.figure.legend(
                handles=patches, loc="lower center", ncols=PER_LEGEND_ROW, frameon=False, fontsize=NORMAL
            )

    def show(self, row: int, column: int, picture: np.ndarray, *, below: str = "") -> Axes:
        """Draw an RGB picture without smoothing, and words beneath it."""
        left = MARGIN + LABEL + column * (self.side + GAP)
        place = (left / INCHES, self._bottom(row, 0.0), self.side / INCHES, self.side / self._height)
        ax = self.figure.add_axes(place, label=f"{row} {column}")
        ax.imshow(picture, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(color="#888888", linewidth=0.6)
        ax.set_xlabel(below, fontsize=SMALL, labelpad=2)
        return ax

    def save(self, path: Path) -> Path:
        return save(self.figure, path)

    def _bottom(self, row: int, above: float) -> float:
        """The height `above` inches over the bottom of a row's pictures, as a share of the figure."""
        return (self._height - MARGIN - row * self._pitch - self.side + above) / self._height
