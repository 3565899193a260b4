"""Every data set by name, and how to open one: by its name, or by the path of a folder in the project's own layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.catalogue.data_sets import DATA_SETS
from distill.catalogue.layout import DataSet, Kind, Role, found
from distill.contracts import SegmentationSet
from distill.eval.layouts.captions import (
    ListedCaptions,
    coco_captions,
    coco_karpathy,
    docci,
    flickr30k,
    sugarcrepe,
)
from distill.eval.layouts.classes import imagenet
from distill.eval.layouts.coco import coco_panoptic, coco_stuff
from distill.eval.layouts.geometry import DepthMaps, NormalMaps, navi, nyuv2
from distill.eval.layouts.instances import subset_of, uned
from distill.eval.layouts.pixel_maps import PixelMaps
from distill.eval.layouts.segmentation import ade20k, camvid, cityscapes, context59, context60, msrc, voc20, voc21
from distill.eval.pictures.datasets import ClassFolder, FolderCaptions, FolderSegmentation
from distill.eval.pictures.instances import folder_instances
from distill.eval.pictures.pairs import ListedPairs, folder_pairs
from distill.eval.tasks.instance_retrieval import InstanceSubset
from distill.eval.tasks.knn import ClassifiedPictures
from distill.eval.tasks.retrieval import CaptionedPictures

READERS: dict[str, Callable[[Path, str], Any]] = {
    "ade20k": ade20k,
    "voc21": voc21,
    "voc20": voc20,
    "context60": context60,
    "context59": context59,
    "cityscapes": cityscapes,
    "camvid": camvid,
    "msrc": msrc,
    "coco_stuff": coco_stuff,
    "coco_panoptic": coco_panoptic,
    "imagenet": imagenet,
    "flickr30k": flickr30k,
    "coco_karpathy": coco_karpathy,
    "coco_captions": coco_captions,
    "docci": docci,
    "sugarcrepe": sugarcrepe,
    "uned": uned,
    "nyuv2": nyuv2,
    "navi": navi,
}
"""From a data set's folder and the split's own name to the list of its files and labels, for every one of DATA_SETS."""

Root = str | Path | None
"""The folder with all data sets; None means what DISTILL_DATA says."""


def open_segmentation(
    place: str, role: Role = "val", *, root: Root = None, limit: int | None = None
) -> SegmentationSet:
    """A name, or a folder as `FolderSegmentation` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "segmentation"):
        return FolderSegmentation(place, role, limit=limit)
    return PixelMaps(_listed(place, root, role), limit=limit)


def open_classes(
    place: str, role: Role = "val", *, image_size: int, root: Root = None, limit: int | None = None
) -> ClassifiedPictures:
    """A name, or a folder as `ClassFolder` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "classes"):
        return ClassFolder(place, role, image_size=image_size, limit=limit)
    data = DATA_SETS[place]
    folder, split = found(place, data, root, role), data.splits[role]
    return ClassFolder(folder, split, image_size=image_size, limit=limit, names=READERS[place](folder, split))


def open_captions(
    place: str, role: Role = "val", *, image_size: int, root: Root = None, limit: int | None = None
) -> CaptionedPictures:
    """A name, or a folder as `FolderCaptions` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "captions"):
        return FolderCaptions(place, role, image_size=image_size, limit=limit)
    return ListedCaptions(_listed(place, root, role), image_size=image_size, limit=limit)


def open_pairs(place: str, *, image_size: int, root: Root = None, limit: int | None = None) -> ListedPairs:
    """A name, or a folder as `folder_pairs` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "pairs"):
        return folder_pairs(place, image_size=image_size, limit=limit)
    return ListedPairs(_listed(place, root, "val"), image_size=image_size, limit=limit)


def open_instances(place: str, *, image_size: int, root: Root = None, limit: int | None = None) -> list[InstanceSubset]:
    """A name, or a folder as `folder_instances` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "instances"):
        return folder_instances(place, image_size=image_size, limit=limit)
    return [subset_of(each, image_size=image_size, limit=limit) for each in _listed(place, root, "val")]


def open_depth(place: str, role: Role = "val", *, root: Root = None, limit: int | None = None) -> DepthMaps:
    """By name. Raises ValueError for an unknown or missing data set."""
    named(place, "geometry")
    return DepthMaps(_listed(place, root, role), limit=limit)


def open_normals(place: str, role: Role = "val", *, root: Root = None, limit: int | None = None) -> NormalMaps:
    """By name. Raises ValueError for an unknown or missing data set."""
    named(place, "geometry")
    return NormalMaps(_listed(place, root, role), limit=limit)


def named(name: str, kind: Kind) -> DataSet:
    """The data set of that name and kind. Raises ValueError that lists the names of the kind."""
    of_kind = {name: data for name, data in DATA_SETS.items() if data.kind == kind}
    if name not in of_kind:
        raise ValueError(f"{name} is no data set of the kind {kind}; there are {', '.join(of_kind)}")
    return of_kind[name]


def _listed(name: str, root: Root, role: Role) -> Any:
    """The files and labels of one split. Raises MissingData where it is not there."""
    data = DATA_SETS[name]
    return READERS[name](found(name, data, root, role), data.splits[role])


def _is_folder(place: str, kind: Kind) -> bool:
    """Whether it is a folder rather than a name: of a folder that is called like a data set, the folder is meant."""
    if Path(place).is_dir():
        return True
    try:
        named(place, kind)
    except ValueError as error:
        raise ValueError(f"not a folder, and {error}") from error
    return False
