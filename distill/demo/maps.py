"""The maps of one picture, each as a section of the page. Mistakes become sentences there, never errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distill.demo.limits import Limits, class_names, query
from distill.demo.markup import section
from distill.show.content import Content, as_bytes, framed
from distill.show.models import Model
from distill.show.pictures import Picture
from distill.show.views import VIEWS, Looking
from distill.show.views.geometry import (
    GeometrySettings,
    Probe,
    Titled,
    depth_probe,
    draw_depth,
    draw_normals,
    normals_probe,
)

Basis = Literal["turned", "shared", "own"]
"""Of PCA across models, as in `distill.show.views.pca`."""

HEADINGS = {
    "pca": "Principal components of patches",
    "segmentation": "Zero-shot segmentation",
    "heat": "Similarity to the text",
    "similarity": "Similarity to the patch at the ring",
    "depth": "Depth",
    "normals": "Surface normals",
}

Probes = Sequence[Titled] | str
"""Of the models; or the sentence why there are none."""
MIDDLE = (0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Looker:
    """Who looks, and how."""

    models: list[Model]
    looking: Looking
    limits: Limits
    geometry: GeometrySettings
    depth: Probes
    normals: Probes
    basis: Basis
    """Before a visitor chooses one."""

    @property
    def readers(self) -> list[Model]:
        """Those with a text tower."""
        return [model for model in self.models if model.with_text]

    @property
    def bases(self) -> tuple[Basis, ...]:
        """Those that can be chosen: models share one only where their features have one width."""
        one_width = len({model.encoder.image.width for model in self.models}) == 1
        return ("turned", "shared", "own") if one_width else ("turned", "own")


def fit_probes(models: list[Model], settings: GeometrySettings, looking: Looking) -> tuple[Probes, Probes]:
    """Of depth and of normals. Raises ValueError where data are named and neither can be fitted on them."""
    if settings.geometry is None and looking.scenes is None:
        why = "{} needs pictures with {} to fit its probe on: start the demo with --geometry FOLDER"
        return why.format("depth", "depth"), why.format("the map of surface normals", "surface normals")
    probes = tuple(_fitted(fit, models, settings, looking) for fit in (depth_probe, normals_probe))
    if settings.geometry is not None and all(isinstance(each, str) for each in probes):
        raise ValueError("; ".join(probes))
    return probes


def pca(looker: Looker, picture: Picture, basis: Basis) -> str:
    return section(HEADINGS["pca"], _shown("pca", looker, looker.models, picture, basis=basis))


def segmentation(looker: Looker, picture: Picture, text: str) -> str:
    return _by_words("segmentation", looker, picture, lambda: {"classes": class_names(text, looker.limits)})


def heat(looker: Looker, picture: Picture, text: str) -> str:
    return _by_words("heat", looker, picture, lambda: {"query": (query(text, looker.limits),)})


def similarity(looker: Looker, picture: Picture, point: tuple[float, float]) -> tuple[np.ndarray, str]:
    """The picture with a ring at the point (x and y, shares of width and height), and the section."""
    content = _shown("similarity", looker, looker.models, picture, point=point)
    if isinstance(content, str):
        plain = as_bytes(framed(picture, looker.looking.frame))
    else:
        plain = content.rows[0].panels[0].rgb
    return plain, section(HEADINGS["similarity"], content)


def depth(looker: Looker, picture: Picture) -> str:
    return section(HEADINGS["depth"], _read_out(looker.depth, draw_depth, looker, picture), _caution(looker, picture))


def normals(looker: Looker, picture: Picture) -> str:
    content = _read_out(looker.normals, draw_normals, looker, picture)
    return section(HEADINGS["normals"], content, _caution(looker, picture))


def without_text(model: Model) -> str:
    return f"without a text tower {model.title} cannot say which of its patches are like a word"


def _by_words(what: str, looker: Looker, picture: Picture, settings: Callable[[], dict[str, Any]]) -> str:
    asides = [without_text(model) for model in looker.models if not model.with_text]
    if not looker.readers:
        return section(HEADINGS[what], asides[0], asides[1:])
    try:
        content = _shown(what, looker, looker.readers, picture, **settings())
    except ValueError as error:
        content = str(error)
    return section(HEADINGS[what], content, asides)


def _shown(what: str, looker: Looker, models: list[Model], picture: Picture, **settings: Any) -> Content | str:
    """What the view says, or the sentence why it cannot."""
    view = VIEWS[what]
    try:
        return view.show(models, [picture], view.settings(**settings), looker.looking)
    except ValueError as error:
        return str(error)


def _read_out(probes: Probes, draw: Callable[..., Content], looker: Looker, picture: Picture) -> Content | str:
    if isinstance(probes, str):
        return probes
    try:
        return draw(probes, [picture], looker.geometry, looker.looking)
    except ValueError as error:
        return str(error)


def _caution(looker: Looker, picture: Picture) -> list[str]:
    strange = looker.looking.scenes is not None and picture.truth is None
    return ["The probe was fitted on scenes, and this is none: do not read numbers from it"] if strange else []


def _fitted(
    fit: Callable[[Model, GeometrySettings, Looking], Probe],
    models: list[Model],
    settings: GeometrySettings,
    looking: Looking,
) -> Probes:
    try:
        return [(model.title, fit(model, settings, looking)) for model in models]
    except ValueError as error:
        return str(error)
