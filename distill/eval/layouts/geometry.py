"""Pictures with depth and surface normals: NYUv2 unpacked to files, and NAVI.

Legend: H, W pixels. Depth is in metres along the camera's axis, 0 where it is not known. Normals are unit vectors in
the camera's frame (x right, y down, z forward) that point towards the camera, zero where they are not known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ImageOps
from torch import Tensor

from distill.eval.features import unit
from distill.eval.geometry import EIGEN_CROP, Crop
from distill.eval.layouts.pairing import by_stem
from distill.eval.layouts.pixel_maps import read_ids
from distill.eval.pictures.datasets import spread
from distill.eval.pictures.files import read_image, read_json, to_pixels

NAVI_DEPTH = 655.35
"""Metres times pixel value of NAVI's depth maps, which hold disparity: 65535 x 10 / value millimetres."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One picture and what is known about its geometry."""

    picture: Path
    depth: Callable[[], Float[Tensor, "H W"]]
    normals: Callable[[], Float[Tensor, "3 H W"]]
    known: tuple[Path, ...]
    """Files that these two read; of normals both that may be there."""
    crop: Crop | None = None
    """The part that published scores of depth count."""


class DepthMaps:
    """Pictures at the size they are stored in, with their depth. A limit takes them evenly spaced over the list."""

    def __init__(self, listed: list[View], *, limit: int | None = None):
        self.views: list[View] = [listed[index] for index in spread(len(listed), limit)]
        self.crop: Crop | None = self.views[0].crop

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "H W"]]:
        view = self.views[index]
        return _same_size(view, view.depth())


class NormalMaps:
    """As `DepthMaps`, with normals."""

    def __init__(self, listed: list[View], *, limit: int | None = None):
        self.views: list[View] = [listed[index] for index in spread(len(listed), limit)]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "3 H W"]]:
        view = self.views[index]
        return _same_size(view, view.normals())


def _same_size(view: View, known: Tensor) -> tuple[Float[Tensor, "3 H W"], Tensor]:
    """The upright picture, and what is known about it. Raises ValueError for different sizes."""
    pixels = to_pixels(ImageOps.exif_transpose(read_image(view.picture)).convert("RGB"))
    if known.shape[-2:] != pixels.shape[-2:]:
        raise ValueError(
            f"{view.picture} is {tuple(pixels.shape[-2:])}, its depth or normals {tuple(known.shape[-2:])}"
        )
    return pixels, known


def nyuv2(folder: Path, split: str) -> list[View]:
    """Views with depth; normals may be missing, and are refused when they are asked for."""
    depths = sorted(file for file in (folder / split / "depth").iterdir() if file.suffix in (".npy", ".png"))
    return [
        View(
            picture=picture,
            depth=lambda file=depth: read_depth(file),
            normals=lambda stem=depth.stem: read_normals(folder / split / "normals", stem),
            known=(depth, *(folder / split / "normals" / f"{depth.stem}{suffix}" for suffix in (".npy", ".png"))),
            crop=EIGEN_CROP,
        )
        for picture, depth in by_stem(depths, folder / split / "rgb")
    ]


def navi(folder: Path, split: str) -> list[View]:
    """Photos of every object in all its scenes, by the split that their annotations name; no videos."""
    views = []
    for scene in sorted([*folder.glob("*/multiview*/"), *folder.glob("*/wild_set/")]):
        page = scene / "annotations.json"
        try:
            chosen = [each for each in _list(page) if each["split"] == split]
            views += [_navi_view(scene, each) for each in sorted(chosen, key=lambda each: each["filename"])]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{page}: expected a list with filename, split and camera ({error!r})") from error
    if not views:
        raise ValueError(f"{folder} holds no OBJECT/SCENE/annotations.json with pictures of split {split}")
    return views


def _list(file: Path) -> list:
    page = read_json(file)
    if not isinstance(page, list):
        raise ValueError(f"{file}: expected a list, not a {type(page).__name__}")
    return page


def _navi_view(scene: Path, about: dict) -> View:
    """Focal lengths are in pixels of the picture as it is stored."""
    name, focal = about["filename"], float(about["camera"]["focal_length"])
    file = scene / "depth" / f"{Path(name).stem}.png"
    return View(
        picture=scene / "images" / name,
        depth=lambda: read_disparity(file),
        normals=lambda: normals_from_depth(read_disparity(file), focal=focal),
        known=(file,),
    )


def read_depth(file: Path) -> Float[Tensor, "H W"]:
    """`.npy` holds metres, `.png` 16-bit millimetres; 0, and in `.npy` what is not finite, is unknown."""
    if file.suffix == ".png":
        return read_ids(file).float() / 1000
    metres = _array(file, num_axes=2)
    return torch.where(torch.isfinite(metres) & (metres > 0), metres, 0.0)


def read_normals(folder: Path, stem: str) -> Float[Tensor, "3 H W"]:
    """`STEM.npy` holds vectors (H, W, 3), `STEM.png` their components as 1 + 127 (c + 1); zero is unknown."""
    files = [file for file in (folder / f"{stem}.npy", folder / f"{stem}.png") if file.is_file()]
    if not files:
        raise ValueError(f"{folder} has no {stem}.npy or {stem}.png: this data set came without normals")
    if files[0].suffix == ".npy":
        vectors = torch.nan_to_num(_array(files[0], num_axes=3))
    else:
        values = torch.from_numpy(np.array(read_image(files[0]).convert("RGB"))).float()
        vectors = torch.where((values == 0).all(-1, keepdim=True), 0.0, (values - 1) / 127 - 1)
    if vectors.shape[-1] != 3:
        raise ValueError(f"{files[0]}: expected 3 components per pixel, not {vectors.shape[-1]}")
    return unit(vectors).permute(2, 0, 1)


def read_disparity(file: Path) -> Float[Tensor, "H W"]:
    """Depth of NAVI's 16-bit maps of inverse depth, in metres; 0 off the object."""
    values = read_ids(file).float()
    return torch.where(values > 0, NAVI_DEPTH / values, 0.0)


def normals_from_depth(depth: Float[Tensor, "H W"], *, focal: float) -> Float[Tensor, "3 H W"]:
    """Normals of the surface through each pixel's four neighbours, for a camera whose axis meets the centre.

    Zero where the pixel or a neighbour has no depth, and at the border.
    """
    height, width = depth.shape
    rows = torch.arange(height)[:, None] - (height - 1) / 2
    columns = torch.arange(width)[None, :] - (width - 1) / 2
    points = torch.stack([columns * depth / focal, rows * depth / focal, depth])
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    inside = unit(torch.linalg.cross(down, across, dim=0).permute(1, 2, 0)).permute(2, 0, 1)
    known = depth > 0
    near = known[1:-1, 2:] & known[1:-1, :-2] & known[2:, 1:-1] & known[:-2, 1:-1] & known[1:-1, 1:-1]
    normals = torch.zeros(3, height, width)
    normals[:, 1:-1, 1:-1] = torch.where(near, inside, 0.0)
    return normals


def _array(file: Path, *, num_axes: int) -> Tensor:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as an array ({error})") from error
    if array.ndim != num_axes:
        raise ValueError(f"{file}: expected {num_axes} axes, not {array.ndim}")
    return torch.from_numpy(array.astype(np.float32))
