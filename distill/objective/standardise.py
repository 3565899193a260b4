"""Running statistics that bring a teacher's features to one scale: mean and deviation, or PHI-S.

Legend: M tokens, D width of the teacher; S is D (variances) or D D (covariances).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.objective.balance import sum_over_ranks
from distill.objective.rotation import balancing_rotation

TOKENS_PER_DIMENSION = 2
"""Tokens for every dimension that must have been seen before eigenvectors are looked for."""


class Standardiser(nn.Module):
    """Brings every dimension of a teacher's features to mean 0 and variance 1.

    Some dimensions of pretrained encoders are a hundred times as large as the rest and would be all that a cosine
    hears. `mean_std` divides each by its own deviation, so that small dimensions count as much as large ones.
    `phi_s` (Ranzinger et al. 2024, arXiv 2410.01680) rotates such that all vary alike and divides by one number, so
    that an error of a given size is as wrong in any direction as it was in the teacher's own space.

    Statistics move once per optimiser step, in `step`, over the tokens of all ranks observed in between;
    features are standardised with those of before, at the very first step not at all. They are averaged with weight
    (1 - momentum) / (1 - momentum^t) at step t, which is an unbiased moving average from the first step on.

    The paper measures its covariance once and then holds the rotation. Here the covariance runs on and so do mean
    and scale, but the rotation is found anew at steps 1, 2, 4, 8 ... only, and not any more once the average is full,
    after 1 / (1 - momentum) steps: eigenvectors of nearly equal eigenvalues turn with every batch, and targets that
    turn for ever cannot be learnt. It waits for `TOKENS_PER_DIMENSION`: fewer tokens than dimensions have no variance
    in most directions and leave the eigenvectors there to rounding.
    """

    def __init__(
        self,
        width: int,
        *,
        momentum: float,
        kind: Literal["mean_std", "phi_s"] = "mean_std",
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.kind = kind
        self.register_buffer("mean", torch.zeros(width))
        if kind == "mean_std":
            self.register_buffer("variance", torch.ones(width))
        else:
            self.register_buffer("covariance", torch.eye(width))
            self.register_buffer("rotation", torch.eye(width))
            self.register_buffer("num_tokens", torch.zeros(()))
            self.register_buffer("turned_at", torch.zeros(()))
        self.register_buffer("num_steps", torch.zeros(()))
        self.register_buffer("observed_count", torch.zeros(()), persistent=False)
        self.register_buffer("observed_mean", torch.zeros(width), persistent=False)
        self.register_buffer("observed_squares", torch.zeros_like(self._spread), persistent=False)
        self._turns = kind == "phi_s"

    @property
    def _spread(self) -> Float[Tensor, "*S"]:
        return self.variance if self.kind == "mean_std" else self.covariance

    def forward(self, features_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        centred_MD = features_MD.float() - self.mean
        if self.kind == "mean_std":
            return centred_MD * (self.variance + self.epsilon).rsqrt()
        with torch.autocast(centred_MD.device.type, enabled=False):
            return centred_MD @ self.rotation.T * (self.covariance.diagonal().mean() + self.epsilon).rsqrt()

    @torch.no_grad()
    def observe(self, features_MD: Float[Tensor, "M D"]) -> None:
        """Add one micro-batch to what the next `step` will average."""
        if len(features_MD) == 0:
            return
        # Mean and squares around it, merged as Chan et al. do: plain sums of squares would lose the variance of
        # dimensions with a large mean.
        mean_D = features_MD.float().mean(0)
        squares = self._squares(features_MD.float() - mean_D)
        count = self.observed_count + len(features_MD)
        difference_D = mean_D - self.observed_mean
        merged = self._squares(difference_D[None])
        self.observed_squares += squares + merged * self.observed_count * len(features_MD) / count
        self.observed_mean += difference_D * len(features_MD) / count
        self.observed_count.copy_(count)

    @torch.no_grad()
    def step(self) -> None:
        """Move the statistics by what all ranks observed since the last call; stay if nobody observed anything."""
        count = sum_over_ranks(self.observed_count)
        at_least_one = count.clamp(min=1)
        mean_D = sum_over_ranks(self.observed_count * self.observed_mean) / at_least_one
        own_squares = self.observed_squares + self.observed_count * self._squares((self.observed_mean - mean_D)[None])
        spread = sum_over_ranks(own_squares) / at_least_one
        self.num_steps += count > 0
        rate = torch.where(count > 0, unbiased_rate(self.num_steps, self.momentum), 0.0)
        # Variance of a mixture of the old statistics and the new ones.
        difference_D = mean_D - self.mean
        self._spread.lerp_(spread, rate).add_(rate * (1 - rate) * self._squares(difference_D[None]))
        self.mean.add_(rate * difference_D)
        for observed in (self.observed_count, self.observed_mean, self.observed_squares):
            observed.zero_()
        if self._turns:
            self.num_tokens += count
            self._turn()

    def _squares(self, centred_MD: Float[Tensor, "M D"]) -> Float[Tensor, "*S"]:
        """The sum over tokens of squares, or of products of any two dimensions."""
        if self.kind == "mean_std":
            return centred_MD.square().sum(0)
        with torch.autocast(centred_MD.device.type, enabled=False):
            return centred_MD.T @ centred_MD

    def _turn(self) -> None:
        """Find the rotation anew where it is time to. Waits for the device, until it is found for good."""
        steps, tokens, turned_at = torch.stack([self.num_steps, self.num_tokens, self.turned_at]).long().tolist()
        is_filling = (steps - 1) * (1 - self.momentum) < 1
        if steps.bit_count() == 1 and tokens >= TOKENS_PER_DIMENSION * len(self.mean) and (is_filling or not turned_at):
            self.rotation.copy_(balancing_rotation(self.covariance))
            turned_at = steps
            self.turned_at.fill_(steps)
        self._turns = is_filling or not turned_at


def unbiased_rate(num_steps: Float[Tensor, ""], momentum: float) -> Float[Tensor, ""]:
    """Weight of the newest value in a moving average that has seen `num_steps` of them and nothing before."""
    steps = num_steps.clamp(min=1)
    if momentum == 1:  # the limit: a plain average over all steps
        return 1 / steps
    # Exactly 1 at the first step: any rounding would mix the squared mean into the variance.
    return torch.where(steps == 1, 1.0, (1 - momentum) / (1 - momentum**steps))
