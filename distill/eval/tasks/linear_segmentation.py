"""Linear segmentation: what a closed-form linear map reads out of frozen patch features.

Ridge regression from a patch's features to the shares of the classes in it. It has one solution and no learning
rate, so it is not the paper's trained linear layer and its numbers do not compare with the paper's.

Legend: B images, n patches with a label, D width, K classes, (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from distill.contracts import ImageEncoder, SegmentationSet, Tokens
from distill.encoders.dual import DualEncoder
from distill.eval.dense import LinearScores
from distill.eval.features import batches, resize_short_side, tokens
from distill.eval.metrics import TaskResult
from distill.eval.probes.linear_scoring import Scoring, check_classes, score


@dataclass(frozen=True, kw_only=True)
class LinearSettings(Scoring):
    """The probe is fitted on whole pictures, however they are scored."""

    ridge: float = 1e-3
    """Penalty on squared weights of standardised features, as a share of the number of patches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge > 0:
            raise ValueError(f"ridge={self.ridge} is not positive; without it equal features have no unique solution")


def evaluate(
    encoder: DualEncoder, train_set: SegmentationSet, data: SegmentationSet, settings: LinearSettings
) -> TaskResult:
    """Fit on `train_set`, score on `data`: the same values as zero-shot segmentation.

    Raises ValueError when the two sets differ in their classes.
    """
    check_classes(train_set, data)
    return score(encoder.image, fit(encoder.image, train_set, settings), data, settings, num_train=len(train_set))


@torch.no_grad()
def fit(image: ImageEncoder, train_set: SegmentationSet, settings: LinearSettings) -> LinearScores:
    """The probe as weights on raw features. Classes that never occur score 0 everywhere."""
    moments = Moments()
    for pixels, labels in batches(train_set, settings.batch_size):
        found = _tokens(image, resize_short_side(pixels, settings.short_side), settings)
        shares = patch_shares(
            labels.to(found.patches.device),
            grid=found.grid,
            patch_size=image.patch_size,
            num_classes=len(train_set.class_names),
            ignore=train_set.ignore,
        )
        labelled = shares.sum(1) > 0
        moments.add(found.patches.flatten(0, 1)[labelled], shares[labelled])
    return moments.solve(settings.ridge)


def patch_shares(
    labels: Int[Tensor, "B H W"], *, grid: tuple[int, int], patch_size: int, num_classes: int, ignore: int
) -> Float[Tensor, "n K"]:
    """How much of every patch, row-major, each class covers among its labelled pixels; rows sum to 1.

    Labels are brought to the encoder's input size by nearest neighbour. A patch without labelled pixels is all 0.
    """
    size = (grid[0] * patch_size, grid[1] * patch_size)
    if size != tuple(labels.shape[-2:]):
        labels = functional.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()
    patches = labels.unflatten(2, (grid[1], patch_size)).unflatten(1, (grid[0], patch_size))
    patches = patches.transpose(2, 3).flatten(3).flatten(0, 2).long()
    counts = patches.new_zeros(len(patches), num_classes, dtype=torch.double)
    known = patches != ignore
    counts.scatter_add_(1, patches.masked_fill(~known, 0), known.double())
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


class Moments:
    """Sums over patches that ridge regression needs, in float64: one pass over the data, D² + D K numbers."""

    def __init__(self) -> None:
        self.count = 0
        self.x_D = self.y_K = self.xx_DD = self.xy_DK = torch.zeros((), dtype=torch.double)

    def add(self, features: Float[Tensor, "n D"], targets: Float[Tensor, "n K"]) -> None:
        x, y = features.double(), targets.double()
        self.count += len(x)
        self.x_D = x.sum(0) + self.x_D.to(x.device)
        self.y_K = y.sum(0) + self.y_K.to(x.device)
        self.xx_DD = x.T @ x + self.xx_DD.to(x.device)
        self.xy_DK = x.T @ y + self.xy_DK.to(x.device)

    def solve(self, ridge: float) -> LinearScores:
        """argmin over w, b of mean |y - w·z - b|² + ridge |w|², z standardised; as weights on unstandardised x."""
        if not self.count:
            raise ValueError("no patch of the training pictures has a label, so there is nothing to fit")
        mean_D, mean_K = self.x_D / self.count, self.y_K / self.count
        covariance_DD = self.xx_DD / self.count - torch.outer(mean_D, mean_D)
        variance_D = covariance_DD.diagonal().clamp(min=0)
        # A constant feature says nothing: dividing by 1 leaves it at 0.
        scale_D = torch.where(variance_D > 1e-12, variance_D.sqrt(), 1.0)
        correlation_DD = covariance_DD / torch.outer(scale_D, scale_D)
        cross_DK = (self.xy_DK / self.count - torch.outer(mean_D, mean_K)) / scale_D[:, None]
        penalty_DD = ridge * torch.eye(len(mean_D), dtype=torch.double, device=mean_D.device)
        weight_DK = torch.linalg.solve(correlation_DD + penalty_DD, cross_DK) / scale_D[:, None]
        return LinearScores(weight_DK.T.float(), (mean_K - mean_D @ weight_DK).float())


def _tokens(image: ImageEncoder, pixels: Tensor, settings: LinearSettings) -> Tokens:
    return tokens(image, pixels, kind=settings.features, precision=settings.precision)
