"""Pictures decoded several at a time and one batch ahead, while the encoder works. No result changes.

Legend: B pictures of a batch.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

MAX_THREADS = 8

Place = TypeVar("Place")
Batch = TypeVar("Batch")


def num_threads() -> int:
    """That decode: one for each core that this process may use, at most 8."""
    return min(len(os.sched_getaffinity(0)), MAX_THREADS)


def decoded(read: Callable[[Place], Float[Tensor, "3 H W"]], places: Sequence[Place]) -> Float[Tensor, "B 3 H W"]:
    """What `read` makes of every place, in their order. Raises what it raises for the first that fails."""
    threads = min(num_threads(), len(places))
    if threads < 2:
        return torch.stack([read(place) for place in places])
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        return torch.stack(list(pool.map(read, places)))


@contextmanager
def read_ahead(read: Callable[[int, int], Batch], count: int) -> Iterator[Callable[[int, int], Batch]]:
    """`read` of [start, stop) for who goes through `count` pictures in order: while one batch is used, the next of the
    same size is read, once. What fails is raised when its batch is asked for."""
    waiting: dict[tuple[int, int], Future[Batch]] = {}

    def ahead(start: int, stop: int) -> Batch:
        future = waiting.pop((start, stop), None)
        found = read(start, stop) if future is None else future.result()
        following = (stop, min(2 * stop - start, count))
        if stop < count:
            waiting[following] = pool.submit(read, *following)
        return found

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        yield ahead
