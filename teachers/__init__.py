"""Who the student learns from.

A teacher owns its gradient policy: it is never trained by gradient, stays in eval whatever the trainer asks, and
changes only in `follow`. The core knows the contract (`distill.contracts.Teacher`), never a teacher.
"""

from teachers.frozen import Frozen
from teachers.momentum import Momentum

__all__ = ["Frozen", "Momentum"]
