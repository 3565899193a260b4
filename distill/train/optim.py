"""Optimiser and its parameter groups: per-part and layer-wise learning rates, weight-decay exclusions."""

from collections.abc import Iterator

import torch
from torch import nn

from distill.config import Recipe
from distill.train.learner import Learner

NEVER_DECAYED = ("mask_token", "cls_token", "reg_token", "pos_embed", "positional_embedding", "temperatures.")
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
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in trained_parameters(learner):
        scale, decayed = lr_scale(name, learner, recipe), is_decayed(name, parameter)
        decay = recipe.optim.weight_decay if decayed else 0.0
        group = groups.setdefault((scale, decayed), {"params": [], "lr_scale": scale, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def trained_parameters(learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in learner.named_parameters() if parameter.requires_grad)


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
