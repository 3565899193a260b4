"""Local image-caption data opened with Hugging Face `datasets`. Nothing here touches the network."""

import csv
import glob
import json
import logging
from pathlib import Path
from typing import Any

import datasets

from distill.config import Dataset
from distill.data.tars import PICTURES, tar_rows

log = logging.getLogger(__name__)

MAX_LANES = 64
"""Parts into which a stream can be dealt out; more ranks than this share parts."""
ROWS_PER_SHARD = 256
"""Pictures of a folder that make up a shard when it is streamed."""
METADATA = (".csv", ".jsonl")
JOINED = "caption"
"""Column that `captions_file` adds."""

Rows = datasets.Dataset | datasets.IterableDataset


def open_rows(settings: Dataset) -> Rows:
    """The rows of a data set with undecoded pictures: map-style, or iterable when `streaming`."""
    if settings.captions_file is not None and settings.format != "imagefolder":
        raise ValueError(
            f"data.dataset.captions_file goes with format=imagefolder, not {settings.format}: "
            f"map caption columns with data.dataset.columns instead"
        )
    return {"parquet": _parquet, "imagefolder": _imagefolder, "webdataset": _webdataset}[settings.format](settings)


def _parquet(settings: Dataset) -> Rows:
    files = local_files(settings.path, extensions=("parquet",))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=settings.streaming)
    return undecoded(rows)


def _imagefolder(settings: Dataset) -> Rows:
    """Rows of {image, ...} from the pictures of a folder and its metadata files or `captions_file`.

    The rows are paths and captions, which memory holds: nothing is copied into a cache, and a picture that is
    missing or broken is met when it is read, like any other broken sample.
    """
    pictures = local_files(settings.path, extensions=PICTURES)
    tables = sorted(file for file in Path(settings.path).rglob("metadata.*") if file.suffix in METADATA)
    if settings.captions_file is not None:
        listed = _with_captions(pictures, Path(settings.captions_file), root=Path(settings.path))
    elif tables:
        listed = [row for table in tables for row in rows_of_metadata(table)]
        if len(listed) < len(pictures):
            log.warning(
                "%d of %d pictures have no line of metadata and are left out",
                len(pictures) - len(listed),
                len(pictures),
            )
    else:
        listed = [{"image": picture} for picture in pictures]
    rows = datasets.Dataset.from_list(listed)
    num_shards = max(1, min(MAX_LANES, len(rows) // ROWS_PER_SHARD))
    return rows.to_iterable_dataset(num_shards=num_shards) if settings.streaming else rows


def _with_captions(pictures: list[str], file: Path, *, root: Path) -> list[dict[str, Any]]:
    """Captions found by a picture's path below the folder, or else by its bare name."""
    if not file.is_file():
        raise ValueError(f"data.dataset.captions_file: {str(file)!r} is not a file")
    captions = json.loads(file.read_text())
    if not isinstance(captions, dict):
        raise ValueError(f"data.dataset.captions_file: {file.name} is not an object {{file name: caption or captions}}")
    paths = [Path(picture) for picture in pictures]
    below = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name for path in paths]
    texts = [captions.get(name, captions.get(path.name)) for name, path in zip(below, paths, strict=True)]
    unused = len(captions) - sum(text is not None for text in texts)
    if unused:
        log.warning("%s has captions of %d files that are not among the %d pictures", file.name, unused, len(texts))
    lists = [[text] if isinstance(text, str) else text for text in texts]
    return [{"image": picture, JOINED: texts} for picture, texts in zip(pictures, lists, strict=True)]


def rows_of_metadata(table: Path) -> list[dict[str, Any]]:
    """The lines of a metadata.csv or metadata.jsonl, as `datasets` reads them: `file_name` is the `image`, and
    `mask_file_name`, say, the `mask`, both relative to the table's folder."""
    with table.open(newline="") as file:
        lines = (
            list(csv.DictReader(file))
            if table.suffix == ".csv"
            else [json.loads(line) for line in file if line.strip()]
        )
    if not all("file_name" in line for line in lines):
        raise ValueError(f"{table}: not every line has a file_name")
    return [dict(_placed(key, value, table.parent) for key, value in line.items()) for line in lines]


def _placed(key: str, value: Any, folder: Path) -> tuple[str, Any]:
    """A column of metadata; one that names files under its own name, with their paths."""
    if key == "file_name":
        return "image", str(folder / value)
    return (key.removesuffix("_file_name"), str(folder / value)) if key.endswith("_file_name") else (key, value)


def _webdataset(settings: Dataset) -> Rows:
    shards = local_files(settings.path, extensions=("tar",))
    if settings.streaming:
        return datasets.IterableDataset.from_generator(tar_rows, gen_kwargs={"shards": shards})
    rows = list(tar_rows(shards))
    for row in rows:
        if row["problem"]:
            log.warning("%s: %s; its samples before that are used", Path(row["shard"]).name, row["problem"])
    return datasets.Dataset.from_list(rows)


def undecoded(rows: Rows) -> Rows:
    """Pictures as bytes or paths: decoding is ours, so that one broken picture does not end the run."""
    features = rows.features or {}
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def local_files(path: str, *, extensions: tuple[str, ...]) -> list[str]:
    """Files of these kinds under a folder, or the file, or the files of a glob, sorted. Raises ValueError."""
    place = Path(path)
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.is_file()]
    elif place.exists():
        found = [place]
    else:
        found = [Path(name) for name in glob.glob(path, recursive=True)]
        if not found:
            raise ValueError(
                f"data.dataset.path: there is no {path!r} here. Names on a hub are not read: "
                "download the data first and give its folder, a file or a glob"
            )
    files = sorted(str(file) for file in found if file.suffix.lower().lstrip(".") in extensions)
    if not files:
        raise ValueError(f"data.dataset.path: {path!r} holds no files ending in {', '.join(extensions)}")
    return files
