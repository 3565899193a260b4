"""What was measured of a checkpoint: the results in its run's folder, as table rows and for the hub's metadata."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Evaluate, recipe_from_file
from distill.eval.metrics import UNITS, is_error
from distill.eval.suite.measure import FORMAT as SUITE_FORMAT
from distill.publish.card.sources import run_summary, without_places

FORMAT = 1
"""Of the files that `distill eval` writes."""
DATA_OF = {
    **dict.fromkeys(("zero_shot_segmentation", "linear_segmentation", "alignment", "retrieval"), "segmentation"),
    **dict.fromkeys(("knn", "zero_shot_classification", "linear_classification", "health", "agreement"), "classes"),
    "compositional_pairs": "pairs",
    "instance_retrieval": "instances",
    **dict.fromkeys(("depth", "normals"), "geometry"),
}
"""Which setting of `evaluate` names a task's pictures; scenes are drawn where it is not set."""
USED_BY = {
    "zero_shot_segmentation": ("templates", "features", "mode"),
    "zero_shot_classification": ("templates",),
    **dict.fromkeys(("linear_segmentation", "depth", "normals"), ("probe",)),
    "linear_classification": ("classifier",),
}
"""Settings of `evaluate` that a task hears, beside the number of pictures; a training records the values alone."""
HUB_TASKS = {
    "zero_shot_segmentation": "image-segmentation",
    "linear_segmentation": "image-segmentation",
    "retrieval": "image-to-text",
    "knn": "image-classification",
    "linear_classification": "image-classification",
    "zero_shot_classification": "zero-shot-image-classification",
    "compositional_pairs": "zero-shot-image-classification",
    "instance_retrieval": "image-feature-extraction",
    "depth": "depth-estimation",
    "normals": "depth-estimation",
}
"""The hub's names of tasks; what is not among them says something of the training and is no benchmark."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One task's result, of the published side and, by name, of those that it is compared with."""

    task: str
    data: str
    num_images: int | None
    """None where the run only knows its budget."""
    values: dict[str, float | None]
    others: dict[str, dict[str, float | None]]
    """`teacher` and `untrained`, where they were measured in the same way."""
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


def measured(checkpoint: Path, *, step: int, side: str) -> list[Measured]:
    """Results of `distill eval` on this very step, alone and in whole suites, and of the training's last evaluation for
    tasks that lack one."""
    folder = checkpoint.parent.parent / "eval"
    found = [*_of_eval(folder, step=step, side=side), *_of_suites(folder, step=step, side=side)]
    known = {each.task for each in found}
    summary = run_summary(checkpoint)
    if side == "student" and summary.get("steps") == step:
        asked = recipe_from_file(checkpoint / "recipe.yaml").evaluate
        found += [each for each in _of_training(summary, asked) if each.task not in known]
    return found


def shown(name: str, value: float | None) -> str:
    """With its unit; shares in percent."""
    if value is None:
        return "–"
    if is_error(name):
        return f"{value:.3f} {next(unit for ending, unit in UNITS.items() if name.endswith(ending))}"
    return f"{value:.4f}" if name.endswith("_loss") else f"{100 * value:.1f} %"


def _of_eval(folder: Path, *, step: int, side: str) -> Iterator[Measured]:
    pages = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    pages = [page for page in pages if page["format"] == FORMAT and page["step"] in (step, 0)]
    for page in pages:
        if (page["side"], page["step"]) != (side, step):
            continue
        same = ("task", "settings", "num_images")
        others = {
            other["side"]: other["values"]
            for other in pages
            if other["side"] != side and all(other[key] == page[key] for key in same)
        }
        yield Measured(
            task=page["task"],
            data=_data(page["task"], page["evaluate"]),
            num_images=page["num_images"],
            values=page["values"],
            others=others,
            settings=page["settings"],
            notes=tuple(page.get("notes", ())),
        )


def _of_suites(folder: Path, *, step: int, side: str) -> Iterator[Measured]:
    """Whole ones: a quick look at a few pictures is no result."""
    for path in sorted(folder.glob("*/eval.json")):
        page = json.loads(path.read_text())
        for encoder in page["encoders"]:
            who = encoder["who"]
            if (
                page["format"] != SUITE_FORMAT
                or encoder["limit"] is not None
                or (who["side"], who["step"]) != (side, step)
            ):
                continue
            for name, found in encoder["measured"].items():
                yield Measured(
                    task=found["task"],
                    data=f"{name} of the suite {page['suite']}",
                    num_images=found["num_images"],
                    values=found["values"],
                    others={},
                    settings=found["settings"],
                    notes=tuple(found["notes"]),
                )


def _of_training(summary: dict[str, Any], asked: Evaluate) -> Iterator[Measured]:
    """The journal names a value TASK/VALUE."""
    tasks: dict[str, dict[str, float | None]] = {}
    for key, value in summary["scores"].items():
        task, slash, name = key.partition("/")
        if slash:
            tasks.setdefault(task, {})[name] = value
    for task, values in tasks.items():
        others = {
            who: {name: scores[f"{task}/{name}"] for name in values if f"{task}/{name}" in scores}
            for who, scores in summary["baselines"].items()
        }
        used = {name: vars(asked)[name] for name in ("num_images", *USED_BY.get(task, ()))}
        yield Measured(
            task=task,
            data=_data(task, vars(asked)),
            num_images=None,
            values=values,
            others={who: scores for who, scores in others.items() if scores},
            settings={"measured": "at the end of training", **used},
        )


def _data(task: str, asked: dict[str, Any]) -> str:
    place = asked.get(DATA_OF[task]) if task in DATA_OF else None
    return without_places(place.rstrip("/")) if place else "scenes, held out"
