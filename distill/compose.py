"""Recipe to objects: the only module of distill that imports teachers."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distill.config import ImageTower, Recipe, Student, recipe_from_file
from distill.contracts import Teacher
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.image import build_image_tower
from distill.encoders.initialisation import PartReport, apply_update_policy, initialise
from distill.encoders.low_rank import merge_adapters
from distill.encoders.timm_names import timm_input_size
from distill.encoders.timm_weights import load_timm_weights
from distill.encoders.weights import load_strictly
from distill.objective.contrastive import Temperatures
from distill.objective.features import Adapters
from distill.objective.objective import Objective
from distill.train import checkpoint
from distill.train.learner import Learner
from teachers import Frozen, Momentum, Partial


@dataclass(frozen=True)
class Parts:
    """A recipe come to life, on the CPU, before any wrapping. `teacher` is None when only captions teach."""

    recipe: Recipe
    learner: Learner
    teacher: Teacher | None
    objective: Objective
    report: list[PartReport]


@dataclass(frozen=True)
class Trained:
    """What one of our own checkpoints holds, on the CPU. `balance` are the centres its head was trained with."""

    recipe: Recipe
    encoder: DualEncoder
    heads: Heads | None
    balance: dict[str, Tensor]


def compose(recipe: Recipe) -> Parts:
    """Build student, teacher and objective. The same seed gives the same initial weights everywhere.

    Raises ValueError when a file is missing or does not fit, or when the teacher lacks what the recipe wants of it.
    """
    torch.manual_seed(recipe.seed)
    source = _source(recipe)
    encoder = build_dual(recipe.student, recipe.data.image_size)
    teacher = _loaded_teacher(recipe, source) if recipe.teacher.kind != "momentum" else None
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
    learner = _learner(recipe, encoder, heads=heads, teacher=teacher, objective=objective)
    return Parts(recipe=recipe, learner=learner, teacher=teacher, objective=objective, report=report)


def _heard(recipe: Recipe) -> Student:
    """The student's settings with a text tower that no loss hears frozen: the report tells the truth about it, and
    data parallelism, which waits for every trained parameter's gradient, does not fail."""
    student = recipe.student
    if recipe.objective.contrastive.weight > 0 or student.text.kind == "none":
        return student
    return replace(student, text=replace(student.text, update="freeze", last_k=0))


def load_trained(path: str | Path) -> Trained:
    """The student of a run folder (its newest whole checkpoint) or of a checkpoint folder.

    Raises ValueError when there is none or when its files do not fit together.
    """
    found = checkpoint.find(Path(path))
    recipe = recipe_from_file(found.folder / "recipe.yaml")
    tensors = found.tensors("student")
    encoder = build_dual(recipe.student, recipe.data.image_size)
    load_strictly(encoder, _under("encoder.", tensors), what=f"{found.folder}/student.safetensors")
    heads, stored = None, _under("heads.members.", tensors)
    if stored:
        names = {name.split(".")[0] for name in stored}
        with_roles = {f"with_{role}": role in names or "shared" in names for role in ("cls", "patch")}
        heads = build_heads(recipe.student.head, encoder.image.width, **with_roles)
        load_strictly(heads, _under("heads.", tensors), what=f"{found.folder}/student.safetensors")
    return Trained(recipe=recipe, encoder=encoder, heads=heads, balance=found.tensors("objective"))


def load_learnt_teacher(recipe: Recipe, learnt: dict[str, Tensor]) -> DualEncoder:
    """The encoder of a partly trained teacher: its start with what a checkpoint's `teacher` says it learnt, plain.

    Raises ValueError when the start is not there any more or the two do not fit.
    """
    teacher = _loaded_teacher(recipe, _source(recipe))
    load_strictly(teacher, teacher.state_dict() | learnt, what="teacher")
    merge_adapters(teacher.image)
    return teacher.encoder


def _source(recipe: Recipe) -> Trained | None:
    return load_trained(recipe.teacher.checkpoint) if recipe.teacher.checkpoint else None


def _loaded_teacher(recipe: Recipe, source: Trained | None) -> Frozen | Partial:
    settings = recipe.teacher
    if source is not None:
        encoder, heads = source.encoder, source.heads
        image_size = settings.image_size or source.recipe.data.image_size
    else:
        image_size = settings.image_size or timm_input_size(settings.model)
        image = build_image_tower(ImageTower(model=settings.model, num_cls=1), image_size)
        load_timm_weights(image, settings.weights)
        encoder, heads = DualEncoder(image, None), None
    if settings.kind == "frozen":
        return Frozen(encoder, heads, image_size=image_size)
    if heads is None and "head" in settings.trainable:
        heads = _fresh_heads(recipe, encoder.image.width)
    return Partial(encoder, heads, image_size=image_size, settings=settings)


def _fresh_heads(recipe: Recipe, width: int) -> Heads | None:
    """Heads of the student's sizes for a teacher that came without."""
    patch = recipe.objective.patch
    hears_patches = patch.weight > 0 and patch.supervise != "none"
    return build_heads(recipe.student.head, width, with_cls=recipe.objective.cls.weight > 0, with_patch=hears_patches)


def _objective(recipe: Recipe, teacher: Frozen | Partial | None, source: Trained | None) -> Objective:
    """The losses; with a teacher from one of our own trainings, its prototypes and its centres come along."""
    width = teacher.image.width if teacher else None
    of_source = source is not None and source.heads is not None
    num_prototypes = (source.recipe if of_source else recipe).student.head.num_prototypes
    objective = Objective(recipe.objective, num_prototypes=num_prototypes, teacher_width=width)
    wants_heads = objective.with_cls or objective.with_prototypes
    if teacher is not None and wants_heads:
        instead = "use objective.patch.target=features"
        if recipe.teacher.kind == "partial" and teacher.heads is None:
            instead = "name head in teacher.trainable for a fresh one"
        for role, wanted in (("cls", objective.with_cls), ("patch", objective.with_prototypes)):
            if wanted and (teacher.heads is None or getattr(teacher.heads, role) is None):
                raise ValueError(
                    f"{recipe.teacher.checkpoint} was trained without a {role} head: it has no prototypes to teach; "
                    f"{instead}"
                )
        if num_prototypes != recipe.student.head.num_prototypes:
            raise ValueError(
                f"student.head.num_prototypes={recipe.student.head.num_prototypes}, but the teacher's head has "
                f"{num_prototypes}: both must name the same prototypes"
            )
        balance = source.balance if source else {}
        known = objective.state_dict()
        objective.load_state_dict({key: balance.get(key, value) for key, value in known.items()})
    return objective


def _learner(
    recipe: Recipe, encoder: DualEncoder, *, heads: Heads | None, teacher: Teacher | None, objective: Objective
) -> Learner:
    encoder.image.set_gradient_checkpointing(recipe.student.image.gradient_checkpointing)
    contrastive = recipe.objective.contrastive
    hears_captions = contrastive.weight > 0
    hears_patches = objective.with_prototypes or objective.with_features
    hides = recipe.masking.ratio * recipe.masking.image_share > 0
    head_only = recipe.teacher.kind == "momentum" and recipe.teacher.scope == "head" and heads is not None
    temperatures = adapters = None
    if hears_captions:
        temperatures = Temperatures(
            recipe.student.image.num_cls, temperature=contrastive.temperature, kind=contrastive.kind
        )
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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
