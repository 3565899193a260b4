"""What a recipe's tasks are measured on, and where it comes from."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distill.catalogue.layout import MissingData, Role
from distill.config import Evaluate, Granularity, Recipe
from distill.contracts import DepthSet, NormalsSet, SegmentationSet
from distill.data.scenes import SceneWorld
from distill.data.splits import SPLITS
from distill.eval.layouts import (
    open_captions,
    open_classes,
    open_depth,
    open_instances,
    open_normals,
    open_pairs,
    open_segmentation,
)
from distill.eval.layouts.tables import PREFIX, TableCaptions, TableClasses, TableSegmentation, is_table
from distill.eval.pictures.datasets import SceneCaptions, SceneClasses, SceneMasks
from distill.eval.pictures.geometry_sets import FolderGeometry, SceneGeometry, What
from distill.eval.pictures.instances import scene_instances
from distill.eval.pictures.pairs import ScenePairs
from distill.eval.tasks.compositional_pairs import ContrastedPictures
from distill.eval.tasks.instance_retrieval import InstanceSubset
from distill.eval.tasks.knn import ClassifiedPictures
from distill.eval.tasks.retrieval import CaptionedPictures

CAPTIONS: tuple[Granularity, Granularity] = ("alt", "detailed")
"""What the procedural world's CLS 1 and the last CLS are asked to retrieve: fixed, so that recipes compare."""

TABLE_OF = {
    **dict.fromkeys(("zero_shot_segmentation", "linear_segmentation", "alignment", "retrieval"), "segmentation"),
    **dict.fromkeys(("knn", "linear_classification", "zero_shot_classification", "health", "agreement"), "classes"),
}
"""The setting that may name a table for a task."""
OF_TABLES = ("columns", "class_names", "split")
"""Settings that say how a table is read."""


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
    pairs: ContrastedPictures | None = None
    instances: Sequence[InstanceSubset] | None = None
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
    if {"zero_shot_segmentation", "linear_segmentation", "alignment"} & set(asked.tasks):
        sets["segmentation"] = _masks(recipe, world, "val", num_images, drawn)
    if "linear_segmentation" in asked.tasks:
        sets["segmentation_train"] = _masks(recipe, world, "train", num_images, drawn)
    if "retrieval" in asked.tasks:
        sets["captions"] = _captions(recipe, world, num_images, drawn)
    if {"knn", "linear_classification"} & set(asked.tasks):
        sets["classes_train"] = _classes(recipe, world, "train", num_images, drawn)
    if {"knn", "linear_classification", "zero_shot_classification", "health"} & set(asked.tasks):
        sets["classes"] = _classes(recipe, world, "val", num_images, drawn)
    if "compositional_pairs" in asked.tasks:
        sets["pairs"] = _pairs(recipe, world, num_images, drawn)
    if "instance_retrieval" in asked.tasks:
        sets["instances"] = _instances(recipe, world, num_images, drawn)
    for what in {"depth", "normals"} & set(asked.tasks):
        sets[what] = _geometry(recipe, world, what, "val", num_images, drawn)
        if asked.decoder is None:  # a released one is not trained
            sets[f"{what}_train"] = _geometry(recipe, world, what, "train", num_images, drawn)
    return EvaluationData(**sets)


def _masks(
    recipe: Recipe, world: SceneWorld | None, split: Role, num_images: int | None, drawn: int
) -> SegmentationSet:
    place = recipe.evaluate.segmentation
    if place is not None:
        with _asked_by("segmentation", place):
            if is_table(place):
                _check_apart(split, recipe.evaluate.split)
                return TableSegmentation(place, split, recipe.evaluate, limit=num_images)
            return open_segmentation(place, split, root=recipe.evaluate.root, limit=num_images)
    return SceneMasks(_needed(world, "segmentation"), "train" if split == "train" else "heldout", drawn)


def _captions(
    recipe: Recipe, world: SceneWorld | None, num_images: int | None, drawn: int
) -> tuple[CaptionedPictures, CaptionedPictures]:
    """A folder has one kind of captions: both CLS tokens are asked for the same."""
    place, image_size = recipe.evaluate.segmentation, recipe.data.image_size
    if place is not None:
        with _asked_by("segmentation", place):
            if is_table(place):
                pictures = TableCaptions(place, "val", recipe.evaluate, image_size=image_size, limit=num_images)
            else:
                pictures = open_captions(place, image_size=image_size, root=recipe.evaluate.root, limit=num_images)
        return pictures, pictures
    world = _needed(world, "segmentation")
    return SceneCaptions(world, CAPTIONS[0], drawn), SceneCaptions(world, CAPTIONS[1], drawn)


def _classes(
    recipe: Recipe, world: SceneWorld | None, role: Role, num_images: int | None, drawn: int
) -> ClassifiedPictures:
    place, image_size = recipe.evaluate.classes, recipe.data.image_size
    if place is not None:
        with _asked_by("classes", place):
            if is_table(place):
                _check_apart(role, recipe.evaluate.split)
                return TableClasses(place, role, recipe.evaluate, image_size=image_size, limit=num_images)
            return open_classes(place, role, image_size=image_size, root=recipe.evaluate.root, limit=num_images)
    return SceneClasses(_needed(world, "classes"), "train" if role == "train" else "heldout", drawn)


def _pairs(recipe: Recipe, world: SceneWorld | None, num_images: int | None, drawn: int) -> ContrastedPictures:
    place, image_size = recipe.evaluate.pairs, recipe.data.image_size
    if place is None:
        return ScenePairs(_needed(world, "pairs"), drawn)
    with _asked_by("pairs", place):
        return open_pairs(place, image_size=image_size, root=recipe.evaluate.root, limit=num_images)


def _instances(
    recipe: Recipe, world: SceneWorld | None, num_images: int | None, drawn: int
) -> Sequence[InstanceSubset]:
    place = recipe.evaluate.instances
    if place is None:
        return scene_instances(_needed(world, "instances"), drawn)
    with _asked_by("instances", place):
        image_size, root = recipe.data.image_size, recipe.evaluate.root
        return open_instances(place, image_size=image_size, root=root, limit=num_images)


def _geometry(
    recipe: Recipe, world: SceneWorld | None, what: What, role: Role, num_images: int | None, drawn: int
) -> DepthSet | NormalsSet:
    place = recipe.evaluate.geometry
    if place is None:
        split = "train" if role == "train" else "heldout"
        return SceneGeometry(_needed(world, "geometry"), split, drawn, what)
    with _asked_by("geometry", place):
        if Path(place).is_dir():
            return FolderGeometry(Path(place), role, what, limit=num_images)
        opened = open_depth if what == "depth" else open_normals
        return opened(place, role, root=recipe.evaluate.root, limit=num_images)


def check_words(task: str, words: Iterable[str], asked: Evaluate) -> None:
    """Raises ValueError for words, as `evaluate.split=test`, about what this task does not read.

    A recipe's page may say them for other tasks.
    """
    said = {word.partition("=")[0].removeprefix("evaluate.").partition(".")[0] for word in words}
    key = TABLE_OF.get(task)
    silent = [name for name in OF_TABLES if name in said]
    if silent and (key is None or not is_table(vars(asked)[key] or "")):
        where = "which it never reads" if key is None else f"which evaluate.{key}={PREFIX}PLACE would ask for"
        raise ValueError(f"evaluate.{silent[0]} does nothing in {task} here: it is about tables, {where}")


def _check_apart(role: Role, scored: str | None) -> None:
    if role == "train" and scored in SPLITS["train"]:
        raise ValueError(
            f"evaluate.split={scored} would score the pictures that are trained on; name another split, or none"
        )


@contextmanager
def _asked_by(key: str, place: str) -> Iterator[None]:
    """A ValueError inside names the setting that asked for the data."""
    try:
        yield
    except MissingData as error:
        raise MissingData(f"evaluate.{key}={place}: {error}") from error
    except ValueError as error:
        raise ValueError(f"evaluate.{key}={place}: {error}") from error


def _needed(world: SceneWorld | None, key: str) -> SceneWorld:
    if world is None:
        raise ValueError(f"data.source=dataset has no held-out pictures of its own: set evaluate.{key}=FOLDER or NAME")
    return world
