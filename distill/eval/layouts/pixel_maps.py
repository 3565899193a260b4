"""Pictures with a label per pixel, from lists of files and a rule for reading a mask.

Legend: H, W pixels, ids the values a data set's own files use.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from distill.eval.pictures.datasets import IGNORE, spread
from distill.eval.pictures.files import check_size, read_image, to_pixels

Decode = Callable[[Path], Int[Tensor, "H W"]]
"""From a mask's file to labels: 0..K-1, and 255 for pixels that do not count."""


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """One split of a segmentation set."""

    files: list[tuple[Path, Path]]
    """Picture and mask."""
    class_names: list[str]
    decode: Decode
    num_things: int | None = None
    """The first so many classes are things, the others stuff; None where the data set does not tell them apart."""


class PixelMaps:
    """The pictures of a split at the size they are stored in. A limit takes them evenly spaced over the list."""

    ignore = IGNORE

    def __init__(self, split: MaskFiles, *, limit: int | None = None):
        self.class_names, self.num_things, self._decode = split.class_names, split.num_things, split.decode
        self.files = [split.files[index] for index in spread(len(split.files), limit)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]:
        """Raises ValueError for files that cannot be read, are not of one size, or hold unknown values."""
        picture, mask = self.files[index]
        pixels, labels = to_pixels(read_image(picture).convert("RGB")), self._decode(mask)
        check_size(labels, pixels, mask)
        return pixels, labels


def by_id(label_of_id: dict[int, int], *, ignored: Iterable[int]) -> Decode:
    """For masks whose pixels are ids. Any id that is neither known nor ignored raises ValueError."""
    table = id_table(label_of_id, ignored=ignored)
    return lambda file: labels_of(read_ids(file), table, file)


def in_order(num_classes: int, *, first: int = 0, ignored: Iterable[int] = (IGNORE,)) -> Decode:
    """For masks whose pixels count the classes from `first` on. As `by_id` otherwise."""
    return by_id({label + first: label for label in range(num_classes)}, ignored=ignored)


def by_colour(label_of_colour: dict[tuple[int, int, int], int], *, ignored: Iterable[tuple[int, int, int]]) -> Decode:
    """For masks whose pixels are colours. Any other colour raises ValueError."""
    label_of = {_number(colour): IGNORE for colour in ignored}
    label_of |= {_number(colour): label for colour, label in label_of_colour.items()}
    return lambda file: labels_of_numbers(read_numbers(file), label_of, file)


def labels_of_numbers(numbers: Int[Tensor, "H W"], label_of_number: dict[int, int], file: Path) -> Int[Tensor, "H W"]:
    """Labels of colours given as `read_numbers` gives them. Raises ValueError for one that is not known."""
    known = torch.tensor(sorted(label_of_number))
    place = torch.searchsorted(known, numbers).clamp(max=len(known) - 1)
    unknown = known[place] != numbers
    if unknown.any():
        number = numbers[unknown][0].item()
        raise ValueError(f"{file}: nothing has colour {(number & 255, number >> 8 & 255, number >> 16)}")
    return torch.tensor([label_of_number[number] for number in known.tolist()])[place]


def id_table(label_of_id: dict[int, int], *, ignored: Iterable[int]) -> Int[Tensor, " ids"]:
    """The label of every id below the table's length; -1 for unknown ones."""
    known = dict.fromkeys(ignored, IGNORE) | label_of_id
    table = torch.full((max(known) + 1,), -1)
    table[list(known)] = torch.tensor(list(known.values()))
    return table


def labels_of(ids: Int[Tensor, "H W"], table: Int[Tensor, " ids"], file: Path | str) -> Int[Tensor, "H W"]:
    """Labels by `id_table`. Raises ValueError for an id that it does not know."""
    labels = torch.where(ids < len(table), table[ids.clamp(max=len(table) - 1)], -1)
    if (labels < 0).any():
        raise ValueError(f"{file}: id {ids[labels < 0][0].item()} is no class of this data set")
    return labels


def read_ids(file: Path) -> Int[Tensor, "H W"]:
    """Pixel values of a picture with one channel, indices into a palette included. Raises ValueError for others."""
    return ids_of(read_image(file), file)


def ids_of(picture: Image.Image, file: Path | str) -> Int[Tensor, "H W"]:
    """As `read_ids`, of a picture that was read; the file is named in errors."""
    values = np.array(picture)
    if values.ndim != 2:
        raise ValueError(f"{file}: expected one value per pixel, not {values.shape[-1]} channels")
    return torch.from_numpy(values.astype(np.int64))


def read_numbers(file: Path) -> Int[Tensor, "H W"]:
    """Colours as numbers: red + 256 green + 65536 blue."""
    red, green, blue = torch.from_numpy(np.array(read_image(file).convert("RGB")).astype(np.int64)).unbind(-1)
    return red + 256 * green + 65536 * blue


def _number(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red + 256 * green + 65536 * blue
