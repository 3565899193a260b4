"""Distances to a teacher's features, and its patches on another grid.

Legend: B images, N patches, R new patches, M tokens, D width of the teacher.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Distance = Literal["cosine", "smooth_l1", "cosine_smooth_l1"]


def feature_distance(
    prediction_MD: Float[Tensor, "M D"], target_MD: Float[Tensor, "M D"], *, kind: Distance = "cosine"
) -> Float[Tensor, " M"]:
    """Distance of every token to its target, in float32. No gradient reaches the target.

    `cosine`            1 - cos(prediction, target)
    `smooth_l1`         mean over the D dimensions of d^2 / 2 where |d| < 1, else |d| - 1/2; d their difference
    `cosine_smooth_l1`  half of each (UNIC, arXiv 2408.05088; Theia weighs them 0.9 and 0.1)
    """
    with torch.autocast(prediction_MD.device.type, enabled=False):
        dtype = torch.promote_types(prediction_MD.dtype, torch.float32)
        prediction_MD, target_MD = prediction_MD.to(dtype), target_MD.detach().to(dtype)
        if kind == "cosine":
            return _cosine(prediction_MD, target_MD)
        if kind == "smooth_l1":
            return _smooth_l1(prediction_MD, target_MD)
        return (_cosine(prediction_MD, target_MD) + _smooth_l1(prediction_MD, target_MD)) / 2


def _cosine(prediction_MD: Tensor, target_MD: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(prediction_MD, target_MD, dim=-1)


def _smooth_l1(prediction_MD: Tensor, target_MD: Tensor) -> Tensor:
    return functional.smooth_l1_loss(prediction_MD, target_MD, reduction="none").mean(dim=-1)


def resample_patches(
    patches_BND: Float[Tensor, "B N D"], *, grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "B R D"]:
    """Patches of another grid over the same picture, bilinear, smoothed when the new grid is coarser."""
    if grid == new_grid:
        return patches_BND
    maps_BDhw = patches_BND.transpose(1, 2).unflatten(2, grid).to(torch.promote_types(patches_BND.dtype, torch.float32))
    resized_BDhw = functional.interpolate(maps_BDhw, new_grid, mode="bilinear", antialias=True)
    return resized_BDhw.flatten(2).transpose(1, 2).to(patches_BND.dtype)
