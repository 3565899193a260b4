"""Where pictures and captions come from. Three sources, none of which decodes a picture:

`SceneSource` renders the procedural world, `DatasetSource` reads rows by index, `StreamSource` reads rows in order.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.config import Columns, Data, Dataset, Granularity, Scenes
from distill.data.broken import BrokenSample
from distill.data.scenes import SceneWorld
from distill.data.scenes.cache import CachedScenes, materialise
from distill.data.tables import JOINED, open_rows
from distill.data.tars import PICTURES, read_tar_row, tar_row_name

GRANULARITIES: tuple[Granularity, ...] = ("alt", "short", "detailed")


@dataclass(frozen=True)
class Sample:
    """One picture, still encoded, and its captions. A kind that is absent from `captions` was never written."""

    name: str
    picture: bytes | Path
    captions: dict[Granularity, list[str]]
    index: int | None = None
    """Its number in a source that is read by index."""


class SceneSource:
    """The procedural world: nothing is read, nothing can be broken."""

    granularities = GRANULARITIES

    def __init__(self, settings: Scenes, *, image_size: int):
        self.world = SceneWorld(settings, image_size)
        self.num_samples = settings.num_train

    def __len__(self) -> int:
        return self.num_samples

    def render(self, indices: Int[Tensor, " B"], *, device: torch.device) -> Float[Tensor, "B 3 H W"]:
        """Pictures in [0, 1], made on the device."""
        return self.world.render(indices, split="train", device=device, geometry=False).pixels

    def captions(self, indices: Int[Tensor, " B"], *, granularity: Granularity) -> list[str]:
        return self.world.captions(indices, granularity, "train")


class CachedSceneSource(SceneSource):
    """The same pictures read from an Arrow cache, which is written first when it is not there."""

    def __init__(self, settings: Scenes, *, image_size: int):
        """Raises ValueError when the folder holds other scenes."""
        super().__init__(settings, image_size=image_size)
        materialise(self.world, settings.cache, count=settings.num_train)
        self.cached = CachedScenes(self.world, settings.cache, count=settings.num_train)

    def render(self, indices: Int[Tensor, " B"], *, device: torch.device) -> Float[Tensor, "B 3 H W"]:
        return self.cached.pixels_at(indices).to(device)

    def captions(self, indices: Int[Tensor, " B"], *, granularity: Granularity) -> list[str]:
        return self.cached.captions_at(indices, granularity)


class DatasetSource:
    """Rows read by index."""

    def __init__(self, rows: datasets.Dataset, *, settings: Dataset):
        self.rows = rows
        self.reader = RowReader(settings, column_names=rows.column_names)
        self.granularities = self.reader.granularities
        self.max_broken_share = settings.max_broken_share

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Sample:
        """Raises BrokenSample. Safe to call from several threads."""
        return replace(self.reader.sample(self.rows[index], name=f"row {index}"), index=index)


class StreamSource:
    """Rows read in the order of their shards; `distill.data.streams` deals them out, shuffles and resumes."""

    def __init__(self, rows: datasets.IterableDataset, *, settings: Dataset):
        self.rows = rows
        self.reader = RowReader(settings, column_names=rows.column_names)
        self.granularities = self.reader.granularities
        self.max_broken_share = settings.max_broken_share
        self.shuffle_buffer = settings.shuffle_buffer


Source = SceneSource | DatasetSource | StreamSource


def open_source(data: Data) -> Source:
    """The source a recipe names. Raises ValueError for data that is not here or lacks the named columns."""
    if data.source == "scenes":
        kind = SceneSource if data.scenes.cache is None else CachedSceneSource
        return kind(data.scenes, image_size=data.image_size)
    rows = open_rows(data.dataset)
    if isinstance(rows, datasets.IterableDataset):
        return StreamSource(rows, settings=data.dataset)
    return DatasetSource(rows, settings=data.dataset)


class RowReader:
    """Turns a row into a Sample by the column map. `a.b` names the field b of the column a (a JSON member, say)."""

    def __init__(self, settings: Dataset, *, column_names: list[str] | None):
        self.in_tars = settings.format == "webdataset"
        self.columns = _caption_columns(settings)
        self.granularities = tuple(self.columns)
        self.image = settings.columns.image
        self.root = Path(settings.path)
        if not self.in_tars and column_names is not None:
            for column in (self.image, *self.columns.values()):
                if column.split(".")[0] not in column_names:
                    known = ", ".join(column_names)
                    raise ValueError(f"data.dataset.columns: there is no column {column!r}; the data has {known}")

    def sample(self, row: dict[str, Any], *, name: str) -> Sample:
        """Raises BrokenSample. `name` stands in where the row brings no name of its own."""
        if self.in_tars:
            name, row = tar_row_name(row), read_tar_row(row)
        value = field_at(row, self.image)
        if value is None and self.in_tars:
            value = next((row[extension] for extension in row if extension in PICTURES), None)
        encoded, name = self._encoded(value, name)
        captions = {kind: texts_of(field_at(row, column)) for kind, column in self.columns.items()}
        return Sample(name, encoded, {kind: texts for kind, texts in captions.items() if texts is not None})

    def _encoded(self, value: Any, name: str) -> tuple[bytes | Path, str]:
        """A picture from bytes, a path, or the {bytes, path} of a `datasets` image; and the sample's name."""
        content, path = content_and_path(value)
        if path is not None and not self.in_tars:
            # Names, not places: the log and the summary travel, the folder does not.
            name = os.path.relpath(path, self.root) if Path(path).is_relative_to(self.root) else Path(path).name
        if content is not None:
            return content, name
        if path is None:
            raise BrokenSample(name, f"it has no picture in {self.image!r}")
        return Path(path), name


def _caption_columns(settings: Dataset) -> dict[Granularity, str]:
    columns: Columns = settings.columns
    named: dict[Granularity, str | None] = {"alt": columns.alt, "short": columns.short, "detailed": columns.detailed}
    if settings.captions_file is not None and not any(named.values()):
        # What people write under photos when asked to is a short caption.
        named = named | {"short": JOINED}
    return {kind: column for kind, column in named.items() if column is not None}


def content_and_path(value: Any) -> tuple[bytes | None, str | None]:
    """Of a picture in a row: bytes, a path, or the {bytes, path} of a `datasets` image; None for what it has not."""
    if isinstance(value, dict):
        return value["bytes"], value["path"]
    return (value if isinstance(value, bytes) else None), (value if isinstance(value, str) else None)


def field_at(row: dict[str, Any], column: str) -> Any:
    """The value at a column, or None. A column whose own name holds dots wins over the way through fields."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def texts_of(value: Any) -> list[str] | None:
    """Captions as a list; None when there are none. A single empty text stays: it is broken, not absent."""
    if value is None:
        return None
    return [str(text) for text in value if text is not None] if isinstance(value, list) else [str(value)]
