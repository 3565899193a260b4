"""Files of an evaluation set: read whole, or refused with the file's name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of pictures, in small letters."""


def read_image(file: Path) -> Image.Image:
    """The picture as it is stored. Raises ValueError for one that is not there or broken."""
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except OSError as error:
        raise ValueError(f"{file} cannot be read as a picture ({type(error).__name__})") from error


def to_pixels(picture: Image.Image) -> Float[Tensor, "3 H W"]:
    """An RGB picture, in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def pictures(folder: Path) -> list[Path]:
    """The pictures that lie in the folder itself, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


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
