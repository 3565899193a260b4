"""What a study measures of a finished run: the student of its newest checkpoint, on held-out pictures.

Names of scores, all shares in [0, 1]. FEATURES is `value` (last block attends only to itself) or `final`:

    zero_shot_segmentation/FEATURES/miou            also miou_things, miou_stuff, pixel_accuracy
    zero_shot_segmentation/FEATURES/patch_accuracy  patches closest to the name of the class that covers most of them
    linear_segmentation/miou                        the same values from a linear probe on final features
    retrieval/image_to_text_r1                      last CLS token, detailed captions; also r5 and text_to_image
    retrieval/cls1_image_to_text_r1                 CLS 1, alt captions, where the encoder has two
"""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.compose import load_trained
from distill.config import Recipe
from distill.encoders.dual import DualEncoder
from distill.eval import EvaluationData, TaskResult, evaluation_data
from distill.eval.features import batches, resize_short_side, tokens, unit
from distill.eval.in_training import run_task
from distill.eval.linear_segmentation import patch_shares
from distill.eval.zero_shot_segmentation import ZeroShotSettings, class_scores
from distill.study.environment import environment

FEATURES = ("value", "final")
NUM_IMAGES = 1000
FORMAT = 1


def measure(run: Path, *, num_images: int | None = None) -> dict[str, Any]:
    """Scores, per-class scores, the tasks' settings and the cost, ready for JSON; NaN (a mean over nothing) is None.

    `num_images` is 1,000 unless the recipe is a quick one: at most twice `evaluate.num_images`. An encoder without
    a text tower has no zero-shot and no retrieval scores. Raises ValueError when the run has no checkpoint.
    """
    started = time.perf_counter()
    trained = load_trained(run)
    recipe, encoder = trained.recipe, trained.encoder.to(device_of_run(trained.recipe)).eval()
    count = num_images or min(NUM_IMAGES, 2 * recipe.evaluate.num_images)
    results = measurements(encoder, recipe, count)
    return {
        "format": FORMAT,
        "scores": {f"{task}/{name}": _json(v) for task, found in results.items() for name, v in found.values.items()},
        "per_class": {
            task: {name: _json(v) for name, v in found.per_class.items()}
            for task, found in results.items()
            if found.per_class
        },
        "settings": {task: found.settings for task, found in results.items()},
        "num_images": count,
        "seconds": time.perf_counter() - started,
        "environment": environment(),
    }


def measurements(encoder: DualEncoder, recipe: Recipe, num_images: int) -> dict[str, TaskResult]:
    """Every task's result, by what its scores' names start with."""
    with_text = encoder.text is not None
    tasks = ("zero_shot_segmentation", "linear_segmentation", "retrieval") if with_text else ("linear_segmentation",)
    asked = replace(recipe, evaluate=replace(recipe.evaluate, tasks=tasks))
    data = evaluation_data(asked, num_images)
    results = {}
    for features in FEATURES if with_text else ():
        chosen = replace(asked, evaluate=replace(asked.evaluate, features=features))
        found = run_task(encoder, "zero_shot_segmentation", data=data, recipe=chosen)
        accuracy = {"patch_accuracy": patch_accuracy(encoder, data, settings=ZeroShotSettings(**found.settings))}
        results[f"zero_shot_segmentation/{features}"] = replace(found, values=found.values | accuracy)
    results["linear_segmentation"] = run_task(encoder, "linear_segmentation", data=data, recipe=asked)
    if with_text:
        results["retrieval"] = run_task(encoder, "retrieval", data=data, recipe=asked)
    return results


@torch.no_grad()
def patch_accuracy(encoder: DualEncoder, data: EvaluationData, *, settings: ZeroShotSettings) -> float:
    """Share of patches whose most similar class name is the class that covers most of their labelled pixels.

    Whole pictures, no up-sampling: what the patches themselves say. Of equally large classes the first counts.
    """
    segmentation = data.segmentation
    assert segmentation is not None, "zero-shot segmentation was asked for"
    scores = class_scores(encoder, segmentation.class_names, settings)
    right = total = 0
    for pixels, labels in batches(segmentation, settings.batch_size):
        resized = resize_short_side(pixels, settings.short_side)
        found = tokens(encoder.image, resized, kind=settings.features, precision=settings.precision)
        said_n = (unit(found.patches) @ scores.weight_KD.T + scores.bias_K).argmax(-1).flatten().cpu()
        shares_nK = patch_shares(
            labels.cpu(),
            grid=found.grid,
            patch_size=encoder.image.patch_size,
            num_classes=len(segmentation.class_names),
            ignore=segmentation.ignore,
        )
        labelled_n = shares_nK.sum(1) > 0
        right += (shares_nK.argmax(1) == said_n)[labelled_n].sum().item()
        total += labelled_n.sum().item()
    return right / total if total else math.nan


def device_of_run(recipe: Recipe) -> torch.device:
    """Where a finished run is measured: the GPU if there is one and the recipe allows it."""
    return torch.device("cuda" if torch.cuda.is_available() and recipe.run.device == "auto" else "cpu")


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
