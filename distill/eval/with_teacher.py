"""A run's student beside its teachers on held-out pictures: agreement, and the loss it was trained with.

Legend: B images, N patches.
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from distill.compose import Parts, compose, live
from distill.config import Recipe
from distill.contracts import Batch, Predictions
from distill.eval.in_training import measuring
from distill.eval.metrics import TaskResult
from distill.eval.sets import EvaluationData, evaluation_data
from distill.eval.tasks.agreement import AgreementSettings, evaluate
from distill.eval.tasks.knn import ClassifiedPictures
from distill.train.checkpoint import Checkpoint
from distill.train.resume import restore_modules

Side = Literal["student", "untrained"]


def agreement(found: Checkpoint, recipe: Recipe, *, side: Side, num_images: int | None, device: str) -> TaskResult:
    """`distill.eval.tasks.agreement` with every loaded teacher, and the training's own distances to it.

    These are of whole pictures with nothing hidden, in batches of the settings' size: `patch_loss`, and where they are
    heard `patch_cls_loss` (features) and `cls_loss` (prototypes).

    The pictures are those of `knn`. `untrained` is the student as it was before its first step, with its teacher's
    statistics of the end; what its losses are by then says how far it came. With several teachers every value has the
    teacher's name before it. Raises ValueError for a run whose teacher follows the student, or whose files are gone.
    """
    if recipe.teacher.kind == "momentum":
        raise ValueError("agreement is that of a student with a loaded teacher, and this run's follows the student")
    parts = compose(replace(recipe, teacher=live(recipe.teacher)))
    restore_modules(found, parts, with_student=side == "student")
    for part in (parts.learner, parts.teacher, parts.objective):
        part.to(device)
    settings = AgreementSettings()
    members = dict(parts.teacher.members) if recipe.teacher.kind == "ensemble" else {"": parts.teacher}
    pictures = {size: _pictures(recipe, size, num_images) for size in _sizes(parts, members)}
    values: dict[str, float] = {}
    with ExitStack() as stack:
        for module in (parts.learner, parts.objective):
            stack.enter_context(measuring(module))
        student = parts.learner.encoder.image
        for name, member in members.items():
            both = (pictures[recipe.data.image_size], pictures[member.image_size])
            result = evaluate(student, member.image, both, settings)
            values |= {f"{name}/{key}" if name else key: value for key, value in result.values.items()}
        values |= _losses(parts, pictures, settings.batch_size, device)
    return replace(result, values=values)


def pictures_of_agreement(recipe: Recipe, num_images: int | None) -> EvaluationData:
    """What `agreement` looks at, at the student's size."""
    size = recipe.data.image_size
    return EvaluationData(image_size=size, short_side=None, classes=_pictures(recipe, size, num_images))


def _sizes(parts: Parts, members: dict) -> set[int]:
    return {parts.recipe.data.image_size, *(member.image_size for member in members.values())}


def _pictures(recipe: Recipe, size: int, num_images: int | None) -> ClassifiedPictures:
    at_size = replace(
        recipe, data=replace(recipe.data, image_size=size), evaluate=replace(recipe.evaluate, tasks=("knn",))
    )
    return evaluation_data(at_size, num_images).classes


@torch.no_grad()
def _losses(parts: Parts, pictures: dict[int, ClassifiedPictures], batch_size: int, device: str) -> dict[str, float]:
    """Means over pictures of what the objective says of each batch."""
    size, learner = parts.recipe.data.image_size, parts.learner
    count, sums = 0, {}
    for start in range(0, len(pictures[size]), batch_size):
        stop = min(start + batch_size, len(pictures[size]))
        views = {side: data.batch(start, stop)[0].to(device) for side, data in pictures.items()}
        for name, value in _loss_of(parts, learner, views).items():
            sums[name] = sums.get(name, 0.0) + value.item() * (stop - start)
        count += stop - start
    return {name: value / count for name, value in sums.items()}


def _loss_of(parts: Parts, learner, views: dict[int, Float[Tensor, "B 3 S S"]]) -> dict[str, Tensor]:
    pixels = views[parts.recipe.data.image_size]
    seen = learner.encoder.image(pixels, layers=learner.layers)
    hidden = torch.zeros(seen.patches.shape[:2], dtype=torch.bool, device=pixels.device)
    batch = Batch(
        ids=[""] * len(pixels), pixels=pixels, hidden=hidden, captions=None, local_crops=None, teacher_pixels=views
    )
    # A whole picture stands in for the local crop that CLS 1 is compared from.
    predictions = Predictions(unmasked=seen, masked=None, local_cls=seen.cls[:, 0][None], text=None)
    losses = parts.objective.transfer(
        predictions,
        parts.teacher.targets(batch, predictions),
        hidden=hidden,
        heads=learner.heads,
        adapters=learner.adapters,
        progress=1.0,
        overhear=True,
    )
    # With nothing hidden all patches are visible, whether the training heard visible ones or not.
    told = {"patch/visible": "patch_loss", "patch_cls": "patch_cls_loss", "cls": "cls_loss"}
    everything = losses.terms | losses.diagnostics
    members = parts.recipe.teacher.members or ("",)
    return {
        f"{prefix}{said}": everything[f"{prefix}{name}"]
        for prefix in (f"{member}/" if member else "" for member in members)
        for name, said in told.items()
        if f"{prefix}{name}" in everything
    }
