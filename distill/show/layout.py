"""Where everything on a contact sheet lies. Measures are pixels, y downwards from the top of a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.show.content import Content, Row
from distill.show.letters import LARGE, NORMAL, SMALL, Length, Letters

PRINTED = 2**0.5
"""Width over height of a printed page that lies on its side."""

LEAST, MOST = 1.5, 3.2
"""Inches: heights of pictures between which the sheet chooses."""

Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Margins and distances of a sheet `width` pixels wide with `dpi` of them in an inch."""

    width: int
    dpi: int

    def inches(self, length: float) -> int:
        return round(length * self.dpi)

    @property
    def margin(self) -> int:
        return self.inches(0.15)

    @property
    def gap(self) -> int:
        """Between pictures."""
        return self.inches(0.06)

    @property
    def label(self) -> int:
        """Width of the titles, with the distance to the pictures."""
        return self.inches(min(1.7, self.width / self.dpi / 4))

    @property
    def room(self) -> int:
        """For the pictures of a line."""
        return self.width - 2 * self.margin - self.label

    @property
    def bar(self) -> tuple[int, int]:
        """(width, height) of a scale."""
        return round(0.8 * self.label), self.inches(0.1)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a block: its title in lines, and the height of its pictures and of the words beneath."""

    row: Row
    title: tuple[str, ...]
    points: float
    height: int
    below: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some of the pictures, [start, stop), under all rows."""

    start: int
    stop: int
    lines: tuple[Line, ...]

    @property
    def height(self) -> int:
        return sum(line.height + line.below for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A name of the legend and where its swatch lies, from the left of the page and the top of the legend."""

    name: str
    colour: Colour
    x: Length
    y: Length


def blocks_of(content: Content, measures: Measures, letters: Letters) -> list[Block]:
    """As many pictures side by side as there is room for, again and again."""
    widths = [panel.rgb.shape[1] for panel in content.rows[0].panels]
    return [
        Block(
            start=start,
            stop=stop,
            lines=tuple(_line(row, start, stop, measures, letters) for row in content.rows),
        )
        for start, stop in spans(widths, room=measures.room, gap=measures.gap)
    ]


def spans(widths: Sequence[int], *, room: int, gap: int) -> list[tuple[int, int]]:
    """[start, stop) of pictures that lie side by side: as many as fit, at least one."""
    found, start, used = [], 0, 0
    for place, width in enumerate(widths):
        if place > start and used + width > room:
            found.append((start, place))
            start, used = place, 0
        used += width + gap
    return [*found, (start, len(widths))]


def fitting_height(aspects: Sequence[float], measures: Measures) -> int:
    """Height of pictures that fill the room in as few lines as keep them large enough to be seen."""
    least, most = measures.inches(LEAST), measures.inches(MOST)
    for lines in range(1, len(aspects) + 1):
        height = min(most, measures.room / (sum(aspects) / lines))
        while height >= least:
            widths = [max(1, round(min(height * aspect, measures.room))) for aspect in aspects]
            if len(spans(widths, room=measures.room, gap=measures.gap)) <= lines:
                return round(height)
            height *= 0.98
    return least


def pages_of(blocks: Sequence[Block], *, distance: int, room: int | None) -> list[list[Block]]:
    """Blocks that share a page, `room` pixels high; one that is higher has a page alone. All share it for None."""
    pages: list[list[Block]] = []
    left = 0
    for block in blocks:
        if not pages or (room is not None and block.height > left):
            pages.append([])
            left = room or 0
        pages[-1].append(block)
        left -= block.height + distance
    return pages


def keys_of(content: Content, measures: Measures, letters: Letters) -> tuple[list[Key], Length]:
    """The legend in lines across the page, and its height."""
    swatch, pitch = measures.inches(0.2), 1.25 * letters.line(NORMAL)
    left, right = measures.margin, measures.width - measures.margin
    x, y, keys = left, 0.0, []
    for name, colour in content.legend:
        shown = letters.shortened(name, NORMAL, width=right - left - 2 * swatch)
        width = 1.4 * swatch + letters.width(shown, NORMAL) + measures.inches(0.25)
        if x > left and x + width > right:
            x, y = left, y + pitch
        keys.append(Key(name=shown, colour=colour, x=x, y=y))
        x += width
    return keys, y + pitch if keys else 0.0


def _line(row: Row, start: int, stop: int, measures: Measures, letters: Letters) -> Line:
    panels = row.panels[start:stop]
    width = measures.label - measures.inches(0.12)
    height = max(panel.rgb.shape[0] for panel in panels)
    scale = measures.bar[1] + 1.6 * letters.line(SMALL) if row.scale else 0
    points = next(
        (size for size in (NORMAL, SMALL) if _height(letters, row.title, size, width) + scale <= height), SMALL
    )
    title = letters.wrapped(row.title, points, width=width)
    below = letters.line(SMALL) if any(panel.below for panel in panels) else 0
    needed = len(title) * letters.line(points) + scale
    return Line(
        row=row,
        title=tuple(title),
        points=points,
        height=max(height, round(needed)),
        below=round(below) + measures.gap,
    )


def _height(letters: Letters, text: str, points: float, width: Length) -> float:
    return len(letters.wrapped(text, points, width=width)) * letters.line(points)


def heading_height(content: Content, measures: Measures, letters: Letters) -> tuple[list[str], list[str], float]:
    """The heading and the note in lines, and the height of both."""
    width = measures.width - 2 * measures.margin
    heading = letters.wrapped(content.heading, LARGE, width=width, bold=True)
    note = letters.wrapped(content.note, NORMAL, width=width)
    height = len(heading) * letters.line(LARGE) + len(note) * letters.line(NORMAL) + measures.inches(0.1)
    return heading, note, height
