"""What is shown: the pictures of a folder, or scenes of the procedural world with what is known about them.

Legend: (H, W) pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.config import Scenes
from distill.data.broken import BrokenSample
from distill.data.pictures import load_rgb, open_picture
from distill.data.scenes import SceneWorld
from distill.eval.features import resize_short_side
from distill.eval.pictures.datasets import spread
from distill.eval.pictures.files import SUFFIXES, pictures, to_pixels

MAX_MEGAPIXELS = 40.0
LONGEST = 2048
"""Longer sides of stored pictures, pixels; what is shown and what encoders see is made from it."""
SCENE_SIDE = 288
"""Of scenes, pixels: drawn larger than the encoders see them, as photos are."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known about a scene."""

    classes: Int[Tensor, "H W"]
    class_names: tuple[str, ...]
    num_things: int
    depth: Float[Tensor, "H W"]
    """Metres."""
    normals: Float[Tensor, "3 H W"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """RGB in [0, 1]."""

    name: str
    pixels: Float[Tensor, "3 H W"]
    truth: Truth | None = None


def read_picture(
    source: bytes | Path, *, name: str, longest: int = LONGEST, max_megapixels: float = MAX_MEGAPIXELS
) -> Picture:
    """An upright picture, no longer than `longest`. Raises ValueError, one sentence, for what cannot be shown.

    The size is read from the header before any pixel is decoded, so a bomb does not go off.
    """
    try:
        opened = open_picture(source, name=name)
        if opened.width * opened.height > 1e6 * max_megapixels:
            size = f"{opened.width}x{opened.height} pixels, more than {max_megapixels:g} megapixels"
            raise BrokenSample(name, f"has {size} (max_megapixels)")
        loaded = load_rgb(opened, side=longest, name=name)
    except BrokenSample as error:
        raise ValueError(f"{error}") from error
    short = min(loaded.size) * longest // max(loaded.size)
    pixels = to_pixels(loaded)
    if max(loaded.size) > longest:
        pixels = resize_short_side(pixels[None], max(1, short))[0]
    return Picture(name=name, pixels=pixels)


def read_pictures(
    place: Path, *, limit: int, longest: int = LONGEST, max_megapixels: float = MAX_MEGAPIXELS
) -> list[Picture]:
    """One file, or the pictures of a folder: at most `limit`, evenly spaced over their names.

    Raises ValueError for a folder without any, and for the first that cannot be shown.
    """
    if not place.exists():
        raise ValueError(f"images {place}: no such file or folder")
    files = pictures(place) if place.is_dir() else [place]
    if not files:
        raise ValueError(f"{place} itself holds no pictures ({', '.join(SUFFIXES)})")
    chosen = [files[index] for index in spread(len(files), limit)]
    found = [read_picture(file, name=str(file), longest=longest, max_megapixels=max_megapixels) for file in chosen]
    return [replace(picture, name=file.name) for picture, file in zip(found, chosen, strict=True)]


def scene_pictures(scenes: Scenes, *, limit: int, side: int = SCENE_SIDE) -> list[Picture]:
    """The first `limit` held-out scenes of the world, `side` pixels wide."""
    world = SceneWorld(scenes, side)
    drawn = world.render(torch.arange(limit), "heldout", geometry=True)
    return [
        Picture(
            name=f"scene {number}",
            pixels=drawn.pixels[number],
            truth=Truth(
                classes=drawn.mask[number],
                class_names=tuple(world.class_names),
                num_things=world.num_things,
                depth=drawn.depth[number],
                normals=drawn.normals[number],
            ),
        )
        for number in range(limit)
    ]


def with_truth(shown: Sequence[Picture]) -> bool:
    """Whether everything is known about all of them."""
    return all(picture.truth is not None for picture in shown)
