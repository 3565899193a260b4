"""Webdataset shards: plain tar files whose members `KEY.EXTENSION` with one key form one sample.

Only headers are read here; a sample's bytes are read when it is needed. So rows stay small enough to shuffle and
index millions of, and a shard that was cut short yields every sample before the cut and one row that says so.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from distill.data.broken import BrokenSample

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
"""File name extensions of pictures."""


class TarRow(TypedDict):
    """Where one sample's members lie in its shard. `problem` is empty for a sample that was read whole."""

    shard: str
    key: str
    extensions: list[str]
    offsets: list[int]
    sizes: list[int]
    problem: str


def tar_rows(shards: list[str]) -> Iterator[TarRow]:
    """The samples of some shards in file order."""
    for shard in shards:
        row = _row(shard, "")
        try:
            for member in _members(shard):
                folder, _, file_name = member.name.rpartition("/")
                stem, _, extension = file_name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != row["key"]:
                    if row["extensions"]:
                        yield row
                    row = _row(shard, key)
                row["extensions"].append(extension.lower())
                row["offsets"].append(member.offset_data)
                row["sizes"].append(member.size)
        except (tarfile.TarError, OSError, EOFError) as error:
            # The sample under way may lack members: it is the one that is lost.
            yield _row(shard, row["key"]) | {"problem": f"the shard is cut short or damaged here ({error})"}
            continue
        if row["extensions"]:
            yield row


def read_tar_row(row: TarRow) -> dict[str, Any]:
    """{extension: bytes, or text for .txt, or the parsed value for .json}. Raises BrokenSample."""
    name = tar_row_name(row)
    if row["problem"]:
        raise BrokenSample(name, row["problem"])
    values: dict[str, Any] = {}
    try:
        with open(row["shard"], "rb") as shard:
            for extension, offset, size in zip(row["extensions"], row["offsets"], row["sizes"], strict=True):
                shard.seek(offset)
                values[extension] = _decoded(shard.read(size), extension)
    except (OSError, ValueError) as error:
        raise BrokenSample(name, f"cannot be read from its shard ({error})") from error
    return values


def tar_row_name(row: TarRow) -> str:
    """Shard file name and key."""
    return f"{Path(row['shard']).name}/{row['key']}"


def _row(shard: str, key: str) -> TarRow:
    return TarRow(shard=shard, key=key, extensions=[], offsets=[], sizes=[], problem="")


def _members(shard: str) -> Iterator[tarfile.TarInfo]:
    """The files of a plain tar; raises TarError where it does not end as a tar must, which tarfile forgives."""
    with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # tarfile remembers every member, for a whole pass over a shard.
            if member.isfile():
                yield member
        file.seek(archive.offset)
        if not file.read(tarfile.BLOCKSIZE).startswith(bytes(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError("no end-of-archive block")


def _decoded(content: bytes, extension: str) -> Any:
    """By the last part of an extension such as `alt.txt`."""
    kind = extension.rpartition(".")[2]
    if kind == "txt":
        return content.decode()
    return json.loads(content) if kind == "json" else content
