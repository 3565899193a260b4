"""Schedules as pure functions of progress, the share of the run's steps already taken, in [0, 1]."""

import math

from distill.config import Optim, Teacher


def learning_rate(progress: float, settings: Optim) -> float:
    """Factor on the base learning rate: linear warm-up, then cosine, linear or constant to `lr_end`."""
    if progress < settings.warmup:
        return progress / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    done = (progress - settings.warmup) / max(1.0 - settings.warmup, 1e-12)
    shape = 0.5 * (1.0 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1.0 - done
    return settings.lr_end + (1.0 - settings.lr_end) * shape


def teacher_momentum(progress: float, settings: Teacher) -> float:
    """EMA momentum, rising along a cosine from `momentum` to `momentum_end` (TIPS: 0.994 to 1)."""
    rise = 0.5 * (1.0 - math.cos(math.pi * progress))
    return settings.momentum + (settings.momentum_end - settings.momentum) * rise
