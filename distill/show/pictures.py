"""What is shown: the pictures of a folder, or scenes of the procedural world with what is known about them.

Legend: (H, W) pixels.
"""

import math
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
from distill.eval.pictures.files import SUFFIXES, pictures_below, to_pixels

MAX_MEGAPIXELS = 40.0
LONGEST = 2048
"""Longer sides of stored pictures, pixels, unless encoders see more; what is shown and seen is made from it."""
MOST_STORED = 300_000_000
"""Pixels of all pictures together, 12 bytes each."""
MOST_OF_SCENES = MOST_STORED // 3
"""Pixels of all scenes together: with what is known about them, 36 bytes each."""
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


@dataclass(frozen=True, kw_only=True)
class Found:
    """Pictures, and a sentence for every file that is none."""

    pictures: list[Picture]
    left_out: tuple[str, ...] = ()


def read_picture(
    source: bytes | Path,
    *,
    name: str,
    longest: int = LONGEST,
    shorter: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Picture:
    """An upright picture, no longer than `longest`, its shorter side at most `shorter` where that is given, pixels.

    Raises ValueError, one sentence, for what cannot be shown.

    The size is read from the header before any pixel is decoded, so a bomb does not go off.
    """
    try:
        opened = open_picture(source, name=name)
        if opened.width * opened.height > 1e6 * max_megapixels:
            size = f"{opened.width}x{opened.height} pixels, more than {max_megapixels:g} megapixels"
            raise BrokenSample(name, f"has {size} (max_megapixels)")
        if shorter is not None:
            longest = min(longest, math.ceil(shorter * max(opened.size) / min(opened.size)))
        loaded = load_rgb(opened, side=longest, name=name)
    except BrokenSample as error:
        raise ValueError(f"{error}") from error
    short = min(loaded.size) * longest // max(loaded.size)
    pixels = to_pixels(loaded)
    if max(loaded.size) > longest:
        pixels = resize_short_side(pixels[None], max(1, short))[0]
    return Picture(name=name, pixels=pixels)


def read_pictures(
    place: Path,
    *,
    limit: int,
    longest: int = LONGEST,
    shorter: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Found:
    """One file, or the pictures of a folder and those below it: at most `limit`, evenly spaced over their names.

    They are no longer than `longest`, and their shorter side is no more than `shorter`, pixels. What cannot be shown
    is left out of a folder. Raises ValueError for a file that cannot be shown, a folder without any that can, and for
    more pixels than memory should hold.
    """
    files = files_of(place)
    pictures, left_out, stored = [], [], 0
    for file in [files[index] for index in spread(len(files), limit)]:
        try:
            picture = read_picture(
                file, name=str(file), longest=longest, shorter=shorter, max_megapixels=max_megapixels
            )
        except ValueError as error:
            left_out.append(str(error))
            continue
        pictures.append(replace(picture, name=file.relative_to(place).as_posix() if file != place else file.name))
        stored += picture.pixels[0].numel()
        _check_stored(stored, MOST_STORED, what=str(place), smaller="image_size, height, dpi")
    if not pictures:
        more = f"; nor can {len(left_out) - 1} more be shown" if len(left_out) > 1 else ""
        raise ValueError(f"{left_out[0]}{more}")
    return Found(pictures=pictures, left_out=tuple(left_out))


def files_of(place: Path) -> list[Path]:
    """The file, or the pictures of the folder and all below it by their suffix and name, hidden ones left out.

    Raises ValueError where there are none.
    """
    if not place.exists():
        raise ValueError(f"images {place}: no such file or folder")
    if not place.is_dir():
        return [place]
    files = pictures_below(place)
    if not files:
        raise ValueError(f"{place} holds no pictures ({', '.join(SUFFIXES)}), nor does a folder below it")
    return files


def scene_pictures(scenes: Scenes, *, limit: int, side: int = SCENE_SIDE) -> list[Picture]:
    """The first `limit` held-out scenes of the world, `side` pixels wide.

    Raises ValueError for more pixels than memory should hold, before any is drawn.
    """
    _check_stored(limit * side**2, MOST_OF_SCENES, what="scenes", smaller="image_size")
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


def _check_stored(pixels: int, most: int, *, what: str, smaller: str) -> None:
    """Raise ValueError for more than `most`; `smaller` are the settings that make pictures so."""
    if pixels > most:
        raise ValueError(
            f"{what}: more than {most // 10**6} million pixels are too many to be looked at together; show fewer "
            f"pictures (num_pictures), or smaller ones ({smaller})"
        )


def with_truth(shown: Sequence[Picture]) -> bool:
    """Whether everything is known about all of them."""
    return all(picture.truth is not None for picture in shown)
