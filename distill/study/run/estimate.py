"""How long a study will take and how much it will write, from a few measured steps of each kind of run."""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from distill.compose import live
from distill.config import Recipe, recipe_dict
from distill.study.cells import exchanged
from distill.study.jobs import SUMMARY, Job, is_trained
from distill.train.loop import train

STEPS = 4
"""Measured per kind of run, after one that warms up."""


@dataclass(frozen=True)
class Cost:
    """Of one whole run, on this machine: seconds of training, and bytes of one checkpoint."""

    seconds: float
    checkpoint_bytes: int


def costs(jobs: Sequence[Job], *, say: Callable[[str], None]) -> dict[str, Cost | str]:
    """Job name to its cost, or to why it could not be measured.

    What was trained already is not measured again: its summary knows. Jobs of one kind, equal in all that decides
    the work of a step, are measured once. A teacher that does not exist yet is replaced by one after a single step.
    """
    kinds: dict[str, Cost | str] = {}
    found: dict[str, Cost | str] = {}
    with tempfile.TemporaryDirectory(prefix="distill-plan-") as folder:
        for job in jobs:
            known = _of_finished(job)
            kind = _kind(job)
            if known is None and kind not in kinds:
                say(f"measuring {job.cell.name}")
                kinds[kind] = _try(job, Path(folder))
            found[job.name] = known or kinds[kind]
    return found


def checkpoints_kept(recipe: Recipe) -> int:
    """Checkpoints in a finished run's folder, at most: the newest ones and the best."""
    every = recipe.evaluate.every if recipe.evaluate.tasks and recipe.evaluate.every else recipe.optim.steps
    written = -(-recipe.optim.steps // min(recipe.run.checkpoint_every, every))
    return min(written, recipe.run.keep + (1 if recipe.evaluate.tasks else 0))


def _of_finished(job: Job) -> Cost | None:
    if not is_trained(job):
        return None
    newest = job.folder / "checkpoints" / f"step_{job.recipe.optim.steps:08d}"
    return Cost(json.loads((job.folder / SUMMARY).read_text())["seconds"], _bytes(newest))


def _kind(job: Job) -> str:
    """Everything that decides how long a step takes: not the start, the seed, or how much is hidden."""
    recipe = job.recipe
    values = recipe_dict(replace(recipe, name="", seed=0))
    values["masking"] = recipe.masking.ratio * recipe.masking.image_share > 0
    for teacher in (values["teacher"], *values["teacher"]["members"].values()):
        teacher.pop("cache")
        teacher["checkpoint"] = [_kind(each) for each in job.needs]
    for tower in ("image", "text"):
        values["student"][tower].pop("init")
    values["student"]["head"].pop("init")
    for section in ("evaluate", "run"):
        values.pop(section)
    return json.dumps(values, sort_keys=True)


def _try(job: Job, folder: Path) -> Cost | str:
    try:
        return _measure(_stand_in(job, folder), folder)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        return str(error).partition("\n")[0]


def _stand_in(job: Job, folder: Path) -> Recipe:
    """The job's recipe with teachers that exist: those it needs, or one-step replacements of them."""
    recipe = job.recipe
    for need in job.needs:
        if is_trained(need):
            continue
        name = f"teacher-{need.key}"
        if not (folder / name).exists():
            _rehearse(_stand_in(need, folder), folder, name=name, steps=1)
        recipe = exchanged(recipe, {str(need.folder): str(folder / name)})
    return recipe


def _measure(recipe: Recipe, folder: Path) -> Cost:
    """Five steps and one evaluation of the run itself: its seconds a step, times its steps, and so on."""
    run = _rehearse(recipe, folder, name="tried", steps=1 + STEPS)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [recipe.data.batch_size / line["images_per_second"] for line in lines if "images_per_second" in line]
    evaluations = [line["evaluate/evaluate_seconds"] for line in lines if "evaluate/evaluate_seconds" in line]
    size = _bytes(run / "checkpoints" / f"step_{1 + STEPS:08d}")
    shutil.rmtree(run)
    count = 1 + (recipe.optim.steps // recipe.evaluate.every if recipe.evaluate.every else 0)
    return Cost(median(steps[1:]) * recipe.optim.steps + count * sum(evaluations), size)


def _rehearse(recipe: Recipe, folder: Path, *, name: str, steps: int) -> Path:
    """Train a run for a few steps, and measure it once; returns its folder.

    A teacher that would be cached is run: that takes longer a step, and writing the cache would take longer still.
    """
    recipe = replace(
        recipe,
        teacher=live(recipe.teacher),
        optim=replace(recipe.optim, steps=steps),
        evaluate=replace(recipe.evaluate, every=0, baselines=False),
        run=replace(recipe.run, folder=str(folder), name=name, log_every=1, tracker="none"),
    )
    with contextlib.redirect_stderr(io.StringIO()):
        train(recipe)
    return folder / name


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
