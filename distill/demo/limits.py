"""What a visitor sends, checked before anything is done with it: picture files, class names, a text to look for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.data.broken import BrokenSample
from distill.data.pictures import open_picture
from distill.show.models import Model, check_size
from distill.show.pictures import MAX_MEGAPIXELS, Picture, read_picture

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Some others that Pillow opens start programs or read further files."""
LONGEST = 1024
"""Longer sides of uploaded pictures are brought to it, pixels."""
MOST_ASPECT = 8
"""Of the longer side to the shorter: what encoders see has a fixed shorter side, and attention costs its square."""
INSIDE = re.compile(r" \([\w: ]*\)$")
NAME = "the picture"
"""Of every upload: what a file is called is said by whoever sends it, and is repeated nowhere."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_megabytes: float = 20.0
    """Of an uploaded file, as it is stored."""
    max_megapixels: float = MAX_MEGAPIXELS
    """Of an uploaded picture, as its header says."""
    max_classes: int = 200
    max_letters: int = 100
    """Of a class name, or of a text to look for."""

    def __post_init__(self) -> None:
        if not 0 < self.max_megabytes <= 1000:
            raise ValueError(f"max_megabytes={self.max_megabytes:g}: expected more than 0 and at most 1000")
        if not 0 < self.max_megapixels <= 80:
            raise ValueError(f"max_megapixels={self.max_megapixels:g}: expected more than 0 and at most 80")

    @property
    def max_bytes(self) -> int:
        return round(1e6 * self.max_megabytes)


def read_upload(file: Path, limits: Limits, models: Sequence[Model], *, image_size: int | None) -> Picture:
    """The picture, no longer than LONGEST. Raises ValueError, one sentence, for what is not taken.

    The size of the file is looked at before it is read, its format and pixels before any is decoded, and its aspect
    before a model sees it.
    """
    size = file.stat().st_size
    if size > limits.max_bytes:
        raise ValueError(f"{NAME} has {size / 1e6:.1f} megabytes, more than {limits.max_megabytes:g}")
    encoded = file.read_bytes()
    try:
        opened = open_picture(encoded, name=NAME)
        format = opened.format
        if format not in FORMATS:
            raise BrokenSample(NAME, f"is of the format {format}; expected one of {', '.join(FORMATS)}")
        if max(opened.size) > MOST_ASPECT * min(opened.size):
            size = f"{opened.width}x{opened.height} pixels"
            raise BrokenSample(NAME, f"has {size}; one side may be at most {MOST_ASPECT} times the other")
        picture = read_picture(encoded, name=NAME, longest=LONGEST, max_megapixels=limits.max_megapixels)
    except (BrokenSample, ValueError) as error:
        # Names of Python's errors and of settings say nothing to a visitor.
        said = INSIDE.sub("", str(error)).removeprefix(f"{NAME}: ")
        raise ValueError(f"{NAME} {said}") from error
    for model in models:
        check_size(model, picture, image_size)
    return picture


def class_names(text: str, limits: Limits) -> tuple[str, ...]:
    """Names between commas or line breaks, without the spaces around them; empty ones are none.

    Raises ValueError, one sentence that quotes nothing, for no names, too many, one that is too long or stands there
    twice.
    """
    # Counted before they are cut out: the text may be of any length.
    most = limits.max_classes * (limits.max_letters + 2)
    if len(text) > most:
        raise ValueError(f"the class names have {len(text):,} letters together; at most {most:,} are taken")
    names = tuple(filter(None, (" ".join(name.split()) for name in re.split(r"[,\n]", text))))
    if not names:
        raise ValueError("write class names with commas between them, such as: cat, dog, grass")
    if len(names) > limits.max_classes:
        raise ValueError(f"these are {len(names)} class names; at most {limits.max_classes} are taken at a time")
    for place, name in enumerate(names):
        if len(name) > limits.max_letters:
            raise ValueError(f"class name {place + 1} has {len(name)} letters; at most {limits.max_letters} are taken")
        if name in names[:place]:
            raise ValueError(f"class name {place + 1} stands there twice, also as number {names.index(name) + 1}")
    return names


def query(text: str, limits: Limits) -> str:
    """The text without the spaces around it. Raises ValueError for none, and for one that is too long."""
    if len(text) > limits.max_letters:
        raise ValueError(f"the text to look for has {len(text):,} letters; at most {limits.max_letters} are taken")
    if not text.strip():
        raise ValueError("write a text to look for, such as: a red circle")
    return " ".join(text.split())
