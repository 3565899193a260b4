"""Data sets of a few pictures in every format, written by the tests that read them."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent


def picture_bytes(number: int, *, size: tuple[int, int] = (24, 18), kind: str = "PNG") -> bytes:
    """A picture whose content follows from its number."""
    width, height = size
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def rows(count: int) -> list[dict[str, Any]]:
    """Rows with a picture and captions of three kinds, the short ones a list."""
    return [
        {
            "image": {"bytes": picture_bytes(number), "path": f"{number:03d}.png"},
            "web": f"alt {number}",
            "captions": [f"short {number} a", f"short {number} b"],
            "long": f"detailed {number}",
        }
        for number in range(count)
    ]


COLUMNS = {"alt": "web", "short": "captions", "detailed": "long"}


def write_parquet(folder: Path, samples: list[dict[str, Any]], *, num_files: int = 4) -> None:
    for part in range(num_files):
        table = datasets.Dataset.from_list(samples[part::num_files])
        table.to_parquet(folder / f"part-{part}.parquet")


def write_folder(folder: Path, samples: list[dict[str, Any]]) -> None:
    """Pictures with a metadata.jsonl."""
    lines = []
    for sample in samples:
        name = sample["image"]["path"]
        (folder / name).write_bytes(sample["image"]["bytes"])
        lines.append(json.dumps({"file_name": name} | {key: sample[key] for key in COLUMNS.values()}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def write_tars(folder: Path, samples: list[dict[str, Any]], *, num_shards: int = 4) -> None:
    """Webdataset shards: a picture, the captions as JSON, the alt text once more as a text file."""
    for part in range(num_shards):
        with tarfile.open(folder / f"shard-{part}.tar", "w") as archive:
            for sample in samples[part::num_shards]:
                key = Path(sample["image"]["path"]).stem
                _add(archive, f"{key}.png", sample["image"]["bytes"])
                _add(archive, f"{key}.txt", sample["web"].encode())
                _add(archive, f"{key}.json", json.dumps({name: sample[name] for name in COLUMNS.values()}).encode())


TAR_COLUMNS = {"alt": "txt", "short": "json.captions", "detailed": "json.long"}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def letters(texts: list[str]) -> torch.Tensor:
    """A tokeniser that loses nothing: 24 code points."""
    return torch.tensor([[ord(letter) for letter in text[:24].ljust(24)] for text in texts])


def spelled(ids: torch.Tensor) -> str:
    """The text that `letters` turned into these ids."""
    return "".join(chr(letter) for letter in ids.tolist()).strip()


def shared_data(name: str) -> Path:
    """A folder of real pictures; the test is skipped where it is absent."""
    folder = Path(os.environ.get("DISTILL_SHARED", REPOSITORY.parent / "shared")) / "data" / name
    if not folder.is_dir():
        pytest.skip(f"real pictures ({name}) are not here; DISTILL_SHARED names the folder that holds data/")
    return folder
