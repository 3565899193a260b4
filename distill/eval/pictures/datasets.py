"""Held-out pictures of every kind the tasks ask for: folders, and the procedural world.

A limit takes pictures evenly spaced over the sorted files, so a folder sorted by class keeps its classes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from open_clip import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional

from distill.config import Granularity
from distill.data.broken import BrokenSample
from distill.data.pictures import load_rgb, open_picture
from distill.data.scenes import SceneWorld, Split
from distill.eval.features import resize_short_side, short_side_size
from distill.eval.pictures.decoding import decoded
from distill.eval.pictures.files import check_size, pictures, read_image, read_object, to_pixels

IGNORE = 255
"""Label of pixels that do not count."""
NUM_IDS = 1024
"""Class ids of a mask are below this."""


class FolderSegmentation:
    """`images/SPLIT/*.jpg`, `masks/SPLIT/*.png` and `classes.json`: {"ignore": id, "classes": [{id, name, prompt}]}.

    Mask values are ids; labels are 0..K-1 in the order things, stuff (each as in the file), and 255 where the mask
    says ignore. A class is called by its prompt. Pictures without a mask are left out.
    """

    ignore = IGNORE

    def __init__(
        self, path: str | Path, split: str = "val", *, short_side: int | None = None, limit: int | None = None
    ):
        """`short_side` resizes pictures (bicubic) and masks (nearest). Raises ValueError for another layout."""
        folder, self.short_side = Path(path), short_side
        self.class_names, self.num_things, self._label_of = _read_classes(folder / "classes.json")
        masks = sorted((folder / "masks" / split).glob("*.png"))
        self.masks = [masks[index] for index in spread(len(masks), limit)]
        self.pictures = [folder / "images" / split / f"{mask.stem}.jpg" for mask in self.masks]
        if not masks:
            raise ValueError(f"{folder / 'masks' / split} holds no .png masks")

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]:
        mask_file = self.masks[index]
        pixels = to_pixels(read_image(self.pictures[index]).convert("RGB"))
        ids = torch.from_numpy(np.array(read_image(mask_file))).long()
        check_size(ids, pixels, mask_file)
        labels = self._label_of[ids.clamp(max=NUM_IDS)]
        if (labels < 0).any():
            raise ValueError(f"{mask_file}: id {ids[labels < 0][0].item()} is not in classes.json")
        size = short_side_size(*labels.shape, self.short_side)
        small = functional.interpolate(labels[None, None].double(), size, mode="nearest-exact")[0, 0].long()
        return resize_short_side(pixels[None], self.short_side)[0], small


class FolderCaptions:
    """`images/SPLIT/*` with `captions_SPLIT.json`: {file name: list of captions}. Whole pictures, made square."""

    def __init__(self, path: str | Path, split: str = "val", *, image_size: int, limit: int | None = None):
        self.image_size = image_size
        captions = read_object(Path(path) / f"captions_{split}.json")
        names = sorted(captions)
        chosen = [names[index] for index in spread(len(names), limit)]
        self.files = [Path(path) / "images" / split / name for name in chosen]
        self.captions: list[list[str]] = [captions[name] for name in chosen]

    def __len__(self) -> int:
        return len(self.files)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return read_squares(self.files[start:stop], self.image_size)


class ClassFolder:
    """`SPLIT/CLASS/picture`. Whole pictures, made square; classes in the order of their names.

    In sentences, `prompts`, a class is called what `names.json` beside the splits says, {folder name: name}; without
    that file, a WordNet id of ImageNet-1K by CLIP's name for it, and any other folder by its own name with spaces for
    underscores.
    """

    ignore = -1

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        image_size: int,
        limit: int | None = None,
        names: dict[str, str] | None = None,
    ):
        """`names`: what the class of each folder is called, in the order of the labels; its folders need not be there.

        Raises ValueError when the folder holds no classes, or one without a name.
        """
        folder = Path(path) / split
        self.image_size = image_size
        present = sorted(each.name for each in folder.glob("*/"))
        is_named = names is not None
        names = dict(zip(present, present, strict=True)) if names is None else names
        if unknown := [name for name in present if name not in names]:
            raise ValueError(f"{folder / unknown[0]}: this data set has no class {unknown[0]}")
        self.class_names: list[str] = apart(list(names.values()), told_by=list(names))
        self.prompts: list[str] = (
            list(names.values()) if is_named else class_prompts(Path(path) / "names.json", self.class_names)
        )
        label_of = {name: label for label, name in enumerate(names)}
        files = [(file, label_of[name]) for name in present for file in pictures(folder / name)]
        self.files = [files[index] for index in spread(len(files), limit)]
        if not files:
            raise ValueError(f"{folder} holds no CLASS/picture files")

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, " B"]]:
        files, labels = zip(*self.files[start:stop], strict=True)
        return read_squares(files, self.image_size), torch.tensor(labels)


class SceneMasks:
    """The first `num_images` pictures of one split of the procedural world, with masks."""

    ignore = IGNORE

    def __init__(self, world: SceneWorld, split: Split, num_images: int):
        """Training splits smaller than `num_images` are taken whole."""
        self.world, self.split = world, split
        self.class_names, self.num_things = world.class_names, world.num_things
        self._length = min(num_images, world.settings.num_train) if split == "train" else num_images

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int[Tensor, "H W"]]:
        pixels, masks = self.batch(index, index + 1)
        return pixels[0], masks[0]

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, "B H W"]]:
        drawn = self.world.render(torch.arange(start, min(stop, len(self))), self.split)
        return drawn.pixels, drawn.mask


class SceneCaptions:
    """Held-out pictures of the procedural world with one caption each."""

    def __init__(self, world: SceneWorld, granularity: Granularity, num_images: int):
        self._scenes = SceneMasks(world, "heldout", num_images)
        written = world.captions(torch.arange(num_images), granularity, "heldout")
        self.captions: list[list[str]] = [[caption] for caption in written]

    def __len__(self) -> int:
        return len(self._scenes)

    def pixels(self, start: int, stop: int) -> Float[Tensor, "B 3 H W"]:
        return self._scenes.batch(start, stop)[0]


class SceneClasses:
    """Pictures of the procedural world by the class of the thing that covers most of them."""

    ignore = -1

    def __init__(self, world: SceneWorld, split: Split, num_images: int):
        self._scenes = SceneMasks(world, split, num_images)
        self.class_names: list[str] = world.class_names[: world.num_things]
        self.prompts: list[str] = self.class_names

    def __len__(self) -> int:
        return len(self._scenes)

    def batch(self, start: int, stop: int) -> tuple[Float[Tensor, "B 3 H W"], Int[Tensor, " B"]]:
        pixels, masks = self._scenes.batch(start, stop)
        return pixels, largest_thing(masks, num_things=len(self.class_names))


def class_prompts(file: Path, class_names: list[str]) -> list[str]:
    """What the classes of a folder are called in sentences (`ClassFolder`). Raises ValueError for one without a name
    in a file that is there."""
    if file.is_file():
        said = read_object(file)
        missing = [name for name in class_names if not isinstance(said.get(name), str)]
        if missing:
            raise ValueError(f"{file} does not say what {missing[0]} is called")
        return [said[name] for name in class_names]
    return called(class_names)


def called(class_names: list[str]) -> list[str]:
    """A WordNet id of ImageNet-1K as CLIP's name for it, any other name with spaces for underscores."""
    known = dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))
    return [known[name] if name in known else name.replace("_", " ") for name in class_names]


def apart(names: list[str], *, told_by: list[str] | None = None) -> list[str]:
    """Names of classes of which none is another's: those that are shared, with what tells them apart, or a number.

    ImageNet has two kinds of missile and of sunglasses, and scores by class need names of their own.
    """
    told_by = [str(number) for number in range(len(names))] if told_by is None else told_by
    count = Counter(names)
    return [f"{name} ({of})" if count[name] > 1 else name for name, of in zip(names, told_by, strict=True)]


def largest_thing(masks: Int[Tensor, "B H W"], *, num_things: int) -> Int[Tensor, " B"]:
    """The thing class with most pixels, the lower of equal ones; -1 for a picture without things."""
    area_BK = torch.stack([(masks == thing).flatten(1).sum(1) for thing in range(num_things)], dim=1)
    return torch.where(area_BK.amax(1) > 0, area_BK.argmax(1), -1)


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the indices below `count`, evenly spaced."""
    kept = count if limit is None else min(limit, count)
    return [number * count // kept for number in range(kept)]


def read_square(file: Path | bytes, side: int, *, name: str | None = None) -> Float[Tensor, "3 side side"]:
    """The whole upright picture, stretched to a square (bilinear, antialiased); bytes need a name.

    Raises ValueError if it is broken.
    """
    name = str(file) if name is None else name
    try:
        picture = load_rgb(open_picture(file, name=name), side=side, name=name)
    except BrokenSample as error:
        raise ValueError(f"{error}; remove or repair it: evaluation leaves nothing out") from error
    return functional.interpolate(to_pixels(picture)[None], (side, side), mode="bilinear", antialias=True)[0]


def read_squares(files: Sequence[Path], side: int) -> Float[Tensor, "B 3 side side"]:
    """`read_square` of every file, several at a time, in their order."""
    return decoded(lambda file: read_square(file, side), files)


def _read_classes(file: Path) -> tuple[list[str], int, Int[Tensor, " ids"]]:
    """Names with things first, the number of things, and the label of every id (-1: unknown)."""
    page = read_object(file)
    try:
        # A folder that does not tell things from stuff has things only.
        classes = sorted(page["classes"], key=lambda each: not each.get("isthing", True))
        names, ids = [each["prompt"] for each in classes], [each["id"] for each in classes]
        num_things = sum(bool(each.get("isthing", True)) for each in classes)
        ignored = page["ignore"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{file}: expected {{"ignore": id, "classes": [{{"id", "name", "prompt"}}]}}') from error
    if len(set(names)) < len(names) or len(set(ids)) < len(ids) or not 0 < len(names) <= IGNORE:
        raise ValueError(f"{file}: ids and prompts must be different from each other, and 1 to {IGNORE} of them")
    if not all(0 <= number < NUM_IDS for number in [*ids, ignored]):
        raise ValueError(f"{file}: ids must be 0 to {NUM_IDS - 1}")
    label_of = torch.full((NUM_IDS + 1,), -1, dtype=torch.long)
    label_of[ids] = torch.arange(len(ids))
    label_of[ignored] = IGNORE
    return names, num_things, label_of
