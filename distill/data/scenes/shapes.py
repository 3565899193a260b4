"""Signed distances of the shapes: negative inside, about one per unit near the rim.

Coordinates are the thing's own: x right, y down, the shape within 1.12 of the centre (corners pass the unit circle a
little). Only + - * / sqrt min max and abs are used per pixel, which round alike in every batch. Shapes that are unions
or intersections of simpler ones take the min or max of their distances.
"""

import math
from collections.abc import Callable

from torch import Tensor


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt_()


def _mirror(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Reflects what lies clockwise of the ray at `angle` (degrees, clockwise from up) onto the other side."""
    along_x, along_y = math.sin(math.radians(angle)), -math.cos(math.radians(angle))
    beyond = (x * -along_y + y * along_x).clamp_min_(0).mul_(2)
    return x + beyond * along_y, y - beyond * along_x


def _fold_five(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Maps the plane onto the wedge of 36 degrees right of the upward axis, by the symmetries of a pentagon."""
    x, y = _mirror(x.abs(), y, 108.0)
    x, y = _mirror(x, y, 36.0)
    return x.abs(), y


def circle(x: Tensor, y: Tensor) -> Tensor:
    return _length(x, y) - 0.92


def square(x: Tensor, y: Tensor) -> Tensor:
    return x.abs().maximum(y.abs()) - 0.74


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, one corner up, shifted down so that it sits in the middle."""
    y = y - 0.1
    return (x.abs() * 0.866 - y * 0.5).maximum(y) - 0.5


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points at radius 1; the inner corners lie at radius 0.45, 36 degrees from each point."""
    x, y = _fold_five(x, y)
    inner_x, inner_y = 0.45 * math.sin(math.radians(36)), -0.45 * math.cos(math.radians(36))
    edge_x, edge_y = inner_x, inner_y + 1.0
    edge = math.hypot(edge_x, edge_y)
    return x * (edge_y / edge) - (y + 1.0) * (edge_x / edge)


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner with a half circle on each upper side."""
    side = 0.8
    x, y = x.abs(), y - 0.1
    body = (x + y.abs() - side) * math.sqrt(0.5)
    return body.minimum(_length(x - side / 2, y + side / 2) - side * math.sqrt(0.5))


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (_length(x, y) - 0.68).abs_() - 0.27


def cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return (x - 0.92).maximum(y - 0.32).minimum((y - 0.92).maximum(x - 0.32))


def arrow(x: Tensor, y: Tensor) -> Tensor:
    """Points up: a triangular head on a shaft."""
    x = x.abs()
    head = (y - 0.1).maximum((x - (y + 0.97) * 0.8) * 0.781)
    return head.minimum((x - 0.27).maximum((y - 0.42).abs() - 0.5))


def crescent(x: Tensor, y: Tensor) -> Tensor:
    """A disc without a smaller disc to its right."""
    return (_length(x, y) - 0.95).maximum(0.72 - _length(x - 0.48, y))


def flower(x: Tensor, y: Tensor) -> Tensor:
    """Five round petals around a round middle."""
    x, y = _fold_five(x, y)
    return (_length(x, y + 0.58) - 0.38).minimum(_length(x, y) - 0.4)


def diamond(x: Tensor, y: Tensor) -> Tensor:
    """A rhombus, higher than wide."""
    return (x.abs() * (1 / 0.62) + y.abs() - 1.0) * (1 / math.hypot(1 / 0.62, 1.0))


def hexagon(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return (x * 0.866 + y * 0.5).maximum(y) - 0.82


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "ring": ring,
    "cross": cross,
    "arrow": arrow,
    "crescent": crescent,
    "flower": flower,
    "diamond": diamond,
    "hexagon": hexagon,
}
"""Distance of each thing of the vocabulary, in units of its radius."""
