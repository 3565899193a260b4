"""Which patches the loss hears, and how loudly: the difference between iBOT and iBOT++ as one weight per token.

Legend: B images, N patches of an image, M supervised patches of the batch, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from distill import config

Supervise = Literal["masked", "visible", "all"]
Normalise = Literal["per_image", "ibot_plus_visible", "sum"]
SORTS = ("hidden", "visible")


@dataclass(frozen=True)
class Supervised:
    """The tokens that carry weight. `index` is their place in the flattened batch of B times N tokens."""

    tokens: Float[Tensor, "M D"]
    weights: Float[Tensor, " M"]
    index: Int[Tensor, " M"]


def patch_weights(
    hidden_BN: Bool[Tensor, "B N"], *, supervise: Supervise, normalise: Normalise, visible_weight: float
) -> Float[Tensor, "B N"]:
    """Weight of every patch, so that the sum of weight times per-patch loss is the loss of the batch.

    The published losses differ in the normalisation (TIPSv2 writes sums, iBOT's and DINOv2's code means); all are a
    mean over the B images of

    `per_image`          the mean over the image's supervised patches (iBOT's code for `masked`)
    `ibot_plus_visible`  the mean over its hidden patches + `visible_weight` * the mean over its visible ones;
                         supervising `masked` keeps the first part, `visible` the second
    `sum`                the sum over its supervised patches (TIPSv2 section 3, as written)

    An image without supervised patches contributes 0 and still counts in B.
    """
    chosen_BN = {"masked": hidden_BN, "visible": ~hidden_BN, "all": torch.ones_like(hidden_BN)}[supervise]
    if normalise == "sum":
        weights_BN = chosen_BN.float()
    elif normalise == "per_image":
        weights_BN = _mean_weights(chosen_BN)
    else:
        weights_BN = _mean_weights(chosen_BN & hidden_BN) + visible_weight * _mean_weights(chosen_BN & ~hidden_BN)
    return weights_BN / len(hidden_BN)


def heard_weights(hidden_BN: Bool[Tensor, "B N"], settings: config.Patch) -> Float[Tensor, "B N"]:
    """`patch_weights` as a recipe sets them."""
    return patch_weights(
        hidden_BN,
        supervise=settings.supervise,
        normalise=settings.normalise,
        visible_weight=settings.visible_weight,
    )


def unheard_weights(hidden_BN: Bool[Tensor, "B N"], settings: config.Patch) -> Float[Tensor, "B N"]:
    """Weight 1 on every patch that has none."""
    return (heard_weights(hidden_BN, settings) == 0).float()


def heard_sorts(settings: config.Patch) -> tuple[str, ...]:
    """Which of `SORTS` carry weight."""
    return {"masked": ("hidden",), "visible": ("visible",), "all": SORTS}[settings.supervise]


def unheard_sorts(settings: config.Patch) -> tuple[str, ...]:
    return tuple(sort for sort in SORTS if sort not in heard_sorts(settings))


def _mean_weights(chosen_BN: Tensor) -> Tensor:
    """1 / (number chosen in the image) on the chosen patches, 0 elsewhere."""
    return chosen_BN / chosen_BN.sum(dim=1, keepdim=True).clamp(min=1)


def select(tokens_BND: Float[Tensor, "B N D"], weights_BN: Float[Tensor, "B N"]) -> Supervised:
    """The tokens with weight, packed before any head sees them. Reads one size back from the device."""
    index_M = weights_BN.flatten().nonzero().squeeze(1)
    return Supervised(
        tokens=tokens_BND.flatten(0, 1).index_select(0, index_M),
        weights=weights_BN.flatten().index_select(0, index_M),
        index=index_M,
    )


def sum_by_image(
    values_M: Float[Tensor, " M"], index_M: Int[Tensor, " M"], *, shape: tuple[int, int]
) -> Float[Tensor, " B"]:
    """The sum over each image of values of `select`ed tokens; `shape` is (B, N). In the same order every time."""
    flat_BN = values_M.new_zeros(shape[0] * shape[1]).index_copy(0, index_M, values_M)
    return flat_BN.view(shape).sum(1)


def mean_where(values_M: Float[Tensor, " M"], chosen_M: Bool[Tensor, " M"]) -> Float[Tensor, ""]:
    """The mean over the chosen values, for the log; nan when none is chosen. Does not wait for the device."""
    return torch.where(chosen_M, values_M, 0.0).sum() / chosen_M.sum()


def by_sort(
    per_token_M: Float[Tensor, " M"],
    hidden_BN: Bool[Tensor, "B N"],
    index_M: Int[Tensor, " M"],
    *,
    sorts: tuple[str, ...],
) -> dict[str, Tensor]:
    """Diagnostics patch/hidden and patch/visible: the mean loss per token of that sort."""
    hidden_M = hidden_BN.flatten()[index_M]
    chosen = {"hidden": hidden_M, "visible": ~hidden_M}
    return {f"patch/{sort}": mean_where(per_token_M, chosen[sort]) for sort in sorts}
