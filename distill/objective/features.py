"""Feature targets: distance to a teacher's standardised features, for teachers without a projection head.

Legend: B images, N patches, R new patches, M tokens, D width of the teacher (S of the student).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from distill.objective.balance import sum_over_ranks
from distill.objective.prototypes import TokenLoss


class Adapters(nn.Module):
    """Linear maps from the student's width to the teacher's. They train with the student and never leave with it."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.cls = nn.Linear(student_width, teacher_width)
        self.patch = nn.Linear(student_width, teacher_width)


class Standardiser(nn.Module):
    """Brings every dimension of a teacher's features to mean 0 and deviation 1, by running statistics.

    Some dimensions of pretrained encoders are a hundred times as large as the rest and would be all that a cosine
    hears. Statistics move once per optimiser step, in `step`, over the tokens of all ranks observed in between;
    features are standardised with those of before, at the very first step not at all. They are averaged with weight
    (1 - momentum) / (1 - momentum^t) at step t, which is an unbiased moving average from the first step on.
    """

    def __init__(self, width: int, *, momentum: float, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("num_steps", torch.zeros(()))
        self.register_buffer("observed_count", torch.zeros(()), persistent=False)
        self.register_buffer("observed_mean", torch.zeros(width), persistent=False)
        self.register_buffer("observed_squares", torch.zeros(width), persistent=False)

    def forward(self, features_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        return (features_MD.float() - self.mean) * (self.variance + self.epsilon).rsqrt()

    @torch.no_grad()
    def observe(self, features_MD: Float[Tensor, "M D"]) -> None:
        """Add one micro-batch to what the next `step` will average."""
        if len(features_MD) == 0:
            return
        # Mean and squares around it, merged as Chan et al. do: plain sums of squares would lose the variance of
        # dimensions with a large mean.
        mean_D = features_MD.float().mean(0)
        squares_D = (features_MD.float() - mean_D).square().sum(0)
        count = self.observed_count + len(features_MD)
        difference_D = mean_D - self.observed_mean
        self.observed_squares += squares_D + difference_D.square() * self.observed_count * len(features_MD) / count
        self.observed_mean += difference_D * len(features_MD) / count
        self.observed_count.copy_(count)

    @torch.no_grad()
    def step(self) -> None:
        """Move the statistics by what all ranks observed since the last call; stay if nobody observed anything."""
        count = sum_over_ranks(self.observed_count)
        at_least_one = count.clamp(min=1)
        mean_D = sum_over_ranks(self.observed_count * self.observed_mean) / at_least_one
        own_squares_D = self.observed_squares + self.observed_count * (self.observed_mean - mean_D).square()
        variance_D = sum_over_ranks(own_squares_D) / at_least_one
        self.num_steps += count > 0
        rate = torch.where(count > 0, self._rate(), 0.0)
        # Variance of a mixture of the old statistics and the new ones.
        difference_D = mean_D - self.mean
        self.variance.lerp_(variance_D, rate).add_(rate * (1 - rate) * difference_D.square())
        self.mean.add_(rate * difference_D)
        for observed in (self.observed_count, self.observed_mean, self.observed_squares):
            observed.zero_()

    def _rate(self) -> Tensor:
        steps = self.num_steps.clamp(min=1)
        if self.momentum == 1:  # the limit: a plain average over all steps
            return 1 / steps
        # Exactly 1 at the first step: any rounding would mix the squared mean into the variance.
        return torch.where(steps == 1, 1.0, (1 - self.momentum) / (1 - self.momentum**steps))


def cosine_distance(
    prediction_MD: Float[Tensor, "M D"], target_MD: Float[Tensor, "M D"], *, weights_M: Float[Tensor, " M"]
) -> TokenLoss:
    """sum_m weights_m (1 - cos(prediction_m, target_m)), in float32. No gradient reaches the target."""
    with torch.autocast(prediction_MD.device.type, enabled=False):
        dtype = torch.promote_types(prediction_MD.dtype, torch.float32)
        distance_M = 1 - functional.cosine_similarity(prediction_MD.to(dtype), target_MD.detach().to(dtype), dim=-1)
        return TokenLoss(loss=(weights_M * distance_M).sum(), per_token=distance_M.detach())


def resample_patches(
    patches_BND: Float[Tensor, "B N D"], *, grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "B R D"]:
    """Patches of another grid over the same picture, bilinear, smoothed when the new grid is coarser."""
    if grid == new_grid:
        return patches_BND
    maps_BDhw = patches_BND.transpose(1, 2).unflatten(2, grid).to(torch.promote_types(patches_BND.dtype, torch.float32))
    resized_BDhw = functional.interpolate(maps_BDhw, new_grid, mode="bilinear", antialias=True)
    return resized_BDhw.flatten(2).transpose(1, 2).to(patches_BND.dtype)
