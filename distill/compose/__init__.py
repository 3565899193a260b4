"""Recipe to objects: student, teacher and losses of one run. Nobody else in distill imports teachers."""

from dataclasses import dataclass

import torch

from distill.compose.ensemble import EnsembleTeaching, build_ensemble_transfer, load_ensemble
from distill.compose.learner import build_learner, heard
from distill.compose.teaching import (
    TeacherReport,
    build_transfer,
    live,
    load_alone,
    load_learnt_teacher,
    load_teacher,
    who,
)
from distill.config import Recipe
from distill.contracts import Teacher
from distill.encoders.dual import build_dual
from distill.encoders.head import build_heads
from distill.encoders.initialisation import PartReport, apply_update_policy, initialise
from distill.objective.objective import Objective
from distill.train.learner import Learner
from teachers import Momentum
from teachers.families import RANDOM, Pretrained
from teachers.families import load as load_pretrained
from teachers.families.tokenizer import release_of
from teachers.matching import Match

__all__ = [
    "RANDOM",
    "Parts",
    "Pretrained",
    "TeacherReport",
    "compose",
    "live",
    "load_learnt_teacher",
    "load_pretrained",
    "load_teacher",
    "release_of",
    "who",
]


AFTER_A_TEACHER = 2**31
"""Added to the seed of a student with a loaded teacher: one of our own runs with the same seed began with the weights
that the plain seed draws, and a fresh student must not start where its teacher did. torch's CPU generator hears the
lower 32 bits of a seed only."""


@dataclass(frozen=True)
class Parts:
    """A recipe come to life, on the CPU, before any wrapping. `teacher` is None when only captions teach.

    `taught_by` and `matches` have an entry for every loaded teacher that is run; a momentum teacher starts as the
    student and looks at its pictures.
    """

    recipe: Recipe
    learner: Learner
    teacher: Teacher | None
    objective: Objective
    report: list[PartReport]
    taught_by: tuple[TeacherReport, ...]
    matches: tuple[Match, ...]

    @property
    def teacher_views(self) -> tuple[int, ...]:
        """Sides of the views that teachers need for themselves, pixels: larger than the student's, from the source."""
        return tuple(
            sorted({each.image_size for each in self.matches if each.image_size > self.recipe.data.image_size})
        )


def compose(recipe: Recipe) -> Parts:
    """Build student, teacher and objective. The same seed gives the same initial weights, whoever was loaded to teach.

    Raises ValueError when a file is missing or does not fit, or when the teacher lacks what the recipe wants of it.
    """
    torch.manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):  # what a teacher draws must not move what the student draws
        taught = load_ensemble(recipe) if recipe.teacher.kind == "ensemble" else load_alone(recipe)
    if taught.teacher is not None:
        torch.manual_seed(recipe.seed + AFTER_A_TEACHER)
    encoder = build_dual(recipe.student, recipe.data.image_size)
    matches = taught.matched_with(encoder, recipe)
    several = isinstance(taught, EnsembleTeaching)
    transfer = build_ensemble_transfer(recipe, taught) if several else build_transfer(recipe, taught)
    objective = Objective(recipe.objective, transfer)
    heads = build_heads(
        recipe.student.head,
        encoder.image.width,
        with_cls=objective.transfer.with_cls,
        with_patch=objective.transfer.with_prototypes,
    )
    report = initialise(encoder, heads, settings=recipe.student, teacher=taught.encoder, teacher_heads=taught.heads)
    report = apply_update_policy(encoder, heads, settings=heard(recipe), report=report)
    teacher: Teacher | None = taught.teacher
    if recipe.teacher.kind == "momentum" and heads is not None:
        image = encoder.image if recipe.teacher.scope == "encoder_and_head" else None
        teacher = Momentum(image, heads)
    learner = build_learner(recipe, encoder, heads=heads, taught=taught, objective=objective)
    return Parts(
        recipe=recipe,
        learner=learner,
        teacher=teacher,
        objective=objective,
        report=report,
        taught_by=taught.reports(),
        matches=matches,
    )
