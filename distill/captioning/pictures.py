"""The pictures that want captions, in a folder or in parquet files, and the captions that they have already.

Nothing is decoded here. Rows keep every column they came with.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill.config import Granularity
from distill.data.broken import BrokenSample
from distill.data.tables import METADATA
from distill.data.tars import PICTURES

SOURCE = "captioned_from"
"""Column of our tables: which picture a row is of, by its path below the folder, or by its file and row."""
ROWS_READ = 64
"""Of a parquet file at a time: pictures are large."""
STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A picture as `datasets` stores it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which columns are what. A caption column that is not set is looked for under its granularity's name."""

    image: str = "image"
    captions: Mapping[Granularity, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A picture, still encoded, the first caption of every granularity it has, and all its columns."""

    source: str
    values: dict[str, Any]
    captions: dict[Granularity, str]
    encoded: bytes | Path | None

    def picture(self) -> bytes | Path:
        """Raises BrokenSample."""
        if self.encoded is None:
            raise BrokenSample(self.source, "it has no picture")
        return self.encoded


@dataclass(frozen=True)
class Part:
    """Rows of the same columns: those of a folder, or of one parquet file.

    `sizes` has the source of every row with the bytes of the file that it lies in, which tell another file of the same
    name; nothing else is read for it.
    """

    schema: pa.Schema
    num_rows: int
    rows: Callable[[], Iterator[Row]]
    sizes: Callable[[], Iterator[tuple[str, int]]]


def open_pictures(place: Path, asked: Asked) -> list[Part]:
    """Raises ValueError for a place that is not here, holds no pictures, or lacks a column that was named."""
    if not place.exists():
        raise ValueError(f"{place}: there is no such folder or file of pictures")
    files = sorted(file for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file())
    tables = [file for file in files if file.suffix == ".parquet" and not file.name.startswith(".")]
    if tables:
        root = place if place.is_dir() else place.parent
        return [_parquet(table, asked, name=table.relative_to(root).as_posix()) for table in tables]
    if any(file.suffix == ".tar" for file in files):
        raise ValueError(f"{place} holds tar files, which are not captioned: unpack them into a folder, or use parquet")
    pictures = [file for file in files if file.suffix.lower().lstrip(".") in PICTURES]
    if not place.is_dir() or not pictures:
        raise ValueError(f"{place} holds neither parquet files nor pictures ({', '.join(PICTURES)})")
    return [_folder(place, pictures, asked)]


def metadata_of(folder: Path) -> dict[Path, dict[str, Any]]:
    """What the metadata.csv and metadata.jsonl files of a folder say about a picture, by its path."""
    found: dict[Path, dict[str, Any]] = {}
    for table in sorted(file for file in folder.rglob("metadata.*") if file.suffix in METADATA):
        for line in _lines(table):
            if "file_name" not in line:
                raise ValueError(f"{table}: not every line has a file_name")
            found[table.parent / line["file_name"]] = {key: line[key] for key in line if key != "file_name"}
    return found


def _lines(table: Path) -> list[dict[str, Any]]:
    with table.open(newline="", encoding="utf-8") as file:
        if table.suffix == ".csv":
            return list(csv.DictReader(file))
        try:
            return [json.loads(line) for line in file if line.strip()]
        except ValueError as problem:
            raise ValueError(f"{table} is not one JSON object a line: {problem}") from problem


def _folder(place: Path, pictures: list[Path], asked: Asked) -> Part:
    if asked.image != Asked.image:
        raise ValueError(f"--image {asked.image} names a column of parquet files, and {place} is a folder of pictures")
    known = metadata_of(place)
    columns = list(dict.fromkeys(key for picture in pictures for key in known.get(picture, {})))
    ours = [column for column in ("image", SOURCE) if column in columns]
    if ours:
        raise ValueError(
            f"{place}: its metadata has a column {ours[0]!r}, a name that captioning needs itself: rename it"
        )
    captions = _caption_columns(columns, asked, where=place)
    lines = [{key: known.get(picture, {}).get(key) for key in columns} for picture in pictures]
    schema = pa.Table.from_pylist(lines).schema if columns else pa.schema([])
    schema = schema.insert(0, pa.field("image", STORED)).append(pa.field(SOURCE, pa.string()))

    def rows() -> Iterator[Row]:
        for picture, line in zip(pictures, lines, strict=True):
            source = picture.relative_to(place).as_posix()
            yield Row(source, {**line, SOURCE: source}, _first_captions(line, captions), picture)

    def sizes() -> Iterator[tuple[str, int]]:
        return ((picture.relative_to(place).as_posix(), picture.stat().st_size) for picture in pictures)

    return Part(schema, len(pictures), rows, sizes)


def _parquet(file: Path, asked: Asked, *, name: str) -> Part:
    try:
        schema, num_rows = pq.read_schema(file), pq.read_metadata(file).num_rows
    except pa.ArrowInvalid as problem:
        raise ValueError(f"{file} is not a parquet file: {problem}") from problem
    captions = _caption_columns(schema.names, asked, where=file)
    if asked.image not in schema.names:
        raise ValueError(f"--image: {file} has no column {asked.image!r}; it has {', '.join(schema.names)}")
    numbered = SOURCE not in schema.names

    def rows() -> Iterator[Row]:
        with pq.ParquetFile(file) as table:
            batches = table.iter_batches(batch_size=ROWS_READ)
            lines = (line for batch in batches for line in batch.to_pylist())
            for number, line in enumerate(lines):
                if numbered:
                    line[SOURCE] = f"{name}:{number}"
                yield Row(line[SOURCE], line, _first_captions(line, captions), _encoded(line[asked.image]))

    def sizes() -> Iterator[tuple[str, int]]:
        size = file.stat().st_size
        names = (f"{name}:{number}" for number in range(num_rows)) if numbered else _column(file, SOURCE)
        return ((source, size) for source in names)

    return Part(schema.append(pa.field(SOURCE, pa.string())) if numbered else schema, num_rows, rows, sizes)


def _column(file: Path, name: str) -> list[Any]:
    return pq.read_table(file, columns=[name])[name].to_pylist()


def _encoded(value: Any) -> bytes | Path | None:
    """A picture of a column: bytes, a path, or `datasets`' {bytes, path}; paths are read as training reads them."""
    if isinstance(value, dict):
        value = value["bytes"] or value["path"]
    return Path(value) if isinstance(value, str) else value


def _caption_columns(columns: list[str], asked: Asked, *, where: Path) -> dict[Granularity, str]:
    for kind, column in asked.captions.items():
        if column not in columns:
            known = ", ".join(columns) or "none"
            raise ValueError(f"--{kind}: {where} has no column {column!r}; it has {known}")
    found: dict[Granularity, str] = {kind: kind for kind in ("alt", "short", "detailed") if kind in columns}
    return found | dict(asked.captions)


def _first_captions(line: dict[str, Any], columns: dict[Granularity, str]) -> dict[Granularity, str]:
    """Of every granularity that has one: the text, or the first of a list of texts."""
    found = {}
    for kind, column in columns.items():
        texts = line[column] if isinstance(line[column], list) else [line[column]]
        texts = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
        if texts:
            found[kind] = texts[0]
    return found
