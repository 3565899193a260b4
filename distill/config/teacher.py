"""Settings of the teacher."""

from dataclasses import dataclass
from typing import Literal

from distill.config.checks import check, in_range


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who makes the targets."""

    kind: Literal["momentum", "frozen"] = "momentum"
    scope: Literal["encoder_and_head", "head"] = "encoder_and_head"
    """momentum: what the EMA copies. `head` is head-only EMA: the encoder is the student's own, stop-gradient."""
    momentum: float = 0.994
    momentum_end: float = 1.0
    """momentum: rises from `momentum` to this along a cosine."""
    checkpoint: str | None = None
    """frozen: run folder or checkpoint folder of one of our own trainings."""
    model: str | None = None
    """frozen: `timm:NAME`, with `weights`."""
    weights: str | None = None
    """frozen: local safetensors file for `model`."""
    image_size: int | None = None
    """frozen: side of the pictures the teacher sees, pixels; its own default when not set."""

    def __post_init__(self) -> None:
        in_range(self, 0.0, 1.0, "momentum", "momentum_end")
        check(self.momentum <= self.momentum_end, "momentum", "must not exceed momentum_end")
