"""Where instances come from: folders with an index and queries, and pictures of the procedural world."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from distill.data.scenes import SceneWorld
from distill.eval.pictures.datasets import SceneMasks, read_squares, spread
from distill.eval.pictures.files import pictures
from distill.eval.tasks.instance_retrieval import InstanceSubset

CROP = 0.75
"""Side of the part of a scene that asks for the whole scene, as a share of the scene's."""


class Numbered:
    """Picture files with a class each. Whole pictures, made square."""

    ignore = -1

    def __init__(self, files: list[tuple[Path, int]], class_names: list[str], *, image_size: int):
        """Every picture with the number of its class."""
        self.files, self.class_names, self.image_size = files, class_names, image_size

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, " B"]]:
        files, labels = zip(*self.files[start:stop], strict=True)
        return read_squares(files, self.image_size), torch.tensor(labels)


def folder_instances(path: str | Path, *, image_size: int, limit: int | None = None) -> list[InstanceSubset]:
    """`index/INSTANCE/picture` and `query/INSTANCE/picture`, or a folder of such folders, one for each sub-set.

    Without `query` every picture of the index asks all others. `limit` takes so many instances of every sub-set,
    evenly spaced, with all their pictures. Raises ValueError for another layout.
    """
    path = Path(path)
    homes = [path] if (path / "index").is_dir() else sorted(each.parent for each in path.glob("*/index/"))
    if not homes:
        raise ValueError(f"{path} holds neither index/INSTANCE/picture nor SUBSET/index/INSTANCE/picture")
    return [_subset(home, image_size, limit) for home in homes]


def _in_folder(folder: Path, class_names: list[str], *, image_size: int) -> Numbered:
    """`folder/CLASS/picture`, of these classes. Raises ValueError without pictures."""
    files = [
        (file, label)
        for label, name in enumerate(class_names)
        if (folder / name).is_dir()
        for file in pictures(folder / name)
    ]
    if not files:
        raise ValueError(f"{folder} holds no INSTANCE/picture files")
    return Numbered(files, class_names, image_size=image_size)


def _subset(home: Path, image_size: int, limit: int | None) -> InstanceSubset:
    with_queries = (home / "query").is_dir()
    asked = home / "query" if with_queries else home / "index"
    chosen = sorted(each.name for each in asked.glob("*/"))
    if not chosen:
        raise ValueError(f"{asked} holds no INSTANCE/picture files")
    chosen = [chosen[number] for number in spread(len(chosen), limit)]
    # Without a limit the index keeps the instances that nobody asks for.
    others = {each.name for each in (home / "index").glob("*/")} if limit is None else set()
    names = sorted({*chosen, *others})
    return InstanceSubset(
        name=home.name,
        index=_in_folder(home / "index", names, image_size=image_size),
        query=_in_folder(home / "query", names, image_size=image_size) if with_queries else None,
    )


def scene_instances(world: SceneWorld, num_images: int) -> Sequence[InstanceSubset]:
    """Every held-out picture is an instance: a part of it asks for the whole."""
    return [
        InstanceSubset(name="scenes", index=_Scenes(world, num_images, None), query=_Scenes(world, num_images, CROP))
    ]


class _Scenes:
    """Held-out pictures, or a window of each at one of its four corners in turn, made as large as the picture."""

    ignore = -1

    def __init__(self, world: SceneWorld, num_images: int, crop: float | None):
        self._scenes, self._crop = SceneMasks(world, "heldout", num_images), crop
        self.class_names: list[str] = [str(number) for number in range(num_images)]

    def __len__(self) -> int:
        return len(self._scenes)

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, " B"]]:
        pixels = self._scenes.batch(start, stop)[0]
        labels = torch.arange(start, start + len(pixels))
        if self._crop is None:
            return pixels, labels
        side = pixels.shape[-1]
        window = round(self._crop * side)
        parts = [
            picture[:, top : top + window, left : left + window]
            for picture, label in zip(pixels, labels.tolist(), strict=True)
            for top, left in [((label // 2 % 2) * (side - window), (label % 2) * (side - window))]
        ]
        return functional.interpolate(torch.stack(parts), (side, side), mode="bilinear"), labels
