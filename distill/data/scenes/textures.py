"""Background textures: the share of the second tone in every pixel, in [0, 1].

Legend: M regions, H and W pixels. `u` and `v` count repetitions along and across the texture's own direction;
`sharp` is the number of pixels in one repetition, so that edges are one pixel wide at every picture size.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.scenes.hashing import uniforms


def _saw(u: Tensor) -> Tensor:
    """Distance from the middle of each repetition: 0.5 at its borders, 0 in its middle."""
    return (u - u.floor() - 0.5).abs_()


def _wave(u: Tensor) -> Tensor:
    """A smooth wave in [-1, 1] without trigonometry: a cubic of the triangle wave."""
    ramp = _saw(u).mul_(4).sub_(1)
    return ramp * (1.5 - 0.5 * ramp * ramp)


def _edge(distance: Tensor, sharp: Tensor) -> Tensor:
    """Coverage of the half space where `distance` (in repetitions) is positive."""
    return (distance * sharp + 0.5).clamp_(0, 1)


def stripes(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    return _edge(_saw(u) - 0.3, sharp)


def checks(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    """Squares of 5/6 of a repetition; positive where exactly one of the two stripe patterns is."""
    across, along = _saw(u * 0.6) - 0.25, _saw(v * 0.6) - 0.25
    return _edge(across.minimum(along).maximum(-across.maximum(along)) * (1 / 0.6), sharp)


def dots(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    across, along = _saw(u), _saw(v)
    return _edge(0.3 - (across * across + along * along).sqrt_(), sharp)


def bricks(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    """Rows twice as long as high, every other row shifted by half a brick."""
    row = v.floor()
    shifted = u * 0.5 + row * 0.5
    return _edge(_saw(v).maximum(_saw(shifted) * 2.0 - 0.5) - 0.4, sharp)


def ripples(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    """Rings around a point a little off the picture's middle."""
    return _edge(_saw((u * u + v * v).sqrt_()) - 0.27, sharp)


def grid(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    return _edge(_saw(u).maximum(_saw(v)) - 0.38, sharp)


def waves(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    return _edge(_saw(v + 0.3 * _wave(u * 0.5)) - 0.3, sharp)


def zigzags(u: Tensor, v: Tensor, sharp: Tensor) -> Tensor:
    return _edge(_saw(v + 1.6 * _saw(u * 0.6)) - 0.28, sharp)


PERIODIC: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "stripes": stripes,
    "checks": checks,
    "dots": dots,
    "bricks": bricks,
    "ripples": ripples,
    "grid": grid,
    "waves": waves,
    "zigzags": zigzags,
}
"""Textures that are functions of (u, v, sharp)."""


def _lattice(seed: Tensor, cells: int, device: torch.device) -> Tensor:
    """Random numbers in [0, 1) on a square lattice: [M] int64 on the CPU -> [M, 1, cells, cells]."""
    drawn = uniforms(cells, seed.numpy(), cells * cells).astype(np.float32)
    return torch.from_numpy(drawn).view(-1, 1, cells, cells).to(device)


def _spread(lattice: Tensor, size: int, mode: str) -> Tensor:
    return F.interpolate(lattice, size=(size, size), mode=mode, align_corners=None if mode == "nearest" else True)[:, 0]


def clouds(seed: Tensor, size: int, device: torch.device) -> Tensor:
    """Two octaves of smooth noise with soft borders."""
    coarse = _spread(_lattice(seed, 6, device), size, "bicubic")
    fine = _spread(_lattice(seed, 12, device), size, "bicubic")
    return ((coarse * 0.7 + fine * 0.3 - 0.5) * 4.0 + 0.5).clamp_(0, 1)


def speckles(seed: Tensor, size: int, device: torch.device) -> Tensor:
    """Grains of one 28th of the side, a third of them in the second tone."""
    return (_spread(_lattice(seed, 28, device), size, "nearest") > 0.68).float()


NOISE: dict[str, Callable[[Tensor, int, torch.device], Tensor]] = {"clouds": clouds, "speckles": speckles}
"""Textures that are functions of (seed, picture size, device)."""
