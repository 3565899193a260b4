"""Recipe to objects: the only module of distill that imports teachers."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distill.cache.reader import Reader
from distill.config import ImageTower, Recipe, Student, recipe_from_file
from distill.config import Teacher as TeacherSettings
from distill.contracts import Teacher
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.image import build_image_tower
from distill.encoders.initialisation import PartReport, apply_update_policy, initialise
from distill.encoders.timm_names import timm_input_size
from distill.encoders.timm_weights import load_timm_weights
from distill.encoders.weights import load_strictly
from distill.objective.contrastive import Temperatures
from distill.objective.features import Adapters
from distill.objective.objective import Objective
from distill.train import checkpoint
from distill.train.learner import Learner
from teachers import Cached, Frozen, Momentum, Partial


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
    """What one of our own checkpoints holds, on the CPU. `balance` are the centres its head was trained with.

    `encoder` is None where only the heads were asked for.
    """

    recipe: Recipe
    encoder: DualEncoder | None
    heads: Heads | None
    balance: dict[str, Tensor]


def compose(recipe: Recipe) -> Parts:
    """Build student, teacher and objective. The same seed gives the same initial weights everywhere.

    Raises ValueError when a file is missing or does not fit, or when the teacher lacks what the recipe wants of it.
    """
    torch.manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):  # whoever teaches, the student starts with the same weights
        origin, source = _origin(recipe)
    teacher: Teacher | None = origin
    if recipe.teacher.cache is not None:
        teacher = Cached(Reader(recipe.teacher.cache), source.heads if source else None)
    encoder = build_dual(recipe.student, recipe.data.image_size)
    objective = _objective(recipe, teacher, source)
    heads = build_heads(
        recipe.student.head, encoder.image.width, with_cls=objective.with_cls, with_patch=objective.with_prototypes
    )
    report = initialise(
        encoder,
        heads,
        settings=recipe.student,
        teacher=origin.encoder if origin else None,
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


def load_trained(path: str | Path, *, heads_only: bool = False) -> Trained:
    """The student of a run folder (its newest whole checkpoint) or of a checkpoint folder.

    With `heads_only` no tower is built. Raises ValueError when there is none or when its files do not fit together.
    """
    found = checkpoint.find(Path(path))
    recipe = recipe_from_file(found.folder / "recipe.yaml")
    tensors = found.tensors("student")
    encoder = None
    if not heads_only:
        encoder = build_dual(recipe.student, recipe.data.image_size)
        load_strictly(encoder, _under("encoder.", tensors), what=f"{found.folder}/student.safetensors")
    heads, stored = None, _under("heads.members.", tensors)
    if stored:
        names = {name.split(".")[0] for name in stored}
        with_roles = {f"with_{role}": role in names or "shared" in names for role in ("cls", "patch")}
        width = next(value.shape[1] for name, value in stored.items() if name.endswith(".mlp.0.weight"))
        heads = build_heads(recipe.student.head, width, **with_roles)
        load_strictly(heads, _under("heads.", tensors), what=f"{found.folder}/student.safetensors")
    return Trained(recipe=recipe, encoder=encoder, heads=heads, balance=found.tensors("objective"))


def load_teacher(recipe: Recipe) -> Frozen:
    """The recipe's frozen teacher by itself, on the CPU, whether the training runs it or not; no seed is moved.

    Raises ValueError as `compose` does.
    """
    with torch.random.fork_rng(devices=[]):
        origin, _ = _origin(replace(recipe, teacher=live(recipe.teacher)))
    return origin


def live(settings: TeacherSettings) -> TeacherSettings:
    """The same teacher, run at every step."""
    return replace(settings, cache=None, cache_storage="fp32", cache_components=0)


def _origin(recipe: Recipe) -> tuple[Frozen | Partial | None, Trained | None]:
    """The teacher with its towers, and the checkpoint it comes from. A cached one's towers are built only where the
    student starts from them, and not kept."""
    settings, student = recipe.teacher, recipe.student
    with_towers = settings.cache is None or "teacher" in (student.image.init, student.text.init)
    source = load_trained(settings.checkpoint, heads_only=not with_towers) if settings.checkpoint else None
    if settings.kind == "momentum" or not with_towers:
        return None, source
    return _loaded_teacher(settings, source), source


def _loaded_teacher(settings: TeacherSettings, source: Trained | None) -> Frozen | Partial:
    if source is not None:
        image_size = settings.image_size or source.recipe.data.image_size
        if settings.kind == "partial":
            return Partial(source.encoder, source.heads, image_size=image_size, settings=settings)
        return Frozen(source.encoder, source.heads, image_size=image_size)
    image_size = settings.image_size or timm_input_size(settings.model)
    image = build_image_tower(ImageTower(model=settings.model, num_cls=1), image_size)
    load_timm_weights(image, settings.weights)
    return Frozen(DualEncoder(image, None), None, image_size=image_size)


def _objective(recipe: Recipe, teacher: Frozen | Partial | Cached | None, source: Trained | None) -> Objective:
    """The losses; with a teacher from one of our own trainings, its prototypes and its centres come along."""
    width = teacher.width if teacher else None
    num_prototypes = source.recipe.student.head.num_prototypes if source else recipe.student.head.num_prototypes
    objective = Objective(recipe.objective, num_prototypes=num_prototypes, teacher_width=width)
    wants_heads = objective.with_cls or objective.with_prototypes
    if teacher is not None and wants_heads:
        for role, wanted in (("cls", objective.with_cls), ("patch", objective.with_prototypes)):
            if wanted and (teacher.heads is None or getattr(teacher.heads, role) is None):
                raise ValueError(
                    f"{recipe.teacher.checkpoint} was trained without a {role} head: it has no prototypes to teach; "
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
        adapters = Adapters(encoder.image.width, teacher.width)
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
