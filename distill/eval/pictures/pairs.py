"""Where compositional pairs come from: SugarCrepe's files, and the procedural world."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.data.scenes import SceneWorld
from distill.eval.pictures.datasets import SceneMasks, read_square, spread
from distill.eval.tasks.compositional_pairs import Pair


class FolderPairs:
    """JSON files of pairs, in either of two layouts; the file's name is the category of what it numbers.

    SugarCrepe's own: `CATEGORY.json` of {"0": {"filename", "caption", "negative_caption"}, ...}, with COCO's pictures
    in `val2017/` beside the files. Or lists of {"image", "caption", "negative_caption"} by category, with pictures
    named from the folder's parent, `images_of_some_set/1.jpg`. Pairs of a set of pictures that is not there at all are
    left out and counted. Whole pictures, made square.
    """

    def __init__(self, path: str | Path, *, image_size: int, limit: int | None = None):
        """`limit` takes pictures, with all their pairs. Raises ValueError for another layout or without pairs."""
        self.path, self.image_size, self.left_out = Path(path), image_size, 0
        rows: list[tuple[Path, dict[str, str], str]] = []
        for file in sorted(self.path.glob("*.json")):
            for row, category in _rows(file):
                picture = self._picture(row, file)
                if picture is None:
                    self.left_out += 1
                else:
                    rows.append((picture, row, category))
        every = sorted({picture for picture, _, _ in rows})
        if not every:
            raise ValueError(
                f"{self.path} holds no pairs with pictures: expected SugarCrepe's JSON files, and COCO's in val2017/"
            )
        self.files = [every[index] for index in spread(len(every), limit)]
        number_of = {file: number for number, file in enumerate(self.files)}
        self.pairs: list[Pair] = [
            Pair(
                picture=number_of[picture],
                caption=row["caption"],
                negative=row["negative_caption"],
                category=category,
            )
            for picture, row, category in rows
            if picture in number_of
        ]

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return torch.stack([read_square(file, self.image_size) for file in self.files[start:stop]])

    def _picture(self, row: dict[str, str], file: Path) -> Path | None:
        """None where the set of pictures is absent. Raises ValueError for a picture that its set lacks."""
        picture = self.path / "val2017" / row["filename"] if "filename" in row else self.path.parent / row["image"]
        home = self.path / "val2017" if "filename" in row else self.path.parent / Path(row["image"]).parts[0]
        if not home.is_dir():
            return None
        if not picture.is_file():
            raise ValueError(f"{file} names {picture}, which is not there")
        return picture


class ScenePairs:
    """Held-out pictures of the procedural world, with captions that are wrong in one detail."""

    left_out = 0

    def __init__(self, world: SceneWorld, num_images: int):
        self._scenes = SceneMasks(world, "heldout", num_images)
        written = world.contrasts(torch.arange(num_images), "heldout")
        self.pairs: list[Pair] = [
            Pair(picture=picture, caption=caption, negative=negative, category=category)
            for picture, each in enumerate(written)
            for category, caption, negative in each
        ]

    def __len__(self) -> int:
        return len(self._scenes)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return self._scenes.batch(start, stop)[0]


def _rows(file: Path) -> list[tuple[dict[str, str], str]]:
    """Every pair of a file and its category. Raises ValueError for another layout."""
    try:
        page: dict[str, Any] = json.loads(file.read_text())
        if all(isinstance(rows, list) for rows in page.values()):
            found = list(chain.from_iterable(((row, name) for row in rows) for name, rows in page.items()))
        else:
            found = [(row, file.stem) for row in page.values()]
        if not all(
            {"caption", "negative_caption"} <= row.keys() and ("image" in row or "filename" in row) for row, _ in found
        ):
            raise ValueError("a pair has no caption, negative_caption or picture")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f'{file}: expected {{"0": {{"filename", "caption", "negative_caption"}}}} or lists of pairs by category '
            f"({error})"
        ) from error
    return found
