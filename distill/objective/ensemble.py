"""What several teachers teach together: whose loss counts how much, and which picture hears whom.

Legend: B images of this rank, N patches, T teachers.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from distill.contracts import Losses, ManyTargets, Predictions
from distill.objective.balance import sum_over_ranks
from distill.objective.prototype_terms import Heads, Offsets
from distill.objective.standardise import unbiased_rate
from distill.objective.terms import Term
from distill.objective.transfer import Transfer

MOMENTUM = 0.99
"""Of the running losses."""


class EnsembleTransfer(nn.Module):
    """The sum of the members' losses, image by image:

        loss = sum_b sum_t share_tb scale_t loss_tb
        scale_t   1, or with `running_loss` the mean of all running losses divided by this member's (AdaLoss, Hu et al.
                  2019, arXiv 1708.06832): by its weight alone a member counts more or less
        share_tb  1, or with `drop` 0 for the pictures that do not hear it, and more for those who do

    loss_tb has the member's weight in it; running losses do not, and are of the steps before. With `drop` (UNIC,
    Sariyildiz et al. 2024, arXiv 2408.05088) every picture hears the teacher whose balanced loss without its weight is
    the largest there, and each other one with probability 1 - drop. The members that it hears make up for the others,
    so that every picture weighs the same (UNIC's code divides by what is heard in the whole batch, where a picture that
    hears two teachers weighs twice as much as one that hears one). In eval mode all are heard.

    It stands where the `Transfer` of a teacher that teaches alone does. Targets are features: no prototypes, no heads.
    """

    with_cls = with_prototypes = asks_teachers_heads = False
    with_features = True
    prototypes = None

    def __init__(
        self, members: Mapping[str, Transfer], *, balance: Literal["none", "running_loss"] = "none", drop: float = 0.0
    ) -> None:
        super().__init__()
        self.members = nn.ModuleDict(members)
        self.balance = balance
        self.drop = drop
        weights_T = torch.tensor([member.settings.patch.weight for member in members.values()])
        self.register_buffer("weights", weights_T, persistent=False)
        self.register_buffer("running_losses", torch.zeros_like(weights_T))
        self.register_buffer("num_steps", torch.zeros(()))
        self.register_buffer("observed_losses", torch.zeros_like(weights_T), persistent=False)
        self.register_buffer("observed_count", torch.zeros(()), persistent=False)

    def forward(
        self,
        predictions: Predictions,
        targets: ManyTargets,
        *,
        hidden: Bool[Tensor, "B N"],
        heads: Heads | None,
        adapters: nn.ModuleDict,
        progress: float,
        offsets: Offsets | None = None,
        overhear: bool = False,
    ) -> Losses:
        """Terms and diagnostics of every member under its name, `NAME/patch`; NAME/kept is the share of the images that
        hear it, NAME/scale what balancing multiplies it by."""
        terms = {
            name: member.terms(
                predictions,
                targets.members[name],
                hidden=hidden,
                heads=None,
                adapters=adapters[name],
                progress=progress,
                overhear=overhear,
            )
            for name, member in self.members.items()
        }
        loss_TB = torch.stack([sum(term.weight * term.by_image for term in own) for own in terms.values()])
        scale_T = self._scales()
        kept_TB = self._kept(loss_TB.detach() * (scale_T / self.weights)[:, None], targets.draws)
        # No matrix product: autocast would round it.
        share_TB = kept_TB * self.weights.sum() / (self.weights[:, None] * kept_TB).sum(0)
        if self.training:
            self._observe(loss_TB.detach())
        return Losses(
            total=(share_TB * scale_T[:, None] * loss_TB).sum(),
            terms={f"{name}/{term.name}": term.value.detach() for name, own in terms.items() for term in own},
            diagnostics=_diagnostics(terms) | self._of_sharing(scale_T, kept_TB),
        )

    @torch.no_grad()
    def step(self) -> None:
        """Once per optimiser step, on every rank: the members' statistics and the running losses move."""
        for member in self.members.values():
            member.step()
        count = sum_over_ranks(self.observed_count)
        losses_T = sum_over_ranks(self.observed_losses) / count.clamp(min=1)
        self.num_steps += count > 0
        self.running_losses.lerp_(losses_T, torch.where(count > 0, unbiased_rate(self.num_steps, MOMENTUM), 0.0))
        self.observed_losses.zero_()
        self.observed_count.zero_()

    def _scales(self) -> Float[Tensor, " T"]:
        """1 before anything was observed, and for a member that has nothing to learn from any more."""
        if self.balance == "none":
            return torch.ones_like(self.weights)
        scales_T = self.running_losses.mean() / self.running_losses
        return torch.where((self.running_losses > 0) & (self.num_steps > 0), scales_T, 1.0)

    def _kept(self, own_loss_TB: Float[Tensor, "T B"], draws_BT: Float[Tensor, "B T"] | None) -> Tensor:
        """1 where a picture hears a teacher, [T, B]."""
        if not self.training or self.drop == 0:
            return torch.ones_like(own_loss_TB)
        assert draws_BT is not None, "the data draws for every picture when teachers are dropped"
        largest_TB = torch.zeros_like(own_loss_TB).scatter(0, own_loss_TB.argmax(0, keepdim=True), 1.0)
        return torch.where(draws_BT.t() < self.drop, largest_TB, 1.0)

    def _observe(self, loss_TB: Float[Tensor, "T B"]) -> None:
        """Add a micro-batch to what the next `step` averages. Each image's loss is its part of the batch's mean."""
        num_images = loss_TB.shape[1]
        self.observed_losses += loss_TB.sum(1) * num_images / self.weights
        self.observed_count += num_images

    def _of_sharing(self, scale_T: Tensor, kept_TB: Tensor) -> dict[str, Tensor]:
        found = {}
        for number, name in enumerate(self.members):
            if self.drop > 0:
                found[f"{name}/kept"] = kept_TB[number].mean()
            if self.balance != "none":
                found[f"{name}/scale"] = scale_T[number]
        return found


def _diagnostics(terms: dict[str, list[Term]]) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value for name, own in terms.items() for term in own for key, value in term.diagnostics.items()
    }
