"""Evaluation that leaves no trace in a training run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from distill.config import Recipe
from distill.encoders.dual import DualEncoder
from distill.eval import TASKS, EvaluationData, TaskResult, evaluation_data


def evaluate_in_training(
    encoder: DualEncoder, recipe: Recipe, num_images: int | None = None, tasks: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Scores as `TASK/VALUE`, tasks in their order and each task's headline first.

    `num_images` and `tasks` are the recipe's when not given. Modes of all modules and the global random state
    are afterwards what they were before.
    """
    tasks = recipe.evaluate.tasks if tasks is None else tasks
    chosen = replace(recipe, evaluate=replace(recipe.evaluate, tasks=tasks))
    data = evaluation_data(chosen, recipe.evaluate.num_images if num_images is None else num_images)
    scores = {}
    for name in tasks:
        found = run_task(encoder, name, data=data, recipe=chosen)
        scores |= {f"{name}/{key}": value for key, value in found.values.items()}
    return scores


def run_task(encoder: DualEncoder, name: str, *, data: EvaluationData, recipe: Recipe) -> TaskResult:
    """One task of `TASKS`, in eval mode and without gradients. Raises ValueError for an unknown name."""
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with measuring(encoder), torch.no_grad(), torch.random.fork_rng(devices):
        return TASKS[name](encoder, data, recipe.evaluate)


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule gets its own mode back, so a part that stays in eval still does."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
