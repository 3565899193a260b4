"""COCO's pictures with a label per pixel: COCO-Stuff and COCO panoptic, as their archives unpack."""

from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from distill.catalogue.layout import one_of
from distill.catalogue.masks import coco_panoptic_maps, coco_stuff_maps
from distill.eval.layouts.names import ids, names
from distill.eval.layouts.pairing import by_stem
from distill.eval.layouts.pixel_maps import MaskFiles, by_id, labels_of_numbers, read_numbers
from distill.eval.pictures.datasets import IGNORE
from distill.eval.pictures.files import read_object

NUM_THINGS = 80


def pictures_of(folder: Path, split: str) -> Path:
    """Where COCO's pictures lie: some people unpack them into `images`."""
    return one_of(folder, split, f"images/{split}")


def coco_stuff(folder: Path, split: str) -> MaskFiles:
    """Pixel values 0 to 181 (without the 11 that nobody annotated) to 171 labels; 255 is unlabelled."""
    maps = one_of(folder, *coco_stuff_maps(split))
    masks = sorted(file for file in maps.glob("*.png") if not file.stem.endswith("_labelTrainIds"))
    return MaskFiles(
        files=by_stem(masks, pictures_of(folder, split)),
        class_names=names("coco_stuff"),
        decode=by_id({id: label for label, id in enumerate(ids("coco_stuff"))}, ignored=(IGNORE,)),
        num_things=NUM_THINGS,
    )


def coco_panoptic(folder: Path, split: str) -> MaskFiles:
    """Segments to the label of their category, crowds included; black is void and ignored."""
    page_file = folder / "annotations" / f"panoptic_{split}.json"
    segments_of = _segments(read_object(page_file), page_file)
    maps = one_of(folder, *coco_panoptic_maps(split))

    def decode(file: Path) -> Int[Tensor, "H W"]:
        return labels_of_numbers(read_numbers(file), {0: IGNORE} | segments_of[file.name], file)

    return MaskFiles(
        files=by_stem([maps / name for name in sorted(segments_of)], pictures_of(folder, split)),
        class_names=names("coco_panoptic"),
        decode=decode,
        num_things=NUM_THINGS,
    )


def _segments(page: dict[str, Any], file: Path) -> dict[str, dict[int, int]]:
    """For every mask's file name the label of each segment id."""
    label_of = {category: label for label, category in enumerate(ids("coco_panoptic"))}
    try:
        return {
            each["file_name"]: {segment["id"]: label_of[segment["category_id"]] for segment in each["segments_info"]}
            for each in page["annotations"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: expected annotations with file_name and segments_info, of COCO's 133 categories ({error!r})"
        ) from error
