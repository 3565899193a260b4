"""Prototypes for teachers without a head: clusters of their features, fitted while the student learns.

Legend: M tokens, D width of the teacher, K clusters, c tokens of a chunk.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from distill.objective.balance import sum_over_ranks
from distill.objective.prototypes import chunk_rows
from distill.objective.standardise import Standardiser, unbiased_rate

EMPTY = 0.01
"""A cluster is empty when it is the first choice of less than this share of 1 / K of the tokens."""
SPLIT = 0.1
"""How far the two halves of a split cluster lie from its centroid, as a share of its length."""


class Clusters(nn.Module):
    """Stands in for a teacher's projection head: the bottleneck is the standardised, L2-normalised feature, the
    prototypes are unit centroids.

    A target is a token's assignment, softmax(cosines / temperature + offset), whose offset Sinkhorn-Knopp finds over
    the step's tokens of all ranks, so that every cluster gets as much (SwAV; CAPI, arXiv 2502.08769). The centroids
    are running averages of what was assigned to them,

        sum_k <- (1 - rate) sum_k + rate * mean_m assignment_mk feature_m,    centroid_k = sum_k / |sum_k|

    with the same unbiased rate as the running statistics, once per optimiser step over all micro-batches and ranks.
    The first step only measures the statistics: before, features are not standardised and lie all on one side.
    Centroids start in random directions drawn from `seed`.

    Balance alone does not keep a cluster in use: one that lies far from everything gets a little of every token and
    is nobody's first choice. A cluster that is `EMPTY` by the running share of first choices takes half of the most
    chosen one, the second such cluster half of the second, and so on; the halves lie a `SPLIT` of the centroid's
    length to both sides of it, in alternating directions of the dimensions (as Faiss splits clusters): no random
    number is needed, and all ranks do the same.

    Everything is a buffer: checkpoint it. Nothing has a gradient.
    """

    def __init__(
        self, width: int, *, num_clusters: int, momentum: float, standardiser: Standardiser | None, seed: int
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.standardiser = standardiser
        start_KD = torch.randn(num_clusters, width, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("sums", functional.normalize(start_KD, dim=-1))
        self.register_buffer("first_choices", torch.full((num_clusters,), 1 / num_clusters))
        self.register_buffer("num_steps", torch.zeros(()))
        self.register_buffer("observed_sums", torch.zeros(num_clusters, width), persistent=False)
        self.register_buffer("observed_choices", torch.zeros(num_clusters), persistent=False)
        self.register_buffer("observed_count", torch.zeros(()), persistent=False)

    def forward(self, tokens_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """Standardised unit vectors, in float32."""
        if self.standardiser is None:
            return functional.normalize(tokens_MD.float(), dim=-1)
        return functional.normalize(self.standardiser(tokens_MD), dim=-1)

    def prototypes(self) -> Float[Tensor, "K D"]:
        return functional.normalize(self.sums, dim=-1)

    @torch.no_grad()
    def observe(
        self,
        tokens_MD: Float[Tensor, "M D"],
        features_MD: Float[Tensor, "M D"],
        *,
        offset_K: Float[Tensor, " K"],
        temperature: float,
        max_elements: int | None = None,
    ) -> None:
        """Add one micro-batch to what the next `step` will average: the teacher's tokens as they come, and what
        `forward` made of them. The offset is that of all micro-batches and ranks."""
        if self.standardiser is not None:
            self.standardiser.observe(tokens_MD)
        rows = chunk_rows(len(self.sums), device=features_MD.device, max_elements=max_elements)
        with torch.autocast(features_MD.device.type, enabled=False):
            prototypes_DK = self.prototypes().T / temperature
            for features_cD in features_MD.split(rows):
                assignment_cK = (features_cD @ prototypes_DK).add_(offset_K).softmax(1)
                self.observed_sums.addmm_(assignment_cK.T, features_cD)
                chosen_c = assignment_cK.argmax(1)
                self.observed_choices.scatter_add_(0, chosen_c, torch.ones_like(chosen_c, dtype=torch.float32))
        self.observed_count += len(features_MD)

    @torch.no_grad()
    def step(self) -> None:
        """Move the centroids by what all ranks observed since the last call; stay if nobody observed anything."""
        count = sum_over_ranks(self.observed_count)
        is_ready = count > 0
        if self.standardiser is not None:
            is_ready = is_ready & (self.standardiser.num_steps > 0)
            self.standardiser.step()
        sums_KD = sum_over_ranks(self.observed_sums) / count.clamp(min=1)
        choices_K = sum_over_ranks(self.observed_choices) / count.clamp(min=1)
        self.num_steps += is_ready
        self.sums.lerp_(sums_KD, torch.where(is_ready, unbiased_rate(self.num_steps, self.momentum), 0.0))
        # From an even start, not unbiased: a new cluster has as long to find its tokens as the average remembers.
        self.first_choices.lerp_(choices_K, torch.where(is_ready, 1 - self.momentum, 0.0))
        self._revive()
        for observed in (self.observed_sums, self.observed_choices, self.observed_count):
            observed.zero_()

    def _revive(self) -> None:
        """Give the i-th least chosen cluster half of the i-th most chosen one, where it is empty."""
        num_clusters, width = self.sums.shape
        order_K = self.first_choices.argsort(stable=True)
        low, high = order_K[: num_clusters // 2], order_K.flip(0)[: num_clusters // 2]
        revived = self.first_choices[low] * num_clusters < EMPTY
        revived &= self.first_choices[high] * num_clusters >= 1
        alternating_D = 1 - 2 * (torch.arange(width, device=self.sums.device) % 2).float()
        donor_KD, share_K = self.sums[high], self.first_choices[high]
        for place, sign in ((low, 1), (high, -1)):
            half_KD = donor_KD * (1 + sign * SPLIT * alternating_D) / 2
            self.sums[place] = torch.where(revived[:, None], half_KD, self.sums[place])
            self.first_choices[place] = torch.where(revived, share_K / 2, self.first_choices[place])
