"""What a recipe's tasks are measured on, and where it comes from."""

from dataclasses import dataclass
from pathlib import Path

from distill.config import Granularity, Recipe
from distill.contracts import DepthSet, NormalsSet, SegmentationSet
from distill.data.scenes import SceneWorld
from distill.eval.datasets import (
    ClassFolder,
    FolderCaptions,
    FolderSegmentation,
    SceneCaptions,
    SceneClasses,
    SceneMasks,
)
from distill.eval.geometry_sets import FolderGeometry, SceneGeometry, What
from distill.eval.knn import ClassifiedPictures
from distill.eval.retrieval import CaptionedPictures

CAPTIONS: tuple[Granularity, Granularity] = ("alt", "detailed")
"""What the procedural world's CLS 1 and the last CLS are asked to retrieve: fixed, so that recipes compare."""


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Sets for the tasks that were asked for; None for the others."""

    image_size: int
    """Side of the pictures the encoder was trained on, pixels."""
    short_side: int | None
    """Size that pictures with masks are brought to; None where they have the right one."""
    segmentation: SegmentationSet | None = None
    segmentation_train: SegmentationSet | None = None
    captions: tuple[CaptionedPictures, CaptionedPictures] | None = None
    """The same pictures with what the first and what the last CLS token should retrieve."""
    classes: ClassifiedPictures | None = None
    classes_train: ClassifiedPictures | None = None
    depth: DepthSet | None = None
    depth_train: DepthSet | None = None
    normals: NormalsSet | None = None
    normals_train: NormalsSet | None = None


def evaluation_data(recipe: Recipe, num_images: int | None) -> EvaluationData:
    """Held-out data for the tasks in `recipe.evaluate.tasks`, `num_images` pictures of each.

    None takes folders whole, and of the endless procedural world as many as the recipe says. Folders are opened
    and listed here, pictures are read when they are needed. Raises ValueError for a task without data.
    """
    asked, image_size = recipe.evaluate, recipe.data.image_size
    sets: dict = {"image_size": image_size, "short_side": None if asked.segmentation is None else image_size}
    world = SceneWorld(recipe.data.scenes, image_size) if recipe.data.source == "scenes" else None
    drawn = asked.num_images if num_images is None else num_images
    if {"zero_shot_segmentation", "linear_segmentation"} & set(asked.tasks):
        sets["segmentation"] = _masks(recipe, world, "val", num_images, drawn)
    if "linear_segmentation" in asked.tasks:
        sets["segmentation_train"] = _masks(recipe, world, "train", num_images, drawn)
    if "retrieval" in asked.tasks:
        sets["captions"] = _captions(recipe, world, num_images, drawn)
    if "knn" in asked.tasks:
        sets["classes_train"], sets["classes"] = _classes(recipe, world, num_images, drawn)
    for what in {"depth", "normals"} & set(asked.tasks):
        sets[f"{what}_train"], sets[what] = _geometry(recipe, world, what, num_images, drawn)
    return EvaluationData(**sets)


def _masks(recipe: Recipe, world: SceneWorld | None, split: str, num_images: int | None, drawn: int) -> SegmentationSet:
    if recipe.evaluate.segmentation is not None:
        return FolderSegmentation(_folder(recipe, "segmentation"), split, limit=num_images)
    return SceneMasks(_needed(world, "segmentation"), "train" if split == "train" else "heldout", drawn)


def _captions(
    recipe: Recipe, world: SceneWorld | None, num_images: int | None, drawn: int
) -> tuple[CaptionedPictures, CaptionedPictures]:
    """A folder has one kind of captions: both CLS tokens are asked for the same."""
    if recipe.evaluate.segmentation is not None:
        folder = _folder(recipe, "segmentation")
        pictures = FolderCaptions(folder, "val", image_size=recipe.data.image_size, limit=num_images)
        return pictures, pictures
    world = _needed(world, "segmentation")
    return SceneCaptions(world, CAPTIONS[0], drawn), SceneCaptions(world, CAPTIONS[1], drawn)


def _classes(
    recipe: Recipe, world: SceneWorld | None, num_images: int | None, drawn: int
) -> tuple[ClassifiedPictures, ClassifiedPictures]:
    if recipe.evaluate.classes is not None:
        folder, image_size = _folder(recipe, "classes"), recipe.data.image_size
        train, val = (ClassFolder(folder, part, image_size=image_size, limit=num_images) for part in ("train", "val"))
        return train, val
    world = _needed(world, "classes")
    return SceneClasses(world, "train", drawn), SceneClasses(world, "heldout", drawn)


def _geometry(
    recipe: Recipe, world: SceneWorld | None, what: What, num_images: int | None, drawn: int
) -> tuple[FolderGeometry | SceneGeometry, FolderGeometry | SceneGeometry]:
    if recipe.evaluate.geometry is not None:
        folder = _folder(recipe, "geometry")
        train, val = (FolderGeometry(folder, part, what, limit=num_images) for part in ("train", "val"))
        return train, val
    world = _needed(world, "geometry")
    return SceneGeometry(world, "train", drawn, what), SceneGeometry(world, "heldout", drawn, what)


def _folder(recipe: Recipe, key: str) -> Path:
    asked = recipe.evaluate
    path = Path({"segmentation": asked.segmentation, "classes": asked.classes, "geometry": asked.geometry}[key])
    if not path.is_dir():
        raise ValueError(f"evaluate.{key}={path} is not a folder")
    return path


def _needed(world: SceneWorld | None, key: str) -> SceneWorld:
    if world is None:
        raise ValueError(f"data.source=dataset has no held-out pictures of its own: set evaluate.{key}=FOLDER")
    return world
