"""The runs of a study: one job per cell and seed, addressed by what decides its result.

    STORE/runs/seed0-1f2e3d4c5b/     a run folder, with scores.json once it is measured
    STORE/runs/.1f2e3d4c5b.lock      held by whoever carries the run out
    STORE/STUDY-SCALE/               the report, and in runs/ a link to every run by its cell's name

The key in a folder's name is a hash of every setting except name, places (a teacher cache's is one) and evaluation,
with the key of another run where the settings name one. So a changed cell is a new run, and so is all that depends on
it; everything else is found again, also by other studies that have the same cell, and wherever the store is moved to.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from safetensors import safe_open

from distill.config import Recipe, Teacher, by_teacher
from distill.study.cells import Cell, Study, substituted
from distill.study.keys import cache_key_of, key_of

State = Literal["done", "trained", "started", "new", "waiting", "running", "failed", "blocked"]

SMALL = ("recipe.yaml", "metrics.jsonl", "baselines.json", "summary.json", "pictures.safetensors", "scores.json")
"""The files of a run that results are read from, in the order in which they appear."""

SCORES, PICTURES, ERROR, SUMMARY = "scores.json", "pictures.safetensors", "error.json", "summary.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: its recipe with places filled in, its folder, and the jobs it starts from."""

    cell: Cell
    seed: int
    key: str
    folder: Path
    recipe: Recipe
    needs: tuple["Job", ...]

    @property
    def name(self) -> str:
        return f"{self.cell.name}-seed{self.seed}"

    @property
    def lock(self) -> Path:
        return self.folder.parent / f".{self.key}.lock"

    @property
    def log(self) -> Path:
        """What its workers print. Beside the folder, which belongs to whoever holds the lock."""
        return self.folder.with_suffix(".log")


def jobs_of(study: Study, store: Path, *, seeds: Sequence[int] | None = None) -> tuple[Job, ...]:
    """Every cell for every seed, seed by seed, each after those it needs."""
    made: dict[tuple[str, int], Job] = {}
    for seed in study.seeds if seeds is None else seeds:
        for cell in study.cells:
            needs = tuple(made[name, seed] for name in cell.needs)
            made[cell.name, seed] = _job(cell, seed, needs=needs, store=store)
    return tuple(made.values())


def selected(jobs: Sequence[Job], names: Sequence[str]) -> tuple[Job, ...]:
    """The jobs of these cells and of those they need; all when no cell is named."""
    if not names:
        return tuple(jobs)
    wanted: set[str] = set()
    for job in jobs:
        if job.cell.name in names:
            wanted |= {job.key, *(each.key for each in _all_needs(job))}
    return tuple(job for job in jobs if job.key in wanted)


def seeds_in(store: Path) -> list[int]:
    """The seeds of which the store holds any run."""
    names = (path.name.partition("-")[0].removeprefix("seed") for path in (store / "runs").glob("seed*-*"))
    return sorted({int(name) for name in names if name.isdigit()})


def report_folder(study: Study, store: Path, *, overrides: Sequence[str] = (), part: bool = False) -> Path:
    """One for each study, scale and set of overrides; reports on some of the cells or seeds have one of their own."""
    changed = f"-{hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:6]}" if overrides else ""
    return store / f"{study.name}-{study.scale}{'-quick' * study.quick}{changed}{'-part' * part}"


def pack(jobs: Sequence[Job], store: Path) -> int:
    """Copy what reports need of every job that is done into another store, without checkpoints; returns how many.

    The copy can be reported on, and added to: runs that learn from a packed one train that one again.
    """
    done = [job for job in jobs if is_done(job)]
    for job in done:
        folder = store / "runs" / job.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in SMALL:
            if (job.folder / name).exists():
                shutil.copy2(job.folder / name, folder / name)
    return len(done)


def link_runs(jobs: Sequence[Job], folder: Path) -> None:
    """Links in `folder` to every run that there is, by its cell and seed; where a file system has none, nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        link = folder / job.name
        if job.folder.exists() and not link.is_symlink():
            with suppress(OSError):
                link.symlink_to(os.path.relpath(job.folder, folder))


def state_of(job: Job) -> State:
    """What became of a job so far, from its folder and its lock."""
    if is_running(job):
        return "running"
    if is_done(job):
        return "done"
    if (job.folder / ERROR).exists():
        return "failed"
    if is_trained(job):
        return "trained"
    states = [state_of(each) for each in job.needs]
    if any(state in ("failed", "blocked") for state in states):
        return "blocked"
    if not all(is_trained(each) for each in job.needs):
        return "waiting"
    return "started" if any((job.folder / "checkpoints").glob("step_*")) else "new"


def is_done(job: Job) -> bool:
    """Trained to its end, and measured as its recipe asks now. Checkpoints may be gone: results travel without."""
    return is_finished(job) and is_measured(job)


def is_finished(job: Job) -> bool:
    """Whether the summary is there, which is written when the training ends."""
    return (job.folder / SUMMARY).exists()


def _is_needed(job: Job, jobs: Sequence[Job]) -> bool:
    return any(job.key == need.key for each in jobs if not is_done(each) for need in each.needs)


def is_measured(job: Job) -> bool:
    """Whether `scores.json` holds what would be measured today. Raises ValueError when it cannot be read."""
    path = job.folder / SCORES
    if not path.exists():
        return False
    from distill.study.measure import measuring_fingerprint  # torch only where there is a result to look at

    try:
        measured = json.loads(path.read_text())["measured"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}); delete it to measure this run again") from error
    # Both files are written one after the other: after a kill in between they may be of two measurements.
    return measured == measuring_fingerprint(job.recipe) == _measured_pictures(job.folder / PICTURES)


def is_trained(job: Job) -> bool:
    """Whether others can start from it: the last checkpoint is there, and the summary that is written after it."""
    last = job.folder / "checkpoints" / f"step_{job.recipe.optim.steps:08d}"
    return is_finished(job) and last.is_dir()


def is_settled(job: Job, jobs: Sequence[Job]) -> bool:
    """Done, and no job that is not done lacks its checkpoint."""
    return is_done(job) and (is_trained(job) or not _is_needed(job, jobs))


def is_running(job: Job) -> bool:
    """Whether some process holds the job's lock."""
    if not job.lock.exists():
        return False
    try:
        with lock_of(job):
            return False
    except Timeout:
        return True


def lock_of(job: Job) -> FileLock:
    """Not waiting, and never a file that merely exists: such locks outlive whoever is killed."""
    return FileLock(job.lock, timeout=0, fallback_to_soft=False)


def error_of(job: Job) -> str:
    """The first line of what went wrong; empty when nothing did."""
    path = job.folder / ERROR
    if not path.exists():
        return ""
    try:
        return json.loads(path.read_text())["message"].partition("\n")[0]
    except (ValueError, TypeError, KeyError):
        return f"an error whose record, {path.name}, is damaged"


def last_words(job: Job) -> str:
    """The last line that a job's workers wrote into its log."""
    path = job.log
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def _job(cell: Cell, seed: int, *, needs: tuple[Job, ...], store: Path) -> Job:
    keys = {each.cell.name: f"run:{each.key}" for each in needs}
    places = {each.cell.name: str(each.folder) for each in needs}
    key = key_of(replace(substituted(cell.recipe, keys), seed=seed))
    folder = store / "runs" / f"seed{seed}-{key}"
    run = replace(cell.recipe.run, folder=str(folder.parent), name=folder.name)
    recipe = replace(substituted(cell.recipe, places), seed=seed, run=run)
    recipe = replace(recipe, teacher=_with_caches(recipe, replace(substituted(cell.recipe, keys), seed=seed)))
    return Job(cell=cell, seed=seed, key=key, folder=folder, recipe=recipe, needs=needs)


def _with_caches(recipe: Recipe, content: Recipe) -> Teacher:
    """The recipe's teacher with a folder of its own below every `cache`; `content` decides which."""
    caches = {
        name: str(Path(alone.teacher.cache) / cache_key_of(by_teacher(content)[name]))
        for name, alone in by_teacher(recipe).items()
        if alone.teacher.cache is not None
    }
    if "" in caches:
        return replace(recipe.teacher, cache=caches[""])
    members = {
        name: replace(member, cache=caches.get(name, member.cache)) for name, member in recipe.teacher.members.items()
    }
    return replace(recipe.teacher, members=members)


def _measured_pictures(path: Path) -> str | None:
    """The fingerprint in the file's header; None without the file."""
    if not path.exists():
        return None
    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("measured")


def _all_needs(job: Job) -> list[Job]:
    return [each for need in job.needs for each in (need, *_all_needs(need))]
