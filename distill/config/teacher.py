"""Settings of the teacher."""

import math
from dataclasses import dataclass
from typing import Literal

from distill.config.checks import check, in_range


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who makes the targets."""

    kind: Literal["momentum", "frozen", "partial"] = "momentum"
    """partial: starts like a frozen one; named parts go on learning, from the distillation losses. Safest with
    `objective.prototypes.balance=sinkhorn`: a teacher that learns fast outruns centring, and its targets become
    alike."""
    scope: Literal["encoder_and_head", "head"] = "encoder_and_head"
    """momentum: what the EMA copies. `head` is head-only EMA: the encoder is the student's own, stop-gradient."""
    momentum: float = 0.994
    momentum_end: float = 1.0
    """momentum: rises from `momentum` to this along a cosine."""
    checkpoint: str | None = None
    """frozen, partial: run folder or checkpoint folder of one of our own trainings."""
    model: str | None = None
    """frozen, partial: `timm:NAME`, with `weights`. A partial one gets a fresh head of the sizes of `student.head`."""
    weights: str | None = None
    """frozen, partial: local safetensors file for `model`."""
    image_size: int | None = None
    """frozen, partial: side of the pictures the teacher sees, pixels; its own default when not set."""
    trainable: tuple[Literal["head", "blocks", "norms", "adapters"], ...] = ()
    """partial: what learns. `head`: projection heads and prototypes. `blocks`: the last `last_k` blocks and the final
    norm of the image tower. `norms`: every parameter of a norm, and every bias, of the image tower. `adapters`: W +
    alpha / rank * B A on the linear maps of its attention that do not learn themselves, with B zero at the start."""
    last_k: int = 0
    """partial, trainable=[blocks]: this many last blocks."""
    rank: int = 0
    """partial, trainable=[adapters]: of B A; at most the sides of attention's weights."""
    alpha: float = 8.0
    """partial, trainable=[adapters]: `alpha / rank` is the factor on B A."""
    lr_scale: float = 1.0
    """partial: factor on `optim.lr` for the teacher."""
    loss_weight: float = 1.0
    """partial: factor on the gradient that reaches the teacher; 0 leaves it as it is. AdamW and Adafactor divide any
    other constant factor out again, except where `optim.clip` bites or starts to: `lr_scale` sets the pace."""

    def __post_init__(self) -> None:
        in_range(self, 0.0, 1.0, "momentum", "momentum_end")
        check(self.momentum <= self.momentum_end, "momentum", "must not exceed momentum_end")
        check(len(set(self.trainable)) == len(self.trainable), "trainable", "names a part twice")
        check(self.last_k >= 0, "last_k", f"{self.last_k} is negative")
        check(self.rank >= 0, "rank", f"{self.rank} is negative")
        check(0 < self.alpha < math.inf, "alpha", f"{self.alpha} is not a finite positive number")
        check(0 < self.lr_scale < math.inf, "lr_scale", f"{self.lr_scale} is not a finite positive number")
        check(0 <= self.loss_weight < math.inf, "loss_weight", f"{self.loss_weight} is negative or not finite")
