"""Settings of the teacher, or of several."""

import math
from dataclasses import dataclass, field
from typing import Literal

from distill.config.checks import check, in_range
from distill.config.objective import Features


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Where a loaded teacher comes from, what it looks at, and whether it is run."""

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

    def __post_init__(self) -> None:
        named = self.model is None or all(self.model.partition(":"))
        check(named, "model", f"{self.model!r} is not FAMILY:NAME; `distill teachers` lists the families")
        in_range(self, 0, 65536, "cache_components")


@dataclass(frozen=True, kw_only=True)
class Member(Loaded):
    """One of several frozen teachers, with losses, statistics and adapters of its own."""

    weight: float = 1.0
    """Of all its losses, beside the other members'."""
    features: Features = field(default_factory=Features)
    """Its targets and losses, as `objective.features` are for a teacher that teaches alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.weight < math.inf, "weight", f"{self.weight} is not a finite positive number")


@dataclass(frozen=True, kw_only=True)
class Teacher(Loaded):
    """Who makes the targets."""

    kind: Literal["momentum", "frozen", "partial", "ensemble"] = "momentum"
    """partial: starts like a frozen one; named parts go on learning, from the distillation losses. Safest with
    `objective.prototypes.balance=sinkhorn`: a teacher that learns fast outruns centring, and its targets become
    alike. ensemble: several frozen ones, `members`."""
    scope: Literal["encoder_and_head", "head"] = "encoder_and_head"
    """momentum: what the EMA copies. `head` is head-only EMA: the encoder is the student's own, stop-gradient."""
    momentum: float = 0.994
    momentum_end: float = 1.0
    """momentum: rises from `momentum` to this along a cosine."""
    members: dict[str, Member] = field(default_factory=dict)
    """ensemble: the teachers by names of your choice, `teacher.members.NAME.model=…`. All are frozen, and the student
    learns their features (`objective.patch.target=features`), each through adapters of its own."""
    balance: Literal["none", "running_loss"] = "none"
    """ensemble: `running_loss` divides every member's loss by its own running mean, so that `weight` alone says how
    much a member counts, whatever the size of its loss (AdaLoss, arXiv 1708.06832)."""
    drop: float = 0.0
    """ensemble: probability with which a picture does not hear a member, always except the one whose loss is the
    largest there; the others make up for it (UNIC's teacher dropping, arXiv 2408.05088: 0.5)."""
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
        super().__post_init__()
        in_range(self, 0.0, 1.0, "momentum", "momentum_end", "drop")
        check(self.momentum <= self.momentum_end, "momentum", "must not exceed momentum_end")
        check(len(set(self.trainable)) == len(self.trainable), "trainable", "names a part twice")
        check(self.last_k >= 0, "last_k", f"{self.last_k} is negative")
        check(self.rank >= 0, "rank", f"{self.rank} is negative")
        check(0 < self.alpha < math.inf, "alpha", f"{self.alpha} is not a finite positive number")
        check(0 < self.lr_scale < math.inf, "lr_scale", f"{self.lr_scale} is not a finite positive number")
        check(0 <= self.loss_weight < math.inf, "loss_weight", f"{self.loss_weight} is negative or not finite")
