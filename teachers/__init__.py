"""Who the student learns from.

A teacher owns its gradient policy and stays in eval whatever the trainer asks. A momentum teacher changes in `follow`
only, a frozen one never, a partial one by the gradient of the distillation losses; a cached one is a frozen one that
was run once, and an ensemble is several of these two. The core knows the contract (`distill.contracts.Teacher`), never
a teacher.
"""

from teachers.cached import Cached
from teachers.ensemble import Ensemble
from teachers.frozen import Frozen
from teachers.momentum import Momentum
from teachers.partial import Partial

__all__ = ["Cached", "Ensemble", "Frozen", "Momentum", "Partial"]
