"""Pictures written once to an Arrow file, for machines that read faster than they draw.

A cache is a folder with `scenes.arrow` (columns: pixels and mask as raw uint8 bytes, and the three captions) and
`fingerprint.json`, which says what world it holds. It appears whole or not at all.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter
from jaxtyping import Float, Int
from torch import Tensor

from distill.config import Granularity
from distill.data.scenes.world import SceneWorld, Split

FORMAT_VERSION = 1
"""Rises whenever the same settings give other pictures or captions."""
_BATCH = 512
_GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
_FEATURES = Features(
    {"pixels": Value("binary"), "mask": Value("binary")} | {name: Value("string") for name in _GRANULARITIES}
)


def fingerprint(world: SceneWorld, *, split: Split, count: int) -> dict[str, Any]:
    """Everything that decides what a cache holds, as JSON values."""
    settings = {
        "format_version": FORMAT_VERSION,
        "world_seed": world.settings.world_seed,
        "world_split": world.settings.split,
        "tier": world.settings.tier,
        "tier_parameters": asdict(world.tier),
        "image_size": world.image_size,
        "split": split,
        "count": count,
    }
    return json.loads(json.dumps(settings))


def materialise(world: SceneWorld, path: str | Path, *, count: int, split: Split = "train") -> None:
    """Write pictures [0, count) with masks and captions to the new folder `path`.

    A folder that already holds exactly these pictures is left alone; any other is refused with a ValueError.
    Pixels are rounded to 8 bits.
    """
    path = Path(path)
    if count < 1:
        raise ValueError(f"count={count}: a cache holds at least one picture")
    if path.exists():
        _refuse_other(path, fingerprint(world, split=split, count=count))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(world, unfinished, count=count, split=split)
        os.rename(unfinished, path)
    except FileExistsError:
        _refuse_other(path, fingerprint(world, split=split, count=count))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(world: SceneWorld, folder: Path, *, count: int, split: Split) -> None:
    with ArrowWriter(features=_FEATURES, path=str(folder / "scenes.arrow")) as writer:
        for indices in torch.arange(count).split(_BATCH):
            drawn = world.render(indices, split)
            pixels = (drawn.pixels * 255).round().to(torch.uint8).numpy()
            masks = drawn.mask.to(torch.uint8).numpy()
            columns = {name: world.captions(indices, name, split) for name in _GRANULARITIES}
            columns |= {"pixels": [row.tobytes() for row in pixels], "mask": [row.tobytes() for row in masks]}
            writer.write_batch(columns)
        writer.finalize()
    text = json.dumps(fingerprint(world, split=split, count=count), indent=2)
    (folder / "fingerprint.json").write_text(text + "\n")


def _refuse_other(path: Path, expected: dict[str, Any]) -> None:
    page = path / "fingerprint.json"
    if not page.is_file():
        raise ValueError(f"{path} is not a scenes cache: it has no fingerprint.json")
    found = json.loads(page.read_text())
    differing = [
        f"{key} is {found.get(key)!r} there and {expected.get(key)!r} here"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]
    if differing:
        raise ValueError(f"{path} holds other scenes: {'; '.join(differing)}. Choose another folder or delete it.")


class CachedScenes:
    """A cache opened for reading; also a segmentation set. Raises ValueError when it holds other scenes."""

    ignore = 255

    def __init__(self, world: SceneWorld, path: str | Path, *, count: int, split: Split = "train"):
        if not Path(path).is_dir():
            raise ValueError(f"there is no scenes cache at {path}: write it with materialise(...)")
        _refuse_other(Path(path), fingerprint(world, split=split, count=count))
        self.class_names = world.class_names
        self._size = world.image_size
        self._rows = Dataset.from_file(str(Path(path) / "scenes.arrow"))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        pixels, mask = self.batch(index, index + 1)
        return pixels[0], mask[0]

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B H W"]]:
        """Pixels and masks of pictures [start, stop), cut at the cache's end."""
        rows, side = self._rows[start:stop], self._size
        pixels = np.frombuffer(b"".join(rows["pixels"]), dtype=np.uint8).reshape(-1, 3, side, side)
        masks = np.frombuffer(b"".join(rows["mask"]), dtype=np.uint8).reshape(-1, side, side)
        return torch.from_numpy(pixels.astype(np.float32)) / 255, torch.from_numpy(masks.astype(np.int64))

    def pixels_at(self, indices: Int[Tensor, " B"]) -> Float[Tensor, "B 3 H W"]:
        """These pictures, in [0, 1]."""
        rows = self._rows.select_columns(["pixels"])[indices.tolist()]
        pixels = np.frombuffer(b"".join(rows["pixels"]), dtype=np.uint8).reshape(-1, 3, self._size, self._size)
        return torch.from_numpy(pixels.astype(np.float32)) / 255

    def captions_at(self, indices: Int[Tensor, " B"], granularity: Granularity) -> list[str]:
        """The captions of these pictures."""
        return list(self._rows.select_columns([granularity])[indices.tolist()][granularity])

    def captions(self, granularity: Granularity) -> list[str]:
        """One caption per picture."""
        return list(self._rows[granularity])
