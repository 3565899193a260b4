"""`distill demo MODEL…`: load, fit probes of depth and normals, and serve the page."""

from collections.abc import Sequence
from pathlib import Path

import torch

from distill.demo.guard import check_host
from distill.demo.limits import Limits
from distill.demo.maps import Basis, Looker, fit_probes
from distill.demo.serve import check_address, check_extra, serve
from distill.show.command import Common, largest_seen, pictures_for, told_apart, world_of
from distill.show.content import Frame
from distill.show.models import Asked, Model, load_model, on
from distill.show.pictures import files_of
from distill.show.views import Looking
from distill.show.views.geometry import GeometrySettings
from distill.show.words import split_words

FRAME = Frame(height=384, widest=576)
"""Of the maps; the browser shows them smaller where there is less room."""


def demo(
    words: Sequence[str],
    *,
    images: Path | None,
    geometry: str | None,
    image_size: int | None,
    host: str,
    port: int | None,
    limits: Limits,
) -> int:
    """Serve until Ctrl-C, and return 0.

    `words` are models, RUN, CHECKPOINT or FAMILY:NAME, each followed by its own `side=`, `weights=` and `title=`.
    Without `images` the examples are held-out scenes of the first run's world. Raises ValueError for whatever cannot be
    found, loaded or understood, before anything is served.
    """
    places, settings = split_words(words)
    for key in settings:
        raise ValueError(f"demo has no setting {key!r}; side=, weights= and title= are said of the model before them")
    if not places:
        raise ValueError("no model is named: RUN, CHECKPOINT or FAMILY:NAME")
    address = check_host(host)
    check_extra()
    check_address(address, port)
    if images is not None:
        files_of(images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = told_apart([on(load_model(each), device) for each in places])
    common = Common(image_size=image_size)
    shorter = max(FRAME.height, 2 * largest_seen(models, common))
    examples = pictures_for(common, images=images, scenes=world_of(models), shorter=shorter)
    looker = look_with(places, models, geometry=geometry, image_size=image_size, limits=limits)
    return serve(looker, examples, host=address, port=port)


def look_with(
    places: Sequence[Asked], models: list[Model], *, geometry: str | None, image_size: int | None, limits: Limits
) -> Looker:
    """Models with their probes: fitted on what `geometry` names, or else on the scenes that a run has learnt from."""
    on_scenes = any(model.recipe is not None and model.recipe.data.source == "scenes" for model in models)
    scenes = world_of(models) if on_scenes and geometry is None else None
    looking = Looking(frame=FRAME, image_size=image_size, scenes=scenes)
    settings = GeometrySettings(geometry=geometry)
    if scenes is not None or geometry is not None:
        print("fitting probes of depth and surface normals", flush=True)
    depth, normals = fit_probes(models, settings, looking)
    return Looker(
        models=models,
        looking=looking,
        limits=limits,
        geometry=settings,
        depth=depth,
        normals=normals,
        basis=basis_of(places, models),
    )


def basis_of(places: Sequence[Asked], models: Sequence[Model]) -> Basis:
    """One basis for teacher and student of one run, which have one space; other models are turned to look alike."""
    of_one_run = len({each.place for each in places}) == 1
    return "shared" if of_one_run and len({model.encoder.image.width for model in models}) == 1 else "turned"
