"""What was measured of a checkpoint: the results in its run's folder, each with those that it may be compared with.

Two results are put side by side only where they are of the same pictures, measured in the same way by the same version.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Recipe, by_teacher, recipe_from_file
from distill.eval import TASKS
from distill.eval.command import FORMAT
from distill.eval.naming import PLACE_OF, data_in_words
from distill.eval.pictures.files import read_json
from distill.eval.suite.measure import FORMAT as SUITE_FORMAT
from distill.eval.suite.page import READ_BY
from distill.publish.card.sources import run_summary
from distill.train.checkpoint import find

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
CHOSEN = ("chosen", "read")
"""Among the settings of a result: what the measurement found best, which is no setting."""
Values = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One task's result, of the published side and, by what they are, of those that it is compared with."""

    task: str
    data: str
    """In words."""
    num_images: int | None
    """None where the run only knows its budget."""
    values: Values
    others: dict[str, Values]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    suite: str | None = None
    """`MEASUREMENT of the suite NAME`, for a result of one."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A result as a file holds it."""

    side: str
    step: int
    found: Measured
    pictures: Any
    """What tells them from others: fingerprints and distill's version where they were recorded, else where they lay."""


def measured(checkpoint: Path, *, step: int, side: str) -> list[Measured]:
    """Results of `distill eval` on this very step, alone and in whole suites, and of the training's last evaluation for
    tasks that lack one; in the order of the tasks. Raises ValueError, naming it, for a file that is no JSON."""
    recipe = recipe_from_file(checkpoint / "recipe.yaml")
    kept = [*_kept(checkpoint.parent.parent / "eval")]
    beside = [*_of_this_run(kept, recipe, step=step, side=side), *_of_teachers(recipe)]
    own = [each for each in kept if (each.side, each.step) == (side, step)]
    distinct = [each for number, each in enumerate(own) if not any(_alike(each, other) for other in own[:number])]
    found = [_with_others(each, beside) for each in distinct]
    known, summary = {each.task for each in found}, run_summary(checkpoint)
    if recipe.evaluate.side == side and summary.get("steps") == step:
        found += [each for each in _of_training(summary, recipe) if each.task not in known]
    order = [*TASKS]
    return sorted(found, key=lambda each: order.index(each.task) if each.task in order else len(order))


def differing(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of each result, the settings and the number of pictures in which it differs from others of the same task on the
    same data."""
    heard = [
        {"num_images": each.num_images} | {key: value for key, value in each.settings.items() if key not in CHOSEN}
        for each in results
    ]
    found = []
    for each, own in zip(results, heard, strict=True):
        same = [
            other
            for result, other in zip(results, heard, strict=True)
            if (result.task, result.data) == (each.task, each.data)
        ]
        found.append({key: own[key] for key in own if any(other.get(key) != own[key] for other in same)})
    return found


def _kept(folder: Path) -> Iterator[_Kept]:
    """All results in a run's folder. A suite's quick look at a few pictures is none."""
    for path in sorted(folder.glob("*.json")):
        page = read_json(path)
        if _format_of(page) == FORMAT:
            yield _of_one_task(page)
    for path in sorted(folder.glob("*/eval.json")):
        page = read_json(path)
        for encoder in page["encoders"] if _format_of(page) == SUITE_FORMAT else ():
            if encoder["limit"] is None and "run" in encoder["who"]:
                yield from _of_a_suite(encoder, page["suite"])


def passed_over(checkpoint: Path) -> tuple[str, ...]:
    """Files of results of other formats than today's, relative to the run's folder. Raises ValueError as `measured`."""
    run = checkpoint.parent.parent
    found = [(path, FORMAT) for path in sorted((run / "eval").glob("*.json"))]
    found += [(path, SUITE_FORMAT) for path in sorted((run / "eval").glob("*/eval.json"))]
    kinds = [(path, _format_of(read_json(path)), today) for path, today in found]
    return tuple(path.relative_to(run).as_posix() for path, kind, today in kinds if kind not in (None, today))


def _format_of(page: Any) -> Any:
    """None for a page that is nobody's result."""
    return page.get("format") if isinstance(page, dict) else None


def _of_one_task(page: dict[str, Any]) -> _Kept:
    """A page of an earlier version has no fingerprints, and says what it was measured on by its settings."""
    task, asked = page["task"], page["evaluate"]
    place = {key: asked.get(key) for key in (PLACE_OF[task], *READ_BY)}
    return _Kept(
        side=page["side"],
        step=page["step"],
        pictures=(page["data"], page["distill"]) if "data" in page else place,
        found=Measured(
            task=task,
            data=page.get("data_set") or data_in_words(task, asked),
            num_images=page["num_images"],
            values=page["values"],
            others={},
            settings=page["settings"],
            notes=tuple(page.get("notes", ())),
        ),
    )


def _of_a_suite(encoder: dict[str, Any], suite: str) -> Iterator[_Kept]:
    for name, found in encoder["measured"].items():
        yield _Kept(
            side=encoder["who"]["side"],
            step=encoder["who"]["step"],
            pictures=(found["identity"]["data"], found["identity"]["distill"]),
            found=Measured(
                task=found["task"],
                data=found.get("data_set") or f"data of the suite {suite}",
                num_images=found["num_images"],
                values=found["values"],
                others={},
                settings=found["settings"],
                notes=tuple(found["notes"]),
                suite=f"{name} of the suite {suite}",
            ),
        )


def _of_this_run(kept: list[_Kept], recipe: Recipe, *, step: int, side: str) -> Iterator[tuple[str, _Kept]]:
    """What else was measured of the run, with what it is: the other side, and the student before its first step."""
    teacher = "moving average" if recipe.teacher.kind == "momentum" else "teacher after training"
    names = {"student": "student", "teacher": teacher, "untrained": "untrained student"}
    for each in kept:
        if each.side != side and each.step == (0 if each.side == "untrained" else step):
            yield names[each.side], each


def _of_teachers(recipe: Recipe) -> Iterator[tuple[str, _Kept]]:
    """What was measured of frozen teachers that are runs of ours, in their own folders."""
    for member, alone in by_teacher(recipe).items():
        place = alone.teacher.checkpoint or (alone.teacher.model or "").partition("distill:")[2]
        if alone.teacher.kind != "frozen" or not place:
            continue
        try:
            found = find(Path(place))
        except ValueError:  # it is gone
            continue
        for each in _kept(found.folder.parent.parent / "eval"):
            if (each.side, each.step) == ("student", found.step):
                yield f"teacher {member}".strip(), each


def _with_others(own: _Kept, beside: list[tuple[str, _Kept]]) -> Measured:
    others = {name: each.found.values for name, each in beside if _alike(own, each)}
    return Measured(**vars(own.found) | {"others": others})


def _alike(one: _Kept, other: _Kept) -> bool:
    """Whether both are of the same task, on the same pictures, measured in the same way."""
    return one.pictures == other.pictures and _way(one.found) == _way(other.found)


def _way(found: Measured) -> tuple[Any, ...]:
    settings = {key: value for key, value in found.settings.items() if key not in CHOSEN}
    return found.task, found.num_images, settings


def _of_training(summary: dict[str, Any], recipe: Recipe) -> Iterator[Measured]:
    """The journal names a value TASK/VALUE. Baselines were measured by the same run on the same pictures."""
    tasks: dict[str, Values] = {}
    for key, value in summary["scores"].items():
        task, slash, name = key.partition("/")
        if slash:
            tasks.setdefault(task, {})[name] = value
    asked = recipe.evaluate
    before = " before training" if recipe.teacher.kind == "partial" else ""
    for task, values in tasks.items():
        others = {
            "untrained student" if who == "untrained" else f"{who}{before}": {
                name: scores[f"{task}/{name}"] for name in values if f"{task}/{name}" in scores
            }
            for who, scores in summary["baselines"].items()
        }
        used = {name: vars(asked)[name] for name in ("num_images", *USED_BY.get(task, ()))}
        yield Measured(
            task=task,
            data=data_in_words(task, vars(asked)),
            num_images=None,
            values=values,
            others={who: scores for who, scores in others.items() if scores},
            settings={"measured": "at the end of training", **used},
            notes=tuple(_sizes(summary, recipe)) if any(who.startswith("teacher") for who in others) else (),
        )


def _sizes(summary: dict[str, Any], recipe: Recipe) -> Iterator[str]:
    """Teachers take pictures of their own size."""
    for each in summary.get("teachers", ()):
        if each["image_size"] != recipe.data.image_size:
            who = f"teacher {each['member']}".strip()
            yield f"the {who} was shown the same pictures at {each['image_size']} pixels"
