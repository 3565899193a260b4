"""Files of an evaluation set: read whole, or refused with the file's name."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of pictures, in small letters."""


def read_image(file: Path | bytes, *, name: str | None = None) -> Image.Image:
    """The picture as it is stored in a file or in its bytes, which need a name. Raises ValueError for one that is not
    there or broken."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error.
        raise ValueError(f"{name or file} cannot be read as a picture ({type(error).__name__})") from error


def check_size(labels: Shaped[Tensor, "*channels H W"], pixels: Float[Tensor, "3 _ _"], mask: Path | str) -> None:
    """Raises ValueError where a mask and its picture differ in size."""
    if labels.shape[-2:] != pixels.shape[-2:]:
        sizes = tuple(labels.shape[-2:]), tuple(pixels.shape[-2:])
        raise ValueError(f"{mask}: the mask is {sizes[0]} and its picture {sizes[1]}")


def to_pixels(picture: Image.Image) -> Float[Tensor, "3 H W"]:
    """An RGB picture, in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def pictures(folder: Path) -> list[Path]:
    """The pictures that lie in the folder itself, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def pictures_below(folder: Path) -> list[Path]:
    """The pictures in the folder and in all below it, by name.

    Hidden ones are left out: they are thumbnails, and what other systems remember beside a picture.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def read_json(file: Path) -> Any:
    """What the file says. Raises ValueError when it cannot be read."""
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def read_object(file: Path) -> dict:
    """As `read_json`. Raises ValueError for anything but an object."""
    page = read_json(file)
    if not isinstance(page, dict):
        raise ValueError(f"{file}: expected an object, not a {type(page).__name__}")
    return page
