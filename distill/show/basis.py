"""Patch features as three numbers each: principal components, of many maps at once, turned so that models compare.

Legend: (h, w) patch grid, n patches of all maps, D width, K components.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from distill.eval.dense import upsample

SHOWN = (2, 98)
"""Percentiles of a component between which its colours run."""

Map = Float[np.ndarray, "_ _ _"]
"""[h, w, D]; the grids of a sequence may differ."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Where features are looked at from: `(feature - mean) @ axes`, with `low` and `high` of every component."""

    mean_D: Float[np.ndarray, " D"]
    axes_DK: Float[np.ndarray, "D K"]
    low_K: Float[np.ndarray, " K"]
    high_K: Float[np.ndarray, " K"]

    def components(self, features: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w K"]:
        return (features - self.mean_D) @ self.axes_DK

    def shares(self, features: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w K"]:
        """Components as shares of the way from `low` to `high`, cut at 0 and 1."""
        span_K = np.where(self.high_K > self.low_K, self.high_K - self.low_K, 1.0)
        return np.clip((self.components(features) - self.low_K) / span_K, 0, 1)


def principal_basis(maps: Sequence[Map], *, num: int = 3) -> Basis:
    """The `num` principal components of all patches of all maps, the strongest first.

    The largest loading of every component is positive, so that equal features have equal colours on every machine.
    Raises ValueError for maps of different widths, which have no basis in common.
    """
    widths = sorted({each.shape[-1] for each in maps})
    if len(widths) > 1:
        raise ValueError(f"features {' and '.join(map(str, widths))} wide have no basis in common")
    patches_nD = np.concatenate([each.reshape(-1, widths[0]) for each in maps]).astype(np.float64)
    mean_D = patches_nD.mean(0)
    centred_nD = patches_nD - mean_D
    _, vectors_DD = np.linalg.eigh(centred_nD.T @ centred_nD / len(centred_nD))
    axes_DK = vectors_DD[:, ::-1][:, :num]
    axes_DK = axes_DK * np.sign(axes_DK[np.abs(axes_DK).argmax(0), np.arange(axes_DK.shape[1])])
    return _ranged(mean_D, axes_DK, centred_nD @ axes_DK)


def turned_like(reference: Basis, reference_maps: Sequence[Map], basis: Basis, maps: Sequence[Map]) -> Basis:
    """`basis` with its components turned among themselves until the maps look as much like the reference as they can.

    Signs, order and mixture of principal components are an accident of each model; without this the same picture has
    other colours under another model. The turn is orthogonal, of components with unit variance (Schönemann 1966: from
    the singular vectors of their cross-covariance), so it shows nothing that the components do not hold. The maps are
    of the same pictures in the same order; their grids may differ.
    """
    theirs = [reference.components(each) for each in reference_maps]
    ours = [_at_grid(basis.components(each), grid.shape[:2]) for each, grid in zip(maps, theirs, strict=True)]
    theirs_nK, ours_nK = (np.concatenate([each.reshape(-1, each.shape[-1]) for each in two]) for two in (theirs, ours))
    deviation_K = ours_nK.std(0)
    # Components without any spread have no direction to be turned into.
    scale_K = np.where(deviation_K > 1e-9 * max(deviation_K.max(), 1e-300), 1 / np.maximum(deviation_K, 1e-300), 0.0)
    target_nK = (theirs_nK - theirs_nK.mean(0)) / np.maximum(theirs_nK.std(0), 1e-12)
    left, _, right = np.linalg.svd(((ours_nK - ours_nK.mean(0)) * scale_K).T @ target_nK)
    axes_DK = basis.axes_DK * scale_K @ (left @ right)
    patches_nD = np.concatenate([each.reshape(-1, each.shape[-1]) for each in maps])
    return _ranged(basis.mean_D, axes_DK, (patches_nD - basis.mean_D) @ axes_DK)


def principal_colours(maps: Sequence[Map]) -> list[Float[np.ndarray, "_ _ 3"]]:
    """Maps as RGB in [0, 1]: red is the first principal component of all patches of all maps."""
    basis = principal_basis(maps)
    return [basis.shares(each) for each in maps]


def _ranged(mean_D: np.ndarray, axes_DK: np.ndarray, components_nK: np.ndarray) -> Basis:
    low_K, high_K = np.percentile(components_nK, SHOWN, axis=0)
    return Basis(mean_D=mean_D, axes_DK=axes_DK, low_K=low_K, high_K=high_K)


def _at_grid(components: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    if components.shape[:2] == grid:
        return components
    maps = torch.from_numpy(np.ascontiguousarray(components)).permute(2, 0, 1)[None]
    return upsample(maps, grid)[0].permute(1, 2, 0).numpy()
