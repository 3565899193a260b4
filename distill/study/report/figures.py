"""What all figures of a report share: their width, their letters, and how they reach the folder."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill.train.journal import whole

INCHES = 16.0
"""1600 pixels: sharp in a page 1150 pixels wide."""
SMALL, NORMAL, LARGE = 11, 13, 15


def blank(height: float) -> Figure:
    """A white figure as wide as all figures and `height` inches high."""
    figure = Figure(figsize=(INCHES, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(ax: Axes, *, grid: str) -> None:
    """Only the left and the lower border, and faint lines across `grid` (x or y) behind what is drawn."""
    ax.tick_params(labelsize=SMALL, length=3)
    ax.grid(axis=grid, color="#dddddd", lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all; equal figures give equal bytes."""
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", metadata={"Software": None})
    return path
