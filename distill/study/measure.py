"""What a study measures of a finished run: the student of its newest checkpoint, on held-out pictures.

Names of scores, all shares in [0, 1]. FEATURES is `value` (last block attends only to itself) or `final`:

    zero_shot_segmentation/FEATURES/miou            also miou_things, miou_stuff, pixel_accuracy
    zero_shot_segmentation/FEATURES/patch_accuracy  patches closest to the name of the class that covers most of them
    linear_segmentation/miou                        the same values from a linear probe on final features
    retrieval/image_to_text_r1                      last CLS token, detailed captions; also r5, r10, text_to_image
    retrieval/cls1_image_to_text_r1                 CLS 1, alt captions, where the encoder has two

A measured run holds `scores.json` and, so that runs can be compared picture by picture, `pictures.safetensors`: what
every picture contributed, as `TASK/NAME` (names: `TaskResult.per_picture`), e.g. `linear_segmentation/intersection`;
and for `patch_accuracy` the patches `zero_shot_segmentation/FEATURES/patches_right` and `patches_labelled`, [N] each.
"""

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor

from distill.catalogue.data_sets import DATA_SETS
from distill.config import Recipe
from distill.encoders.dual import DualEncoder
from distill.environment import environment
from distill.eval import EvaluationData, TaskResult, evaluation_data
from distill.eval.features import resize_short_side, tokens, unit
from distill.eval.in_training import run_task
from distill.eval.layouts.tables import is_table
from distill.eval.metrics import numbered_batches
from distill.eval.registry import linear_probe_settings, retrieval_settings, zero_shot_settings
from distill.eval.sets import CAPTIONS
from distill.eval.tasks.linear_segmentation import patch_shares
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings, class_scores
from distill.train.journal import whole, write_atomically
from distill.trained import load_trained

FEATURES = ("value", "final")
NUM_IMAGES = 1000
FORMAT = 2
"""Changes whenever the same settings measure something else, or the files say it otherwise."""


@dataclass(frozen=True, kw_only=True)
class PatchCounts:
    """Patches of N pictures, as int32."""

    right_N: Int[Tensor, " N"]
    """Labelled patches whose most similar class name is the class that covers most of their labelled pixels."""
    labelled_N: Int[Tensor, " N"]

    @property
    def accuracy(self) -> float:
        """Over all patches; NaN without any."""
        total = self.labelled_N.sum().item()
        return self.right_N.sum().item() / total if total else math.nan


def measure(run: Path, *, num_images: int | None = None) -> dict[str, Any]:
    """Scores, per-class scores, the tasks' settings and the cost, ready for JSON; NaN (a mean over nothing) is None.

    `num_images` is 1,000 unless the recipe is a quick one: at most twice `evaluate.num_images`. An encoder without
    a text tower has no zero-shot and no retrieval scores. Raises ValueError when the run has no checkpoint.
    """
    return _measured(run, None, num_images)[0]


def measure_run(run: Path, recipe: Recipe | None = None, *, num_images: int | None = None) -> None:
    """Measure a run and leave the result in its folder: `pictures.safetensors`, then `scores.json`.

    `recipe` is the run's own with the `evaluate` section that is wanted now; without it, the one it was trained with.
    Each file is written whole or not at all, so a folder with `scores.json` has both; both name what was measured by
    its fingerprint, `measured`. Raises ValueError when the run has no checkpoint.
    """
    page, results = _measured(run, recipe, num_images)
    write_pictures(run / "pictures.safetensors", results, measured=page["measured"])
    write_atomically(run / "scores.json", json.dumps(page, indent=1, allow_nan=False))


def measuring_fingerprint(recipe: Recipe, num_images: int | None = None) -> str:
    """16 hexadecimal digits that are equal when two runs of a recipe are asked to be measured in the same way.

    Computed from the tasks and their settings, the pictures (of folders only the path counts, of data sets the name and
    `evaluate.root`, not DISTILL_DATA) and FORMAT. What the measured encoder is, where it is measured and in which
    batches does not count.
    """
    data = evaluation_data(_asking(recipe, ()), None)  # sizes alone: no pictures for no tasks
    tasks = {task: asdict(settings) for task, settings in _settings(recipe, data).items()}
    for settings in tasks.values():
        del settings["batch_size"]
    if tasks["linear_segmentation"]["mode"] == "whole":
        # Windows came later: what was measured without them is still what is asked for.
        for later in ("mode", "window", "stride"):
            del tasks["linear_segmentation"][later]
    plan = {"format": FORMAT, "tasks": tasks, "pictures": _pictures(recipe, num_pictures(recipe, num_images))}
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def num_pictures(recipe: Recipe, num_images: int | None = None) -> int:
    """How many held-out pictures `measure` takes of a run of this recipe."""
    return num_images or min(NUM_IMAGES, 2 * recipe.evaluate.num_images)


def measurements(encoder: DualEncoder, recipe: Recipe, num_images: int) -> dict[str, TaskResult]:
    """Every task's result, by what its scores' names start with."""
    with_text = encoder.text is not None
    tasks = ("zero_shot_segmentation", "linear_segmentation", "retrieval") if with_text else ("linear_segmentation",)
    asked = _asking(recipe, tasks)
    data = evaluation_data(asked, num_images)
    results = {}
    for features in FEATURES if with_text else ():
        chosen = replace(asked, evaluate=replace(asked.evaluate, features=features))
        found = run_task(encoder, "zero_shot_segmentation", data=data, recipe=chosen)
        patches = count_patches(encoder, data, settings=ZeroShotSettings(**found.settings))
        results[f"zero_shot_segmentation/{features}"] = replace(
            found,
            values=found.values | {"patch_accuracy": patches.accuracy},
            per_picture=found.per_picture | {"patches_right": patches.right_N, "patches_labelled": patches.labelled_N},
        )
    results["linear_segmentation"] = run_task(encoder, "linear_segmentation", data=data, recipe=asked)
    if with_text:
        results["retrieval"] = run_task(encoder, "retrieval", data=data, recipe=asked)
    return results


@torch.no_grad()
def count_patches(encoder: DualEncoder, data: EvaluationData, *, settings: ZeroShotSettings) -> PatchCounts:
    """Patches of every picture of the segmentation set, in its order, and how many of them are right.

    Whole pictures, no up-sampling: what the patches themselves say. Of equally large classes the first counts.
    """
    segmentation = data.segmentation
    assert segmentation is not None, "zero-shot segmentation was asked for"
    scores = class_scores(encoder, segmentation.class_names, settings)
    right_N = torch.zeros(len(segmentation), dtype=torch.int)
    labelled_N = torch.zeros_like(right_N)
    for places, pixels, labels in numbered_batches(segmentation, settings.batch_size):
        resized = resize_short_side(pixels, settings.short_side)
        found = tokens(encoder.image, resized, kind=settings.features, precision=settings.precision)
        said_BN = (unit(found.patches) @ scores.weight_KD.T + scores.bias_K).argmax(-1).cpu()
        shares_nK = patch_shares(
            labels.cpu(),
            grid=found.grid,
            patch_size=encoder.image.patch_size,
            num_classes=len(segmentation.class_names),
            ignore=segmentation.ignore,
        )
        labelled_BN = (shares_nK.sum(1) > 0).view_as(said_BN)
        right_BN = labelled_BN & (shares_nK.argmax(1).view_as(said_BN) == said_BN)
        right_N[places], labelled_N[places] = right_BN.sum(1).int(), labelled_BN.sum(1).int()
    return PatchCounts(right_N=right_N, labelled_N=labelled_N)


def write_pictures(path: Path, results: dict[str, TaskResult], *, measured: str) -> None:
    """What every picture contributed to every task, atomically; whole numbers in as few bytes as hold them all."""
    tensors = {
        f"{task}/{name}": _small(values).contiguous()
        for task, found in results.items()
        for name, values in found.per_picture.items()
    }
    with whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={"measured": measured})
        unfinished.chmod(0o644)  # safetensors makes them private; colleagues share runs


def device_of_run(recipe: Recipe) -> torch.device:
    """Where a finished run is measured: the GPU if there is one and the recipe allows it."""
    return torch.device("cuda" if torch.cuda.is_available() and recipe.run.device == "auto" else "cpu")


def _measured(run: Path, asked: Recipe | None, num_images: int | None) -> tuple[dict[str, Any], dict[str, TaskResult]]:
    """The page of `measure`, and the results it was written from."""
    started = time.perf_counter()
    trained = load_trained(run)
    recipe = asked or trained.recipe
    encoder = trained.encoder.to(device_of_run(recipe)).eval()
    count = num_pictures(recipe, num_images)
    results = measurements(encoder, recipe, count)
    page = {
        "format": FORMAT,
        "measured": measuring_fingerprint(recipe, num_images),
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
    return page, results


def _asking(recipe: Recipe, tasks: tuple[str, ...]) -> Recipe:
    return replace(recipe, evaluate=replace(recipe.evaluate, tasks=tasks))


def _settings(recipe: Recipe, data: EvaluationData) -> dict[str, Any]:
    """Settings of everything that `measurements` measures; retrieval's once for each CLS token."""
    settings: dict[str, Any] = {"linear_segmentation": linear_probe_settings(data, recipe.evaluate)}
    if recipe.student.text.kind != "none":
        for features in FEATURES:
            asked = replace(recipe.evaluate, features=features)
            settings[f"zero_shot_segmentation/{features}"] = zero_shot_settings(data, asked)
        for chosen in retrieval_settings(recipe.student.image.num_cls, recipe.evaluate):
            settings[f"retrieval/cls{chosen.cls + 1}"] = chosen
    return settings


def _pictures(recipe: Recipe, count: int) -> dict[str, Any]:
    """Which pictures `evaluation_data` takes. A cache holds the same pictures, and training ones only."""
    taken = {"num_images": count, "image_size": recipe.data.image_size}
    asked = recipe.evaluate
    if asked.segmentation is not None:
        taken |= {"folder": asked.segmentation}
        if asked.segmentation in DATA_SETS and asked.root is not None:
            taken["root"] = str(Path(asked.root).resolve())
        if is_table(asked.segmentation):
            taken["read_by"] = (asdict(asked.columns), asked.class_names, asked.split)
        return taken
    scenes = asdict(recipe.data.scenes)
    del scenes["cache"]
    # The world does not end where training does: more training pictures leave the first ones, and held-out ones, alone.
    return taken | scenes | {"num_train": min(recipe.data.scenes.num_train, count), "captions": CAPTIONS}


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _small(values: Tensor) -> Tensor:
    """The same numbers in the smallest of uint8, int16, int32 that holds the largest; no count is negative."""
    if values.is_floating_point():
        return values
    largest = values.max().item()
    return values.to(next(kind for kind in (torch.uint8, torch.int16, torch.int32) if largest <= torch.iinfo(kind).max))
