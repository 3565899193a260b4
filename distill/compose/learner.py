"""What learns: the student's towers, the passes that some loss hears, and what trains with them and stays behind."""

from dataclasses import replace

from distill.compose.teaching import Teaching
from distill.config import Recipe, Student
from distill.contracts import ImageEncoder
from distill.encoders.batch_norm import check_batch_norms
from distill.encoders.dual import DualEncoder
from distill.encoders.head import Heads
from distill.objective.adapters import Adapters
from distill.objective.contrastive import MAX_SCALE, Temperatures
from distill.objective.objective import Objective
from distill.train.learner import Learner


def heard(recipe: Recipe) -> Student:
    """The student's settings with a text tower that no loss hears frozen: the report tells the truth about it, and
    data parallelism, which waits for every trained parameter's gradient, does not fail."""
    student = recipe.student
    if recipe.objective.contrastive.weight > 0 or student.text.kind == "none":
        return student
    return replace(student, text=replace(student.text, update="freeze", last_k=0))


def build_learner(
    recipe: Recipe, encoder: DualEncoder, *, heads: Heads | None, taught: Teaching, objective: Objective
) -> Learner:
    """ValueError for what the image tower cannot do as a student."""
    _check_tower(recipe, encoder.image)
    encoder.image.set_gradient_checkpointing(recipe.student.image.gradient_checkpointing)
    transfer = objective.transfer
    hears_captions = recipe.objective.contrastive.weight > 0
    hears_patches = transfer.with_prototypes or transfer.with_features
    hides = recipe.masking.ratio * recipe.masking.image_share > 0
    head_only = recipe.teacher.kind == "momentum" and recipe.teacher.scope == "head" and heads is not None
    return Learner(
        encoder,
        heads=heads,
        temperatures=_temperatures(recipe, taught.temperature) if hears_captions else None,
        adapters=_adapters(recipe, encoder.image, taught.width) if transfer.with_features else None,
        sees_unmasked=hears_captions or head_only or (hears_patches and not hides),
        sees_masked=hears_patches and hides,
        drops_hidden=recipe.masking.how == "drop",
        layers=recipe.objective.features.student_layers if transfer.with_features else (),
    )


def _check_tower(recipe: Recipe, image: ImageEncoder) -> None:
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


def _temperatures(recipe: Recipe, of_teacher: float | None) -> Temperatures:
    """They start where the recipe says or, with null, where the teacher's is, within the range learnt ones keep to."""
    contrastive = recipe.objective.contrastive
    start = contrastive.temperature
    if start is None:
        if of_teacher is None:
            raise ValueError("objective.contrastive.temperature is null, the teacher's, but this teacher states none")
        start = min(max(of_teacher, 1 / MAX_SCALE), 1.0)
    return Temperatures(recipe.student.image.num_cls, temperature=start, kind=contrastive.kind)


def _adapters(recipe: Recipe, student: ImageEncoder, teacher_width: int) -> Adapters:
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
        teacher_width,
        hidden=(settings.adapter_hidden or teacher_width) if settings.adapter == "mlp" else None,
        num_layers=len(settings.student_layers),
    )
    adapters.cls.requires_grad_(settings.cls_weight > 0)
    return adapters
