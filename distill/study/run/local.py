"""Workers on this machine: one process per job, threads and GPUs shared out so that they do not fight."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from distill.study.jobs import Job

CORES_PER_WORKER = 8
"""On a machine without GPUs; on a small one, at most two workers."""


@dataclass(frozen=True)
class Share:
    """What one worker gets: a number of threads, and a GPU where there are some; None leaves it the whole machine."""

    threads: int | None
    gpu: int | None


def shares(*, workers: int | None, cores: int, gpus: int) -> list[Share]:
    """One worker per GPU, else one per 8 cores but two on a small machine; `workers` says otherwise.

    Small encoders use two cores better as two workers of one thread than as one of two.
    """
    count = workers or gpus or max(min(2, cores), cores // CORES_PER_WORKER)
    threads = max(1, cores // count)
    return [Share(threads, number % gpus if gpus else None) for number in range(count)]


def shares_here(workers: int | None) -> list[Share]:
    """`shares` for this machine, as far as this process may use it."""
    return shares(workers=workers, cores=len(os.sched_getaffinity(0)), gpus=torch.cuda.device_count())


@dataclass
class LocalPlace:
    """A worker process. Its output goes to the job's log."""

    process: subprocess.Popen
    share: Share
    free: list[Share]
    _returned: bool = field(default=False)

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None and not self._returned:
            self._returned = True
            self.free.append(self.share)
            if self.process.stdin is not None:
                self.process.stdin.close()
        return code

    def stop(self) -> None:
        self.process.terminate()


class LocalRunner:
    """Starts `distill study work …` for every job, as many at a time as there are shares."""

    def __init__(self, arguments: Sequence[str], *, shares: Sequence[Share]):
        """`arguments`: what `distill study work` needs besides the cell and the seed."""
        self.arguments = list(arguments)
        self.places = len(shares)
        self.free = list(shares)

    def start(self, job: Job) -> LocalPlace:
        share = self.free.pop(0)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        words = ["study", "work", *self.arguments, "--cell", job.cell.name, "--seeds", str(job.seed), "--with-parent"]
        with job.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distill", *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the schedule, which asks its workers to end; they also end when it is gone.
                start_new_session=True,
                env=environment_of(share),
            )
        return LocalPlace(process, share, self.free)


def environment_of(share: Share) -> dict[str, str]:
    """This process's environment with the share's threads and GPU."""
    changes = {}
    if share.threads is not None:
        changes = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(share.threads))
    if share.gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        changes["CUDA_VISIBLE_DEVICES"] = visible[share.gpu] if visible != [""] else str(share.gpu)
    return {**os.environ, **changes}
