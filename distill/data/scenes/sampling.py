"""What is in each picture: parameters sampled on the CPU for a whole batch of indices at once.

Legend: B pictures, R = 2 background regions, T thing slots, K candidate places. Lengths are shares of the
picture's side, x runs right and y down from the top left corner, angles are radians.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.data.scenes.hashing import Draws
from distill.data.scenes.tiers import Tier
from distill.data.scenes.vocabulary import COLOUR_NAMES, COLOURS, HELD_PAIRS, STUFF, THINGS

NUM_CANDIDATES = 16
_RGB = np.array(list(COLOURS.values()))
_THING_COLOUR = np.array([COLOUR_NAMES.index(kind.colour) for kind in THINGS])
_STUFF_COLOUR = np.array([COLOUR_NAMES.index(kind.colour) for kind in STUFF])
_HELD = np.zeros((len(COLOURS), len(THINGS)), dtype=bool)
for _colour, _shape in HELD_PAIRS:
    _HELD[COLOUR_NAMES.index(_colour), [kind.name for kind in THINGS].index(_shape)] = True


@dataclass(frozen=True)
class Things:
    """Slots are painted in order, so a later one is nearer; absent slots come last."""

    present: Tensor  # [B, T] bool
    kind: Tensor  # [B, T] int64, index of vocabulary.THINGS
    colour: Tensor  # [B, T] int64, index of vocabulary.COLOUR_NAMES
    rgb: Tensor  # [B, T, 3]
    centre: Tensor  # [B, T, 2] x, y
    radius: Tensor  # [B, T]
    angle: Tensor  # [B, T]
    distance: Tensor  # [B, T] metres from the camera to the rim


@dataclass(frozen=True)
class Ground:
    """Region 0 is the whole background where `split` is False."""

    split: Tensor  # [B] bool
    kind: Tensor  # [B, R] int64, index of vocabulary.STUFF
    colour: Tensor  # [B, R] int64
    rgb: Tensor  # [B, R, 3]
    angle: Tensor  # [B, R]
    period: Tensor  # [B, R]
    phase: Tensor  # [B, R, 2] in periods
    seed: Tensor  # [B, R] int64, of the lattice of noise textures
    slope: Tensor  # [B, R, 2] metres per side, of the plane the texture lies on
    border_normal: Tensor  # [B, 2] unit, points into region 1
    border_offset: Tensor  # [B] distance of the border from the centre along the normal
    border_bend: Tensor  # [B] height of the border's bow


@dataclass(frozen=True)
class Light:
    gain: Tensor  # [B]
    gradient: Tensor  # [B, 2] relative change per side
    noise: Tensor  # [B] amplitude
    noise_offset: Tensor  # [B, 2] int64, place in the noise tile


@dataclass(frozen=True)
class Parameters:
    """Everything that decides a batch of pictures."""

    things: Things
    ground: Ground
    light: Light


def sample(indices: np.ndarray, *, tier: Tier, world_seed: int, split: str, compositional: bool) -> Parameters:
    """Parameters of the pictures at `indices` ([B] int64); each picture's are independent of the batch."""
    draws = Draws(world_seed, split, indices)
    held_out = split == "heldout"
    return Parameters(
        things=_things(draws, tier=tier, compositional=compositional, held_out=held_out),
        ground=_ground(draws, tier=tier),
        light=_light(draws, tier=tier),
    )


def _colours(draws: Draws, name: str, typical: np.ndarray, typicality: float) -> np.ndarray:
    other = draws.below(f"{name} colour", len(COLOURS), *typical.shape[1:])
    return np.where(draws(f"{name} typical", *typical.shape[1:]) < typicality, typical, other)


def _rgb(draws: Draws, name: str, colour: np.ndarray, jitter: float) -> np.ndarray:
    return np.clip(_RGB[colour] + draws.between(f"{name} jitter", -jitter, jitter, *colour.shape[1:], 3), 0, 1)


def _kinds_of_things(draws: Draws, tier: Tier) -> np.ndarray:
    most = tier.things[1]
    kind = draws.below("thing kind", tier.num_thing_classes, most)
    again = draws("thing repeat", most) < tier.repeat
    for slot in range(1, most):
        kind[:, slot] = np.where(again[:, slot], kind[:, slot - 1], kind[:, slot])
    return kind


def _compose(draws: Draws, kind: np.ndarray, colour: np.ndarray, held_out: bool) -> np.ndarray:
    """Colours that respect the compositional split: training never shows a held pair, held-out slot 0 always does."""
    if not held_out:
        return np.where(_HELD[colour, kind], _THING_COLOUR[kind], colour)
    chances = draws("held pair", len(COLOURS)) * _HELD[:, kind[:, 0]].T
    colour = colour.copy()
    colour[:, 0] = chances.argmax(axis=1)
    return colour


def _places(draws: Draws, radius: np.ndarray, wanted: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres [B, T, 2] and which wanted things found room [B, T]: the first of K candidates far enough from
    the things placed before. Slot 0 always finds room."""
    num, most = radius.shape
    margin = 0.8 * radius[..., None, None]
    candidate = margin + (1 - 2 * margin) * draws("thing place", most, NUM_CANDIDATES, 2)
    centre, present = candidate[:, :, 0].copy(), wanted.copy()
    for slot in range(1, most):
        gap = candidate[:, slot, :, None] - centre[:, None, :slot]
        clearance = np.sqrt((gap**2).sum(-1)) / (radius[:, None, :slot] + radius[:, slot, None, None])
        free = (np.where(present[:, None, :slot], clearance, np.inf) >= spacing).all(-1)
        centre[:, slot] = candidate[np.arange(num), slot, free.argmax(1)]
        present[:, slot] &= free.any(1)
    return centre, present


def _things(draws: Draws, *, tier: Tier, compositional: bool, held_out: bool) -> Things:
    fewest, most = tier.things
    kind = _kinds_of_things(draws, tier)
    colour = _colours(draws, "thing", _THING_COLOUR[kind], tier.thing_typicality)
    if compositional:
        colour = _compose(draws, kind, colour, held_out)
    radius = draws.between("thing radius", tier.diameter[0] / 2, tier.diameter[1] / 2, most)
    wanted = np.arange(most) < fewest + draws.below("thing count", most - fewest + 1, 1)
    centre, present = _places(draws, radius, wanted, tier.spacing)
    tilt = np.deg2rad(tier.tilt)
    angle = draws.between("thing angle", -tilt, tilt, most)
    rgb = _rgb(draws, "thing", colour, tier.colour_jitter)

    order = np.argsort(np.where(present, draws("thing order", most), 2.0), axis=1, kind="stable")
    nearer = present.sum(1, keepdims=True) - 1 - np.arange(most)
    distance = 1.2 + 0.6 * np.maximum(nearer, 0) + draws.between("thing distance", 0.0, 0.1, most)

    def sort(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, order.reshape(order.shape + (1,) * (values.ndim - 2)), axis=1)

    return Things(
        present=torch.from_numpy(sort(present)),
        kind=torch.from_numpy(sort(kind)),
        colour=torch.from_numpy(sort(colour)),
        rgb=_float(sort(rgb)),
        centre=_float(sort(centre)),
        radius=_float(sort(radius)),
        angle=_float(sort(angle)),
        distance=_float(distance),
    )


def _ground(draws: Draws, *, tier: Tier) -> Ground:
    num_kinds = tier.num_stuff_classes
    first = draws.below("stuff kind", num_kinds, 1)
    second = (first + 1 + draws.below("stuff second kind", num_kinds - 1, 1)) % num_kinds
    kind = np.concatenate([first, second], axis=1)
    colour = _colours(draws, "stuff", _STUFF_COLOUR[kind], tier.stuff_typicality)
    border = draws.between("border angle", 0.0, 2 * np.pi)
    return Ground(
        split=torch.from_numpy(draws("stuff split") < tier.two_regions),
        kind=torch.from_numpy(kind),
        colour=torch.from_numpy(colour),
        rgb=_float(_rgb(draws, "stuff", colour, tier.colour_jitter)),
        angle=_float(draws.between("stuff angle", 0.0, np.pi, 2)),
        period=_float(draws.between("stuff period", *tier.period, 2)),
        phase=_float(draws("stuff phase", 2, 2)),
        seed=torch.from_numpy(draws.seeds("stuff seed", 2)),
        slope=_float(draws.between("stuff slope", -0.8, 0.8, 2, 2)),
        border_normal=_float(np.stack([np.cos(border), np.sin(border)], axis=1)),
        border_offset=_float(draws.between("border offset", -0.12, 0.12)),
        border_bend=_float(draws.between("border bend", -0.15, 0.15)),
    )


def _light(draws: Draws, *, tier: Tier) -> Light:
    angle = draws.between("light angle", 0.0, 2 * np.pi)
    strength = draws.between("light gradient", 0.0, 2 * tier.gradient)
    return Light(
        gain=_float(draws.between("light gain", *tier.gain)),
        gradient=_float(np.stack([np.cos(angle), np.sin(angle)], axis=1) * strength[:, None]),
        noise=_float(draws.between("noise", 0.0, tier.noise)),
        noise_offset=torch.from_numpy(draws.below("noise offset", 2**16, 2)),
    )


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
