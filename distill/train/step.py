"""The training step: one screen, in the order of the method."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.compose import Parts
from distill.contracts import Batch, Losses
from distill.train.accumulate import backward_in_pieces
from distill.train.optim import clip_gradients, set_learning_rate
from distill.train.schedules import learning_rate, teacher_momentum


@dataclass(frozen=True)
class Stepped:
    losses: Losses
    gradient_norm: Tensor


def training_step(
    batch: Batch,
    *,
    model: torch.nn.Module,
    parts: Parts,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    progress: float,
    overhear: bool = False,
) -> Stepped:
    """Teacher, student, objective, backward, clip, step, follow. `progress`: share of the steps taken, [0, 1].

    `model` is `parts.learner`, possibly wrapped for several processes. `overhear` measures, for the log, patches that
    the loss does not hear.
    """
    recipe, learner = parts.recipe, parts.learner
    set_learning_rate(optimizer, recipe.optim.lr * learning_rate(progress, recipe.optim))
    if recipe.optim.accumulate > 1:
        losses = backward_in_pieces(
            batch, model=model, parts=parts, accelerator=accelerator, progress=progress, overhear=overhear
        )
    else:
        with accelerator.autocast():
            predictions = model(batch)
            targets = parts.teacher.targets(batch, predictions) if parts.teacher else None
            losses = parts.objective(
                predictions,
                targets,
                hidden=batch.hidden,
                heads=learner.heads,
                temperatures=learner.temperatures,
                adapters=learner.adapters,
                progress=progress,
                overhear=overhear,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
            )
        accelerator.backward(losses.total)
    norm = clip_gradients(learner, parts.teacher, limit=recipe.optim.clip, accelerator=accelerator)
    optimizer.step()
    optimizer.zero_grad()
    parts.objective.step()
    if learner.temperatures is not None:
        learner.temperatures.step()
    if parts.teacher:
        momentum = teacher_momentum(progress, recipe.teacher)
        parts.teacher.follow(learner.encoder.image, learner.heads, momentum=momentum)
    return Stepped(losses=losses, gradient_norm=norm)
