"""Recipe to objects: the only module of distill that imports teachers."""

from dataclasses import asdict, dataclass, replace

import torch

from distill.config import Recipe, Student
from distill.config import Teacher as TeacherSettings
from distill.contracts import Teacher
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.initialisation import PartReport, apply_update_policy, initialise
from distill.objective.contrastive import MAX_SCALE, Temperatures
from distill.objective.features import Adapters
from distill.objective.objective import Objective
from distill.train.learner import Learner
from teachers import Frozen, Momentum, Partial
from teachers.families import FAMILIES as FAMILIES
from teachers.families import RANDOM, Pretrained
from teachers.families import load as load_pretrained


@dataclass(frozen=True)
class TeacherReport:
    """Who a loaded teacher is and what it was given; for the start message and the summary."""

    name: str
    source: str
    licence: str | None
    image_size: int
    """Side of the pictures it looks at in this run, pixels."""
    patch_size: int
    num_cls: int
    parameters: int
    """Of its image tower."""
    with_text: bool
    with_heads: bool

    def __str__(self) -> str:
        if self.source == RANDOM:
            start = f"teacher {self.name} with RANDOM weights, as asked for: it has learnt nothing"
        else:
            start = f"teacher {self.name}, weights {self.source}, licence {self.licence or 'not stated'}"
        grid = self.image_size // self.patch_size
        parts = [f"{self.num_cls} CLS and {grid} x {grid} patches of {self.patch_size} pixels"]
        parts += ["a text tower"] * self.with_text + ["projection heads"] * self.with_heads
        return f"{start}\n    {', '.join(parts)}; {self.parameters:,} parameters in its image tower"

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Parts:
    """A recipe come to life, on the CPU, before any wrapping. `teacher` is None when only captions teach."""

    recipe: Recipe
    learner: Learner
    teacher: Teacher | None
    objective: Objective
    report: list[PartReport]
    taught_by: TeacherReport | None
    """None for a momentum teacher, which starts as the student."""


def compose(recipe: Recipe) -> Parts:
    """Build student, teacher and objective. The same seed gives the same initial weights everywhere.

    Raises ValueError when a file is missing or does not fit, or when the teacher lacks what the recipe wants of it.
    """
    torch.manual_seed(recipe.seed)
    source = load_pretrained(f"distill:{recipe.teacher.checkpoint}", None) if recipe.teacher.checkpoint else None
    encoder = build_dual(recipe.student, recipe.data.image_size)
    if recipe.teacher.model is not None:
        # What a teacher draws before its weights are read must not move what the student draws.
        with torch.random.fork_rng(devices=[]):
            source = load_pretrained(recipe.teacher.model, recipe.teacher.weights)
    teacher = None if source is None else _loaded_teacher(recipe.teacher, source)
    objective = _objective(recipe, teacher, source)
    heads = build_heads(
        recipe.student.head, encoder.image.width, with_cls=objective.with_cls, with_patch=objective.with_prototypes
    )
    report = initialise(
        encoder,
        heads,
        settings=recipe.student,
        teacher=teacher.encoder if teacher else None,
        teacher_heads=teacher.heads if teacher else None,
    )
    report = apply_update_policy(encoder, heads, settings=_heard(recipe), report=report)
    if recipe.teacher.kind == "momentum" and heads is not None:
        image = encoder.image if recipe.teacher.scope == "encoder_and_head" else None
        teacher = Momentum(image, heads)
    temperature = source.temperature if source else None
    learner = _learner(
        recipe, encoder, heads=heads, teacher=teacher, objective=objective, teacher_temperature=temperature
    )
    taught_by = _report(source, teacher.image_size) if source else None
    return Parts(
        recipe=recipe, learner=learner, teacher=teacher, objective=objective, report=report, taught_by=taught_by
    )


def _heard(recipe: Recipe) -> Student:
    """The student's settings with a text tower that no loss hears frozen: the report tells the truth about it, and
    data parallelism, which waits for every trained parameter's gradient, does not fail."""
    student = recipe.student
    if recipe.objective.contrastive.weight > 0 or student.text.kind == "none":
        return student
    return replace(student, text=replace(student.text, update="freeze", last_k=0))


def _loaded_teacher(settings: TeacherSettings, source: Pretrained) -> Frozen | Partial:
    """ValueError when pictures of `settings.image_size` do not split into its patches."""
    image_size = settings.image_size or source.image_size
    try:
        source.image.grid(image_size, image_size)
    except ValueError as problem:
        raise ValueError(f"teacher.image_size={image_size}: {problem}") from problem
    encoder = DualEncoder(source.image, source.text)
    if settings.kind == "partial":
        return Partial(encoder, source.heads, image_size=image_size, settings=settings)
    return Frozen(encoder, source.heads, image_size=image_size)


def _report(source: Pretrained, image_size: int) -> TeacherReport:
    return TeacherReport(
        name=source.name,
        source=source.source,
        licence=source.licence,
        image_size=image_size,
        patch_size=source.image.patch_size,
        num_cls=source.image.num_cls,
        parameters=source.num_parameters,
        with_text=source.text is not None,
        with_heads=source.heads is not None,
    )


def _objective(recipe: Recipe, teacher: Frozen | Partial | None, source: Pretrained | None) -> Objective:
    """The losses; with a teacher from one of our own trainings, its prototypes and its centres come along."""
    width = teacher.image.width if teacher else None
    num_prototypes = (source and source.num_prototypes) or recipe.student.head.num_prototypes
    objective = Objective(recipe.objective, num_prototypes=num_prototypes, teacher_width=width)
    wants_heads = objective.with_cls or objective.with_prototypes
    if teacher is not None and wants_heads:
        for role, wanted in (("cls", objective.with_cls), ("patch", objective.with_prototypes)):
            if wanted and (teacher.heads is None or getattr(teacher.heads, role) is None):
                raise ValueError(
                    f"{source.name} was trained without a {role} head: it has no prototypes to teach; "
                    "use objective.patch.target=features"
                )
        if num_prototypes != recipe.student.head.num_prototypes:
            raise ValueError(
                f"student.head.num_prototypes={recipe.student.head.num_prototypes}, but the teacher's head has "
                f"{num_prototypes}: both must name the same prototypes"
            )
        known = objective.state_dict()
        objective.load_state_dict({key: source.balance.get(key, value) for key, value in known.items()})
    return objective


def _learner(
    recipe: Recipe,
    encoder: DualEncoder,
    *,
    heads: Heads | None,
    teacher: Teacher | None,
    objective: Objective,
    teacher_temperature: float | None,
) -> Learner:
    encoder.image.set_gradient_checkpointing(recipe.student.image.gradient_checkpointing)
    contrastive = recipe.objective.contrastive
    hears_captions = contrastive.weight > 0
    hears_patches = objective.with_prototypes or objective.with_features
    hides = recipe.masking.ratio * recipe.masking.image_share > 0
    head_only = recipe.teacher.kind == "momentum" and recipe.teacher.scope == "head" and heads is not None
    temperatures = adapters = None
    if hears_captions:
        temperature = _starting_temperature(contrastive.temperature, teacher_temperature)
        temperatures = Temperatures(recipe.student.image.num_cls, temperature=temperature, kind=contrastive.kind)
    if objective.with_features:
        adapters = Adapters(encoder.image.width, teacher.image.width)
        adapters.cls.requires_grad_(recipe.objective.features.cls_weight > 0)
    return Learner(
        encoder,
        heads=heads,
        temperatures=temperatures,
        adapters=adapters,
        sees_unmasked=hears_captions or head_only or (hears_patches and not hides),
        sees_masked=hears_patches and hides,
    )


def _starting_temperature(asked: float | None, of_teacher: float | None) -> float:
    """What is asked for, or the teacher's, within the range in which learnt temperatures are kept."""
    if asked is not None:
        return asked
    if of_teacher is None:
        raise ValueError("objective.contrastive.temperature is null, the teacher's, but this teacher states none")
    return min(max(of_teacher, 1 / MAX_SCALE), 1.0)
