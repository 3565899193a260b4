"""Zero-shot segmentation by class names, laid over the pictures; beside the truth where it is known.

Legend: (H, W) pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from distill.eval.dense import LinearScores
from distill.eval.features import Kind
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings, class_scores, predict
from distill.show.colours import laid_over, legend_of, painted, with_borders
from distill.show.content import Content, Frame, Panel, Row, as_bytes, framed, pictures_row
from distill.show.models import Model, check_size
from distill.show.palette import class_colours, distinct_colours
from distill.show.pictures import Picture, with_truth
from distill.show.views.view import Looking, check_opacity, check_text


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    classes: tuple[str, ...] = ()
    """Names; of scenes their own when not set."""
    templates: Literal["plain", "tcl", "imagenet80"] = "plain"
    features: Kind = "value"
    mode: Literal["whole", "slide"] = "whole"
    """`slide`: windows of the size that the encoder knows, every three quarters of one, with their mean."""
    opacity: float = 0.6
    """Of the colours over the grey picture, 0 to 1; at 1 they are alone."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: every name may stand there once")
        if not all(name.strip() for name in self.classes):
            raise ValueError("classes: a name is empty")
        if len(self.classes) == 1 and "," in self.classes[0]:
            raise ValueError(f"classes={self.classes[0]} is one name; several are written classes=[{self.classes[0]}]")
        check_opacity(self.opacity)


def show(models: list[Model], pictures: list[Picture], settings: SegmentationSettings, looking: Looking) -> Content:
    check_text(models, what="segmentation")
    names, frame = class_names(pictures, settings), looking.frame
    known = with_truth(pictures) and names == pictures[0].truth.class_names
    truths = [at_size(each.truth.classes, frame.size_of(each)) for each in pictures] if known else None
    said = [(model.title, segment(model, pictures, names, settings, looking)) for model in models]
    maps = [*(truths or []), *(each for _, of_model in said for each in of_model)]
    occurring = sorted({int(index) for each in maps for index in np.unique(each)})
    colour_of = colours_of(names, occurring, pictures[0].truth.num_things if known else None)
    rows = [_row("truth", pictures, truths, colour_of, settings, frame)] if known else []
    rows += [_row(title, pictures, of_model, colour_of, settings, frame, truths=truths) for title, of_model in said]
    return Content(
        heading="Zero-shot segmentation",
        note="Every pixel has the colour of the class name that its patch is most alike to.",
        rows=(pictures_row(pictures, frame), *rows),
        legend=legend_of(names, colour_of, opacity=settings.opacity),
    )


def class_names(pictures: Sequence[Picture], settings: SegmentationSettings) -> tuple[str, ...]:
    """Those that were asked for, or the scenes' own. Raises ValueError where there are none."""
    if settings.classes:
        return settings.classes
    if not with_truth(pictures):
        raise ValueError("segmentation needs names to choose from: classes=[cat, dog, grass]")
    return pictures[0].truth.class_names


@torch.no_grad()
def segment(
    model: Model,
    pictures: Sequence[Picture],
    names: Sequence[str],
    settings: SegmentationSettings,
    looking: Looking,
) -> list[Int[np.ndarray, "_ _"]]:
    """The place in `names` of every pixel's class, at the pictures' sizes in the frame."""
    side = looking.image_size or model.image_size
    protocol = ZeroShotSettings(
        templates=settings.templates,
        features=settings.features,
        mode=settings.mode,
        short_side=side,
        window=model.image_size,
        stride=max(1, model.image_size * 3 // 4),
    )
    scores: LinearScores = class_scores(model.encoder, list(names), protocol)
    found = []
    for picture in pictures:
        if settings.mode == "whole":
            check_size(model, picture, looking.image_size)
        size = looking.frame.size_of(picture)
        classes = predict(model.encoder.image, picture.pixels[None], scores=scores, size=size, settings=protocol)
        found.append(classes[0].cpu().numpy())
    return found


def colours_of(names: Sequence[str], shown: Sequence[int], num_things: int | None) -> dict[int, str]:
    """Colours by the order of the names; things deep and stuff pale where it is known which are things."""
    if num_things is not None:
        return class_colours(len(names), num_things, shown)
    every = distinct_colours(max(shown, default=-1) + 1)
    return {index: every[index] for index in shown}


def at_size(classes: Int[Tensor, "H W"], size: tuple[int, int]) -> Int[np.ndarray, "H2 W2"]:
    """By the nearest neighbour."""
    return functional.interpolate(classes[None, None].double(), size, mode="nearest-exact")[0, 0].long().numpy()


def overlay(
    picture: Picture, classes: Int[np.ndarray, "H W"], colour_of: dict[int, str], *, opacity: float, frame: Frame
) -> np.ndarray:
    """Classes over the grey picture, RGB in [0, 1], with their borders."""
    shown = laid_over(framed(picture, frame), painted(classes, colour_of), opacity=opacity)
    return with_borders(shown, classes, thickness=max(1, round(frame.height / 300)))


def _row(
    title: str,
    pictures: list[Picture],
    maps: list[np.ndarray],
    colour_of: dict[int, str],
    settings: SegmentationSettings,
    frame: Frame,
    truths: list[np.ndarray] | None = None,
) -> Row:
    panels = []
    for place, (picture, classes) in enumerate(zip(pictures, maps, strict=True)):
        right = f"{100 * (classes == truths[place]).mean():.0f} % right" if truths is not None else ""
        shown = overlay(picture, classes, colour_of, opacity=settings.opacity, frame=frame)
        panels.append(Panel(rgb=as_bytes(shown), below=right))
    return Row(title=title, panels=tuple(panels))
