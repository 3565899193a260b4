"""How alike patches are to one vector: another patch, or the embedding of a text.

Legend: B pictures, D width, (h, w) patch grid.
"""

import math

from jaxtyping import Float
from torch import Tensor

from distill.contracts import Tokens
from distill.eval.features import patch_map, unit


def cosines(found: Tokens, vector_D: Float[Tensor, " D"]) -> Float[Tensor, "B h w"]:
    """Cosine of every patch with the vector; 0 with a vector of length 0."""
    rows, columns = found.grid
    return (unit(found.patches) @ unit(vector_D)).unflatten(1, (rows, columns))


def patch_at(found: Tokens, point: tuple[float, float]) -> Float[Tensor, "B D"]:
    """The patch under a point (x, y), shares of the picture's width and height from its top left corner.

    Raises ValueError for a point outside of the picture.
    """
    if not all(0 <= share <= 1 for share in point):
        raise ValueError(f"point={point[0]:g},{point[1]:g} lies outside: x and y are shares of the picture, 0 to 1")
    rows, columns = found.grid
    row, column = (
        min(math.floor(share * count), count - 1) for share, count in zip(point[::-1], (rows, columns), strict=True)
    )
    return patch_map(found)[:, :, row, column]
