"""`distill show WHAT MODEL… key=value --images PLACE --to FILE`: a contact sheet of what encoders make of pictures."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal

import torch

from distill.config import Scenes
from distill.show.content import Content
from distill.show.letters import unknown_letters
from distill.show.models import Model, load_model, on
from distill.show.pictures import (
    LONGEST,
    MAX_MEGAPIXELS,
    SCENE_SIDE,
    Picture,
    files_of,
    read_pictures,
    scene_pictures,
)
from distill.show.sheet import Paper, check_file, check_room, draw
from distill.show.views import VIEWS, Looking
from distill.show.words import settings_of, split_words


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of map hears."""

    image_size: int | None = None
    """Shorter side of what the encoders see, pixels; each its own when not set."""
    num_pictures: int = 8
    max_megapixels: float = MAX_MEGAPIXELS
    """Larger pictures are refused."""
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        if self.image_size is not None and not 1 <= self.image_size <= 8192:
            raise ValueError(f"image_size={self.image_size}: expected 1 to 8192 pixels")
        if not 1 <= self.num_pictures <= 1000:
            raise ValueError(f"num_pictures={self.num_pictures}: expected 1 to 1000")
        if not 0 < self.max_megapixels <= 80:
            raise ValueError(f"max_megapixels={self.max_megapixels:g}: expected more than 0 and at most 80")


def show(what: str, words: Sequence[str], *, images: Path | None, to: Path) -> int:
    """Load, look, draw, and say what was written. Returns 0.

    `words` are models, RUN, CHECKPOINT or FAMILY:NAME, each followed by its own `side=`, `weights=` and `title=`, and
    the settings of the kind of map in any place. Without `images` the pictures are held-out scenes of the first run's
    world. Raises ValueError for whatever cannot be found, loaded or understood, before anything is written.
    """
    view = VIEWS[what]
    places, settings = split_words(words)
    common, paper, asked = settings_of(settings, (Common, Paper, view.settings), what=what)
    check_file(to)
    if images is not None:
        files_of(images)  # what is not there is said before models are loaded
    if not places:
        raise ValueError("no model is named: RUN, CHECKPOINT or FAMILY:NAME")
    device = "cuda" if torch.cuda.is_available() and common.device == "auto" else "cpu"
    models = told_apart([on(load_model(each), device) for each in places])
    scenes = None if images is not None else world_of(models)
    shown = paper.tallest(to)
    pictures = pictures_for(common, images=images, scenes=scenes, shorter=max(shown, 2 * largest_seen(models, common)))
    frame = paper.frame(to, pictures)
    check_room(frame, pictures, num_rows=1 + len(models))
    looking = Looking(frame=frame, image_size=common.image_size, scenes=scenes)
    content: Content = view.show(models, pictures, asked, looking)
    print(f"written to {draw(content, to, paper)}")
    unknown = unknown_letters(content.texts)
    if unknown:
        print(f"the sheet's font has no sign for {unknown}: boxes stand in their place", file=sys.stderr)
    return 0


def pictures_for(common: Common, *, images: Path | None, scenes: Scenes | None, shorter: int) -> list[Picture]:
    """Those of `images`, with no more pixels than a shorter side of `shorter` needs, or else scenes.

    Says on stderr which files of a folder are left out.
    """
    if images is None:
        side = max(SCENE_SIDE, 2 * (common.image_size or 0))
        return scene_pictures(scenes, limit=common.num_pictures, side=min(side, 4096))
    longest = max(LONGEST, 2 * (common.image_size or 0))
    found = read_pictures(
        images,
        limit=common.num_pictures,
        longest=longest,
        shorter=shorter,
        max_megapixels=common.max_megapixels,
    )
    for sentence in found.left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    return found.pictures


def largest_seen(models: Sequence[Model], common: Common) -> int:
    """Shorter side of what an encoder sees at most, pixels."""
    return common.image_size or max(model.image_size for model in models)


def world_of(models: Sequence[Model]) -> Scenes:
    """Of the first run that has learnt from scenes; the default world for models that know none."""
    known = [each.recipe.data.scenes for each in models if each.recipe and each.recipe.data.source == "scenes"]
    return known[0] if known else Scenes()


def told_apart(models: Sequence[Model]) -> list[Model]:
    """The models, with numbers where titles are the same: the next that makes a title which nobody has."""
    titles = [model.title for model in models]
    taken = {*titles}
    told = []
    for model in models:
        title = model.title
        if titles.count(title) > 1:
            title = next(each for number in count(1) if (each := f"{model.title} ({number})") not in taken)
            taken.add(title)
        told.append(replace(model, title=title))
    return told
