"""Maps as pictures: every function gives RGB in [0, 1] of the size of its map.

Legend: (H, W) pixels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from scipy.ndimage import binary_dilation

from distill.show.palette import IGNORED
from distill.show.vision import from_oklab

Picture = Float[np.ndarray, "H W 3"]

SCALE = "cividis"
"""Of numbers: evenly lighter, and the same to people with and without colour vision deficiency (Nuñez 2018)."""
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Rec. 709."""
FAINT = (0.3, 0.7)
"""Greys of black and of white beneath an overlay."""
SQUARE = np.ones((3, 3), dtype=bool)


def lightness_first(shares: Float[np.ndarray, "H W 3"]) -> Picture:
    """Three numbers in [0, 1] as a colour: the first is lightness, the second blue to yellow, the third green to red.

    In OKLab. The first survives a print in grey, the first two protanopia and deuteranopia.
    """
    light = 0.32 + 0.6 * shares[..., 0]
    yellow, red = 0.24 * (shares[..., 1] - 0.5), 0.24 * (shares[..., 2] - 0.5)
    return from_oklab(np.stack([light, red, yellow], -1))


def scaled(values: Float[np.ndarray, "H W"], *, low: float, high: float) -> Picture:
    """Numbers from `low` (dark blue) to `high` (yellow); beyond them as at them."""
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    return colormaps[SCALE](share)[..., :3]


def painted(classes: Int[np.ndarray, "H W"], colour_of: Mapping[int, str]) -> Picture:
    """Every pixel in the colour of its class; classes without one are white."""
    picture = np.tile(np.array(to_rgb(IGNORED)), (*classes.shape, 1))
    for index, colour in colour_of.items():
        picture[classes == index] = to_rgb(colour)
    return picture


def normals_colours(normals: Float[np.ndarray, "3 H W"]) -> Picture:
    """Unit vectors by the usual code, (n + 1) / 2: a surface that faces the camera is light blue where z points to it.

    Black marks pixels without a normal.
    """
    length = np.linalg.norm(normals, axis=0, keepdims=True)
    unit = normals / np.maximum(length, 1e-12)
    return np.moveaxis(np.where(length > 0.5, (unit + 1) / 2, 0.0), 0, -1)


def faint(picture: Picture) -> Picture:
    """Its lightness between a dark and a light grey: enough to know it by, beneath colours that stay the legend's."""
    low, high = FAINT
    return np.repeat(low + (high - low) * (picture @ LUMINANCE)[..., None], 3, axis=-1)


def laid_over(picture: Picture, colours: Picture, *, opacity: float) -> Picture:
    """Colours over the faint picture; at opacity 1 the colours alone."""
    return opacity * colours + (1 - opacity) * faint(picture)


def swatch(colours: Float[np.ndarray, "*any 3"], *, opacity: float) -> Float[np.ndarray, "*any 3"]:
    """What `laid_over` makes of colours where the picture is mid-grey: the colours in the legend."""
    return opacity * colours + (1 - opacity) * sum(FAINT) / 2


def legend_of(
    names: Sequence[str], colour_of: Mapping[int, str], *, opacity: float
) -> tuple[tuple[str, tuple[float, float, float]], ...]:
    """Names of the classes that have a colour, with that colour as it is seen over pictures."""
    seen = {index: swatch(np.array(to_rgb(colour)), opacity=opacity) for index, colour in sorted(colour_of.items())}
    return tuple((names[index], tuple(colour.tolist())) for index, colour in seen.items())


def borders(classes: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose class differs from that of the pixel to the right or below."""
    edge = np.zeros(classes.shape, dtype=bool)
    edge[:, :-1] |= classes[:, 1:] != classes[:, :-1]
    edge[:-1] |= classes[1:] != classes[:-1]
    return edge


def with_borders(picture: Picture, classes: Int[np.ndarray, "H W"], *, thickness: int = 1) -> Picture:
    """The borders between classes as black lines with a white seam, which shows on every colour."""
    edge = borders(classes)
    if thickness > 1:
        edge = binary_dilation(edge, SQUARE, iterations=thickness - 1)
    drawn = picture.copy()
    drawn[binary_dilation(edge, SQUARE, iterations=thickness)] = 1.0
    drawn[edge] = 0.0
    return drawn


def with_ring(picture: Picture, point: tuple[float, float], *, radius: float) -> Picture:
    """A black ring with a white seam around a point (x, y), shares of width and height; `radius` in pixels."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    from_ring = np.abs(np.hypot(columns - point[0] * width, rows - point[1] * height) - radius)
    drawn = picture.copy()
    drawn[from_ring < 0.4 * radius] = 1.0
    drawn[from_ring < 0.2 * radius] = 0.0
    return drawn
