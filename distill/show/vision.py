"""How colours are seen: OKLab, in which distances are about equally visible, and what dichromats see.

Legend: colours [..., 3] are sRGB in [0, 1]; OKLab is lightness, green–red, blue–yellow.
"""

import numpy as np
from jaxtyping import Float

Colours = Float[np.ndarray, "*any 3"]

TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
FROM_CONES = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""Ottosson 2020, "A perceptual color space for image processing"."""

PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


def linear(colours: Colours) -> Colours:
    """Light from sRGB numbers (IEC 61966-2-1)."""
    return np.where(colours <= 0.04045, colours / 12.92, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4)


def encoded(light: Colours) -> Colours:
    """sRGB numbers from light, cut at 0 and 1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def oklab(colours: Colours) -> Colours:
    return np.cbrt(linear(colours) @ TO_CONES.T) @ FROM_CONES.T


def from_oklab(places: Colours) -> Colours:
    """sRGB; colours that a screen cannot show are cut at the edges of what it can."""
    return encoded((places @ np.linalg.inv(FROM_CONES).T) ** 3 @ np.linalg.inv(TO_CONES).T)


def seen_with(colours: Colours, deficiency: Float[np.ndarray, "3 3"]) -> Colours:
    """What the colour looks like to a person with the deficiency."""
    return encoded(linear(colours) @ deficiency.T)
