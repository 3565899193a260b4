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
    """frozen, partial: FAMILY:NAME, an encoder of one of the families that `distill teachers` lists. A partial one
    gets a fresh head of the sizes of `student.head`."""
    weights: str | None = None
    """frozen, partial: a file for `model`; not set: those that NAME brings, a folder or the hub; `random`: a `model`
    that has learnt nothing, for tests."""
    image_size: int | None = None
    """frozen, partial: side of the pictures the teacher sees, pixels; when not set, its own default or what `match`
    wants. Pictures larger than the student's are made from the source, not from the student's view."""
    match: Literal["auto", "features", "pixels"] = "auto"
    """frozen, partial: how the teacher's patches come to lie on the student's grid. `features`: they are resampled.
    `pixels`: the teacher sees pictures of the size at which its grid is the student's. `auto`: pixels where the
    teacher's grid would be the coarser one, else features."""
    cache: str | None = None
    """frozen: folder of the teacher's features of every fixed view (`data.views.fixed`), from which it teaches without
    being run; written at the start when it is not there. `distill cache plan RECIPE` says how large it will be."""
    cache_storage: Literal["fp32", "fp16", "int8"] = "fp32"
    """cache: fp32 loses nothing. int8: patches as 8-bit steps between each channel's smallest and largest value in the
    picture, off by at most that range / 510; CLS tokens are few and stay fp16."""
    cache_components: int = 0
    """cache: patches are kept as this many principal components, fitted to a sample of them; 0 keeps every channel."""
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
        named = self.model is None or all(self.model.partition(":"))
        check(named, "model", f"{self.model!r} is not FAMILY:NAME; `distill teachers` lists the families")
        check(self.momentum <= self.momentum_end, "momentum", "must not exceed momentum_end")
        check(len(set(self.trainable)) == len(self.trainable), "trainable", "names a part twice")
        in_range(self, 0, 65536, "cache_components")
        check(self.last_k >= 0, "last_k", f"{self.last_k} is negative")
        check(self.rank >= 0, "rank", f"{self.rank} is negative")
        check(0 < self.alpha < math.inf, "alpha", f"{self.alpha} is not a finite positive number")
        check(0 < self.lr_scale < math.inf, "lr_scale", f"{self.lr_scale} is not a finite positive number")
        check(0 <= self.loss_weight < math.inf, "loss_weight", f"{self.loss_weight} is negative or not finite")
