"""How wide text is drawn, so that it is wrapped and shortened to the place it has."""

import re
import warnings
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties, findfont, get_font

SMALL, NORMAL, LARGE = 9.0, 11.0, 15.0
"""Points."""
LINE = 1.3
"""Height of a line over the size of its letters."""

PIECES = re.compile(r"[^_/.:-]*[_/.:-]|[^_/.:-]+")
"""Of a word, each with the sign behind which it may be broken."""

Length = int | float
"""Pixels."""


@contextmanager
def own_style() -> Iterator[None]:
    """Drawing as matplotlib does it by default, whatever a user's matplotlibrc says; silent about missing letters."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def unknown_letters(texts: Iterable[str]) -> str:
    """Those that the sheet's font, regular or bold, has no sign for; a box stands in their place."""
    with own_style():
        files = [findfont(FontProperties(weight=weight)) for weight in ("normal", "bold")]
    known = set.intersection(*(set(get_font(file).get_charmap()) for file in files))
    used = dict.fromkeys(letter for text in texts for letter in text if not letter.isspace())
    return "".join(letter for letter in used if ord(letter) not in known)


class Letters:
    """Measures in pixels of a sheet with `dpi` of them in an inch."""

    def __init__(self, dpi: int):
        self.dpi = dpi
        self._renderer = RendererAgg(1, 1, dpi)
        self._known: dict[tuple[str, float, bool], float] = {}

    def width(self, text: str, points: float, *, bold: bool = False) -> float:
        known = (text, points, bold)
        if text and known not in self._known:
            font = FontProperties(size=points, weight="bold" if bold else "normal")
            self._known[known] = float(self._renderer.get_text_width_height_descent(text, font, ismath=False)[0])
        return self._known[known] if text else 0.0

    def line(self, points: float) -> float:
        return LINE * points * self.dpi / 72

    def wrapped(self, text: str, points: float, *, width: Length, bold: bool = False) -> list[str]:
        """Lines that fit. A word too long for any line is broken behind `_`, `/` and the like, or else anywhere."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".lstrip()
            if self.width(longer, points, bold=bold) <= width:
                lines[-1] = longer
                continue
            lines += [""] if lines[-1] else []
            for piece in PIECES.findall(word):
                if lines[-1] and self.width(lines[-1] + piece, points, bold=bold) > width:
                    lines.append("")
                whole = self.width(piece, points, bold=bold) <= width
                for part in [piece] if whole else piece:
                    if lines[-1] and self.width(lines[-1] + part, points, bold=bold) > width:
                        lines.append("")
                    lines[-1] += part
        return lines

    def shortened(self, text: str, points: float, *, width: Length) -> str:
        """The text on one line, or its beginning and its end around an ellipsis; empty where not even that fits."""
        text = " ".join(text.split())

        def cut(kept: int) -> str:
            return text if kept >= len(text) else f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"

        too_many = bisect(range(1, len(text) + 1), width, key=lambda kept: self.width(cut(kept), points))
        return cut(too_many) if too_many else ""
