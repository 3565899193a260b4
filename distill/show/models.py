"""Who looks at the pictures: any encoder, with its name and the size of the pictures it knows.

Legend: B pictures, N patches, (H, W) pixels.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from distill.compose import load_pretrained, load_teacher
from distill.config import Recipe, recipe_from_file
from distill.contracts import Tokens
from distill.encoders.dual import DualEncoder
from distill.eval.command import load_encoder
from distill.eval.features import Kind, device_of, resize_short_side, short_side_size, stretch, tokens
from distill.show.pictures import Picture
from distill.train.checkpoint import find, latest

Side = Literal["student", "teacher", "untrained"]
MAX_PATCHES = 30_000
"""Of one picture: attention takes memory and time by the square of it."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """An encoder in eval mode and what the sheet calls it."""

    title: str
    encoder: DualEncoder
    image_size: int
    """Side of the pictures it was trained on, pixels: what it is shown unless another size is asked for."""
    recipe: Recipe | None = None
    """Of one of our own trainings."""

    @property
    def with_text(self) -> bool:
        return self.encoder.text is not None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model as the command line names it, with the words that follow it."""

    place: str
    """RUN, CHECKPOINT or FAMILY:NAME."""
    side: Side | None = None
    """Of a run; the student when not set."""
    weights: str | None = None
    """Of a family: a file, or `random`."""
    title: str | None = None


def load_model(asked: Asked) -> Model:
    """Raises ValueError for what cannot be found or loaded, and for words that mean nothing for this kind of model."""
    place = Path(asked.place)
    if not place.exists() and ":" in asked.place:
        if asked.side is not None:
            raise ValueError(f"side={asked.side}: only runs have sides, and {asked.place} is none")
        source = load_pretrained(asked.place, asked.weights)
        encoder = DualEncoder(source.image, source.text).eval()
        return Model(title=asked.title or asked.place.partition(":")[2], encoder=encoder, image_size=source.image_size)
    if not place.exists():
        raise ValueError(f"{place}: no such run or checkpoint folder, and no FAMILY:NAME")
    if asked.weights is not None:
        raise ValueError(f"weights={asked.weights}: {place} is a run and has its own")
    # A broken last checkpoint is passed over, and whoever looks should know that this is not the run's end.
    found = latest(place, say=_say) or find(place)
    side = asked.side or "student"
    recipe = recipe_from_file(found.folder / "recipe.yaml")
    title = asked.title or " ".join([recipe.name, *([side] if side != "student" else [])])
    if side == "teacher" and recipe.teacher.kind == "frozen":
        teacher = load_teacher(recipe)
        return Model(title=title, encoder=teacher.encoder.eval(), image_size=teacher.image_size, recipe=recipe)
    encoder, recipe = load_encoder(found.folder, side)
    return Model(title=title, encoder=encoder, image_size=recipe.data.image_size, recipe=recipe)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def on(model: Model, device: torch.device | str) -> Model:
    """The same model there."""
    return replace(model, encoder=model.encoder.to(device))


def check_size(model: Model, picture: Picture, image_size: int | None) -> int:
    """The shorter side that the model is shown, pixels: `image_size`, or its own when None.

    Raises ValueError for a picture with too many patches at that size.
    """
    side, patch = image_size or model.image_size, model.encoder.image.patch_size
    height, width = short_side_size(*picture.pixels.shape[-2:], side)
    num_patches = math.ceil(height / patch) * math.ceil(width / patch)
    if num_patches > MAX_PATCHES:
        raise ValueError(
            f"{picture.name}: {width}x{height} pixels are {num_patches:,} patches of {patch} for {model.title}, more "
            f"than {MAX_PATCHES:,}; choose a smaller image_size, or cut the picture"
        )
    return side


def fitted(model: Model, picture: Picture, image_size: int | None) -> Float[Tensor, "1 3 H W"]:
    """What the model is shown: the picture at `check_size`, its sides brought up to whole patches."""
    side = check_size(model, picture, image_size)
    return stretch(resize_short_side(picture.pixels[None], side), model.encoder.image.patch_size)


def look(model: Model, picture: Picture, *, image_size: int | None, kind: Kind) -> Tokens:
    """The model's tokens of one picture, in float32 on the CPU."""
    return _on_cpu(tokens(model.encoder.image, fitted(model, picture, image_size), kind=kind, precision="fp32"))


@torch.no_grad()
def look_within(
    model: Model, picture: Picture, *, image_size: int | None, blocks: tuple[int, ...]
) -> tuple[Tokens, ...]:
    """Its tokens after each of these blocks, counted from 1, behind the final norm.

    Raises ValueError for a block that is not there, and for a tower that gives its last block only.
    """
    image = model.encoder.image
    pixels = fitted(model, picture, image_size).to(device_of(image))
    return tuple(_on_cpu(each) for each in image.intermediate(pixels, blocks))


def _on_cpu(found: Tokens) -> Tokens:
    return Tokens(cls=found.cls.float().cpu(), patches=found.patches.float().cpu(), grid=found.grid)
