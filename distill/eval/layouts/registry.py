"""Every data set by name, and how to open one: by its name, or by the path of a folder in the project's own layout."""

from pathlib import Path

from distill.contracts import SegmentationSet
from distill.eval.layouts.captions import CAPTIONS, PAIRS, ListedCaptions
from distill.eval.layouts.classes import CLASSES
from distill.eval.layouts.coco import COCO_MASKS
from distill.eval.layouts.dataset import DataSet, Kind, Role, found
from distill.eval.layouts.geometry import GEOMETRY, DepthMaps, NormalMaps
from distill.eval.layouts.instances import INSTANCES, subset_of
from distill.eval.layouts.pixel_maps import PixelMaps
from distill.eval.layouts.segmentation import SEGMENTATION
from distill.eval.pictures.datasets import ClassFolder, FolderCaptions, FolderSegmentation
from distill.eval.pictures.instances import folder_instances
from distill.eval.pictures.pairs import ListedPairs, folder_pairs
from distill.eval.tasks.instance_retrieval import InstanceSubset
from distill.eval.tasks.knn import ClassifiedPictures
from distill.eval.tasks.retrieval import CaptionedPictures

DATA_SETS: dict[str, DataSet] = SEGMENTATION | COCO_MASKS | CLASSES | CAPTIONS | PAIRS | INSTANCES | GEOMETRY
"""A published name never changes meaning."""

Root = str | Path | None
"""The folder with all data sets; None means what DISTILL_DATA says."""


def open_segmentation(
    place: str, role: Role = "val", *, root: Root = None, limit: int | None = None
) -> SegmentationSet:
    """A name, or a folder as `FolderSegmentation` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "segmentation"):
        return FolderSegmentation(place, role, limit=limit)
    data = DATA_SETS[place]
    return PixelMaps(data.read(found(place, data, root, role), data.splits[role]), limit=limit)


def open_classes(
    place: str, role: Role = "val", *, image_size: int, root: Root = None, limit: int | None = None
) -> ClassifiedPictures:
    """A name, or a folder as `ClassFolder` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "classes"):
        return ClassFolder(place, role, image_size=image_size, limit=limit)
    data = DATA_SETS[place]
    folder, split = found(place, data, root, role), data.splits[role]
    return ClassFolder(folder, split, image_size=image_size, limit=limit, names=data.read(folder, split))


def open_captions(
    place: str, role: Role = "val", *, image_size: int, root: Root = None, limit: int | None = None
) -> CaptionedPictures:
    """A name, or a folder as `FolderCaptions` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "captions"):
        return FolderCaptions(place, role, image_size=image_size, limit=limit)
    data = DATA_SETS[place]
    listed = data.read(found(place, data, root, role), data.splits[role])
    return ListedCaptions(listed, image_size=image_size, limit=limit)


def open_pairs(place: str, *, image_size: int, root: Root = None, limit: int | None = None) -> ListedPairs:
    """A name, or a folder as `folder_pairs` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "pairs"):
        return folder_pairs(place, image_size=image_size, limit=limit)
    data = DATA_SETS[place]
    return ListedPairs(
        data.read(found(place, data, root, "val"), data.splits["val"]), image_size=image_size, limit=limit
    )


def open_instances(place: str, *, image_size: int, root: Root = None, limit: int | None = None) -> list[InstanceSubset]:
    """A name, or a folder as `folder_instances` reads it. Raises ValueError for what is neither, or not there."""
    if _is_folder(place, "instances"):
        return folder_instances(place, image_size=image_size, limit=limit)
    data = DATA_SETS[place]
    collections = data.read(found(place, data, root, "val"), data.splits["val"])
    return [subset_of(each, image_size=image_size, limit=limit) for each in collections]


def open_depth(place: str, role: Role = "val", *, root: Root = None, limit: int | None = None) -> DepthMaps:
    """By name. Raises ValueError for an unknown or missing data set."""
    data = named(place, "geometry")
    return DepthMaps(data.read(found(place, data, root, role), data.splits[role]), limit=limit)


def open_normals(place: str, role: Role = "val", *, root: Root = None, limit: int | None = None) -> NormalMaps:
    """By name. Raises ValueError for an unknown or missing data set."""
    data = named(place, "geometry")
    return NormalMaps(data.read(found(place, data, root, role), data.splits[role]), limit=limit)


def named(name: str, kind: Kind) -> DataSet:
    """The data set of that name and kind. Raises ValueError that lists the names of the kind."""
    of_kind = {name: data for name, data in DATA_SETS.items() if data.kind == kind}
    if name not in of_kind:
        raise ValueError(f"{name} is no data set of the kind {kind}; there are {', '.join(of_kind)}")
    return of_kind[name]


def _is_folder(place: str, kind: Kind) -> bool:
    """Whether it is a folder rather than a name: of a folder that is called like a data set, the folder is meant."""
    if Path(place).is_dir():
        return True
    try:
        named(place, kind)
    except ValueError as error:
        raise ValueError(f"not a folder, and {error}") from error
    return False
