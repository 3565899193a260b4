"""What is to be run and what became of it, as tables for a terminal."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from distill.study.cells import Study
from distill.study.jobs import Job, State, state_of
from distill.study.run.estimate import Cost, checkpoints_kept
from distill.study.run.live import duration

COLOURS: dict[State, str] = {"done": "green", "running": "cyan", "failed": "red", "blocked": "red"}
LETTERS: dict[State, str] = {
    "done": "✓",
    "trained": "trained",
    "started": "started",
    "running": "running",
    "failed": "failed",
    "blocked": "blocked",
    "waiting": "·",
    "new": "·",
}


def planned_table(study: Study, jobs: Sequence[Job], estimates: Mapping[str, Cost | str]) -> Table:
    """One row per cell in the order they run: what it needs, which seeds exist, seconds and bytes of one run."""
    table = _table("cell", "needs", "exists", "one run", "on disk")
    table.columns[3].justify = table.columns[4].justify = "right"
    for cell in study.cells:
        own = [job for job in jobs if job.cell.name == cell.name]
        if not own:
            continue
        states = Counter(state_of(job) for job in own)
        exists = ", ".join(f"{count} {state}" for state, count in states.items() if state not in ("new", "waiting"))
        exists = f"{exists or 'none'} of {len(own)}"
        cost = estimates.get(own[0].name)
        time = size = ""
        if isinstance(cost, Cost):
            time, size = duration(cost.seconds), bytes_in_words(_on_disk(own[0], cost))
        table.add_row(cell.name, ", ".join(cell.needs), exists, time, size)
    return table


def totals(jobs: Sequence[Job], estimates: Mapping[str, Cost | str], *, workers: int, store: Path) -> list[str]:
    """What is left to do in all, and what could not be estimated."""
    left = [job for job in jobs if state_of(job) not in ("done", "trained")]
    known = {job.name: cost for job in left if isinstance(cost := estimates.get(job.name), Cost)}
    lines = [f"{len(jobs) - len(left)} of {len(jobs)} runs are trained; {len(left)} are left"]
    if known:
        seconds = sum(cost.seconds for cost in known.values()) / workers
        size = sum(_on_disk(job, known[job.name]) for job in left if job.name in known)
        place = store if store.exists() else Path(".")
        lines.append(
            f"about {duration(seconds)} with {workers} worker{'s' * (workers > 1)} that would each be as fast as this "
            f"process, measuring not counted; {bytes_in_words(size)} on disk, where "
            f"{bytes_in_words(shutil.disk_usage(place).free)} are free"
        )
    reasons = dict.fromkeys(cost for job in left if isinstance(cost := estimates.get(job.name), str))
    lines += [f"not estimated: {reason}" for reason in reasons]
    return lines


def status_table(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> Table:
    """Cells by seeds."""
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    table = _table("cell", *(f"seed {seed}" for seed in seeds))
    for cell in study.cells:
        own = {job.seed: states[job.name] for job in jobs if job.cell.name == cell.name}
        if own:
            marks = [own.get(seed) for seed in seeds]
            table.add_row(cell.name, *(Text(LETTERS[mark], COLOURS.get(mark, "")) if mark else "" for mark in marks))
    return table


def bytes_in_words(size: float) -> str:
    """`3.2 MB`, `1.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _on_disk(job: Job, cost: Cost) -> int:
    return cost.checkpoint_bytes * checkpoints_kept(job.recipe)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
