"""Evaluation: what a frozen encoder can do, measured without knowing how it was trained."""

from collections.abc import Callable

from distill.config import Evaluate
from distill.encoders.dual import DualEncoder
from distill.eval.metrics import TaskResult
from distill.eval.sets import EvaluationData, evaluation_data
from distill.eval.tasks import captions, distance, linear, neighbours, orientation, zero_shot

__all__ = ["TASKS", "EvaluationData", "Task", "TaskResult", "evaluation_data"]

Task = Callable[[DualEncoder, EvaluationData, Evaluate], TaskResult]

TASKS: dict[str, Task] = {
    "zero_shot_segmentation": zero_shot,
    "linear_segmentation": linear,
    "retrieval": captions,
    "knn": neighbours,
    "depth": distance,
    "normals": orientation,
}
"""Every task by the name that recipes and the command line use."""
