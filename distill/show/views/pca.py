"""Patch features as colours: three principal components, in one basis for all pictures.

Legend: (h, w) patch grid, D width.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional

from distill.contracts import Tokens
from distill.eval.features import Kind
from distill.show.basis import Basis, principal_basis, turned_like
from distill.show.colours import lightness_first
from distill.show.content import Content, Panel, Row, as_bytes, pictures_row
from distill.show.models import Model, look, look_within
from distill.show.pictures import Picture
from distill.show.views.view import Looking

BASES = {
    "own": "each row has a basis of its own, so colours compare within a row only",
    "turned": "each row has a basis of its own, turned so that its colours are as near as they can be to those of {}",
    "shared": "all rows have one basis",
}
COLOURS = {
    "lab": "Lightness, blue to yellow and green to red are the first three principal components",
    "rgb": "Red, green and blue are the first three principal components",
}


@dataclass(frozen=True, kw_only=True)
class PcaSettings:
    features: Kind = "final"
    layers: tuple[int, ...] | Literal["all"] | None = None
    """Blocks, counted from 1, each in a row, behind the final norm; the last one alone when not set."""
    basis: Literal["own", "turned", "shared"] = "turned"
    """Across rows; across the pictures of a row it is always shared. `shared` needs features of one width."""
    colours: Literal["lab", "rgb"] = "lab"
    """`lab` puts the first component into lightness, which print and colour-blind people keep; `rgb` is the usual."""

    def __post_init__(self) -> None:
        if self.layers == ():
            raise ValueError("layers=[]: name blocks, such as layers=[3, 6], or all")
        if self.layers is not None and self.features != "final":
            raise ValueError(f"layers and features={self.features}: value features are those of the last block only")


def show(models: list[Model], pictures: list[Picture], settings: PcaSettings, looking: Looking) -> Content:
    """Rows of models, or of models' blocks."""
    by_model = [feature_maps(model, pictures, settings, looking) for model in models]
    rows = [row for of_model in by_model for row in of_model]
    # Earlier blocks are turned like the last one, other models like the first model.
    reference = len(by_model[0]) - 1
    bases = bases_of([maps for _, maps in rows], settings.basis, reference=reference)
    drawn = []
    for (title, maps), basis in zip(rows, bases, strict=True):
        panels = [_panel(picture, each, basis, settings, looking) for picture, each in zip(pictures, maps, strict=True)]
        drawn.append(Row(title=title, panels=tuple(panels)))
    across = [BASES[settings.basis].format(rows[reference][0])] if len(rows) > 1 else []
    return Content(
        heading="Patch features in their principal colours",
        note="; ".join([COLOURS[settings.colours], *across]) + ".",
        rows=(pictures_row(pictures, looking.frame), *drawn),
    )


def feature_maps(
    model: Model, pictures: list[Picture], settings: PcaSettings, looking: Looking
) -> list[tuple[str, list[Float[np.ndarray, "_ _ _"]]]]:
    """Rows: a title and maps [h, w, D] of every picture."""
    if settings.layers is None:
        found = [look(model, picture, image_size=looking.image_size, kind=settings.features) for picture in pictures]
        return [(model.title, [as_map(each) for each in found])]
    last = model.encoder.image.num_layers
    blocks = tuple(range(1, last + 1)) if settings.layers == "all" else settings.layers
    within = [look_within(model, picture, image_size=looking.image_size, blocks=blocks) for picture in pictures]
    return [
        (f"{model.title}, block {block}", [as_map(each[place]) for each in within])
        for place, block in enumerate(blocks)
    ]


def as_map(found: Tokens) -> Float[np.ndarray, "h w D"]:
    """The first picture's patches, in float32: of all blocks and pictures they are many."""
    return found.patches[0].unflatten(0, found.grid).numpy()


def bases_of(rows: list[list[np.ndarray]], how: str, *, reference: int) -> list[Basis]:
    """A basis for the maps of every row. Raises ValueError for `shared` with widths that differ."""
    if how == "shared":
        return [principal_basis([each for maps in rows for each in maps])] * len(rows)
    bases = [principal_basis(maps) for maps in rows]
    if how == "own":
        return bases
    like, its_maps = bases[reference], rows[reference]
    return [
        basis if place == reference else turned_like(like, its_maps, basis, maps)
        for place, (basis, maps) in enumerate(zip(bases, rows, strict=True))
    ]


def _panel(picture: Picture, features: np.ndarray, basis: Basis, settings: PcaSettings, looking: Looking) -> Panel:
    shares = basis.shares(features)
    colours = lightness_first(shares) if settings.colours == "lab" else shares
    return Panel(rgb=blocks_of(as_bytes(colours), looking.frame.size_of(picture)))


def blocks_of(colours: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Every patch as a block of its colour: what the encoder said, and no more."""
    maps = torch.from_numpy(np.ascontiguousarray(colours)).permute(2, 0, 1)[None]
    return functional.interpolate(maps, size, mode="nearest-exact")[0].permute(1, 2, 0).numpy()
