"""Which job runs when: whatever is ready starts as soon as a place is free; what fails does not stop the rest."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from distill.exit_codes import BUSY, DIVERGED, FINISHED, INTERRUPTED
from distill.study.jobs import ERROR, Job, State, error_of, is_done, is_settled, is_trained, last_words, state_of
from distill.study.run.work import note_error

Outcome = Literal["done", "failed", "blocked", "interrupted", "elsewhere"]


@runtime_checkable
class Place(Protocol):
    """A job that is being carried out somewhere."""

    def poll(self) -> int | None:
        """Its exit code, None while it goes on; negative for a signal."""
        ...

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        ...


@runtime_checkable
class Runner(Protocol):
    """Where jobs are carried out."""

    places: int
    """How many at a time."""

    def start(self, job: Job) -> Place: ...


@dataclass
class Progress:
    """Where the schedule stands: every job is in exactly one of these, by name."""

    waiting: list[Job] = field(default_factory=list)
    running: dict[str, tuple[Job, Place]] = field(default_factory=dict)
    elsewhere: list[Job] = field(default_factory=list)
    ended: dict[str, tuple[Job, Outcome]] = field(default_factory=dict)

    def of(self, outcome: Outcome) -> list[Job]:
        return [job for job, found in self.ended.values() if found == outcome]


def carry_out(
    jobs: Sequence[Job],
    *,
    runner: Runner,
    look: Callable[[Progress], None],
    stopped: Callable[[], bool],
    pause_seconds: float | int = 0.5,
) -> Progress:
    """Run every job that is not done. Jobs that failed in an earlier call get another chance, once.

    `look` sees every change and every pause; when `stopped` says so, running jobs are asked to end and nothing new
    starts. A job that some other process carries out is waited for, and taken over if that process dies.
    """
    progress = Progress(waiting=list(jobs))
    retried: dict[str, int] = {}
    while progress.waiting or progress.running or progress.elsewhere:
        if stopped():
            return _end(progress, look, pause_seconds)
        _collect(progress, retried)
        _sort_out(progress, jobs)
        _start(progress, runner)
        look(progress)
        if progress.waiting or progress.running or progress.elsewhere:
            time.sleep(pause_seconds)
    look(progress)
    return progress


def _collect(progress: Progress, retried: dict[str, int]) -> None:
    """Take in the jobs that ended."""
    for name, (job, place) in list(progress.running.items()):
        code = place.poll()
        if code is None:
            continue
        del progress.running[name]
        if code == -signal.SIGTERM:  # before or after the training, which writes a checkpoint and exits with 75
            code = INTERRUPTED
        if code == FINISHED and is_done(job):
            progress.ended[name] = (job, "done")
        elif code == BUSY:
            progress.elsewhere.append(job)
        elif code == INTERRUPTED and retried.setdefault(name, 0) < 3:
            # Somebody else's SIGTERM, such as a scheduler's pre-emption: it goes on from its checkpoint.
            retried[name] += 1
            progress.waiting.insert(0, job)
        else:
            if not error_of(job):
                note_error(job, _in_words(code, last_words(job)))
            progress.ended[name] = (job, "failed")


def _in_words(code: int, said: str) -> str:
    if code < 0:
        killed = " (no memory left?)" if code == -9 else ""
        return f"ended by signal {-code}{killed}; its last words: {said}"
    if code == DIVERGED:
        return f"the loss was not finite: {said}"
    if code == FINISHED:
        return "ended without an error, but its results are not there"
    return f"ended with code {code}: {said}"


def _sort_out(progress: Progress, jobs: Sequence[Job]) -> None:
    """Jobs that turn out done or blocked leave the queue; those of other processes are looked after."""
    failed = {job.key for job, outcome in progress.ended.values() if outcome in ("failed", "blocked")}
    for job in list(progress.waiting):
        if is_settled(job, jobs):
            progress.waiting.remove(job)
            progress.ended[job.name] = (job, "done")
        elif any(each.key in failed for each in job.needs):
            progress.waiting.remove(job)
            failed.add(job.key)
            progress.ended[job.name] = (job, "blocked")
    for job in list(progress.elsewhere):
        state: State = state_of(job)
        if state != "running":
            progress.elsewhere.remove(job)
            progress.waiting.insert(0, job)


def _start(progress: Progress, runner: Runner) -> None:
    for job in list(progress.waiting):
        if len(progress.running) >= runner.places:
            return
        if all(is_trained(each) for each in job.needs):
            progress.waiting.remove(job)
            (job.folder / ERROR).unlink(missing_ok=True)  # of an earlier call
            progress.running[job.name] = (job, runner.start(job))


def _end(progress: Progress, look: Callable[[Progress], None], pause_seconds: float | int) -> Progress:
    """Ask all running jobs to end, and wait for them."""
    for _, place in progress.running.values():
        place.stop()
    while progress.running:
        for name, (job, place) in list(progress.running.items()):
            code = place.poll()
            if code is not None:
                del progress.running[name]
                progress.ended[name] = (job, "done" if code == FINISHED and is_done(job) else "interrupted")
        look(progress)
        time.sleep(pause_seconds)
    return progress
