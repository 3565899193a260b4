"""Patch scores to a class per pixel, never holding all classes at full size.

Bilinear maps are made a few rows of all classes at a time, as many as stay in a processor's cache, which are mixed,
compared and forgotten. On a CPU that takes a tenth to a fifth of the time of resizing whole maps.
Legend: B images, K classes, D width, (h, w) patch grid, (H, W) pixels, r rows at a time, n pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from distill.eval.metrics import MAX_ELEMENTS

IN_CACHE = 2**19
"""Elements of a tensor that a CPU passes over many times, 2 MiB. Changes speed, not results."""
BAND = 2**21
"""Elements of the shares that a CPU keeps together, 8 MiB. Changes speed, not results."""
TINY = 1e-30
"""Times the number of classes, less than any difference of two scores that counts."""


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


@dataclass(frozen=True)
class Taps:
    """One side of a bilinear map, corners not aligned: place i is a mix of the old places low[i] and high[i]."""

    low: Int[Tensor, " n"]
    high: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]
    """Of high; low has the rest."""

    @classmethod
    def between(cls, old: int, new: int) -> "Taps":
        """On the CPU."""
        place = ((torch.arange(new, dtype=torch.double) + 0.5) * (old / new) - 0.5).clamp(min=0)
        low = place.long()
        return cls(low, (low + 1).clamp(max=old - 1), (place - low).float())

    def part(self, places: range) -> tuple[slice, "Taps"]:
        """The old places that these are made of, and their taps, counted from the first of them."""
        here = slice(places.start, places.stop)
        first = int(self.low[places.start])
        needed = slice(first, int(self.high[places.stop - 1]) + 1)
        return needed, Taps(self.low[here] - first, self.high[here] - first, self.weight[here])

    def to(self, device: torch.device) -> "Taps":
        return Taps(self.low.to(device), self.high.to(device), self.weight.to(device))

    def rows(self, old: Float[Tensor, "h B K W"]) -> Float[Tensor, "r B K W"]:
        weight = self.weight.to(old.device)[:, None, None, None]
        if len(old) <= 2 and int(self.low[-1]) == 0:  # all between the same two: nothing to gather
            return torch.lerp(old[:1], old[-1:], weight)
        low, high = self.low.to(old.device), self.high.to(old.device)
        return old.index_select(0, low).lerp_(old.index_select(0, high), weight)

    def columns(self, old: Float[Tensor, "r B K w"]) -> Float[Tensor, "r B K W"]:
        taps, flat = self.to(old.device), old.flatten(0, 2)  # of four dimensions it takes three times as long
        mixed = flat.index_select(1, taps.low).lerp_(flat.index_select(1, taps.high), taps.weight)
        return mixed.unflatten(0, old.shape[:3])


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
    for pictures in _parts(range(len(features_BDhw)), _at_once(best_HBW.device) // row):
        maps = _by_rows(scores.of(features_BDhw[pictures.start : pictures.stop]))
        best = best_HBW[:, pictures.start : pictures.stop]
        for rows in _parts(range(size[0]), _band(MAX_ELEMENTS // (row * len(pictures)), old=len(maps), new=size[0])):
            needed, taps = down.part(rows)
            wide = across.columns(maps[needed])
            for few in _parts(range(len(rows)), _at_once(best.device) // (row * len(pictures))):
                few_needed, few_taps = taps.part(few)
                best[rows.start + few.start : rows.start + few.stop] = highest(few_taps.rows(wide[few_needed]))
    return best_HBW.movedim(1, 0)


def best_class_in_windows(
    maps: list[Float[Tensor, "B K h w"]], *, windows: Windows, image_size: tuple[int, int], size: tuple[int, int]
) -> Int[Tensor, "B H W"]:
    """The class with the highest mean share over the windows that see a pixel (tipsv2.md section 7, `slide`).

    A window's share is the softmax over classes, without temperature, of its up-sampled scores, one map per window. The
    mean has the picture's size and is up-sampled to `size` before the arg max.
    """
    down, across = (Taps.between(*each) for each in zip(image_size, size, strict=True))
    seen_HW = torch.zeros(image_size, device=maps[0].device)
    for corner in windows.corners:
        windows.of(seen_HW, corner).add_(1)
    best_HBW = _room(maps[0], size)
    row = maps[0].shape[1] * max(image_size[1], size[1])
    most = min(MAX_ELEMENTS, BAND) if seen_HW.device.type == "cpu" else MAX_ELEMENTS
    for pictures in _parts(range(len(maps[0])), _at_once(seen_HW.device) // row):
        some = [_by_rows(each[pictures.start : pictures.stop]) for each in maps]
        shares = Shares(some, windows=windows, seen_HW=seen_HW)
        best = best_HBW[:, pictures.start : pictures.stop]
        for rows in _parts(range(size[0]), _band(most // (row * len(pictures)), old=image_size[0], new=size[0])):
            needed, taps = down.part(rows)
            best[rows.start : rows.stop] = best_between(shares.rows(range(needed.start, needed.stop)), taps, across)
    return best_HBW.movedim(1, 0)


class Shares:
    """Mean shares of all classes over the windows that see a pixel, some rows of the picture at a time."""

    def __init__(self, maps: list[Float[Tensor, "h B K w"]], *, windows: Windows, seen_HW: Float[Tensor, "H W"]):
        """`maps`: scores under every window; `seen_HW`: how many windows see a pixel."""
        # Powers of two take half of the time of powers of e.
        self.maps = [each * math.log2(math.e) for each in maps]
        self.windows, self.seen_HW = windows, seen_HW
        self.down = Taps.between(len(maps[0]), windows.height)
        self.across = Taps.between(maps[0].shape[3], windows.width)

    def rows(self, rows: range) -> Float[Tensor, "r B K W"]:
        """Shares in these rows of the picture."""
        shape, width = self.maps[0].shape[1:3], self.seen_HW.shape[1]
        share = self.maps[0].new_zeros(len(rows), *shape, width)
        step = _at_once(share.device) // (shape.numel() * width)
        for maps, (top, left) in zip(self.maps, self.windows.corners, strict=True):
            own = range(max(rows.start - top, 0), min(rows.stop - top, self.windows.height))
            if not own:
                continue
            needed, taps = self.down.part(own)
            wide = self.across.columns(maps[needed])
            here = share[own.start + top - rows.start :, ..., left : left + self.windows.width]
            seen = self.seen_HW[own.start + top :, None, None, left : left + self.windows.width]
            for few in _parts(range(len(own)), step):
                few_needed, few_taps = taps.part(few)
                # Scores are cosines: their exponentials cannot overflow.
                odds = few_taps.rows(wide[few_needed]).exp2_()
                total = odds.sum(2, keepdim=True).mul_(seen[few.start : few.stop])
                here[few.start : few.stop].addcdiv_(odds, total)
        return share


def best_between(maps: Float[Tensor, "h B K w"], down: Taps, across: Taps) -> Int[Tensor, "r B W"]:
    """The class that is highest in the mix of these maps, the lower one of equal ones.

    Where one class is the best at all four places that a pixel is mixed from, it is the best there. Most pixels are
    like that when maps have nearly the size they are brought to; only the others are mixed.
    """
    device, num_classes = maps.device, maps.shape[2]
    at_once = _at_once(device)
    known = torch.cat([highest(few) for few in maps.split(max(1, at_once // maps[0].numel()))])
    down, across = down.to(device), across.to(device)
    rows = [known.index_select(0, places) for places in (down.low, down.high)]
    best, *others = [row.index_select(2, places) for row in rows for places in (across.low, across.high)]
    disputed = (others[0] != best) | (others[1] != best) | (others[2] != best)
    for y, b, x in (each.unbind(1) for each in disputed.nonzero().split(max(1, at_once // num_classes))):
        best[y, b, x] = _highest_at(maps, y, b, x, down=down, across=across)
    return best


def _highest_at(maps: Tensor, y: Tensor, b: Tensor, x: Tensor, *, down: Taps, across: Taps) -> Int[Tensor, " n"]:
    """`highest` of the mix at single pixels."""
    _, num_pictures, num_classes, width = maps.shape
    class_K1 = torch.arange(num_classes, device=maps.device)[:, None] * width

    def at(row_n: Tensor, column_n: Tensor) -> Float[Tensor, "K n"]:
        place_Kn = (row_n * num_pictures + b) * num_classes * width + column_n + class_K1
        return maps.view(-1).index_select(0, place_Kn.view(-1)).view_as(place_Kn)

    low, high = (
        at(row_n, across.low[x]).lerp_(at(row_n, across.high[x]), across.weight[x])
        for row_n in (down.low[y], down.high[y])
    )
    return highest(low.lerp_(high, down.weight[y])[None, None])[0, 0]


def window_grid(image_size: tuple[int, int], *, window: int, stride: int) -> Windows:
    """Windows every `stride` pixels; the last of a row or column is moved back inside. Small pictures get one."""
    tops, lefts = ([*_starts(length, window, stride)] for length in image_size)
    height, width = (min(window, length) for length in image_size)
    return Windows(corners=[(top, left) for top in tops for left in lefts], height=height, width=width)


def highest(maps: Float[Tensor, "r B K W"]) -> Int[Tensor, "r B W"]:
    """The class with the highest value, the lower of equal ones.

    By two maxima and arithmetic between them, which on a CPU takes half of the time of one arg max: the best class is 0
    behind the best, all others are far behind, and what is left says which class it is.
    """
    number_K1 = torch.arange(maps.shape[2], device=maps.device, dtype=maps.dtype)[:, None] * TINY
    behind = (maps - maps.amax(2, keepdim=True)).sub_(number_K1)
    return behind.amax(2).div_(-TINY).round_().long()


def _starts(length: int, window: int, stride: int) -> Iterator[int]:
    last = max(0, length - window)
    for number in range(math.ceil(last / stride) + 1):
        yield min(number * stride, last)


def _at_once(device: torch.device) -> int:
    """Elements of a temporary tensor that is passed over many times."""
    return min(MAX_ELEMENTS, IN_CACHE) if device.type == "cpu" else MAX_ELEMENTS


def _parts(whole: range, step: int) -> Iterator[range]:
    """A range in pieces of at most `step`, which is at least 1."""
    for start in range(whole.start, whole.stop, max(1, step)):
        yield range(start, min(start + max(1, step), whole.stop))


def _by_rows(maps: Float[Tensor, "B K h w"]) -> Float[Tensor, "h B K w"]:
    return maps.permute(2, 0, 1, 3).contiguous()


def _room(like: Float[Tensor, "B *any"], size: tuple[int, int]) -> Int[Tensor, "H B W"]:
    return torch.empty(size[0], len(like), size[1], dtype=torch.long, device=like.device)


def _band(num_rows: int, *, old: int, new: int) -> int:
    """New rows that can be made of this many old ones; neighbouring bands share a row or two, which are made twice."""
    return (num_rows - 2) * new // old
