"""Which picture a label file belongs to."""

from collections.abc import Iterable
from pathlib import Path

from distill.eval.pictures.files import SUFFIXES

PICTURES = (*SUFFIXES, ".bmp")


def by_stem(
    labels: Iterable[Path], folder: Path, *, ending: str = "", picture_ending: str = ""
) -> list[tuple[Path, Path]]:
    """Picture and label file of the same name, up to suffixes and endings of each, in the order of the labels.

    Raises ValueError for a label file without a picture or that is not there, and for no label files at all.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    picture_of = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in PICTURES}
    pairs = []
    for label in labels:
        stem = label.stem.removesuffix(ending) + picture_ending
        if stem not in picture_of:
            raise ValueError(f"{label} has no picture {stem} in {folder}")
        if not label.is_file():
            raise ValueError(f"{label}: no such file")
        pairs.append((picture_of[stem], label))
    if not pairs:
        raise ValueError(f"there is no label file for the pictures of {folder}")
    return pairs


def listed(file: Path) -> list[str]:
    """The names in a text file, one a line; the first word of lines with several. Raises ValueError for none."""
    try:
        words = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not words:
        raise ValueError(f"{file} lists nothing")
    return words
