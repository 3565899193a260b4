"""What a person watching a study sees: a live table of cells on a terminal, one line per change elsewhere."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distill.study.jobs import SUMMARY, Job, error_of, is_trained
from distill.study.run.schedule import Progress

TAIL_BYTES = 16_384
SHOWN_WAITING = 4


@dataclass(frozen=True)
class Glimpse:
    """How far a run is: its last logged step and loss, and when that was written. Zero before the first line."""

    step: int
    loss: float | None
    when: float


def glimpse(run: Path) -> Glimpse:
    """From the last lines of metrics.jsonl; a line that is being written is not looked at."""
    path = run / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
            when = path.stat().st_mtime
    except OSError:
        return Glimpse(0, None, 0.0)
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "loss" in entry:
            return Glimpse(entry["step"], entry["loss"], when)
    return Glimpse(0, None, 0.0)


class Watch:
    """Shows the schedule's progress, and how long is left from what the runs so far took."""

    def __init__(self, jobs: Sequence[Job], *, title: str, places: int, console: Console | None = None):
        self.jobs, self.title, self.places = list(jobs), title, places
        self.console = console or Console(stderr=True)
        self.started = time.monotonic()
        self._began: dict[str, tuple[float, int]] = {}
        self._said: dict[str, str] = {}
        self._looked = False
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "Watch":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self, progress: Progress) -> None:
        for name, (job, _) in progress.running.items():
            self._began.setdefault(name, (time.monotonic(), glimpse(job.folder).step))
        if self._live is not None:
            self._live.update(Group(self.table(progress), self.footer(progress)), refresh=True)
        else:
            self._say_changes(progress)

    def table(self, progress: Progress) -> Table:
        """Running cells with step, loss and time left; then what failed, and what comes next."""
        table = Table(title=self.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("cell", "seed", "state", "step", "loss", "left"):
            table.add_column(name, justify="right" if name in ("step", "loss", "left") else "left", no_wrap=True)
        for job, _ in progress.running.values():
            table.add_row(*self._running_row(job))
        for job in progress.elsewhere:
            seen = glimpse(job.folder)
            table.add_row(job.cell.name, str(job.seed), "elsewhere", _of(seen.step, job), _loss(seen), "")
        for job in progress.of("failed"):
            table.add_row(job.cell.name, str(job.seed), Text("failed", "red"), Text(error_of(job), "red"))
        for job in progress.waiting[:SHOWN_WAITING]:
            what = "next" if all(is_trained(each) for each in job.needs) else f"after {job.needs[0].cell.name}"
            table.add_row(job.cell.name, str(job.seed), Text(what, "dim"))
        return table

    def footer(self, progress: Progress) -> Text:
        counts = Counter(outcome for _, outcome in progress.ended.values())
        more = len(progress.waiting) - SHOWN_WAITING
        parts = [f"{counts['done']} of {len(self.jobs)} done"]
        parts += [f"{counts[name]} {name}" for name in ("failed", "blocked", "interrupted") if counts[name]]
        parts += [f"{more} more waiting"] if more > 0 else []
        left = self.seconds_left(progress)
        parts += [f"about {duration(left)} left"] if left is not None else []
        return Text(", ".join(parts), style="bold")

    def seconds_left(self, progress: Progress) -> float | None:
        """By the mean seconds of the runs that are done; None while none is."""
        took = [seconds for job in progress.of("done") if (seconds := seconds_of(job)) is not None]
        if not took:
            return None
        each = sum(took) / len(took)
        running = sum(left if (left := self._left(job)) is not None else each for job, _ in progress.running.values())
        return (running + each * (len(progress.waiting) + len(progress.elsewhere))) / self.places

    def _running_row(self, job: Job) -> tuple[str, ...]:
        seen, left = glimpse(job.folder), self._left(job)
        state = "training" if seen.step else "starting"
        if is_trained(job):
            state, left = "measuring", None
        return (
            job.cell.name,
            str(job.seed),
            state,
            _of(seen.step, job),
            _loss(seen),
            "" if left is None else duration(left),
        )

    def _left(self, job: Job) -> float | None:
        """Seconds of training left at the pace since this process began to watch the job."""
        seen = glimpse(job.folder)
        began, first_step = self._began.get(job.name, (time.monotonic(), 0))
        done = seen.step - first_step
        if done <= 0:
            return None
        return (time.monotonic() - began) / done * (job.recipe.optim.steps - seen.step)

    def _say_changes(self, progress: Progress) -> None:
        states = {name: "started" for name in progress.running}
        states |= {job.name: "is carried out by another process" for job in progress.elsewhere}
        states |= {name: outcome for name, (_, outcome) in progress.ended.items() if outcome != "blocked"}
        left = self.seconds_left(progress)
        if not self._looked:
            self._looked = True
            before = [job.name for job in progress.of("done")]
            self._said |= dict.fromkeys(before, "done")
            self.console.print(f"{'0 s':>8}  {len(before)} of {len(self.jobs)} runs are done already", highlight=False)
        for name, state in states.items():
            if self._said.get(name) == state:
                continue
            self._said[name] = state
            done = f"{len(progress.of('done'))}/{len(self.jobs)}"
            why = f": {error_of(progress.ended[name][0])}" if state == "failed" else ""
            rest = f", about {duration(left)} left" if left is not None and state == "done" else ""
            elapsed = duration(time.monotonic() - self.started)
            self.console.print(f"{elapsed:>8}  {done}  {name} {state}{why}{rest}", soft_wrap=True, highlight=False)


def seconds_of(job: Job) -> float | int | None:
    """Seconds of training of a finished run, of its last uninterrupted stretch."""
    path = job.folder / SUMMARY
    return json.loads(path.read_text())["seconds"] if path.exists() else None


def duration(seconds: float | int) -> str:
    """`45 s`, `12 min`, `3.2 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _of(step: int, job: Job) -> str:
    return f"{step}/{job.recipe.optim.steps}"


def _loss(seen: Glimpse) -> str:
    return "" if seen.loss is None else f"{seen.loss:.3f}"
