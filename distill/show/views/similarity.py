"""Heat maps: how alike every patch is to a text, or to the patch at a point.

Legend: (h, w) patch grid, (H, W) pixels.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from distill.eval.dense import upsample
from distill.eval.features import Kind
from distill.show.colours import laid_over, scaled, with_ring
from distill.show.content import Content, Panel, Row, Scale, as_bytes, framed, pictures_row
from distill.show.models import Model, look
from distill.show.pictures import Picture
from distill.show.similarity import cosines, patch_at
from distill.show.views.view import Looking, check_opacity, check_text

ENDS = (1, 99)
"""Percentiles of a row's cosines between which its colours run."""


@dataclass(frozen=True, kw_only=True)
class HeatSettings:
    query: tuple[str, ...] = ()
    """A text, or a list of texts, each of which gets a row."""
    features: Kind = "value"
    opacity: float = 0.75
    """Of the colours over the grey picture, 0 to 1; at 1 they are alone."""

    def __post_init__(self) -> None:
        check_opacity(self.opacity)
        if not self.query or not all(text.strip() for text in self.query):
            raise ValueError('heat needs a text to look for: query="a red circle"')


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    point: tuple[float, float] = (0.5, 0.5)
    """x and y as shares of the picture's width and height, from its top left corner."""
    of: Literal["each", "first"] = "each"
    """Whose patch at that point: each picture's own, or the first picture's in all of them."""
    features: Kind = "final"
    opacity: float = 0.75
    """Of the colours over the grey picture, 0 to 1; at 1 they are alone."""

    def __post_init__(self) -> None:
        check_opacity(self.opacity)
        if not all(0 <= share <= 1 for share in self.point):
            raise ValueError(f"point={self.point[0]:g},{self.point[1]:g}: x and y are shares of the picture, 0 to 1")


@torch.no_grad()
def show_heat(models: list[Model], pictures: list[Picture], settings: HeatSettings, looking: Looking) -> Content:
    """A row for every model and text; the texts of one model have one scale, so that they compare."""
    check_text(models, what="heat")
    rows = []
    for model in models:
        texts_KD = model.encoder.encode_text(list(settings.query)).float().cpu()
        seen = [look(model, picture, image_size=looking.image_size, kind=settings.features) for picture in pictures]
        maps = [[cosines(each, text_D) for each in seen] for text_D in texts_KD]
        scale = scale_of([each for of_text in maps for each in of_text], opacity=settings.opacity)
        for text, of_text in zip(settings.query, maps, strict=True):
            title = model.title if len(settings.query) == 1 else f"{model.title}: {text}"
            rows.append(_row(title, pictures, of_text, scale, looking))
    about = f"“{settings.query[0]}”" if len(settings.query) == 1 else "texts"
    return Content(
        heading=f"How alike patches are to {about}",
        note="Cosines of patch and text. Yellow is most alike; each model has its own scale, one for all pictures.",
        rows=(pictures_row(pictures, looking.frame), *rows),
    )


def show_point(models: list[Model], pictures: list[Picture], settings: PointSettings, looking: Looking) -> Content:
    rows = []
    for model in models:
        seen = [look(model, picture, image_size=looking.image_size, kind=settings.features) for picture in pictures]
        points = [patch_at(each if settings.of == "each" else seen[0], settings.point)[0] for each in seen]
        maps = [cosines(each, point_D) for each, point_D in zip(seen, points, strict=True)]
        rows.append(_row(model.title, pictures, maps, scale_of(maps, opacity=settings.opacity), looking))
    plain, radius = pictures_row(pictures, looking.frame), looking.frame.height / 36
    marked = [
        replace(panel, rgb=as_bytes(with_ring(framed(picture, looking.frame), settings.point, radius=radius)))
        if settings.of == "each" or place == 0
        else panel
        for place, (panel, picture) in enumerate(zip(plain.panels, pictures, strict=True))
    ]
    whose = "in its picture" if settings.of == "each" else "in the first picture"
    return Content(
        heading="How alike patches are to the one at the ring",
        note=f"Cosines with the patch at the ring {whose}. Yellow is most alike; each model has its own scale.",
        rows=(Row(title=plain.title, panels=tuple(marked)), *rows),
    )


def scale_of(maps: list[Float[Tensor, "1 _ _"]], *, opacity: float) -> Scale:
    """From nearly the least to nearly the greatest of all maps."""
    low, high = np.percentile(np.concatenate([each.numpy().ravel() for each in maps]), ENDS)
    return Scale(low=float(low), high=float(high), opacity=opacity)


def heat(
    shown: Float[np.ndarray, "H W 3"], cosines_1hw: Float[Tensor, "1 h w"], scale: Scale
) -> Float[np.ndarray, "H W 3"]:
    """A map of cosines over the picture, bilinear between patches."""
    values = upsample(cosines_1hw[None], shown.shape[:2])[0, 0].double().numpy()
    return laid_over(shown, scaled(values, low=scale.low, high=scale.high), opacity=scale.opacity)


def _row(title: str, pictures: list[Picture], maps: list[Tensor], scale: Scale, looking: Looking) -> Row:
    panels = [
        Panel(rgb=as_bytes(heat(framed(picture, looking.frame), each, scale)))
        for picture, each in zip(pictures, maps, strict=True)
    ]
    return Row(title=title, panels=tuple(panels), scale=scale)
