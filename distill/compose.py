"""Recipe to objects: the only module of distill that imports teachers."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from distill.config import Recipe, Student
from distill.config import Teacher as TeacherSettings
from distill.contracts import ImageEncoder, Teacher
from distill.encoders.batch_norm import check_batch_norms
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.initialisation import PartReport, apply_update_policy, initialise
from distill.objective.adapters import Adapters
from distill.objective.contrastive import MAX_SCALE, Temperatures
from distill.objective.objective import Objective
from distill.objective.transfer import Transfer
from distill.train.learner import Learner
from teachers import Frozen, Momentum, Partial
from teachers.families import FAMILIES as FAMILIES
from teachers.families import RANDOM, Pretrained
from teachers.families import load as load_pretrained
from teachers.matching import Match, match_grids


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
    """A recipe come to life, on the CPU, before any wrapping. `teacher` is None when only captions teach, `match` when
    it looks at the student's pictures through the student's tower."""

    recipe: Recipe
    learner: Learner
    teacher: Teacher | None
    objective: Objective
    report: list[PartReport]
    taught_by: TeacherReport | None
    """None for a momentum teacher, which starts as the student."""
    match: Match | None

    @property
    def teacher_view(self) -> int | None:
        """Side of the view that the teacher needs for itself, pixels: larger than the student's, from the source."""
        is_larger = self.match is not None and self.match.image_size > self.recipe.data.image_size
        return self.match.image_size if is_larger else None


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
    match = _match(recipe, encoder, teacher)
    objective = Objective(recipe.objective, _transfer(recipe, teacher, source))
    heads = build_heads(
        recipe.student.head,
        encoder.image.width,
        with_cls=objective.transfer.with_cls,
        with_patch=objective.transfer.with_prototypes,
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
    learner = _learner(
        recipe,
        encoder,
        heads=heads,
        teacher=teacher,
        objective=objective,
        teacher_temperature=source.temperature if source else None,
    )
    return Parts(
        recipe=recipe,
        learner=learner,
        teacher=teacher,
        objective=objective,
        report=report,
        taught_by=_report(source, teacher.image_size) if source else None,
        match=match,
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


def _match(recipe: Recipe, encoder: DualEncoder, teacher: Frozen | Partial | None) -> Match | None:
    """Show the teacher pictures of the size that the recipe's way of matching asks for."""
    if teacher is None:
        return None
    match = match_grids(
        teacher.image,
        image_size=teacher.image_size,
        is_given=recipe.teacher.image_size is not None,
        student_grid=encoder.image.grid(recipe.data.image_size, recipe.data.image_size),
        asked=recipe.teacher.match,
    )
    teacher.image_size = match.image_size
    return match


def _transfer(recipe: Recipe, teacher: Frozen | Partial | None, source: Pretrained | None) -> Transfer:
    """The losses of a teacher; with one from our own trainings, the centres of its prototypes come along."""
    num_prototypes = recipe.student.head.num_prototypes
    transfer = Transfer(
        recipe.objective,
        num_prototypes=num_prototypes,
        teacher_width=teacher.image.width if teacher else None,
        seed=recipe.seed,
    )
    if teacher is None or not transfer.asks_teachers_heads:
        return transfer
    for role, wanted in (("cls", transfer.with_cls), ("patch", transfer.with_prototypes)):
        if wanted and (teacher.heads is None or getattr(teacher.heads, role) is None):
            raise ValueError(
                f"{source.name} was trained without a {role} head: it has no "
                "prototypes to teach; use objective.patch.target=clusters, or features without objective.cls.weight"
            )
    if num_prototypes != source.num_prototypes:
        raise ValueError(
            f"student.head.num_prototypes={num_prototypes}, but the teacher's head has {source.num_prototypes}: both "
            "must name the same prototypes"
        )
    known, stored = transfer.prototypes.state_dict(), _under("transfer.prototypes.", source.balance)
    transfer.prototypes.load_state_dict({key: stored.get(key, value) for key, value in known.items()})
    return transfer


def _learner(
    recipe: Recipe,
    encoder: DualEncoder,
    *,
    heads: Heads | None,
    teacher: Teacher | None,
    objective: Objective,
    teacher_temperature: float | None,
) -> Learner:
    _check_tower(recipe, encoder.image)
    encoder.image.set_gradient_checkpointing(recipe.student.image.gradient_checkpointing)
    contrastive = recipe.objective.contrastive
    hears_captions = contrastive.weight > 0
    hears_patches = objective.transfer.with_prototypes or objective.transfer.with_features
    hides = recipe.masking.ratio * recipe.masking.image_share > 0
    head_only = recipe.teacher.kind == "momentum" and recipe.teacher.scope == "head" and heads is not None
    temperatures = None
    if hears_captions:
        temperature = _starting_temperature(contrastive.temperature, teacher_temperature)
        temperatures = Temperatures(recipe.student.image.num_cls, temperature=temperature, kind=contrastive.kind)
    with_features = objective.transfer.with_features
    return Learner(
        encoder,
        heads=heads,
        temperatures=temperatures,
        adapters=_adapters(recipe, encoder.image, teacher.image) if with_features else None,
        sees_unmasked=hears_captions or head_only or (hears_patches and not hides),
        sees_masked=hears_patches and hides,
        drops_hidden=recipe.masking.how == "drop",
        layers=recipe.objective.features.student_layers if with_features else (),
    )


def _starting_temperature(asked: float | None, of_teacher: float | None) -> float:
    """What is asked for, or the teacher's, within the range in which learnt temperatures are kept."""
    if asked is not None:
        return asked
    if of_teacher is None:
        raise ValueError("objective.contrastive.temperature is null, the teacher's, but this teacher states none")
    return min(max(of_teacher, 1 / MAX_SCALE), 1.0)


def _check_tower(recipe: Recipe, image: ImageEncoder) -> None:
    """ValueError for what this image tower cannot do as a student."""
    if recipe.masking.how == "drop" and not image.can_drop:
        raise ValueError(
            f"masking.how=drop: {recipe.student.image.model} needs every place of a picture, only a transformer can "
            "leave hidden patches out; set masking.how=replace"
        )
    check_batch_norms(
        image,
        accumulate=recipe.optim.accumulate,
        gradient_checkpointing=recipe.student.image.gradient_checkpointing,
    )


def _adapters(recipe: Recipe, student: ImageEncoder, teacher: ImageEncoder) -> Adapters:
    """From the student's width to the teacher's. The one for CLS stays as it is where nobody hears it."""
    settings = recipe.objective.features
    surplus = [layer for layer in settings.student_layers if layer >= student.num_layers]
    if surplus:
        raise ValueError(
            f"objective.features.student_layers names {surplus}, but the student has {student.num_layers} blocks, the "
            "last of which is always heard; name earlier ones"
        )
    adapters = Adapters(
        student.width,
        teacher.width,
        hidden=(settings.adapter_hidden or teacher.width) if settings.adapter == "mlp" else None,
        num_layers=len(settings.student_layers),
    )
    adapters.cls.requires_grad_(settings.cls_weight > 0)
    return adapters


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
