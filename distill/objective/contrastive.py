"""Image–text contrast: open_clip's losses, one per CLS token, each with its own learned temperature.

Legend: B images of this rank, C CLS tokens (and as many captions), D width.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["softmax", "sigmoid"]

MAX_SCALE = 100.0
"""Bound of 1 / temperature, as in CLIP."""


class Temperatures(nn.Module):
    """One learned temperature per CLS token (tipsv2.md section 2: two losses, two temperatures), as a log scale.

    `bias` exists for the sigmoid loss only and starts at SigLIP's -10.
    """

    def __init__(self, num_cls: int, *, temperature: float, kind: Kind, max_scale: float = MAX_SCALE) -> None:
        """`temperature` is the starting value; `max_scale` bounds 1 / temperature.

        Raises ValueError for a starting temperature that the bound would silently change at the first step.
        """
        super().__init__()
        if not 1 / max_scale <= temperature <= 1:
            raise ValueError(
                f"a contrastive temperature of {temperature:g} is outside [{1 / max_scale:g}, 1], the range in which "
                "learned temperatures are kept; start inside it"
            )
        self.max_log_scale = math.log(max_scale)
        self.log_scale = nn.Parameter(torch.full((num_cls,), -math.log(temperature)))
        self.bias = nn.Parameter(torch.full((num_cls,), -10.0)) if kind == "sigmoid" else None

    @torch.no_grad()
    def step(self) -> None:
        """After each optimiser step: keep the scales in [1, max_scale], as open_clip does."""
        self.log_scale.clamp_(0, self.max_log_scale)


def contrastive_loss(
    cls_BCD: Float[Tensor, "B C D"],
    text_CBD: Float[Tensor, "C B D"],
    *,
    temperatures: Temperatures,
    kind: Kind,
    rank: int = 0,
    world: int = 1,
) -> Float[Tensor, " C"]:
    """CLIP's (`softmax`) or SigLIP's (`sigmoid`) loss of every CLS token with its caption; their mean is L_CLIP.

    Features need not be normalised. Logits are computed in float32 (bf16 is too coarse at a scale of 100).

    With several ranks, each contrasts its B images with the captions of all, and gathering carries gradients. The
    mean over ranks of the losses is the loss of the global batch, and the *mean over ranks of the gradients*, what
    data-parallel training computes, is its gradient, for features and temperatures alike: gathering sums `world`
    ranks' gradients into each feature and the mean divides by `world`. No further factor is needed. Every rank must
    bring the same B.

    A pure function of its arguments: features of micro-batches may be gathered first, differentiated here, and their
    gradients fed back to the encoders (GradCache), so that accumulation contrasts the whole batch.
    """
    if kind == "softmax":
        loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world)
    else:
        # Of SigLipLoss's exchanges, `gather` is the one that works the same on every backend and number of ranks.
        loss = SigLipLoss(rank=rank, world_size=world, dist_impl="gather")
    with torch.autocast(cls_BCD.device.type, enabled=False):
        images_CBD = _unit(cls_BCD).transpose(0, 1)
        texts_CBD = _unit(text_CBD)
        scales_C = temperatures.log_scale.exp()
        biases_C = [None] * len(scales_C) if temperatures.bias is None else temperatures.bias
        pairs = zip(images_CBD, texts_CBD, scales_C, biases_C, strict=True)
        return torch.stack([loss(image, text, scale, bias) for image, text, scale, bias in pairs])


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
