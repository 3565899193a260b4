"""`distill data caption`: captions of one granularity for the pictures of a folder or of parquet files."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from distill import __version__
from distill.cache.shards import sha256_of
from distill.captioning.captioner import Captioner
from distill.captioning.pictures import Asked, Part, open_pictures
from distill.captioning.prompts import Prompt, named_prompt
from distill.captioning.tables import Metadata, Shards
from distill.captioning.work import Captioning, Progress
from distill.config import Granularity
from distill.exit_codes import FINISHED
from distill.train.journal import write_atomically

NUM_NAMED = 10
"""Pictures without a caption that are named at the end; the record has them all."""


def caption(options: argparse.Namespace) -> int:
    """Caption what has no caption yet. Raises ValueError for a user's mistake, before the first picture is read."""
    named = {"alt": options.alt, "short": options.short, "detailed": options.detailed}
    asked = Asked(image=options.image, captions={kind: column for kind, column in named.items() if column})
    prompt, parts = named_prompt(options.prompt), open_pictures(options.pictures, asked)
    column: Granularity = options.granularity
    _refuse_a_column_of_something_else(parts, column)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = _target(options)
    captioner = Captioner(options.model, device=device, max_tokens=options.max_tokens)
    record, settings = folder / f"captioning-{column}.json", _settings(options, prompt)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        _refuse_other_settings(record, settings)
        table = Metadata(folder, column) if options.in_place else Shards(folder, column, _sizes(parts))
        progress = Progress(total=sum(part.num_rows for part in parts))
        work = Captioning(
            captioner=captioner,
            prompt=prompt,
            column=column,
            table=table,
            batch_size=options.batch_size,
            progress=progress,
        )
        _write_record(record, settings, progress, finished=False)
        for part in parts:
            work.carry_out(part)
        _write_record(record, settings, progress, finished=True)
    progress.say(now=True)
    _tell(progress, record)
    captions = f"data.dataset.columns.{column}={column}"
    print(f"train with data.source=dataset {table.settings(options.image)} {captions}")
    return FINISHED


def _target(options: argparse.Namespace) -> Path:
    """Where the table lies. Raises ValueError for a place that it may not have."""
    place: Path = options.pictures
    if options.in_place:
        if not place.is_dir() or any(place.rglob("*.parquet")):
            raise ValueError(f"--in-place is for a folder of pictures, and {place} is none: use --to FOLDER")
        return place
    source = place if place.is_dir() else place.parent
    if options.to.exists() and not options.to.is_dir():
        raise ValueError(f"--to: {options.to} is a file: name a folder")
    if options.to.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--to: {options.to} is inside {source}, and would be read with it the next time")
    return options.to


def _sizes(parts: list[Part]) -> dict[str, int]:
    return {source: size for part in parts for source, size in part.sizes()}


def _refuse_a_column_of_something_else(parts: list[Part], column: Granularity) -> None:
    for part in parts:
        if column in part.schema.names:
            kind = str(part.schema.field(column).type)
            if kind not in ("string", "large_string", "null"):
                raise ValueError(f"the column {column!r} is there already and holds {kind}, not one text: rename it")


def _settings(options: argparse.Namespace, prompt: Prompt) -> dict[str, Any]:
    """What decides the captions, beside the pictures."""
    return {
        "model": options.model.resolve().name,
        "weights_sha256": {file.name: sha256_of(file) for file in sorted(options.model.glob("*.safetensors"))},
        "prompt": prompt.text,
        "max_tokens": options.max_tokens,
    }


def _refuse_other_settings(record: Path, settings: dict[str, Any]) -> None:
    """Captions of two models in one column would be a surprise."""
    if not record.exists():
        return
    before = json.loads(record.read_text(encoding="utf-8"))["settings"]
    for key, value in settings.items():
        if before[key] != value:
            raise ValueError(
                f"{record.parent} holds captions made with another {key} ({before[key]!r}, now {value!r}): go on with "
                "that one, or choose another folder"
            )


def _write_record(record: Path, settings: dict[str, Any], progress: Progress, *, finished: bool) -> None:
    written = {
        "settings": settings,
        "distill": __version__,
        "finished": finished,
        "num_pictures": progress.total,
        "num_captioned": progress.done,
        "not_captioned": progress.unreadable,
    }
    write_atomically(record, json.dumps(written, indent=2, ensure_ascii=False) + "\n")


def _tell(progress: Progress, record: Path) -> None:
    for source, reason in list(progress.unreadable.items())[:NUM_NAMED]:
        print(f"not captioned: {source}: {reason}", file=sys.stderr)
    if progress.unreadable:
        print(f"{len(progress.unreadable):,} pictures not captioned; {record} lists them", file=sys.stderr)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Raises ValueError while another process captions into this folder."""
    lock = FileLock(folder / ".captioning.lock", timeout=0.0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is writing captions into {folder}") from None
    try:
        yield
    finally:
        lock.release()
