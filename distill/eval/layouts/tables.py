"""Pictures of local tables and picture folders that `datasets` opens, by column map: with a class, captions or a mask.

Legend: B pictures of a batch, H, W pixels.
"""

from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.catalogue.layout import MissingData, Role
from distill.config import Evaluate
from distill.data.sources import content_and_path, field_at, texts_of
from distill.data.splits import NotHere, open_split
from distill.eval.layouts.names import rows_of
from distill.eval.layouts.pixel_maps import id_table, ids_of, labels_of
from distill.eval.pictures.datasets import IGNORE, apart, called, read_square, spread
from distill.eval.pictures.decoding import decoded
from distill.eval.pictures.files import check_size, read_image, to_pixels

PREFIX = "hf:"
"""Before a folder, a file or a glob that is read here."""

Said = Literal["label", "captions", "mask"]


def is_table(place: str) -> bool:
    """Whether a setting asks for a table rather than for a folder in a layout of ours or for a name."""
    return place.startswith(PREFIX)


class Table:
    """The rows of one split, and what one column says about their pictures. A limit takes them evenly spaced."""

    def __init__(self, place: str, role: Role, asked: Evaluate, said: Said, *, limit: int | None):
        """Raises ValueError for a split or a column that is not there."""
        self.place, self.image, self.class_names_file = (
            place.removeprefix(PREFIX),
            asked.columns.image,
            asked.class_names,
        )
        self.said = {"label": asked.columns.label, "captions": asked.columns.captions, "mask": asked.columns.mask}[said]
        try:
            rows = open_split(self.place, role, scored=asked.split)
        except NotHere as error:
            raise MissingData(str(error)) from error
        for kind, column in (("image", self.image), (said, self.said)):
            if column not in rows.column_names and column.split(".")[0] not in rows.column_names:
                raise ValueError(
                    f"there is no column {column!r}; the data has {', '.join(rows.column_names)}: say which is the "
                    f"{kind} with evaluate.columns.{kind}=NAME"
                )
        self.places = spread(len(rows), limit)
        self._every, self.rows = rows, rows.select(self.places)
        self._role, self._scored = role, asked.split

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return f"{self.place}, row {self.places[index]}"

    def values(self, *, every: bool = False) -> list[Any]:
        """What is said about each picture, or also about those that the limit leaves out."""
        rows = self._every if every else self.rows
        return [field_at(row, self.said) for row in rows.select_columns([_top(self.said, rows)])]

    def picture(self, index: int) -> bytes | Path:
        return _encoded(field_at(self.rows[index], self.image), self.name(index))

    def square(self, start: int, stop: int, side: int) -> Float[Tensor, "B 3 side side"]:
        # Rows are taken one after the other, as `datasets` likes it; what takes the time is to decode them.
        encoded = [(self.picture(index), self.name(index)) for index in range(start, min(stop, len(self)))]
        return decoded(lambda each: read_square(each[0], side, name=each[1]), encoded)

    def classes(self, *, ignored: int) -> tuple[list[str], dict[str, int]]:
        """What the classes are called, and the label of every value, written as text.

        From the file of class names; else from the column's own feature; else from the values, where they are texts,
        of this split and of the one it goes with: a class may lack pictures in one of them.
        Raises ValueError for numbers without names.
        """
        if self.class_names_file is not None:
            return _listed(Path(self.class_names_file), ignored)
        feature = _innermost(field_at(dict(self.rows.features), self.said))
        if isinstance(feature, datasets.ClassLabel):
            return feature.names, {str(label): label for label in range(len(feature.names))}
        if isinstance(feature, datasets.Value) and "string" in feature.dtype:
            names = sorted({value for value in [*self.values(every=True), *self._said_beside()] if value is not None})
            return names, {name: label for label, name in enumerate(names)}
        raise ValueError(f"the values of {self.said!r} have no names: list them in a file, evaluate.class_names=FILE")

    def _said_beside(self) -> list[Any]:
        """What is said in the split that is trained on, or in the scored one; nothing where there is no other."""
        try:
            rows = open_split(self.place, "val" if self._role == "train" else "train", scored=self._scored)
        except ValueError:
            return []
        top = _top(self.said, rows)
        return [field_at(row, self.said) for row in rows.select_columns([top])] if top in rows.column_names else []


class TableClasses:
    """Whole pictures, made square, with the class in `columns.label`; -1 and nothing at all are no class."""

    ignore = -1

    def __init__(self, place: str, role: Role, asked: Evaluate, *, image_size: int, limit: int | None = None):
        """Raises ValueError for what is not there, and for a label without a name."""
        self.image_size, self.table = image_size, Table(place, role, asked, "label", limit=limit)
        names, label_of = self.table.classes(ignored=self.ignore)
        self.class_names: list[str] = apart(names)
        self.prompts: list[str] = called(names)
        # Before they become text: a class may be called None or -1.
        values = [None if value in (None, -1) else str(value) for value in self.table.values()]
        unknown = [index for index, value in enumerate(values) if value is not None and value not in label_of]
        if unknown:
            raise ValueError(f"{self.table.name(unknown[0])}: label {values[unknown[0]]} has no name")
        self.labels: list[int] = [self.ignore if value is None else label_of[value] for value in values]

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, " B"]]:
        return self.table.square(start, stop, self.image_size), torch.tensor(self.labels[start:stop])


class TableCaptions:
    """Whole pictures, made square, with the one or several captions in `columns.captions`."""

    def __init__(self, place: str, role: Role, asked: Evaluate, *, image_size: int, limit: int | None = None):
        """Raises ValueError for what is not there, and for a picture without captions."""
        self.image_size, self.table = image_size, Table(place, role, asked, "captions", limit=limit)
        said = [[text for text in texts_of(value) or [] if text.strip()] for value in self.table.values()]
        silent = [index for index, texts in enumerate(said) if not texts]
        if silent:
            raise ValueError(f"{self.table.name(silent[0])} has no captions in {self.table.said!r}")
        self.captions: list[list[str]] = said

    def __len__(self) -> int:
        return len(self.table)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return self.table.square(start, stop, self.image_size)


class TableSegmentation:
    """Pictures at the size they are stored in, with the mask in `columns.mask`: a picture with one value for every
    pixel, or rows of numbers. Values 255 and -1 do not count, nor those that the file of class names leaves unnamed."""

    ignore = IGNORE

    def __init__(self, place: str, role: Role, asked: Evaluate, *, limit: int | None = None):
        """Raises ValueError for what is not there, and for masks whose values have no names."""
        self.table = Table(place, role, asked, "mask", limit=limit)
        names, label_of = self.table.classes(ignored=IGNORE)
        if not 0 < len(names) <= IGNORE or not all(value.isdecimal() for value in label_of):
            raise ValueError(f"a mask has numbers for 1 to {IGNORE} classes, not {len(names)} names of other values")
        self.class_names: list[str] = apart(names)
        self._label_of_id = id_table({int(value): label for value, label in label_of.items()}, ignored=(IGNORE,))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]:
        """Raises ValueError for what cannot be read, is not of one size, or has a value that is unknown."""
        name = self.table.name(index)
        pixels = to_pixels(read_image(self.table.picture(index), name=name).convert("RGB"))
        mask = field_at(self.table.rows[index], self.table.said)
        if isinstance(mask, list):
            ids = torch.from_numpy(np.array(mask, dtype=np.int64))
        else:
            ids = ids_of(read_image(_encoded(mask, name), name=f"the mask of {name}"), name)
        labels = labels_of(torch.where(ids == -1, IGNORE, ids), self._label_of_id, name)
        check_size(labels, pixels, name)
        return pixels, labels


def _top(column: str, rows: datasets.Dataset) -> str:
    return column if column in rows.column_names else column.split(".")[0]


def _encoded(value: Any, name: str) -> bytes | Path:
    content, path = content_and_path(value)
    if content is None and path is None:
        raise ValueError(f"{name}: there is no picture")
    return content if content is not None else Path(path)


def _innermost(feature: Any) -> Any:
    """The feature of the numbers in a list of lists of them."""
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    return feature


def _listed(file: Path, ignored: int) -> tuple[list[str], dict[str, int]]:
    """Of a file with one class a line, `VALUE<tab>NAME` or, for values from 0 on, `NAME`; without a name it is ignored.

    The order of the lines is that of the labels.
    """
    lines = rows_of(file)
    values = [row[0] if len(row) > 1 else str(number) for number, row in enumerate(lines)]
    if len(set(values)) < len(values):
        raise ValueError(f"{file}: a value is listed twice")
    names, label_of = [], {}
    for value, row in zip(values, lines, strict=True):
        label_of[value] = len(names) if row[-1] else ignored
        names += [row[-1]] if row[-1] else []
    if not names:
        raise ValueError(f"{file} names no classes")
    return names, label_of
