"""Patch scores to a class per pixel, never holding all classes at full size.

A class scores `feature @ weight + bias`; bilinear maps and arg max go over classes in chunks.
Legend: B images, K classes, k classes of one chunk, D width, (h, w) patch grid, (H, W) pixels.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from distill.eval.metrics import MAX_ELEMENTS

MeanOf = Literal["shares", "scores"]
"""What is averaged where windows overlap."""


@dataclass(frozen=True)
class LinearScores:
    """Weights and bias of every class. Cosines: unit weights, no bias, unit features."""

    weight_KD: Float[Tensor, "K D"]
    bias_K: Float[Tensor, " K"]

    def __len__(self) -> int:
        return len(self.bias_K)

    def of(self, features_BDhw: Float[Tensor, "B D h w"], classes: slice) -> Float[Tensor, "B k h w"]:
        scores = torch.einsum("bdhw,kd->bkhw", features_BDhw, self.weight_KD[classes])
        return scores + self.bias_K[classes, None, None]


@dataclass(frozen=True)
class Windows:
    """Where the windows lie: top left corners and one size for all, in pixels of the picture."""

    corners: list[tuple[int, int]]
    height: int
    width: int

    def of(self, full: Tensor, corner: tuple[int, int]) -> Tensor:
        """The view of [..., H, W] under the window with this corner."""
        top, left = corner
        return full[..., top : top + self.height, left : left + self.width]


def upsample(maps: Float[Tensor, "B k h w"], size: tuple[int, int]) -> Float[Tensor, "B k H W"]:
    """Bilinear, corners not aligned."""
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def best_class(
    features_BDhw: Float[Tensor, "B D h w"], scores: LinearScores, *, size: tuple[int, int]
) -> Int[Tensor, "B H W"]:
    """The class whose up-sampled score map is highest at every pixel; the lower class of equal ones."""
    return _running_argmax(
        lambda classes: upsample(scores.of(features_BDhw, classes), size),
        num_classes=len(scores),
        num_pixels=len(features_BDhw) * math.prod(size),
    )


def segment(
    pixels: Float[Tensor, "B 3 H W"],
    features_of: Callable[[Tensor], Tensor],
    scores: LinearScores,
    *,
    size: tuple[int, int],
    slide: tuple[int, int] | None,
    mean_of: MeanOf = "shares",
) -> Int[Tensor, "B H2 W2"]:
    """A class for every pixel of a label map of `size`: from whole pictures, or from windows of side `slide[0]` every
    `slide[1]` pixels. `features_of` makes [B, D, h, w] of pixels."""
    if slide is None:
        return best_class(features_of(pixels), scores, size=size)
    image_size = tuple(pixels.shape[-2:])
    windows = window_grid(image_size, window=slide[0], stride=slide[1])
    features = [features_of(windows.of(pixels, corner)) for corner in windows.corners]
    return best_class_in_windows(features, scores, windows=windows, image_size=image_size, size=size, mean_of=mean_of)


def best_class_in_windows(
    features: list[Float[Tensor, "B D h w"]],
    scores: LinearScores,
    *,
    windows: Windows,
    image_size: tuple[int, int],
    size: tuple[int, int],
    mean_of: MeanOf = "shares",
) -> Int[Tensor, "B H W"]:
    """The class with the highest mean over the windows that see a pixel. `features` holds one map per window.

    `shares` (tipsv2.md section 7, `slide`): a window's share is the softmax over classes, without temperature, of its
    up-sampled scores, which must be cosines. `scores`: the up-sampled scores themselves, as segmentation toolboxes and
    so DINOv2 average them. The mean has the picture's size and is up-sampled to `size` before the arg max.
    """
    window = (windows.height, windows.width)
    totals = [_total(maps, scores, window) if mean_of == "shares" else None for maps in features]
    first = features[0]
    seen_HW = first.new_zeros(image_size)
    for corner in windows.corners:
        windows.of(seen_HW, corner).add_(1)

    def mean(classes: slice) -> Tensor:
        said = first.new_zeros(len(first), len(scores.bias_K[classes]), *image_size)
        for maps, total, corner in zip(features, totals, windows.corners, strict=True):
            found = upsample(scores.of(maps, classes), window)
            windows.of(said, corner).add_(found if total is None else found.exp() / total)
        return upsample(said / seen_HW, size)

    num_pixels = len(first) * max(math.prod(image_size), math.prod(size))
    return _running_argmax(mean, num_classes=len(scores), num_pixels=num_pixels)


def check_slide(window: int, stride: int) -> None:
    """Raises ValueError for windows that leave gaps."""
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride}: expected 1 to window={window}; more would leave gaps")


def window_grid(image_size: tuple[int, int], *, window: int, stride: int) -> Windows:
    """Windows every `stride` pixels; the last of a row or column is moved back inside. Small pictures get one."""
    tops, lefts = ([*_starts(length, window, stride)] for length in image_size)
    height, width = (min(window, length) for length in image_size)
    return Windows(corners=[(top, left) for top in tops for left in lefts], height=height, width=width)


def _starts(length: int, window: int, stride: int) -> Iterator[int]:
    last = max(0, length - window)
    for number in range(math.ceil(last / stride) + 1):
        yield min(number * stride, last)


def _chunks(num_classes: int, num_pixels: int) -> Iterator[slice]:
    step = max(1, MAX_ELEMENTS // num_pixels)
    for start in range(0, num_classes, step):
        yield slice(start, start + step)


def _total(maps: Tensor, scores: LinearScores, window: tuple[int, int]) -> Tensor:
    """Denominator of the softmax, [B, 1, H, W]. Scores are cosines, so their exponentials cannot overflow."""
    chunks = _chunks(len(scores), len(maps) * math.prod(window))
    return sum(upsample(scores.of(maps, classes), window).exp().sum(1, keepdim=True) for classes in chunks)


def _running_argmax(maps_of: Callable[[slice], Tensor], *, num_classes: int, num_pixels: int) -> Tensor:
    best = index = None
    for classes in _chunks(num_classes, num_pixels):
        value, place = maps_of(classes).max(1)
        place += classes.start
        if best is None:
            best, index = value, place
        else:
            index = torch.where(value > best, place, index)
            best = torch.maximum(value, best)
    return index
