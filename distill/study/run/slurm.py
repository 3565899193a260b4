"""Workers on a Slurm cluster, through submitit: one job per run, queued again after pre-emption or a time limit."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from distill.exit_codes import BUSY, DIVERGED, FAILED, FINISHED, INTERRUPTED
from distill.extras import optional_module
from distill.study.jobs import Job
from distill.study.run.work import note_error

PLACES = 16
GRACE_SECONDS = 60
"""For the checkpoint after a request to end; Slurm itself waits 30 seconds by default before it kills."""


class Command:
    """What a Slurm job runs: `distill study work …` in a process of its own.

    submitit calls `checkpoint` when the job is about to be pre-empted or has used up its time, and queues what that
    returns: the same command, which goes on from the run's last checkpoint.
    """

    def __init__(self, words: Sequence[str], log: Path):
        self.words, self.log = list(words), log
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "distill", "study", "work", *self.words]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
            return self._process.wait()

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):  # then it goes on from an earlier checkpoint
                self._process.wait(GRACE_SECONDS)
        return DelayedSubmission(Command(self.words, self.log))


@dataclass
class SlurmPlace:
    """A job in the queue or on a node."""

    submitted: Any
    job: Job
    stopped: bool = False

    def poll(self) -> int | None:
        if not self.submitted.done():
            return None
        if self.submitted.exception() is None:
            code = self.submitted.result()
            return code if code in (FINISHED, DIVERGED, INTERRUPTED, BUSY) else FAILED
        if self.stopped:
            return INTERRUPTED
        note_error(self.job, f"the Slurm job {self.submitted.job_id} failed: {self.submitted.exception()}")
        return FAILED

    def stop(self) -> None:
        self.stopped = True
        self.submitted.cancel()


@dataclass
class Refused:
    """A job that Slurm did not take, such as for a quota."""

    job: Job
    reason: str

    def poll(self) -> int:
        note_error(self.job, f"Slurm refuses the job: {self.reason}")
        return FAILED

    def stop(self) -> None:
        """There is nothing to stop."""


class SlurmRunner:
    """Submits jobs when what they need is trained; at most `places` are queued or running."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        places: int | None,
        settings: Sequence[str],
        cluster: Literal["slurm", "local", "debug"] = "slurm",
    ):
        """`settings` are `key=value` words in submitit's names; `partition=gpu` is Slurm's own.

        Raises ValueError when submitit is not installed or Slurm is not there.
        """
        submitit = optional_module("submitit", needed_by="running on Slurm")
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(**_parameters(settings, shared=submitit.AutoExecutor._valid_parameters()))
        except (RuntimeError, NameError, TypeError) as error:
            raise ValueError(f"submitit refuses: {error}") from error
        self.arguments = list(arguments)
        self.places = places or PLACES

    def start(self, job: Job) -> SlurmPlace:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.executor.update_parameters(name=f"distill-{job.name}")
        words = [*self.arguments, "--cell", job.cell.name, "--seeds", str(job.seed), "--with-parent"]
        try:
            return SlurmPlace(self.executor.submit(Command(words, job.log)), job)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            return Refused(job, str(error))


def _parameters(settings: Sequence[str], *, shared: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--slurm takes key=value, such as partition=gpu, not {word!r}")
        found[key if key in shared or key.startswith("slurm_") else f"slurm_{key}"] = yaml.safe_load(value)
    return found
