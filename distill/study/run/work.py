"""One job from beginning to end: claim it, train it, measure it, and leave behind what went wrong if anything did."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from filelock import Timeout

from distill.config import page_path, save_recipe
from distill.exit_codes import BUSY, DIVERGED, FAILED, FINISHED, INTERRUPTED
from distill.study.jobs import ERROR, Job, is_done, is_trained, lock_of
from distill.train.journal import write_atomically

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""


def work(job: Job, *, launch: str | None = None, again: bool = False) -> int:
    """Carry out one job unless somebody else does. Returns an exit code; never raises for what the job did wrong.

    `launch` names a page of recipes/launch: the training then runs under `accelerate launch` with it. `again` trains a
    job anew whose results are there but whose checkpoint, which others need, is not.
    """
    with claimed(job) as mine:
        if not mine:
            return BUSY
        if is_done(job) and (is_trained(job) or not again):
            return FINISHED
        (job.folder / ERROR).unlink(missing_ok=True)
        try:
            code = _train(job, launch)
            if code == DIVERGED:
                note_error(job, "the loss was not finite; its log says in which step and term")
            if code == FINISHED:
                from distill.study.measure import measure_run

                measure_run(job.folder, job.recipe)
            return code
        except Exception as error:
            note_error(job, f"{type(error).__name__}: {error}", trace=traceback.format_exc())
            traceback.print_exc()
            return FAILED


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Whether the job is ours; the lock goes with the process, however that ends."""
    job.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(job)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def note_error(job: Job, message: str, *, trace: str = "") -> None:
    """Leave `error.json` in the run's folder; it is what the report says about the job."""
    job.folder.mkdir(parents=True, exist_ok=True)
    found = {"message": message, "when": time.strftime("%Y-%m-%d %H:%M:%S"), "traceback": trace}
    write_atomically(job.folder / ERROR, json.dumps(found, indent=1))


def stop_with_parent() -> None:
    """Ask ourselves to end (SIGTERM: checkpoint, then exit) when the parent is gone.

    The parent holds the other end of our standard input and never writes; it closes when the parent dies, also of
    SIGKILL, which no handler of its own could pass on. SIGUSR2, by which Slurm announces a time limit to every
    process of a job, asks for the same.
    """
    signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))

    def wait() -> None:
        # The raw descriptor: a thread inside sys.stdin would hold its lock while the interpreter shuts down.
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _train(job: Job, launch: str | None) -> int:
    if is_trained(job):
        return FINISHED
    if (job.folder / "recipe.yaml").exists():
        # The folder is the key's: only name and places can differ, of a store that was moved or another study's cell.
        save_recipe(job.recipe, job.folder / "recipe.yaml")
    if launch is None:
        from distill.train.loop import train

        return train(job.recipe)
    page = job.folder / "launched.yaml"
    save_recipe(job.recipe, page)
    settings = str(page_path(launch, kind="launch"))
    command = ["-m", "accelerate.commands.launch", "--config_file", settings, "-m", "distill", "train", str(page)]
    asked: list[int] = []
    with subprocess.Popen([sys.executable, *command], stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent) as process:

        def pass_on(number: int, frame: FrameType | None) -> None:
            asked.append(number)
            process.send_signal(number)

        previous = signal.signal(signal.SIGTERM, pass_on)
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    if is_trained(job):
        return FINISHED
    if asked or code == INTERRUPTED:  # the launcher replaces its processes' exit codes by its own
        return INTERRUPTED
    raise RuntimeError(f"accelerate launch ended with code {code}; its output is in {job.log.name}")


def _end_with_parent() -> None:
    """In the launcher, before it starts: the kernel sends SIGTERM when its parent dies, and it passes that on."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
