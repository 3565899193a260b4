"""The contact sheet: rows of pictures of any aspect, titles, scales and a legend, as one PNG or the pages of a PDF."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from distill.show.colours import scaled, swatch
from distill.show.content import Content, Frame, Scale, as_bytes
from distill.show.layout import (
    MOST,
    PRINTED,
    Block,
    Line,
    Measures,
    blocks_of,
    fitting_height,
    heading_height,
    keys_of,
    pages_of,
)
from distill.show.letters import LARGE, NORMAL, SMALL, Length, Letters, own_style
from distill.show.pictures import Picture
from distill.train.journal import whole

MOST_PIXELS = 200_000_000
"""Of a page."""
MOST_OF_A_PICTURE = 30_000_000
"""Of one picture's place on it: its colours are mixed in floating point."""
MOST_TOGETHER = 400_000_000
"""Of all that is shown: every page of a book is held until the last is drawn."""
LONGEST_SIDE = 2**16 - 1
"""Of what is drawn in memory, pixels."""
SUFFIXES = (".png", ".pdf")


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The size of a sheet and of the pictures on it."""

    width: float = 16.0
    """Inches."""
    height: float | None = None
    """Of every picture, inches, and less of one that is wider than the sheet; when not set, so that lines are full."""
    dpi: int | None = None
    """Pixels in an inch; 100 for PNG and 200 for PDF when not set."""

    def __post_init__(self) -> None:
        if not 4 <= self.width <= 100:
            raise ValueError(f"width={self.width:g}: expected 4 to 100 inches")
        if self.height is not None and not 0.25 <= self.height <= 100:
            raise ValueError(f"height={self.height:g}: expected 0.25 to 100 inches")
        if self.dpi is not None and not 20 <= self.dpi <= 1200:
            raise ValueError(f"dpi={self.dpi}: expected 20 to 1200")

    def measures(self, file: Path) -> Measures:
        dpi = self.dpi or (200 if file.suffix.lower() == ".pdf" else 100)
        return Measures(width=round(self.width * dpi), dpi=dpi)

    def tallest(self, file: Path) -> int:
        """The most that a picture's height can be, pixels."""
        return self.measures(file).inches(MOST if self.height is None else self.height)

    def frame(self, file: Path, pictures: Sequence[Picture]) -> Frame:
        """The place of every picture, for whoever makes the content."""
        measures = self.measures(file)
        if self.height is not None:
            return Frame(height=measures.inches(self.height), widest=measures.room)
        aspects = [picture.pixels.shape[-1] / picture.pixels.shape[-2] for picture in pictures]
        return Frame(height=fitting_height(aspects, measures), widest=measures.room)


def check_room(frame: Frame, pictures: Sequence[Picture], *, num_rows: int) -> None:
    """Raise ValueError for more pixels than memory should hold, before any is made; rows may turn out to be more."""
    pixels = [math.prod(frame.size_of(picture)) for picture in pictures]
    if max(pixels) > MOST_OF_A_PICTURE or num_rows * sum(pixels) > MOST_TOGETHER:
        raise ValueError(
            f"pictures {frame.height} pixels high are too much to be drawn; show fewer (num_pictures), or smaller ones "
            "(height, dpi)"
        )


def check_file(file: Path) -> None:
    """Raise ValueError for a place where no sheet can be written."""
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file}: a sheet is written as {' or '.join(SUFFIXES)}")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name the file to write")
    blocked = [parent for parent in file.parents if parent.exists() and not parent.is_dir()]
    if blocked:
        raise ValueError(f"{file} cannot be written: {blocked[0]} is a file, not a folder")


@own_style()
def draw(content: Content, file: Path, paper: Paper) -> Path:
    """Write the sheet, whole or not at all; equal content gives equal bytes, whatever a user's matplotlibrc says.

    Raises ValueError for a page larger than can be drawn.
    """
    check_file(file)
    measures = paper.measures(file)
    letters = Letters(measures.dpi)
    printed = file.suffix.lower() == ".pdf"
    distance = measures.inches(0.2)
    around = heading_height(content, measures, letters)[2] + keys_of(content, measures, letters)[1]
    room = round(measures.width / PRINTED - around - 2 * measures.margin) if printed else None
    pages = pages_of(blocks_of(content, measures, letters), distance=distance, room=room)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = (_page(content, page, measures, letters, distance=distance) for page in pages)
    with whole(file) as unfinished:
        if not printed:
            next(drawn).savefig(unfinished, format="png", dpi=measures.dpi, metadata={"Software": None})
            return file
        with PdfPages(unfinished, metadata={"CreationDate": None, "Title": content.heading}) as book:
            for figure in drawn:
                book.savefig(figure, dpi=measures.dpi)
    return file


def _page(content: Content, blocks: Sequence[Block], measures: Measures, letters: Letters, *, distance: int) -> Figure:
    heading, note, top = heading_height(content, measures, letters)
    keys, legend = keys_of(content, measures, letters)
    # Between blocks, and before a legend.
    distances = distance * (len(blocks) - 1 + bool(keys))
    height = 2 * measures.margin + round(top + legend) + sum(block.height for block in blocks) + distances
    if height * measures.width > MOST_PIXELS or max(height, measures.width) > LONGEST_SIDE:
        raise ValueError(
            f"the sheet would have {measures.width}x{height} pixels; show fewer pictures (num_pictures), or smaller "
            "ones (height, dpi), or write a PDF, which has pages"
        )
    page = _Page(measures, letters, height)
    y = measures.margin
    for lines, points, bold in ((heading, LARGE, True), (note, NORMAL, False)):
        y = page.text(lines, measures.margin, y, points, bold=bold, colour="black" if bold else "#444444")
    y = measures.margin + round(top)
    for block in blocks:
        for line in block.lines:
            page.row(line, block, y)
            y += line.height + line.below
        y += distance
    for key in keys:
        page.key(key.name, key.colour, key.x, y + key.y)
    return page.figure


class _Page:
    """A white page, on which things are drawn by their place in pixels from its top left corner."""

    def __init__(self, measures: Measures, letters: Letters, height: int):
        self.measures, self.letters, self.height = measures, letters, height
        inches = (measures.width / measures.dpi, height / measures.dpi)
        self.figure = Figure(figsize=inches, dpi=measures.dpi, facecolor="white")
        FigureCanvasAgg(self.figure)

    def text(
        self,
        lines: Sequence[str],
        x: int | float,
        y: int | float,
        points: float,
        *,
        bold: bool = False,
        colour: str = "black",
    ) -> Length:
        """Lines beneath each other, the first one's top at y. Returns where the next would begin."""
        for line in lines:
            y += self.letters.line(points)
            self._words(line, x, y - 0.28 * self.letters.line(points), points, bold=bold, colour=colour)
        return y

    def row(self, line: Line, block: Block, y: int) -> None:
        """Title and scale at the left, then the pictures, with their words beneath."""
        measures, letters = self.measures, self.letters
        scale = measures.bar[1] + 1.6 * letters.line(SMALL) if line.row.scale else 0
        start = y + (line.height - len(line.title) * letters.line(line.points) - scale) / 2
        end = self.text(line.title, measures.margin, start, line.points)
        if line.row.scale:
            self._scale(line.row.scale, end + 0.3 * letters.line(SMALL))
        x = measures.margin + measures.label
        for panel in line.row.panels[block.start : block.stop]:
            height, width = panel.rgb.shape[:2]
            self._image(panel.rgb, x, y + (line.height - height) // 2)
            if panel.below:
                said = letters.shortened(panel.below, SMALL, width=width)
                self.text(
                    [said], x + (width - letters.width(said, SMALL)) / 2, y + line.height, SMALL, colour="#444444"
                )
            x += width + measures.gap

    def key(self, name: str, colour: tuple[float, float, float], x: Length, y: Length) -> None:
        side = self.measures.inches(0.2)
        middle = y + (1.25 * self.letters.line(NORMAL) - side) / 2
        place = (x / self.measures.width, 1 - (middle + side) / self.height)
        size = (side / self.measures.width, side / self.height)
        self.figure.add_artist(Rectangle(place, *size, facecolor=colour, edgecolor="#666666", linewidth=0.6))
        self.text([name], x + 1.4 * side, y + 0.12 * self.letters.line(NORMAL), NORMAL)

    def _scale(self, scale: Scale, y: Length) -> None:
        width, height = self.measures.bar
        ramp = swatch(scaled(np.linspace(0, 1, width)[None], low=0.0, high=1.0), opacity=scale.opacity)
        self._image(np.repeat(as_bytes(ramp), height, 0), self.measures.margin, round(y))
        last = self.measures.margin + width - self.letters.width(scale.ends[1], SMALL)
        for text, x in zip(scale.ends, (self.measures.margin, last), strict=True):
            self.text([text], x, round(y) + height, SMALL, colour="#444444")

    def _image(self, rgb: np.ndarray, x: int, y: int) -> None:
        """Pixel by pixel: one of the array is one of the page."""
        height, width = rgb.shape[:2]
        place = (x / self.measures.width, 1 - (y + height) / self.height)
        ax = self.figure.add_axes((*place, width / self.measures.width, height / self.height), label=f"{x} {y}")
        ax.imshow(rgb, interpolation="none", aspect="auto")
        ax.set_axis_off()

    def _words(self, text: str, x: Length, baseline: Length, points: float, *, bold: bool, colour: str) -> None:
        self.figure.text(
            x / self.measures.width,
            1 - baseline / self.height,
            text,
            fontsize=points,
            fontweight="bold" if bold else "normal",
            color=colour,
            va="baseline",
            parse_math=False,
        )
