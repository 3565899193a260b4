"""Training a small head on frozen features of random views of pictures.

Legend: B views of a batch, S side of a view in pixels, (H, W) pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from distill.contracts import PixelSet
from distill.eval.progress import did_steps

MAX_HELD_BYTES = 2**31
"""Pictures of a training set that are kept in memory, with what is said about them. Changes time, not results."""

Views = tuple[Float[Tensor, "B 3 S S"], Shaped[Tensor, "B *channels S S"]]


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """AdamW on random square views; the learning rate rises linearly and then falls to 0."""

    steps: int
    lr: float
    weight_decay: float
    warmup: float
    """Share of the steps over which the learning rate rises."""
    decay: str
    """`linear` or `cosine`."""
    batch_size: int = 16
    clip: float = 0.0
    """Largest gradient norm; 0 switches clipping off."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """A view is a square of the shorter side divided by a factor drawn from here, log-uniformly; at least 1."""
    flip: float = 0.5
    """Share of views that are mirrored."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.decay not in ("linear", "cosine"):
            raise ValueError(f"decay={self.decay}: expected linear or cosine")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps={self.steps}, batch_size={self.batch_size}: expected positive numbers")
        if not 1 <= self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom={self.zoom}: expected two factors from 1 on, the smaller one first")
        if not (0 <= self.warmup <= 1 and 0 <= self.flip <= 1):
            raise ValueError(f"warmup={self.warmup}, flip={self.flip}: expected shares from 0 to 1")
        if self.lr <= 0 or self.weight_decay < 0 or self.clip < 0:
            raise ValueError("lr must be positive, weight_decay and clip must not be negative")


def build_probe(build: Callable[[], nn.Module], training: ProbeTraining) -> nn.Module:
    """A head whose random weights follow from the seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return build()


def train_probe(
    head: nn.Module,
    data: PixelSet,
    loss: Callable[[nn.Module, Tensor, Tensor, int], Tensor],
    training: ProbeTraining,
    *,
    side: int | None,
    mirror: Callable[[Tensor], Tensor],
) -> None:
    """Minimise `loss(head, pixels, truth, step)` over views of `side` pixels (None: the pictures' own shorter side).

    `mirror` is what mirroring a picture does to what is said about it. The head is in eval mode afterwards.
    """
    if not len(data):
        raise ValueError("there are no pictures to train the probe on")
    views = RandomViews(data, training, side=side, mirror=mirror)
    optimizer = torch.optim.AdamW(head.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    head.train()
    with torch.enable_grad():
        for step in range(training.steps):
            for group in optimizer.param_groups:
                group["lr"] = training.lr * rate(step, training)
            optimizer.zero_grad()
            loss(head, *views.draw(), step).backward()
            if training.clip:
                nn.utils.clip_grad_norm_(head.parameters(), training.clip)
            optimizer.step()
            did_steps(step + 1, training.steps)
    head.eval()


def rate(step: int, training: ProbeTraining) -> float:
    """Learning rate of a step, counted from 0, as a share of the largest; positive everywhere."""
    warmup_steps = round(training.warmup * training.steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = 1 - (step - warmup_steps) / (training.steps - warmup_steps)
    return left if training.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


class RandomViews:
    """Batches of views in an order that follows from the seed: every picture once before any comes again."""

    def __init__(
        self, data: PixelSet, training: ProbeTraining, *, side: int | None, mirror: Callable[[Tensor], Tensor]
    ):
        self.data, self.training, self.side, self.mirror = data, training, side, mirror
        self.generator = torch.Generator().manual_seed(training.seed)
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = MAX_HELD_BYTES
        self._waiting: list[int] = []

    def draw(self) -> Views:
        """Raises ValueError where no `side` is given and pictures have several."""
        views = [self._view(*self._picture(self._next())) for _ in range(self.training.batch_size)]
        if len({pixels.shape for pixels, _ in views}) > 1:
            raise ValueError("pictures of several sizes need a short_side to train a probe on")
        pixels, truth = zip(*views, strict=True)
        return torch.stack(pixels), torch.stack(truth)

    def _next(self) -> int:
        if not self._waiting:
            self._waiting = torch.randperm(len(self.data), generator=self.generator).tolist()
        return self._waiting.pop()

    def _picture(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self._held:
            return self._held[index]
        pixels, truth = self.data[index]
        self._room -= pixels.nbytes + truth.nbytes
        if self._room > 0:
            self._held[index] = (pixels, truth)
        return pixels, truth

    def _view(self, pixels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        scale, down, across, mirrored = torch.rand(4, generator=self.generator).tolist()
        (height, width), (least, most) = pixels.shape[-2:], self.training.zoom
        square = max(1, round(min(height, width) / (least * (most / least) ** scale)))
        top, left = int(down * (height - square + 1)), int(across * (width - square + 1))
        side = self.side or min(height, width)
        view, said = (
            resized(each[..., top : top + square, left : left + square], side, nearest=nearest)
            for each, nearest in ((pixels, False), (truth, True))
        )
        return (view.flip(-1), self.mirror(said)) if mirrored < self.training.flip else (view, said)


def flipped(truth: Shaped[Tensor, "*channels S S"]) -> Shaped[Tensor, "*channels S S"]:
    """What mirroring does to labels and depths: they move."""
    return truth.flip(-1)


def mirrored_normals(truth: Float[Tensor, "3 S S"]) -> Float[Tensor, "3 S S"]:
    """What mirroring does to normals: they move, and what pointed right points left."""
    moved = truth.flip(-1)
    return torch.cat([-moved[:1], moved[1:]])


def resized(maps: Shaped[Tensor, "*channels H W"], side: int, *, nearest: bool) -> Shaped[Tensor, "*channels S S"]:
    """At another side: pixels bicubic with antialiasing and clamped to [0, 1], what is said about them by nearest."""
    if tuple(maps.shape[-2:]) == (side, side):
        return maps
    planes: Any = maps.reshape(1, -1, *maps.shape[-2:])
    if nearest:
        small = functional.interpolate(planes.double(), (side, side), mode="nearest-exact").to(maps.dtype)
    else:
        small = functional.interpolate(planes, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return small.reshape(*maps.shape[:-2], side, side)
