"""What keeps prototype targets from collapsing: EMA centring or Sinkhorn–Knopp, both as one offset per prototype.

    target = softmax(teacher_scores / temperature + offset_K)

Centring (DINO): offset = -centre / temperature, the centre a moving average of the mean teacher scores.
Sinkhorn–Knopp (SwAV, DINOv2): it scales rows and columns of exp(scores / temperature) by turns until every prototype
gets the same mass; its last step normalises every token, which is the softmax above, so what remains of it is the
logarithm of its prototype scaling. Neither needs the [M, K] scores: a mean of scores is linear in the features, and
Sinkhorn walks over chunks, keeping the scalings only.

With torch.distributed initialised all statistics are over all ranks, whose token counts may differ.

Legend: M tokens of this rank, d bottleneck, K prototypes, c tokens of a chunk.
"""

from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from distill.objective.prototypes import chunk_rows


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of every rank's tensor, as a new tensor."""
    return _over_ranks(values, dist.ReduceOp.SUM)


def max_over_ranks(values: Tensor) -> Tensor:
    """The largest of every rank's tensor, entry by entry, as a new tensor."""
    return _over_ranks(values, dist.ReduceOp.MAX)


def _over_ranks(values: Tensor, operation: dist.ReduceOp) -> Tensor:
    result = values.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(result, operation)
    return result


def centre_offset(centre_K: Float[Tensor, " K"], *, temperature: float) -> Float[Tensor, " K"]:
    """DINO centring and sharpening: softmax((scores - centre) / temperature)."""
    return -centre_K / temperature


def updated_centre(
    centre_K: Float[Tensor, " K"], mean_scores_K: Float[Tensor, " K"], *, momentum: float
) -> Float[Tensor, " K"]:
    """DINO eq. 4: momentum * centre + (1 - momentum) * mean of the teacher's scores."""
    return momentum * centre_K + (1 - momentum) * mean_scores_K


@torch.no_grad()
def sinkhorn_offset(
    features_Md: Float[Tensor, "M d"],
    *,
    prototypes_Kd: Float[Tensor, "K d"],
    temperature: float,
    iterations: int,
    weights_M: Float[Tensor, " M"] | None = None,
    max_elements: int | None = None,
) -> Float[Tensor, " K"]:
    """Logarithm of Sinkhorn–Knopp's prototype scaling a, so that softmax(scores / temperature + it) is the assignment.

        a_k <- 1 / (K sum_m b_m exp(score_mk / temperature))    every prototype gets 1/K of the mass
        b_m <- w_m / sum_k a_k exp(score_mk / temperature)      every token spends what it weighs

    starting from b = w, as SwAV and DINOv2 do. One pass over the tokens per iteration, in logarithms, so nothing
    overflows at low temperatures. `weights_M` (ones if not given) counts a token that often; 0 leaves it out.
    Without any token on any rank the offset is 0.
    """
    num_prototypes, device = len(prototypes_Kd), features_Md.device
    rows = chunk_rows(num_prototypes, device=device, max_elements=max_elements)
    dtype = torch.promote_types(features_Md.dtype, torch.float32)
    log_w_M = features_Md.new_zeros(len(features_Md), dtype=dtype) if weights_M is None else weights_M.to(dtype).log()
    log_a_K = None
    with torch.autocast(device.type, enabled=False):
        prototypes_dK = prototypes_Kd.to(dtype).T / temperature
        for _ in range(iterations):
            log_mass_K = features_Md.new_full((num_prototypes,), -torch.inf, dtype=dtype)
            for features_cd, log_w_c in zip(features_Md.split(rows), log_w_M.split(rows), strict=True):
                log_q_cK = features_cd.to(dtype) @ prototypes_dK
                log_b_c = log_w_c if log_a_K is None else log_w_c - (log_q_cK + log_a_K).logsumexp(1)
                log_mass_K = torch.logaddexp(log_mass_K, log_q_cK.add_(log_b_c[:, None]).logsumexp(0))
            log_a_K = -_logsumexp_over_ranks(log_mass_K)
            log_a_K = torch.where(log_a_K.isfinite(), log_a_K, 0.0)
    return log_a_K


def _logsumexp_over_ranks(values_K: Tensor) -> Tensor:
    largest_K = max_over_ranks(values_K)
    shift_K = torch.where(largest_K.isfinite(), largest_K, 0.0)
    return sum_over_ranks((values_K - shift_K).exp()).log() + shift_K


class Balance(nn.Module):
    """The offset of one loss's targets, and the centre behind it.

    The centre moves once per optimiser step, in `step`, however many micro-batches were observed in between; losses
    use the centre of before. The centre is a buffer (checkpoint it); what was observed since the last step is not.
    With Sinkhorn there is no state.
    """

    def __init__(
        self, num_prototypes: int, *, kind: Literal["centre", "sinkhorn"], momentum: float, iterations: int
    ) -> None:
        """`momentum` is the centre's, `iterations` Sinkhorn's."""
        super().__init__()
        self.kind = kind
        self.momentum = momentum
        self.iterations = iterations
        if kind == "centre":
            self.register_buffer("centre", torch.zeros(num_prototypes))
            self.register_buffer("observed_sum", torch.zeros(num_prototypes), persistent=False)
            self.register_buffer("observed_count", torch.zeros(()), persistent=False)

    def offset(
        self,
        features_Md: Float[Tensor, "M d"],
        *,
        prototypes_Kd: Float[Tensor, "K d"],
        temperature: float,
        weights_M: Float[Tensor, " M"] | None = None,
        max_elements: int | None = None,
    ) -> Float[Tensor, " K"]:
        """The offset for targets made of these features. Sinkhorn needs all of the step's tokens in one call."""
        if self.kind == "centre":
            return centre_offset(self.centre, temperature=temperature)
        return sinkhorn_offset(
            features_Md,
            prototypes_Kd=prototypes_Kd,
            temperature=temperature,
            iterations=self.iterations,
            weights_M=weights_M,
            max_elements=max_elements,
        )

    @torch.no_grad()
    def observe(
        self,
        features_Md: Float[Tensor, "M d"],
        *,
        prototypes_Kd: Float[Tensor, "K d"],
        weights_M: Float[Tensor, " M"] | None = None,
    ) -> None:
        """Add one micro-batch of teacher features to what the next `step` will average."""
        if self.kind != "centre":
            return
        weights_M = features_Md.new_ones(len(features_Md)) if weights_M is None else weights_M
        with torch.autocast(features_Md.device.type, enabled=False):
            self.observed_sum += prototypes_Kd.float() @ (weights_M.float() @ features_Md.float())
        self.observed_count += weights_M.sum()

    @torch.no_grad()
    def step(self) -> None:
        """Move the centre by what all ranks observed since the last call; stay if nobody observed anything."""
        if self.kind != "centre":
            return
        count = sum_over_ranks(self.observed_count)
        mean_K = sum_over_ranks(self.observed_sum) / count
        moved_K = updated_centre(self.centre, mean_K, momentum=self.momentum)
        self.centre.copy_(torch.where(count > 0, moved_K, self.centre))
        self.observed_sum.zero_()
        self.observed_count.zero_()
