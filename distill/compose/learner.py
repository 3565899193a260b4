"""What learns: the student's towers, the passes that some loss hears, and what trains with them and stays behind."""

from dataclasses import replace

from torch import nn

from distill.compose.ensemble import EnsembleTeaching
from distill.compose.teaching import Teaching
from distill.config import Features, Recipe, Student, by_teacher
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
    recipe: Recipe,
    encoder: DualEncoder,
    *,
    heads: Heads | None,
    taught: Teaching | EnsembleTeaching,
    objective: Objective,
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
        adapters=_all_adapters(recipe, encoder.image, taught) if transfer.with_features else None,
        sees_unmasked=hears_captions or head_only or (hears_patches and not hides),
        sees_masked=hears_patches and hides,
        drops_hidden=recipe.masking.how == "drop",
        layers=_layers(recipe) if transfer.with_features else (),
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


def _layers(recipe: Recipe) -> tuple[int, ...]:
    """Blocks of the student that some teacher hears."""
    recipes = by_teacher(recipe).values()
    return tuple(dict.fromkeys(layer for each in recipes for layer in each.objective.features.student_layers))


def _all_adapters(
    recipe: Recipe, student: ImageEncoder, taught: Teaching | EnsembleTeaching
) -> Adapters | nn.ModuleDict:
    """To the one teacher, or to each of several under its name."""
    layers = _layers(recipe)
    if not isinstance(taught, EnsembleTeaching):
        return _adapters(recipe.objective.features, student, taught.width, layers=layers, named="objective.features")
    return nn.ModuleDict(
        {
            name: _adapters(
                recipe.teacher.members[name].features,
                student,
                member.width,
                layers=layers,
                named=f"teacher.members.{name}.features",
            )
            for name, member in taught.members.items()
        }
    )


def _adapters(
    settings: Features, student: ImageEncoder, teacher_width: int, *, layers: tuple[int, ...], named: str
) -> Adapters:
    """From the student's width to the teacher's; `layers` are those that the pass keeps.

    Adapters that nobody hears stay as they are.
    """
    surplus = [layer for layer in settings.student_layers if layer >= student.num_layers]
    if surplus:
        raise ValueError(
            f"{named}.student_layers names {surplus}, but the student has {student.num_layers} blocks, the "
            "last of which is always heard; name earlier ones"
        )
    adapters = Adapters(
        student.width,
        teacher_width,
        hidden=(settings.adapter_hidden or teacher_width) if settings.adapter == "mlp" else None,
        places=[layers.index(layer) for layer in settings.student_layers],
    )
    adapters.cls.requires_grad_(settings.cls_weight > 0)
    adapters.patch.requires_grad_(settings.patch_weight > 0)
    return adapters
