"""How wide text is drawn, so that it is wrapped and shortened to the place it has."""

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

SMALL, NORMAL, LARGE = 9.0, 11.0, 15.0
"""Points."""
LINE = 1.3
"""Height of a line over the size of its letters."""


class Letters:
    """Measures in pixels of a sheet with `dpi` of them in an inch."""

    def __init__(self, dpi: float):
        self.dpi = dpi
        self._renderer = RendererAgg(1, 1, dpi)

    def width(self, text: str, points: float, *, bold: bool = False) -> float:
        font = FontProperties(size=points, weight="bold" if bold else "normal")
        return self._renderer.get_text_width_height_descent(text, font, ismath=False)[0] if text else 0.0

    def line(self, points: float) -> float:
        return LINE * points * self.dpi / 72

    def wrapped(self, text: str, points: float, *, width: float, bold: bool = False) -> list[str]:
        """Lines that fit; a word that is too long for any line is broken."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".lstrip()
            if self.width(longer, points, bold=bold) <= width:
                lines[-1] = longer
                continue
            lines += [""] if lines[-1] else []
            for letter in word:
                if lines[-1] and self.width(lines[-1] + letter, points, bold=bold) > width:
                    lines.append("")
                lines[-1] += letter
        return lines

    def shortened(self, text: str, points: float, *, width: float) -> str:
        """The text, or its beginning and its end around an ellipsis; empty where not even that fits."""
        if self.width(text, points) <= width:
            return text
        for kept in range(len(text) - 1, 1, -1):
            shorter = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
            if self.width(shorter, points) <= width:
                return shorter
        return ""
