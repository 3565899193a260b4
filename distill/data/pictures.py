"""Encoded picture to upright RGB, with a limit on its size and one kind of error."""

import io
from pathlib import Path

from PIL import Image, ImageOps

from distill.data.broken import BrokenSample

MAX_PIXELS = 80_000_000
"""Larger pictures count as broken: a few kilobytes can claim gigapixels. Below Pillow's own warning."""
ORIENTATION = 0x0112
"""EXIF tag; values 5 to 8 lie on their side."""


def open_picture(encoded: bytes | Path, *, name: str) -> Image.Image:
    """The picture with only its header read. Raises BrokenSample."""
    try:
        # Read whole at once, so that no file stays open behind a picture that turns out broken.
        picture = Image.open(io.BytesIO(encoded if isinstance(encoded, bytes) else encoded.read_bytes()))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenSample(name, f"has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's readers raise whatever they stumble over.
        raise BrokenSample(name, f"cannot be opened as a picture ({type(error).__name__})") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise BrokenSample(name, f"has {picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
    return picture


def upright_aspect(picture: Image.Image, *, name: str) -> float:
    """Width over height as the picture is meant to be seen. Raises BrokenSample."""
    try:
        on_its_side = picture.getexif().get(ORIENTATION, 1) >= 5
    except Exception as error:  # Pillow looks for the tag behind the pixels of a PNG, so this may decode it.
        raise BrokenSample(name, f"cannot be decoded ({type(error).__name__}: {error})") from error
    aspect = picture.width / picture.height
    return 1 / aspect if on_its_side else aspect


def load_rgb(picture: Image.Image, *, side: int, name: str) -> Image.Image:
    """Decoded, upright, RGB on white. Raises BrokenSample.

    A JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size, never below twice `side` pixels.
    """
    try:
        picture.draft("RGB", (2 * side, 2 * side))
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return _on_white(picture)
    except Exception as error:  # As above: a cut or garbled file shows up as almost any exception.
        raise BrokenSample(name, f"cannot be decoded ({type(error).__name__}: {error})") from error


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        # convert("RGB") would clip 16-bit grey to white.
        picture = picture.point(lambda value: value / 256).convert("L")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
