"""Where a publication is written: hidden beside its place until all of it is proven, and gone where it fails."""

import errno
import fcntl
import glob
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

FULL = (errno.ENOSPC, errno.EDQUOT)
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end, besides Ctrl-C: a scheduler, `kill`, a terminal that closes."""


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A folder hidden beside `target` which becomes it when all is done, and goes on an error or an interruption.

    What a publication of the same place left that was killed outright goes first. ValueError where the disk is full,
    and where somebody else has made `target` meanwhile.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(6)}.unfinished")
    begun = unfinished.with_suffix(".begun")  # which no sweep takes before it is locked
    try:
        _sweep(target)
        begun.mkdir(parents=True)
        with _held(begun):
            os.rename(begun, unfinished)
            yield unfinished
            _put(unfinished, target)
    except (OSError, SafetensorError, RuntimeError) as problem:
        if _is_full(problem):
            raise ValueError(f"the disk of {target.parent} is full; nothing was published") from problem
        raise
    finally:
        for left in (begun, unfinished):
            shutil.rmtree(left, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # it holds what was published
                parent.rmdir()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP are what Ctrl-C is, so that nothing half-written stays, save where they are ignored, as under
    nohup. In the main thread only."""
    heard = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, signal.default_int_handler) for each in heard}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def check_room(needed: int, place: Path) -> None:
    """ValueError before anything is written where that many bytes do not fit."""
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ValueError(
            f"the disk of {place.parent} is too full: {free / 1e6:.0f} MB are free, and the weights alone need "
            f"{needed / 1e6:.0f} MB; nothing was published"
        )


def _put(unfinished: Path, target: Path) -> None:
    """The folder in its place. ValueError where something stands there."""
    there = target.exists() or target.is_symlink()  # an empty folder would be replaced without a word
    if not there:
        try:
            os.rename(unfinished, target)
        except OSError as problem:
            if problem.errno not in TAKEN:
                raise
            there = True
    if there:
        raise ValueError(f"{target} was made meanwhile by somebody else; nothing was published")


def _sweep(target: Path) -> None:
    """Delete unfinished folders of this place that nobody holds."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 12}.unfinished"):
        with suppress(OSError), _held(left) as is_ours:
            if is_ours:
                shutil.rmtree(left)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Locked while the process lives, however it ends. False where another one holds it, or the disk knows no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _is_full(problem: BaseException) -> bool:
    """Libraries wrap the system's complaint in errors of their own, or repeat its words."""
    while problem is not None:
        if isinstance(problem, OSError) and problem.errno in FULL:
            return True
        if "No space left on device" in str(problem) or "os error 28" in str(problem):
            return True
        problem = problem.__cause__ or problem.__context__
    return False
