"""The batch's pictures as a teacher wants to see them."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from distill.contracts import Batch


def seen_at(batch: Batch, side: int) -> Float[Tensor, "B 3 S S"]:
    """The view of `side` pixels where the batch has one, else the student's, resized."""
    return batch.teacher_pixels[side] if side in batch.teacher_pixels else at_side(batch.pixels, side)


def at_side(pixels: Float[Tensor, "B 3 H W"], side: int) -> Float[Tensor, "B 3 S S"]:
    """Resized to squares of `side` pixels, bicubic and smoothed when smaller, in [0, 1]; as they are where they fit."""
    if pixels.shape[-1] == side:
        return pixels
    return functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
