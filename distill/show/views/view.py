"""What all views are given, and what each of them is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill.config import Scenes
from distill.show.content import Content, Frame
from distill.show.models import Model
from distill.show.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How pictures are looked at and drawn."""

    frame: Frame
    image_size: int | None = None
    """Shorter side of what the encoders see, pixels; each its own when None. Larger ones give finer maps."""
    scenes: Scenes | None = None
    """The world that the pictures are of; None for photos."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One kind of map: its settings, a dataclass, and the function that makes it.

    `show` raises ValueError for models or settings it cannot do with.
    """

    settings: type
    show: Callable[[list[Model], list[Picture], Any, Looking], Content]
    about: str


def check_opacity(opacity: float) -> None:
    """Raise ValueError for what is no share."""
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity:g}: expected 0 to 1")


def check_text(models: list[Model], *, what: str) -> None:
    """Raise ValueError for the first model without a text tower."""
    for model in models:
        if not model.with_text:
            raise ValueError(f"{model.title} has no text tower, and {what} needs one")
