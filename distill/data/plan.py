"""Everything random about one step, drawn for the global batch and cut to one rank.

Legend: B images of this rank, N patches, M local crops, C CLS tokens, T teachers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from distill.config import Recipe
from distill.data.captions import CaptionDraw, draw_captions
from distill.data.draws import generator_for
from distill.data.masking import hidden_patches
from distill.data.views import draw_crops, draw_flips


@dataclass(frozen=True)
class StepPlan:
    """What happens to each picture of one rank in one step, before any picture is known."""

    hidden: Bool[Tensor, "B N"]
    crops: Float[Tensor, "B 4"]
    flips: Bool[Tensor, " B"]
    local_crops: Float[Tensor, "M B 4"]
    local_flips: Bool[Tensor, "M B"]
    captions: list[list[CaptionDraw]]
    """[C][B]; empty when no text is read."""
    teacher_draws: Float[Tensor, "B T"] | None
    """None unless some teacher may be dropped."""


def num_local(recipe: Recipe) -> int:
    """Local crops that a loss listens to."""
    return recipe.data.views.num_local if recipe.objective.cls.weight > 0 else 0


def reads_captions(recipe: Recipe) -> bool:
    return recipe.student.text.kind != "none" and recipe.objective.contrastive.weight > 0


def plan_step(recipe: Recipe, *, step: int, grid: tuple[int, int], share: slice) -> StepPlan:
    """The plan of the positions `share` of the global batch of a step.

    Each kind of choice has its own generator, so switching one off leaves the others as they were.
    """
    batch, views = recipe.data.batch_size, recipe.data.views
    crops, local = generator_for(recipe.seed, step, "crops"), generator_for(recipe.seed, step, "local crops")
    captions = []
    if reads_captions(recipe):
        generator = generator_for(recipe.seed, step, "captions")
        captions = draw_captions(
            batch,
            settings=recipe.objective.contrastive,
            num_cls=recipe.student.image.num_cls,
            generator=generator,
            keep=share,
        )
    teacher_draws = None
    if recipe.teacher.drop > 0:
        generator = generator_for(recipe.seed, step, "teachers")
        teacher_draws = torch.rand(batch, len(recipe.teacher.members), generator=generator)[share]
    masks = generator_for(recipe.seed, step, "hidden")
    return StepPlan(
        hidden=hidden_patches(batch, grid, settings=recipe.masking, generator=masks, keep=share),
        crops=draw_crops(batch, generator=crops)[share],
        flips=draw_flips(batch, probability=views.flip, generator=crops)[share],
        local_crops=draw_crops(num_local(recipe), batch, generator=local)[:, share],
        local_flips=draw_flips(num_local(recipe), batch, probability=views.flip, generator=local)[:, share],
        captions=captions,
        teacher_draws=teacher_draws,
    )
