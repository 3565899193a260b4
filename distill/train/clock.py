"""Throughput and waiting of a run, between two readings."""

import time

from distill.data.loader import BatchStream


class Clock:
    """Reads images per second and the share of time spent waiting for data since the last reading."""

    def __init__(self, stream: BatchStream, batch_size: int, *, step: int):
        self._stream = stream
        self._batch_size = batch_size
        self._started = time.perf_counter()
        self._reset(step)

    def read(self, step: int) -> dict[str, float]:
        elapsed = time.perf_counter() - self._then
        waited = self._stream.wait_seconds - self._waited
        images = (step - self._step) * self._batch_size
        self._reset(step)
        return {"images_per_second": images / elapsed, "wait_share": min(waited / elapsed, 1.0)}

    def total_seconds(self) -> float:
        return time.perf_counter() - self._started

    def _reset(self, step: int) -> None:
        self._then, self._waited, self._step = time.perf_counter(), self._stream.wait_seconds, step
