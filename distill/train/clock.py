"""Throughput and waiting of a run, between two readings, and the most memory it took."""

import resource
import sys
import time
from statistics import median

import torch

from distill.data.loader import BatchStream


class Clock:
    """Reads images per second and the share of time spent waiting for data since the last reading."""

    def __init__(self, stream: BatchStream, batch_size: int, *, step: int):
        self._stream = stream
        self._batch_size = batch_size
        self._started = time.perf_counter()
        self._paces: list[float] = []
        self.evaluations: list[float] = []
        """Seconds that each evaluation took."""
        self._reset(step)

    def read(self, step: int) -> dict[str, float]:
        elapsed = time.perf_counter() - self._then
        waited = self._stream.wait_seconds - self._waited
        images = (step - self._step) * self._batch_size
        if step > self._step:
            self._paces.append(elapsed / (step - self._step))
        self._reset(step)
        return {"images_per_second": images / elapsed, "wait_share": min(waited / elapsed, 1.0)}

    def seconds_per_step(self) -> float | None:
        """Median over the readings: evaluations and other work on the machine fall into few of them."""
        return median(self._paces) if self._paces else None

    def total_seconds(self) -> float:
        return time.perf_counter() - self._started

    def evaluation_share(self) -> float:
        """Of the time since the start, or since the run was resumed, that went into evaluations."""
        return sum(self.evaluations) / self.total_seconds()

    def _reset(self, step: int) -> None:
        self._then, self._waited, self._step = time.perf_counter(), self._stream.wait_seconds, step


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has taken: tensors on a GPU, else everything, Python and libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
