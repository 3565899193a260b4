"""Pictures with depth or with surface normals: the procedural world's, and a folder of real ones."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from distill.data.scenes import SceneWorld, Split

What = Literal["depth", "normals"]
FILES = {"depth": "_depth_mm.png", "normals": "_normal_derived.png"}


class SceneGeometry:
    """The first `num_images` pictures of one split of the procedural world, with depth or with normals everywhere."""

    def __init__(self, world: SceneWorld, split: Split, num_images: int, what: What):
        """Training splits smaller than `num_images` are taken whole."""
        self.world, self.split, self.what = world, split, what
        self._length = min(num_images, world.settings.num_train) if split == "train" else num_images

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "*channels H W"]]:
        pixels, truth = self.batch(index, index + 1)
        return pixels[0], truth[0]

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B *channels H W"]]:
        drawn = self.world.render(torch.arange(start, min(stop, len(self))), self.split, geometry=True)
        return drawn.pixels, drawn.depth if self.what == "depth" else drawn.normals


class FolderGeometry:
    """`NAME_rgb.jpg` beside `NAME_depth_mm.png` (16 bits, millimetres, 0: no reading) or `NAME_normal_derived.png`
    ((n + 1) / 2 in 8 bits; x right, y down, z forward; black: no normal).

    A folder with `train/` and `val/` has its splits there. Of one without, the pictures at even places of the sorted
    names are `train` and those at odd places `val`: enough to see a task run, not for a score.
    """

    def __init__(self, path: str | Path, split: Literal["train", "val"], what: What, *, limit: int | None = None):
        """`limit` takes the first so many. Raises ValueError when the folder holds no such pairs."""
        self.what = what
        path = Path(path)
        has_splits = (path / split).is_dir()
        folder = path / split if has_splits else path
        ending = FILES[what]
        names = sorted(each.name.removesuffix(ending) for each in folder.glob(f"*{ending}"))
        if not has_splits:
            names = names[::2] if split == "train" else names[1::2]
        self.files = [(folder / f"{name}_rgb.jpg", folder / f"{name}{ending}") for name in names[:limit]]
        """Picture and truth."""
        if not self.files:
            raise ValueError(f"{folder} holds no NAME{ending} beside NAME_rgb.jpg for {split}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "*channels H W"]]:
        picture, file = self.files[index]
        pixels = torch.from_numpy(_read(picture, "RGB")).movedim(2, 0).float() / 255
        truth = _depth(file) if self.what == "depth" else _normals(file)
        if truth.shape[-2:] != pixels.shape[-2:]:
            raise ValueError(f"{file} is {tuple(truth.shape[-2:])} and its picture {tuple(pixels.shape[-2:])}")
        return pixels, truth


def _depth(file: Path) -> Float[Tensor, "H W"]:
    """Metres."""
    millimetres = _read(file, None)
    if millimetres.ndim != 2:
        raise ValueError(f"{file} is not a grey picture, so it holds no depth")
    return torch.from_numpy(millimetres.astype(np.float32)) / 1000


def _normals(file: Path) -> Float[Tensor, "3 H W"]:
    """x right, y up, z towards the camera."""
    stored = torch.from_numpy(_read(file, "RGB")).movedim(2, 0).float()
    vectors = torch.nn.functional.normalize(stored / 255 * 2 - 1, dim=0)
    turned = vectors * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    return turned.masked_fill(stored.amax(0) == 0, 0.0)


def _read(file: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            return np.array(picture if mode is None else picture.convert(mode))
    except OSError as error:
        raise ValueError(f"{file} cannot be read as a picture ({type(error).__name__})") from error
