"""Optimiser and its parameter groups: per-part and layer-wise learning rates, weight-decay exclusions, clipping."""

from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.config import Recipe
from distill.contracts import Teacher
from distill.train.learner import Learner

NEVER_DECAYED = (
    "mask_token",
    "mask_pixel",
    "cls_token",
    "reg_token",
    "pos_embed",
    "positional_embedding",
    "temperatures.",
)
"""Parts of names whose parameters keep their size; biases, norms and scales are one-dimensional and also excluded."""


def lr_scale(name: str, learner: Learner, recipe: Recipe) -> float:
    """Factor on the base learning rate of one parameter of the learner."""
    student, settings = recipe.student, recipe.optim
    if name.startswith("encoder.image."):
        image = learner.encoder.image
        depth_left = image.num_layers - image.layer_of(name.removeprefix("encoder.image."))
        return student.image.lr_scale * settings.layer_decay**depth_left
    if name.startswith("encoder.text."):
        return student.text.lr_scale
    if name.startswith("heads."):
        return settings.head_lr_scale
    return 1.0


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not any(part in name for part in NEVER_DECAYED)


def parameter_groups(learner: Learner, recipe: Recipe) -> list[dict]:
    """Trained parameters grouped by learning-rate factor and weight decay; `lr_scale` is kept in each group."""
    scaled = ((name, parameter, lr_scale(name, learner, recipe)) for name, parameter in trained_parameters(learner))
    return _grouped(scaled, recipe)


def teacher_groups(teacher: Teacher | None, recipe: Recipe) -> list[dict]:
    """The same of a partly trained teacher, at one learning rate; empty for all others."""
    if teacher is None:
        return []
    scaled = ((name, parameter, recipe.teacher.lr_scale) for name, parameter in trained_parameters(teacher))
    return _grouped(scaled, recipe)


def _grouped(scaled: Iterable[tuple[str, nn.Parameter, float]], recipe: Recipe) -> list[dict]:
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter, scale in scaled:
        decayed = is_decayed(name, parameter)
        decay = recipe.optim.weight_decay if decayed else 0.0
        group = groups.setdefault((scale, decayed), {"params": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def build_optimizer(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or Adafactor as in TIPSv2 (section 5; its options there are not published: torch's defaults)."""
    groups, settings = parameter_groups(learner, recipe), recipe.optim
    if not groups:
        raise ValueError("nothing is trained: every tower is frozen and no head or adapter listens")
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    return torch.optim.Adafactor(groups, lr=settings.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradients(learner: Learner, teacher: Teacher | None, *, limit: float, accelerator: Accelerator) -> Tensor:
    """Bound the norm of the student's gradient by `limit` (0: no bound) and return what it was before.

    A teacher that learns is bounded on its own, so that it does not change the student's steps. No wrapper averages
    its gradients over ranks, so that is done first.
    """
    bound = limit or torch.inf
    learning = [] if teacher is None else [parameter for _, parameter in trained_parameters(teacher)]
    if learning:
        _average_over_ranks(learning, accelerator)
        accelerator.clip_grad_norm_(learning, bound)
    return accelerator.clip_grad_norm_(learner.parameters(), bound)


def _average_over_ranks(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    if accelerator.num_processes > 1:
        reached = [parameter for parameter in parameters if parameter.grad is not None]
        means = accelerator.reduce([parameter.grad for parameter in reached], reduction="mean")
        for parameter, mean in zip(reached, means, strict=True):
            parameter.grad = mean
