"""How far a measurement is: loops over pictures and training steps say so, and whoever watches is told.

Nobody has to watch, and watching changes no result. One watcher at a time, for the thread that asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable


@runtime_checkable
class Watcher(Protocol):
    def pictures(self, count: int) -> None:
        """So many more have been looked at."""

    def steps(self, done: int, total: int) -> None:
        """A probe has been trained for so many steps."""


_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Inside, the watcher hears of every picture and step."""
    before = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(before)


def saw_pictures(count: int) -> None:
    watcher = _WATCHER.get()
    if watcher is not None:
        watcher.pictures(count)


def did_steps(done: int, total: int) -> None:
    watcher = _WATCHER.get()
    if watcher is not None:
        watcher.steps(done, total)
