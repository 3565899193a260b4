"""What a sheet holds, before it is drawn: rows of pictures as arrays, their numbers' scales, and a legend.

A web page shows the same arrays by itself.
Legend: (H, W) pixels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from distill.show.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The place of a picture: `height` pixels, or less where it would be wider than `widest`."""

    height: int
    widest: int

    def size_of(self, picture: Picture) -> tuple[int, int]:
        """(height, width) with the picture's aspect, at least 1."""
        height, width = picture.pixels.shape[-2:]
        scale = min(self.height / height, self.widest / width)
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """RGB as a screen shows it, 0 to 255, and words beneath."""

    rgb: UInt8[np.ndarray, "H W 3"]
    """Bytes, since a sheet holds all of its panels at once."""
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Which numbers the ends of the colours of a row stand for."""

    low: float
    high: float
    unit: str = ""
    opacity: float = 1.0
    """Of the colours over the pictures."""

    @property
    def ends(self) -> tuple[str, str]:
        """Low and high with their unit, in as many digits as tell them apart."""
        digits = next((some for some in (2, 3, 4) if round(self.low, some) < round(self.high, some)), 2)
        # Adding 0 takes the sign from what is rounded to -0.
        low, high = (f"{round(end, digits) + 0:.{digits}f} {self.unit}".strip() for end in (self.low, self.high))
        return low, high


@dataclass(frozen=True, kw_only=True)
class Row:
    """One panel for every picture."""

    title: str
    panels: tuple[Panel, ...]
    scale: Scale | None = None


@dataclass(frozen=True, kw_only=True)
class Content:
    """`note` says how to read the colours; `legend` has names with the colours they have in the rows."""

    heading: str
    note: str
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, tuple[float, float, float]], ...] = ()

    @property
    def texts(self) -> list[str]:
        """All that is written on it."""
        rows = [text for row in self.rows for text in (row.title, *(panel.below for panel in row.panels))]
        return [self.heading, self.note, *rows, *(name for name, _ in self.legend)]


def framed(picture: Picture, frame: Frame) -> Float[np.ndarray, "H W 3"]:
    """The picture at its size in the frame."""
    height, width = frame.size_of(picture)
    shown = picture.pixels[None]
    if height < shown.shape[-2]:
        shown = functional.interpolate(shown, (height, width), mode="bicubic", antialias=True)
    else:
        shown = functional.interpolate(shown, (height, width), mode="bicubic")
    return as_array(shown[0].clamp(0, 1))


def as_bytes(rgb: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """From shares of 1 to 0 to 255."""
    return np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def as_array(pixels: Float[Tensor, "3 H W"]) -> Float[np.ndarray, "H W 3"]:
    return pixels.permute(1, 2, 0).double().numpy()


def pictures_row(pictures: list[Picture], frame: Frame) -> Row:
    """The pictures themselves, by name."""
    return Row(
        title="picture", panels=tuple(Panel(rgb=as_bytes(framed(each, frame)), below=each.name) for each in pictures)
    )
