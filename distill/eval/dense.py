"""Patch scores to a class per pixel, never holding all classes at full size.

Legend: B images, K classes, D width, (h, w) patch grid, (H, W) pixels, r rows at a time.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from distill.eval.bilinear import Taps, at_once, best_between, highest, parts_of
from distill.eval.metrics import MAX_ELEMENTS

MeanOf = Literal["shares", "scores"]
"""What is averaged where windows overlap."""
BAND = 2**21
"""Elements of the means that a CPU keeps together, 8 MiB. Changes speed, not results."""


@dataclass(frozen=True)
class LinearScores:
    """Weights and bias of every class. Cosines: unit weights, no bias, unit features."""

    weight_KD: Float[Tensor, "K D"]
    bias_K: Float[Tensor, " K"]

    def __len__(self) -> int:
        return len(self.bias_K)

    def of(self, features_BDhw: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K h w"]:
        return torch.einsum("bdhw,kd->bkhw", features_BDhw, self.weight_KD) + self.bias_K[:, None, None]


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
    down, across = Taps.between(features_BDhw.shape[2], size[0]), Taps.between(features_BDhw.shape[3], size[1])
    best_HBW = _room(features_BDhw, size)
    row = len(scores) * size[1]
    for pictures in parts_of(range(len(features_BDhw)), at_once(best_HBW.device) // row):
        maps = _by_rows(scores.of(features_BDhw[pictures.start : pictures.stop]))
        best = best_HBW[:, pictures.start : pictures.stop]
        for rows in parts_of(range(size[0]), _band(MAX_ELEMENTS // (row * len(pictures)), old=len(maps), new=size[0])):
            needed, taps = down.part(rows)
            wide = across.columns(maps[needed])
            for few in parts_of(range(len(rows)), at_once(best.device) // (row * len(pictures))):
                few_needed, few_taps = taps.part(few)
                best[rows.start + few.start : rows.start + few.stop] = highest(few_taps.rows(wide[few_needed]))
    return best_HBW.movedim(1, 0)


def segment(
    pixels: Float[Tensor, "B 3 H W"],
    features_of: Callable[[Tensor], Tensor],
    scores: LinearScores,
    *,
    size: tuple[int, int],
    slide: tuple[int, int] | None,
    mean_of: MeanOf = "shares",
    batch_size: int,
) -> Int[Tensor, "B H2 W2"]:
    """A class for every pixel of a label map of `size`: from whole pictures, or from windows of side `slide[0]` every
    `slide[1]` pixels. `features_of` makes [B, D, h, w] of pixels, of as many windows together as make a batch."""
    if slide is None:
        return best_class(features_of(pixels), scores, size=size)
    image_size = tuple(pixels.shape[-2:])
    windows = window_grid(image_size, window=slide[0], stride=slide[1])
    maps: list[Tensor] = []
    together = max(1, batch_size // len(pixels))
    for start in range(0, len(windows.corners), together):
        seen = [windows.of(pixels, corner) for corner in windows.corners[start : start + together]]
        maps += scores.of(features_of(torch.cat(seen))).chunk(len(seen))
    return best_class_in_windows(maps, windows=windows, image_size=image_size, size=size, mean_of=mean_of)


def best_class_in_windows(
    maps: list[Float[Tensor, "B K h w"]],
    *,
    windows: Windows,
    image_size: tuple[int, int],
    size: tuple[int, int],
    mean_of: MeanOf = "shares",
) -> Int[Tensor, "B H W"]:
    """The class with the highest mean over the windows that see a pixel. `maps` holds the scores under each window.

    `shares` (tipsv2.md section 7, `slide`): a window's share is the softmax over classes, without temperature, of its
    up-sampled scores, which must be cosines. `scores`: the up-sampled scores themselves, as segmentation toolboxes and
    so DINOv2 average them. The mean has the picture's size and is up-sampled to `size` before the arg max.
    """
    down, across = (Taps.between(*each) for each in zip(image_size, size, strict=True))
    seen_HW = torch.zeros(image_size, device=maps[0].device)
    for corner in windows.corners:
        windows.of(seen_HW, corner).add_(1)
    best_HBW = _room(maps[0], size)
    row = maps[0].shape[1] * max(image_size[1], size[1])
    most = min(MAX_ELEMENTS, BAND) if seen_HW.device.type == "cpu" else MAX_ELEMENTS
    for pictures in parts_of(range(len(maps[0])), at_once(seen_HW.device) // row):
        some = [_by_rows(each[pictures.start : pictures.stop]) for each in maps]
        means = Means(some, windows=windows, seen_HW=seen_HW, mean_of=mean_of)
        best = best_HBW[:, pictures.start : pictures.stop]
        for rows in parts_of(range(size[0]), _band(most // (row * len(pictures)), old=image_size[0], new=size[0])):
            needed, taps = down.part(rows)
            best[rows.start : rows.stop] = best_between(means.rows(range(needed.start, needed.stop)), taps, across)
    return best_HBW.movedim(1, 0)


class Means:
    """What all classes get on average over the windows that see a pixel, some rows of the picture at a time."""

    def __init__(
        self,
        maps: list[Float[Tensor, "h B K w"]],
        *,
        windows: Windows,
        seen_HW: Float[Tensor, "H W"],
        mean_of: MeanOf,
    ):
        """`maps`: scores under every window; `seen_HW`: how many windows see a pixel."""
        self.of_shares = mean_of == "shares"
        # Powers of two take half of the time of powers of e.
        maps = [each * math.log2(math.e) for each in maps] if self.of_shares else maps
        self.windows, self.seen_HW = windows, seen_HW
        self.down = Taps.between(len(maps[0]), windows.height)
        across = Taps.between(maps[0].shape[3], windows.width)
        # Bands of rows share rows of the patch grid: made wide once where there is room for all, else for every band.
        fits = len(maps) * maps[0].shape[:3].numel() * windows.width <= MAX_ELEMENTS
        self.maps, self.across = ([across.columns(each) for each in maps], None) if fits else (maps, across)

    def rows(self, rows: range) -> Float[Tensor, "r B K W"]:
        """Means in these rows of the picture."""
        shape, width = self.maps[0].shape[1:3], self.seen_HW.shape[1]
        mean = self.maps[0].new_zeros(len(rows), *shape, width)
        step = at_once(mean.device) // (shape.numel() * width)
        for maps, (top, left) in zip(self.maps, self.windows.corners, strict=True):
            own = range(max(rows.start - top, 0), min(rows.stop - top, self.windows.height))
            if not own:
                continue
            needed, taps = self.down.part(own)
            wide = maps[needed] if self.across is None else self.across.columns(maps[needed])
            here = mean[own.start + top - rows.start :, ..., left : left + self.windows.width]
            seen = self.seen_HW[own.start + top :, None, None, left : left + self.windows.width]
            for few in parts_of(range(len(own)), step):
                few_needed, few_taps = taps.part(few)
                scores = few_taps.rows(wide[few_needed])
                self._add(here[few.start : few.stop], scores, seen[few.start : few.stop])
        return mean

    def _add(self, mean: Tensor, scores: Float[Tensor, "r B K W"], seen: Float[Tensor, "r 1 1 W"]) -> None:
        if not self.of_shares:
            mean.addcdiv_(scores, seen)
            return
        # Scores are cosines: their exponentials cannot overflow.
        odds = scores.exp2_()
        mean.addcdiv_(odds, odds.sum(2, keepdim=True).mul_(seen))


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


def _by_rows(maps: Float[Tensor, "B K h w"]) -> Float[Tensor, "h B K w"]:
    return maps.permute(2, 0, 1, 3).contiguous()


def _room(like: Float[Tensor, "B _ h w"], size: tuple[int, int]) -> Int[Tensor, "H B W"]:
    return torch.empty(size[0], len(like), size[1], dtype=torch.long, device=like.device)


def _band(num_rows: int, *, old: int, new: int) -> int:
    """New rows that can be made of this many old ones; neighbouring bands share a row or two, which are made twice."""
    return (num_rows - 2) * new // old
