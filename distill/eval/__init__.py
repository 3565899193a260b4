"""Evaluation: what a frozen encoder can do, measured without knowing how it was trained."""

from collections.abc import Callable

from distill.config import Evaluate
from distill.encoders.dual import DualEncoder
from distill.eval.metrics import TaskResult
from distill.eval.registry import (
    captions,
    classifier,
    condition,
    distance,
    instances,
    linear,
    named_classes,
    neighbours,
    orientation,
    pairs,
    patches_and_names,
    zero_shot,
)
from distill.eval.sets import EvaluationData, evaluation_data

__all__ = ["TASKS", "EvaluationData", "Task", "TaskResult", "evaluation_data"]

Task = Callable[[DualEncoder, EvaluationData, Evaluate], TaskResult]

TASKS: dict[str, Task] = {
    "zero_shot_segmentation": zero_shot,
    "linear_segmentation": linear,
    "retrieval": captions,
    "knn": neighbours,
    "zero_shot_classification": named_classes,
    "linear_classification": classifier,
    "compositional_pairs": pairs,
    "instance_retrieval": instances,
    "depth": distance,
    "normals": orientation,
    "health": condition,
    "alignment": patches_and_names,
}
"""Every task by the name that recipes and the command line use."""
