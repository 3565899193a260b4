"""Principal components of a teacher's patches, fitted to a sample of them.

Legend: D width of the teacher, K components, M patches of the sample, `...` any leading dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """Orthonormal `components` around `mean`. What lies outside of their span is lost: no bound holds for that."""

    mean: Float[Tensor, " D"]
    components: Float[Tensor, "K D"]

    def reduced(self, patches: Float[Tensor, "... D"]) -> Float[Tensor, "... K"]:
        """Coordinates in the span, in float32 whatever autocast is on."""
        with torch.autocast(patches.device.type, enabled=False):
            return (patches.float() - self.mean) @ self.components.T

    def restored(self, coordinates: Float[Tensor, "... K"]) -> Float[Tensor, "... D"]:
        """The patches as far as the components know them."""
        with torch.autocast(coordinates.device.type, enabled=False):
            return coordinates.float() @ self.components + self.mean

    def to(self, device: torch.device) -> "Basis":
        return Basis(mean=self.mean.to(device), components=self.components.to(device))


class Moments:
    """Mean and scatter matrix of patches that come in pieces, in float64 on the CPU."""

    def __init__(self, width: int):
        self.count = 0
        self.mean_D = torch.zeros(width, dtype=torch.float64)
        self.scatter_DD = torch.zeros(width, width, dtype=torch.float64)

    def add(self, patches: Float[Tensor, "M D"]) -> None:
        """Merged as Chan et al. do: plain sums of squares would lose the variance of channels with a large mean."""
        piece_MD = patches.cpu().double()
        mean_D, total = piece_MD.mean(0), self.count + len(piece_MD)
        centred_MD, difference_D = piece_MD - mean_D, mean_D - self.mean_D
        merged = self.count * len(piece_MD) / total
        self.scatter_DD += centred_MD.T @ centred_MD + merged * torch.outer(difference_D, difference_D)
        self.mean_D += difference_D * len(piece_MD) / total
        self.count = total


def fit_basis(moments: Moments, num_components: int) -> tuple[Basis, float]:
    """The components of largest variance, and the share of the sample's variance that they keep.

    Raises ValueError when the sample has no more patches than there are components.
    """
    if moments.count <= num_components:
        raise ValueError(
            f"teacher.cache_components={num_components}: only {moments.count} patches to fit them to; keep fewer"
        )
    values_D, vectors_DD = torch.linalg.eigh(moments.scatter_DD)
    components_KD: Float64[Tensor, "K D"] = vectors_DD[:, -num_components:].T.flip(0)
    kept = float(values_D[-num_components:].sum() / values_D.sum())
    return Basis(mean=moments.mean_D.float(), components=components_KD.float().contiguous()), kept
