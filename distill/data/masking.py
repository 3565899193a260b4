"""Which patches the student may not see.

Legend: B images of the global batch, R images of one rank, N patches in row-major order, K rectangles.
Drawn for the global batch from one generator and then cut, so that the number of ranks changes nothing.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distill.config import Masking

NUM_RECTANGLES = 32
RECTANGLE_AREA = (0.08, 0.3)
"""Share of the grid one rectangle covers."""
RECTANGLE_ASPECT = (0.3, 1 / 0.3)
"""Height over width, drawn log-uniformly, as in BEiT."""


def num_hidden(ratio: float, num_patches: int) -> int:
    """Hidden patches of a masked image: round(ratio x N), but one at least and never all when 0 < ratio < 1."""
    if ratio == 0:
        return 0
    return min(max(math.floor(ratio * num_patches + 0.5), 1), num_patches - 1)


def hidden_patches(
    count_images: int,
    grid: tuple[int, int],
    *,
    settings: Masking,
    generator: torch.Generator,
    keep: slice = slice(None),
) -> Bool[Tensor, "R N"]:
    """True where the student cannot see the patch, for the images `keep` of a global batch of `count_images`.

    Every masked image hides exactly `num_hidden` patches; the others hide none. The draw, and so the result for
    an image, does not depend on `keep`. `image_share` of the images are masked, spread evenly over the batch so
    that every contiguous share of it (a rank, a micro-batch) holds its part to within one image.
    """
    rows, cols = grid
    count_hidden = num_hidden(settings.ratio, rows * cols)
    masked_R = _masked_images(count_images, share=settings.image_share, generator=generator)[keep]
    noise_RN = torch.rand(count_images, rows * cols, generator=generator)[keep]
    if settings.pattern == "block":
        draws_RK4 = torch.rand(count_images, NUM_RECTANGLES, 4, generator=generator)[keep]
        order_RN = _rectangle_order(draws_RK4, noise_RN, grid=grid)
    else:
        order_RN = noise_RN
    first_RH = order_RN.topk(count_hidden, dim=1, largest=False).indices
    return torch.zeros_like(order_RN, dtype=torch.bool).scatter_(1, first_RH, True) & masked_R[:, None]


def _masked_images(count_images: int, *, share: float, generator: torch.Generator) -> Bool[Tensor, " B"]:
    """Systematic sampling: image i is masked when a line of slope `share` with a random start passes an integer."""
    line = torch.arange(count_images + 1, dtype=torch.float64) * share
    steps = (line + torch.rand(1, generator=generator, dtype=torch.float64)).floor()
    return steps[1:] > steps[:-1]


def _rectangle_order(
    draws_RK4: Float[Tensor, "R K 4"], noise_RN: Float[Tensor, "R N"], *, grid: tuple[int, int]
) -> Float[Tensor, "R N"]:
    """The order in which random rectangles, laid one after another, cover the patches of each image.

    Patches of one rectangle come row by row, so the last one, which the count cuts, stays one piece; every other
    rectangle comes from the bottom up, or the cut would always leave the top. Patches that no rectangle reaches
    come last, in random order: they are needed only at ratios near 0.95.
    """
    rows, cols = grid
    area_RK = rows * cols * (RECTANGLE_AREA[0] + draws_RK4[..., 0] * (RECTANGLE_AREA[1] - RECTANGLE_AREA[0]))
    low, high = math.log(RECTANGLE_ASPECT[0]), math.log(RECTANGLE_ASPECT[1])
    aspect_RK = (low + draws_RK4[..., 1] * (high - low)).exp()
    height_RK = (area_RK * aspect_RK).sqrt().round().clamp(1, rows)
    width_RK = (area_RK / aspect_RK).sqrt().round().clamp(1, cols)
    top_RK = (draws_RK4[..., 2] * (rows - height_RK + 1)).floor()
    left_RK = (draws_RK4[..., 3] * (cols - width_RK + 1)).floor()

    place_N = torch.arange(rows * cols)
    row_N, col_N = place_N // cols, place_N % cols
    order_RN = NUM_RECTANGLES + noise_RN
    # From the last rectangle to the first, so that the first one to cover a patch has the last word.
    for k in reversed(range(NUM_RECTANGLES)):
        top, left = top_RK[:, k, None], left_RK[:, k, None]
        inside_RN = (row_N >= top) & (row_N < top + height_RK[:, k, None])
        inside_RN &= (col_N >= left) & (col_N < left + width_RK[:, k, None])
        rank_N = place_N if k % 2 == 0 else place_N.flip(0)
        order_RN = torch.where(inside_RN, k + rank_N / (rows * cols), order_RN)
    return order_RN
