"""Depth and surface normals, read out of frozen features by a probe that is fitted on data the user names.

Legend: (H, W) pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.config import Recipe, recipe_from_words
from distill.eval.dense import upsample
from distill.eval.geometry import angle_degrees
from distill.eval.registry import depth_settings, normals_settings
from distill.eval.sets import evaluation_data
from distill.eval.tasks import depth, normals
from distill.show.colours import normals_colours, scaled
from distill.show.content import Content, Panel, Row, Scale, as_bytes, pictures_row
from distill.show.models import Model, check_size
from distill.show.pictures import Picture, with_truth
from distill.show.views.view import Looking

ENDS = (1, 99)
"""Percentiles of all depths between which the colours run."""

Probe = Callable[[Picture], Float[Tensor, "*channels _ _"]]
"""What a fitted probe says of a picture, at the picture's size in the frame, on the CPU."""
Titled = tuple[str, Probe]
"""With the title of its row."""


@dataclass(frozen=True, kw_only=True)
class GeometrySettings:
    geometry: str | None = None
    """What the probe is fitted on: a folder, or a name of `distill eval list`; the scenes' own world when not set."""
    probe: Literal["ridge", "linear", "dpt"] = "ridge"
    probe_steps: int = 1000
    """linear, dpt."""
    fitted: int = 256
    """At most so many pictures."""

    def __post_init__(self) -> None:
        if self.probe_steps < 1 or self.fitted < 1:
            raise ValueError(f"probe_steps={self.probe_steps}, fitted={self.fitted}: expected at least 1")


@torch.no_grad()
def depth_probe(model: Model, settings: GeometrySettings, looking: Looking) -> Probe:
    """Metres, [H, W]. Raises ValueError where there is nothing to fit it on."""
    recipe = _asked("depth", model, settings, looking)
    data = evaluation_data(recipe, settings.fitted)
    protocol = depth_settings(data, recipe.evaluate)
    maps = depth.fit(model.encoder.image, data.depth_train, protocol)

    def probe(picture: Picture) -> Float[Tensor, "H W"]:
        check_size(model, picture, looking.image_size)
        size = looking.frame.size_of(picture)
        return depth.depth_of(maps(picture.pixels[None]), protocol, size=size)[0].cpu()

    return probe


@torch.no_grad()
def normals_probe(model: Model, settings: GeometrySettings, looking: Looking) -> Probe:
    """Unit vectors, [3, H, W]. Raises ValueError where there is nothing to fit it on."""
    recipe = _asked("normals", model, settings, looking)
    data = evaluation_data(recipe, settings.fitted)
    maps = normals.fit(model.encoder.image, data.normals_train, normals_settings(data, recipe.evaluate))

    def probe(picture: Picture) -> Float[Tensor, "3 H W"]:
        check_size(model, picture, looking.image_size)
        return normals.normals_of(maps(picture.pixels[None]), size=looking.frame.size_of(picture))[0].cpu()

    return probe


def show_depth(models: list[Model], pictures: list[Picture], settings: GeometrySettings, looking: Looking) -> Content:
    probes = [(model.title, depth_probe(model, settings, looking)) for model in models]
    return draw_depth(probes, pictures, settings, looking)


@torch.no_grad()
def draw_depth(
    probes: Sequence[Titled], pictures: list[Picture], settings: GeometrySettings, looking: Looking
) -> Content:
    """Rows of metres, all on one scale; the probes were fitted with the same settings."""
    rows, below = [], []
    truths = [upsample(each.truth.depth[None, None], looking.frame.size_of(each))[0, 0] for each in _known(pictures)]
    for title, probe in probes:
        maps = [probe(picture) for picture in pictures]
        rows.append((title, maps))
        errors = [(ours - truth).square().mean().sqrt() for ours, truth in zip(maps, truths, strict=False)]
        below.append([f"{error:.2f} m off" for error in errors])
    rows, below = _after_truth(truths, rows, below)
    every = np.concatenate([each.numpy().ravel() for _, maps in rows for each in maps])
    low, high = map(float, np.percentile(every, ENDS))
    drawn = [
        (title, [as_bytes(scaled(each.double().numpy(), low=low, high=high)) for each in maps]) for title, maps in rows
    ]
    return Content(
        heading="Depth, read out of frozen features by a probe",
        note=f"Dark blue is near, yellow is far, on one scale for all rows. {_of(settings)}",
        rows=(
            pictures_row(pictures, looking.frame),
            *_rows(drawn, below, scale=Scale(low=low, high=high, unit="m")),
        ),
    )


def show_normals(models: list[Model], pictures: list[Picture], settings: GeometrySettings, looking: Looking) -> Content:
    probes = [(model.title, normals_probe(model, settings, looking)) for model in models]
    return draw_normals(probes, pictures, settings, looking)


@torch.no_grad()
def draw_normals(
    probes: Sequence[Titled], pictures: list[Picture], settings: GeometrySettings, looking: Looking
) -> Content:
    """A row for every probe."""
    rows, below = [], []
    truths = [
        normals.normals_of(each.truth.normals[None], size=looking.frame.size_of(each))[0] for each in _known(pictures)
    ]
    for title, probe in probes:
        maps = [probe(picture) for picture in pictures]
        rows.append((title, maps))
        errors = [angle_degrees(ours[None], truth[None]).mean() for ours, truth in zip(maps, truths, strict=False)]
        below.append([f"{error:.0f}° off" for error in errors])
    rows, below = _after_truth(truths, rows, below)
    drawn = [(title, [as_bytes(normals_colours(each.double().numpy())) for each in maps]) for title, maps in rows]
    return Content(
        heading="Surface normals, read out of frozen features by a probe",
        note=f"Red is how far a surface faces right, green up, blue the camera. {_of(settings)}",
        rows=(pictures_row(pictures, looking.frame), *_rows(drawn, below)),
    )


def _asked(what: str, model: Model, settings: GeometrySettings, looking: Looking) -> Recipe:
    """The evaluation whose training pictures the probe is fitted on."""
    if settings.geometry is None and looking.scenes is None:
        raise ValueError(
            f"{what} of photos needs pictures with {what} to fit its probe on: geometry=FOLDER, or a name of `distill "
            "eval list`"
        )
    words = {
        "data.image_size": looking.image_size or model.image_size,
        "evaluate.tasks": f"[{what}]",
        "evaluate.probe": settings.probe,
        "evaluate.probe_steps": settings.probe_steps,
    }
    recipe = recipe_from_words([f"{key}={value}" for key, value in words.items()])
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, geometry=settings.geometry))
    return recipe if looking.scenes is None else replace(recipe, data=replace(recipe.data, scenes=looking.scenes))


def _known(pictures: list[Picture]) -> list[Picture]:
    """All of them, or none where something is not known about some."""
    return pictures if with_truth(pictures) else []


def _of(settings: GeometrySettings) -> str:
    heads = {"ridge": "ridge regression", "linear": "a trained linear layer", "dpt": "a trained DPT head"}
    # Sheets are shown around; where the folder lies on this machine is nobody's business.
    fitted_on = Path(settings.geometry).resolve().name if settings.geometry else "training scenes"
    return f"The probe is {heads[settings.probe]}, fitted on {fitted_on}."


def _after_truth(
    truths: list[Tensor], rows: list[tuple[str, list[Tensor]]], below: list[list[str]]
) -> tuple[list[tuple[str, list[Tensor]]], list[list[str]]]:
    """The rows and the words below them, behind the truth where it is known."""
    if not truths:
        return rows, [[""] * len(maps) for _, maps in rows]
    return [("truth", truths), *rows], [[""] * len(truths), *below]


def _rows(
    drawn: list[tuple[str, list[UInt8[np.ndarray, "_ _ 3"]]]], below: list[list[str]], *, scale: Scale | None = None
) -> list[Row]:
    """`below`: words beneath the panels of every row."""
    rows = []
    for (title, maps), words in zip(drawn, below, strict=True):
        panels = tuple(Panel(rgb=rgb, below=text) for rgb, text in zip(maps, words, strict=True))
        rows.append(Row(title=title, panels=panels, scale=scale))
    return rows
