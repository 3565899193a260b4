"""`distill eval RUN|CHECKPOINT TASK key=value`: a trained encoder from its folder, measured, and written down."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distill import __version__
from distill.compose import compose, live, load_learnt_teacher
from distill.config import Evaluate, Recipe, by_teacher, load_recipe, recipe_from_file
from distill.encoders.dual import DualEncoder
from distill.encoders.weights import load_strictly
from distill.eval import TASKS, EvaluationData, TaskResult, evaluation_data
from distill.eval.in_training import run_task
from distill.eval.metrics import shown_value
from distill.eval.naming import data_in_words
from distill.eval.registry import check_read
from distill.eval.sets import check_words
from distill.eval.suite.fingerprints import fingerprints
from distill.eval.with_teacher import agreement, pictures_of_agreement
from distill.train.checkpoint import Checkpoint, find
from distill.train.journal import write_atomically
from distill.trained import load_trained

Side = Literal["student", "teacher", "untrained"]
SIDE = ("side=", "evaluate.side=")
AGREEMENT = "agreement"
"""The one measure that needs a run's teacher beside its student."""
FORMAT = 1
OF_TRAINING = ("tasks", "every", "baselines", "side")
"""Settings of a recipe's `evaluate` section that say what a training measures and when."""


def evaluate_checkpoint(path: str | Path, task: str, overrides: Sequence[str] = ()) -> int:
    """Measure, print a table and write `eval/TASK.json` in the run folder (`TASK.teacher.json`). Returns 0.

    Overrides: settings of the recipe's `evaluate` section, as `templates=tcl` or `evaluate.templates=tcl`;
    `side=student|teacher|untrained`; `run.device=cpu`. Folders are measured whole unless `num_images` is given.
    Raises ValueError for whatever cannot be found, loaded or understood.
    """
    if task not in (*TASKS, AGREEMENT):
        raise ValueError(f"there is no task {task!r}; the tasks are {', '.join((*TASKS, AGREEMENT))}")
    side, settings = split_overrides(overrides)
    found = find(Path(path))
    measured = [] if task == AGREEMENT else [task]
    # What the run measured in training is not asked for here, nor are the rules about it.
    recipe = load_recipe(str(found.folder / "recipe.yaml"), [f"evaluate.tasks={measured}", *settings])
    check_read(task, settings)
    check_words(task, settings, recipe.evaluate)
    limited = any(setting.startswith("evaluate.num_images=") for setting in settings)
    num_images = recipe.evaluate.num_images if limited else None
    device = "cuda" if torch.cuda.is_available() and recipe.run.device == "auto" else "cpu"
    if task == AGREEMENT:
        if side == "teacher":
            raise ValueError("agreement is that of the student, or with side=untrained of its start, with the teacher")
        result = agreement(found, recipe, side=side, num_images=num_images, device=device)
        data = pictures_of_agreement(recipe, num_images)
    else:
        data = evaluation_data(recipe, num_images)
        encoder, _ = load_encoder(found.folder, side)
        result = run_task(encoder.to(device), task, data=data, recipe=recipe)
    step = 0 if side == "untrained" else found.step
    file = found.folder.parent.parent / "eval" / (f"{task}.json" if side == "student" else f"{task}.{side}.json")
    save_result(result, file, task=task, who={"side": side, "step": step}, asked=recipe.evaluate, data=data)
    show_result(result, file, title=f"{task} of the {side} at step {step}, {result.num_images} pictures")
    return 0


def show_result(result: TaskResult, file: Path, *, title: str) -> None:
    Console().print(table_of(result, title=title))
    for note in result.notes:
        print(note)
    print(f"written to {file}")


def load_encoder(path: str | Path, side: Side = "student") -> tuple[DualEncoder, Recipe]:
    """The encoder of a run or checkpoint folder, in eval mode on the CPU, and the recipe that trained it.

    `teacher` is the moving average of the image tower beside the student's text tower, which has no average; of a
    partly trained teacher, what it started from with what it learnt since. `untrained` is the student before its first
    step, which the recipe's seed and what it starts from give again.
    Raises ValueError when there is no such checkpoint or side.
    """
    found = find(Path(path))
    if side == "untrained":
        recipe = recipe_from_file(found.folder / "recipe.yaml")
        return compose(replace(recipe, teacher=live(recipe.teacher))).learner.encoder.eval(), recipe
    trained = load_trained(found.folder)
    if side == "teacher" and trained.recipe.teacher.kind == "partial":
        return load_learnt_teacher(trained.recipe, found.tensors("teacher")).eval(), trained.recipe
    if side == "teacher":
        load_strictly(trained.encoder.image, _teacher_image(found, trained.recipe), what=f"{found.folder}: teacher")
    return trained.encoder.eval(), trained.recipe


def split_overrides(overrides: Sequence[str]) -> tuple[Side, list[str]]:
    """The side, and the other words with their full keys. Raises ValueError for words that evaluation ignores."""
    side, others = split_side(overrides)
    return side, evaluation_words(others, "side")


def split_side(overrides: Sequence[str]) -> tuple[Side, list[str]]:
    """The side, and the other words as they are. Raises ValueError for a side that there is not."""
    sides = [word.partition("=")[2] for word in overrides if word.startswith(SIDE)]
    for side in sides:
        if side not in get_args(Side):
            raise ValueError(f"side={side}: expected one of {', '.join(get_args(Side))}")
    others = [word for word in overrides if not word.startswith(SIDE)]
    return (sides or ["student"])[-1], others


def evaluation_words(overrides: Sequence[str], *others: str) -> list[str]:
    """Words with their full keys. Raises ValueError for those that evaluation ignores; `others` are known besides."""
    settings = []
    for word in overrides:
        key, equals, value = word.partition("=")
        # The root holds data, so people write it as a setting of the data.
        short = "root" if key == "data.root" else key.removeprefix("evaluate.")
        if short in OF_TRAINING:
            raise ValueError(f"{word}: one task is measured once; {short} is a setting of training")
        elif equals and short.partition(".")[0] in Evaluate.__dataclass_fields__:
            settings.append(f"evaluate.{short}={value}")
        elif key == "run.device":
            settings.append(word)
        else:
            known = [name for name in Evaluate.__dataclass_fields__ if name not in OF_TRAINING]
            named = ", ".join((*others, "run.device", *known))
            raise ValueError(f"{word!r} is no setting of an evaluation; they are {named}")
    return settings


def save_result(
    result: TaskResult, file: Path, *, task: str, who: dict[str, Any], asked: Evaluate, data: EvaluationData
) -> None:
    """Write what was measured, of whom, on what and how; NaN becomes null."""
    settings = {name: value for name, value in asdict(asked).items() if name != "side"}
    content = {
        "format": FORMAT,
        "task": task,
        **who,
        "num_images": result.num_images,
        "values": _without_nan(result.values),
        "per_class": _without_nan(result.per_class),
        "notes": list(result.notes),
        "settings": result.settings,
        "evaluate": settings,
        "data_set": data_in_words(task, settings),
        "data": fingerprints(data),
        "distill": __version__,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(content, indent=1, allow_nan=False))


def table_of(result: TaskResult, *, title: str) -> Table:
    """Every value with its unit, then the classes from best to worst without those that never occurred."""
    table = Table("measure", title=title, min_width=len(title))
    table.add_column("value", justify="right")
    for name, value in result.values.items():
        table.add_row(name, shown_value(name, value))
    occurred = {name: value for name, value in result.per_class.items() if not math.isnan(value)}
    table.add_section()
    for name, value in sorted(occurred.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{100 * value:.2f} %", style="dim")
    return table


def _teacher_image(found: Checkpoint, recipe: Recipe) -> dict[str, Tensor]:
    if recipe.teacher.kind in ("frozen", "ensemble"):
        loaded = [alone.teacher.checkpoint or alone.teacher.model for alone in by_teacher(recipe).values()]
        raise ValueError(
            "side=teacher: frozen teachers are not kept in checkpoints; evaluate what was loaded, "
            f"{' and '.join(map(str, loaded))}"
        )
    held = found.tensors("teacher") if found.has("teacher") else {}
    weights = {name.removeprefix("image."): value for name, value in held.items() if name.startswith("image.")}
    if not weights:
        raise ValueError("side=teacher: this run averages no encoder, its teacher's encoder is the student's own")
    return weights


def _without_nan(values: dict[str, float]) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
