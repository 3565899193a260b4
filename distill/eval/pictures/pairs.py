"""Where compositional pairs come from: SugarCrepe's files, and the procedural world."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from distill.data.scenes import SceneWorld
from distill.eval.pictures.datasets import SceneMasks, read_squares, spread
from distill.eval.pictures.files import read_object
from distill.eval.tasks.compositional_pairs import Pair


@dataclass(frozen=True, kw_only=True)
class CaptionPair:
    """One question: which of two captions is the picture's?"""

    picture: Path
    caption: str
    negative: str
    category: str
    """How the wrong caption was made."""


class ListedPairs:
    """Questions about whole pictures, made square. `left_out` questions have no picture here."""

    def __init__(self, listed: list[CaptionPair], *, image_size: int, limit: int | None = None, left_out: int = 0):
        """`limit` takes pictures, evenly spaced by their names, with all their questions."""
        self.image_size, self.left_out = image_size, left_out
        every = sorted({each.picture for each in listed})
        self.files = [every[index] for index in spread(len(every), limit)]
        number_of = {file: number for number, file in enumerate(self.files)}
        self.pairs: list[Pair] = [
            Pair(
                picture=number_of[each.picture],
                caption=each.caption,
                negative=each.negative,
                category=each.category,
            )
            for each in listed
            if each.picture in number_of
        ]

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return read_squares(self.files[start:stop], self.image_size)


def folder_pairs(path: str | Path, *, image_size: int, limit: int | None = None) -> ListedPairs:
    """JSON files of pairs, in either of two layouts; the file's name is the category of what it numbers.

    SugarCrepe's own: `CATEGORY.json` of {"0": {"filename", "caption", "negative_caption"}, ...}, with COCO's pictures
    in `val2017/` beside the files. Or lists of {"image", "caption", "negative_caption"} by category, with pictures
    named from the folder's parent, `images_of_some_set/1.jpg`. Pairs of a set of pictures that is not there at all are
    left out and counted. Raises ValueError for another layout or without pairs.
    """
    path = Path(path)

    def place(row: dict[str, str]) -> Path | None:
        """None where the set of pictures is absent. Raises ValueError for a picture that its set lacks."""
        picture = path / "val2017" / row["filename"] if "filename" in row else path.parent / row["image"]
        home = path / "val2017" if "filename" in row else path.parent / Path(row["image"]).parts[0]
        if not home.is_dir():
            return None
        if not picture.is_file():
            raise ValueError(f"{picture} is not there")
        return picture

    found = [pair for file in sorted(path.glob("*.json")) for pair in read_pairs(file, place)]
    listed = [pair for pair in found if pair is not None]
    if not listed:
        raise ValueError(
            f"{path} holds no pairs with pictures: expected SugarCrepe's JSON files, and COCO's in val2017/"
        )
    return ListedPairs(listed, image_size=image_size, limit=limit, left_out=len(found) - len(listed))


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


def read_pairs(file: Path, place: Callable[[dict[str, str]], Path | None]) -> list[CaptionPair | None]:
    """The questions of a file, None for those whose picture `place` does not have.

    Raises ValueError that names the file for another layout, for no questions, and for what `place` raises.
    """
    page: dict[str, Any] = read_object(file)
    pairs: list[CaptionPair | None] = []
    try:
        for row, category in _rows(page, file.stem):
            picture, caption, negative = place(row), row["caption"], row["negative_caption"]
            pair = picture and CaptionPair(picture=picture, caption=caption, negative=negative, category=category)
            pairs.append(pair)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{file}: expected {{"0": {{"filename", "caption", "negative_caption"}}}} or lists of pairs by category '
            f"({error!r})"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not pairs:
        raise ValueError(f"{file} asks nothing")
    return pairs


def _rows(page: dict[str, Any], category: str) -> list[tuple[Any, str]]:
    """What a page of either layout says of each pair, and its category."""
    if all(isinstance(rows, list) for rows in page.values()):
        return [(row, name) for name, rows in page.items() for row in rows]
    return [(row, category) for row in page.values()]
