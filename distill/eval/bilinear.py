"""Bilinear maps of many classes, and which class is highest in them, a few rows at a time.

What a processor passes over many times has to stay in its cache: rows of all classes are mixed, compared and forgotten,
which on a CPU takes about an eighth of the time of resizing whole maps and an arg max.
Legend: B images, K classes, (h, w) old and (r, W) new rows and columns, n pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.eval.metrics import MAX_ELEMENTS

IN_CACHE = 2**19
"""Elements of a tensor that a CPU passes over many times, 2 MiB. Changes speed, not results."""
TINY = 1e-30
"""Times the number of classes, less than any difference of two scores that counts."""


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


def best_between(maps: Float[Tensor, "h B K w"], down: Taps, across: Taps) -> Int[Tensor, "r B W"]:
    """The class that is highest in the mix of these maps, the lower one of equal ones.

    Where one class is the best at all four places that a pixel is mixed from, it is the best there. Most pixels are
    like that when maps have nearly the size they are brought to; only the others are mixed.
    """
    num_classes, elements = maps.shape[2], at_once(maps.device)
    known = torch.cat([highest(few) for few in maps.split(max(1, elements // maps[0].numel()))])
    down, across = down.to(maps.device), across.to(maps.device)
    rows = [known.index_select(0, places) for places in (down.low, down.high)]
    best, *others = [row.index_select(2, places) for row in rows for places in (across.low, across.high)]
    disputed = (others[0] != best) | (others[1] != best) | (others[2] != best)
    for y, b, x in (each.unbind(1) for each in disputed.nonzero().split(max(1, elements // num_classes))):
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


def highest(maps: Float[Tensor, "r B K W"]) -> Int[Tensor, "r B W"]:
    """The class with the highest value, the lower of equal ones.

    By two maxima and arithmetic between them, which on a CPU takes half of the time of one arg max: the best class is 0
    behind the best, all others are far behind, and what is left says which class it is.
    """
    number_K1 = torch.arange(maps.shape[2], device=maps.device, dtype=maps.dtype)[:, None] * TINY
    behind = (maps - maps.amax(2, keepdim=True)).sub_(number_K1)
    return behind.amax(2).div_(-TINY).round_().long()


def at_once(device: torch.device) -> int:
    """Elements of a temporary tensor that is passed over many times."""
    return min(MAX_ELEMENTS, IN_CACHE) if device.type == "cpu" else MAX_ELEMENTS


def parts_of(whole: range, step: int) -> Iterator[range]:
    """A range in pieces of at most `step`, which is at least 1."""
    for start in range(whole.start, whole.stop, max(1, step)):
        yield range(start, min(start + max(1, step), whole.stop))
