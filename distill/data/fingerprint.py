"""What tells one set of pictures from another, cheap enough to be looked at whenever a run starts."""

import hashlib
import os
from pathlib import Path
from typing import Any

from distill.config import Data, Dataset
from distill.data.scenes.cache import fingerprint
from distill.data.scenes.world import SceneWorld
from distill.data.tables import METADATA, PICTURES, local_files

EXTENSIONS = {"parquet": ("parquet",), "imagefolder": PICTURES, "webdataset": ("tar",)}
NUM_READ = 64
"""Files whose contents are looked at, spread evenly over all of them."""
BYTES_READ = 2**20
"""Of the beginning of each of those."""


def data_fingerprint(data: Data) -> dict[str, Any]:
    """Everything that decides which picture has which number, as JSON values. Captions are none of it.

    Of files: the name and size of every one, the tables that order a folder's pictures, and the beginning of NUM_READ
    files. Pictures that change and keep name and size are found out only if they are among those. Where the files
    lie does not count. Raises ValueError when they are not there.
    """
    if data.source == "dataset":
        return {"source": "dataset", **_of_files(data.dataset)}
    world = SceneWorld(data.scenes, data.image_size)
    scenes = fingerprint(world, split="train", count=data.scenes.num_train)
    return {"source": "scenes", "rounded_to_8_bits": data.scenes.cache is not None, **scenes}


def _of_files(settings: Dataset) -> dict[str, Any]:
    paths = [Path(name) for name in local_files(settings.path, extensions=EXTENSIONS[settings.format])]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = hashlib.sha256()
    for path in paths:
        names.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    contents = hashlib.sha256()
    for path in paths[:: -(-len(paths) // NUM_READ)]:
        with path.open("rb") as file:
            contents.update(file.read(BYTES_READ))
    tables = hashlib.sha256()
    if settings.format == "imagefolder" and settings.captions_file is None:
        for table in sorted(file for file in Path(settings.path).rglob("metadata.*") if file.suffix in METADATA):
            tables.update(table.read_bytes())
    return {
        "format": settings.format,
        "image_column": settings.columns.image,
        "num_files": len(paths),
        "names_and_sizes": names.hexdigest(),
        "beginnings": contents.hexdigest(),
        "tables": tables.hexdigest(),
    }
