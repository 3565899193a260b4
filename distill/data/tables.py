"""Local image-caption data opened with Hugging Face `datasets`. Nothing here touches the network."""

import glob
import json
import logging
from pathlib import Path

import datasets

from distill.config import Dataset
from distill.data.tars import PICTURES, tar_rows

log = logging.getLogger(__name__)

MAX_LANES = 64
"""Parts into which a stream can be dealt out; more ranks than this share parts."""
ROWS_PER_SHARD = 256
"""Pictures of a folder that make up a shard when it is streamed."""
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
    return _undecoded(rows)


def _imagefolder(settings: Dataset) -> Rows:
    pictures = local_files(settings.path, extensions=PICTURES)
    if settings.captions_file is not None:
        rows = _with_captions_file(pictures, settings.captions_file)
    else:
        metadata = [str(file) for file in sorted(Path(settings.path).rglob("metadata.*")) if file.is_file()]
        rows = datasets.load_dataset("imagefolder", data_files=pictures + metadata, split="train", drop_labels=True)
        rows = _undecoded(rows)
    # The rows are paths and captions, at home in memory; streaming only changes how they are dealt out.
    num_shards = max(1, min(MAX_LANES, len(rows) // ROWS_PER_SHARD))
    return rows.to_iterable_dataset(num_shards=num_shards) if settings.streaming else rows


def _with_captions_file(pictures: list[str], captions_file: str) -> datasets.Dataset:
    file = Path(captions_file)
    if not file.is_file():
        raise ValueError(f"data.dataset.captions_file: {captions_file!r} is not a file")
    captions = json.loads(file.read_text())
    if not isinstance(captions, dict):
        raise ValueError(
            f"data.dataset.captions_file: {file.name} is not an object of {{file name: caption or captions}}"
        )
    texts = [captions.get(Path(picture).name) for picture in pictures]
    unused = len(captions) - sum(text is not None for text in texts)
    if unused:
        log.warning("%s has captions of %d files that are not among the %d pictures", file.name, unused, len(texts))
    listed = [[text] if isinstance(text, str) else text for text in texts]
    return datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path} for path in pictures], JOINED: listed})


def _webdataset(settings: Dataset) -> Rows:
    shards = local_files(settings.path, extensions=("tar",))
    if settings.streaming:
        return datasets.IterableDataset.from_generator(tar_rows, gen_kwargs={"shards": shards})
    rows = list(tar_rows(shards))
    for row in rows:
        if row["problem"]:
            log.warning("%s: %s; its samples before that are used", Path(row["shard"]).name, row["problem"])
    return datasets.Dataset.from_list(rows)


def _undecoded(rows: Rows) -> Rows:
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
