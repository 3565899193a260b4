"""Whom a training measures: its student, or a teacher that changes with it."""

from dataclasses import dataclass, replace

from distill.compose import Parts
from distill.config import TASKS_WITH_TEXT, Recipe
from distill.encoders.dual import DualEncoder


@dataclass(frozen=True)
class Measured:
    """An encoder whose modules are the training's own, and the recipe at the size of the pictures it is shown."""

    encoder: DualEncoder
    recipe: Recipe


def measured_in(parts: Parts) -> Measured:
    """Who `evaluate.side` says. The average of a momentum teacher has no text tower: it speaks with the student's.

    Raises ValueError for a partial teacher without a text tower where a task needs one.
    """
    recipe, student = parts.recipe, parts.learner.encoder
    if recipe.evaluate.side == "student":
        return Measured(student, recipe)
    if recipe.teacher.kind == "momentum":
        return Measured(DualEncoder(parts.teacher.image, student.text), recipe)
    teacher = parts.teacher
    unheard = [task for task in recipe.evaluate.tasks if task in TASKS_WITH_TEXT and teacher.encoder.text is None]
    if unheard:
        raise ValueError(f"evaluate.side=teacher: the teacher has no text tower, and {', '.join(unheard)} needs one")
    return Measured(teacher.encoder, replace(recipe, data=replace(recipe.data, image_size=teacher.image_size)))
