"""Where captions go: parquet shards of a new folder, or the metadata.jsonl of their own. Every file is whole."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill.captioning.pictures import SOURCE, STORED, Row, metadata_of
from distill.config import Granularity
from distill.train.journal import whole, write_atomically

METADATA_FILE = "metadata.jsonl"
MADE_OF = b"distill.captioning"
"""Key of what a shard says of itself: the column that was captioned, and the sizes of its pictures' files."""
Captioned = list[tuple[Row, str]]


class Shards:
    """captions-00000.parquet and so on: every column that the rows came with, their pictures, and the new captions."""

    def __init__(self, folder: Path, column: Granularity, sizes: Mapping[str, int]):
        """`sizes`: of the files of all pictures that want captions, by their sources.

        Raises ValueError for a folder that holds other parquet files, captions of another column, or of pictures that
        are not these.
        """
        self.folder, self.column, self.sizes = folder, column, sizes
        shards = sorted(folder.glob("*.parquet"))
        foreign = [shard.name for shard in shards if not shard.name.startswith("captions-")]
        if foreign:
            raise ValueError(f"--to: {folder} holds {foreign[0]}, which is none of our shards: choose another folder")
        self.done = {source for shard in shards for source in self._captioned(shard)}
        self.next_number = 1 + max((int(shard.stem.split("-")[1]) for shard in shards), default=-1)

    def add(self, captioned: Captioned, schema: pa.Schema) -> None:
        if self.column in schema.names:
            # A file whose captions are all absent may not know that they are texts.
            schema = schema.set(schema.get_field_index(self.column), pa.field(self.column, pa.string()))
        else:
            schema = schema.append(pa.field(self.column, pa.string()))
        lines = [{**_with_picture(row, schema), self.column: text} for row, text in captioned]
        made_of = {"column": self.column, "sizes": [self.sizes[row.source] for row, _ in captioned]}
        schema = schema.with_metadata({**(schema.metadata or {}), MADE_OF: json.dumps(made_of)})
        with whole(self.folder / f"captions-{self.next_number:05}.parquet") as unfinished:
            pq.write_table(pa.Table.from_pylist(lines, schema=schema), unfinished)
        self.next_number += 1

    def settings(self, image: str) -> str:
        """With what a recipe reads it."""
        words = ("format=parquet", f"path={self.folder}", f"columns.image={image}")
        return " ".join(shlex.quote(f"data.dataset.{word}") for word in words)

    def _captioned(self, shard: Path) -> list[str]:
        """The pictures in one of our shards. Raises ValueError unless it was made like this, of the same pictures."""
        sources, made_of = _read_shard(shard)
        if made_of["column"] != self.column:
            raise ValueError(
                f"--to: {self.folder} holds {made_of['column']} captions: to add {self.column} ones, give it as the "
                "pictures and write to another folder, or start from the pictures with another folder"
            )
        for source, size in zip(sources, made_of["sizes"], strict=True):
            if self.sizes.get(source) != size:
                why = "has another size now" if source in self.sizes else "is not among these"
                what = f"{self.folder} holds captions of other pictures ({source} {why})"
                raise ValueError(f"--to: {what}: choose another folder")
        return sources


class Metadata:
    """The metadata.jsonl that `format: imagefolder` reads: one line a picture, with what was known of it before."""

    def __init__(self, folder: Path, column: Granularity):
        """Raises ValueError where what is known of the pictures lies in other files."""
        self.file, self.column = folder / METADATA_FILE, column
        others = [
            file for file in folder.rglob("metadata.*") if file.suffix in (".csv", ".jsonl") and file != self.file
        ]
        if others:
            raise ValueError(f"--in-place writes {self.file}, and {others[0]} is there already: use --to FOLDER")
        known = metadata_of(folder)
        self.lines = {path.relative_to(folder).as_posix(): line for path, line in known.items()}
        self.done = {source for source, line in self.lines.items() if line.get(column)}

    def add(self, captioned: Captioned, schema: pa.Schema) -> None:
        for row, text in captioned:
            self.lines[row.source] = {**self.lines.get(row.source, {}), self.column: text}
        # Readers take the columns of a table from its first line, so every line has them all.
        columns = dict.fromkeys(key for line in self.lines.values() for key in line)
        lines = [{"file_name": name} | {key: line.get(key) for key in columns} for name, line in self.lines.items()]
        write_atomically(self.file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def settings(self, image: str) -> str:
        """With what a recipe reads it; there is no choice of the pictures' column."""
        return shlex.join(["data.dataset.format=imagefolder", f"data.dataset.path={self.file.parent}"])


Table = Shards | Metadata
"""What captions are written to: `done` names the pictures that are in it, `add` writes some more, all or none."""


def _read_shard(shard: Path) -> tuple[list[str], dict[str, Any]]:
    """The sources of its pictures, and what it says of itself. Raises ValueError for a file that we did not write."""
    try:
        table = pq.read_table(shard, columns=[SOURCE])
        return table[SOURCE].to_pylist(), json.loads(table.schema.metadata[MADE_OF])
    except (pa.ArrowException, KeyError, TypeError) as problem:
        raise ValueError(f"--to: {shard} is no shard of captions ({problem}): remove it or choose another") from problem


def _with_picture(row: Row, schema: pa.Schema) -> dict[str, Any]:
    """The row's columns; a picture that is a file of a folder goes into the table, which then needs no folder."""
    if "image" not in row.values and "image" in schema.names and schema.field("image").type == STORED:
        return {**row.values, "image": {"bytes": row.picture().read_bytes(), "path": row.source}}
    return row.values
