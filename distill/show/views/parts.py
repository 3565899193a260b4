"""K-means parts: patches of all pictures in a few groups that nobody named.

Legend: (h, w) patch grid, (H, W) pixels, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from distill.eval.features import Kind
from distill.show.colours import laid_over, legend_of, painted
from distill.show.content import Content, Panel, Row, as_bytes, framed, pictures_row
from distill.show.models import Model, look
from distill.show.palette import distinct_colours
from distill.show.parts import find_parts, named_alike
from distill.show.pictures import Picture
from distill.show.views.segmentation import at_size
from distill.show.views.view import Looking, check_opacity


@dataclass(frozen=True, kw_only=True)
class PartsSettings:
    num: int = 6
    """Parts, for all pictures of a model together."""
    features: Kind = "final"
    seed: int = 0
    opacity: float = 0.6
    """Of the colours over the grey picture, 0 to 1; at 1 they are alone."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num={self.num}: expected at least 1 part")
        check_opacity(self.opacity)


def show(models: list[Model], pictures: list[Picture], settings: PartsSettings, looking: Looking) -> Content:
    """A row for every model; later models' parts are numbered as the first one's that they mostly cover."""
    sizes = [looking.frame.size_of(picture) for picture in pictures]
    found = [
        [at_size(each, size) for each, size in zip(parts_of(model, pictures, settings, looking), sizes, strict=True)]
        for model in models
    ]
    first_n = _flat(found[0])
    for place in range(1, len(found)):
        named_n = named_alike(first_n, _flat(found[place]), num=settings.num)
        found[place] = [
            each.reshape(size)
            for each, size in zip(np.split(named_n, np.cumsum([h * w for h, w in sizes])[:-1]), sizes, strict=True)
        ]
    colour_of = dict(enumerate(distinct_colours(settings.num)))
    rows = [
        _row(model.title, pictures, maps, colour_of, settings, looking)
        for model, maps in zip(models, found, strict=True)
    ]
    others = ", and in other models that of the first one's part that it mostly covers" if len(models) > 1 else ""
    return Content(
        heading=f"{settings.num} parts of the patches of all pictures",
        note=f"k-means of patch features. A part has one colour in all pictures{others}.",
        rows=(pictures_row(pictures, looking.frame), *rows),
        legend=legend_of([f"part {number + 1}" for number in range(settings.num)], colour_of, opacity=settings.opacity),
    )


def parts_of(
    model: Model, pictures: list[Picture], settings: PartsSettings, looking: Looking
) -> list[Int[torch.Tensor, "_ _"]]:
    """The part of every patch of every picture."""
    seen = [look(model, picture, image_size=looking.image_size, kind=settings.features) for picture in pictures]
    patches_nD = torch.cat([each.patches[0] for each in seen]).double().numpy()
    parts_n = torch.from_numpy(find_parts(patches_nD, num=settings.num, seed=settings.seed))
    counts = [each.patches.shape[1] for each in seen]
    return [each.unflatten(0, found.grid) for each, found in zip(parts_n.split(counts), seen, strict=True)]


def _flat(maps: list[np.ndarray]) -> Int[np.ndarray, " n"]:
    return np.concatenate([each.ravel() for each in maps])


def _row(
    title: str,
    pictures: list[Picture],
    maps: list[np.ndarray],
    colour_of: dict[int, str],
    settings: PartsSettings,
    looking: Looking,
) -> Row:
    panels = []
    for picture, parts in zip(pictures, maps, strict=True):
        seen = laid_over(framed(picture, looking.frame), painted(parts, colour_of), opacity=settings.opacity)
        panels.append(Panel(rgb=as_bytes(seen)))
    return Row(title=title, panels=tuple(panels))
