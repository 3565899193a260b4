"""What stops a run early: a loss that is not finite, and a request to end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from distill.contracts import Losses

GRACE_SECONDS = 30


class NonFiniteLoss(RuntimeError):
    """Some loss term is NaN or infinite; the message names step, term and the batch's samples."""


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep a run folder to this process; the lock ends with it, however that ends.

    Waits a little for one that was asked to end and still writes its checkpoint. Raises ValueError when it does not.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.with_name(f".{run.name}.lock"), timeout=GRACE_SECONDS, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{run}: another process is training there") from None
    try:
        yield
    finally:
        lock.release()


class FiniteGuard:
    """Remembers the losses of the last steps on the device and looks at them only when asked.

    A GPU is not synchronised every step for this; `check` runs before anything is logged, evaluated or saved.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, list[str], list[str], Tensor]] = []

    def watch(self, step: int, losses: Losses, gradient_norm: Tensor, ids: list[str]) -> None:
        names = [*losses.terms, "total", "gradient norm"]
        values = [*losses.terms.values(), losses.total.detach(), gradient_norm]
        finite = torch.stack([value.detach().float().isfinite() for value in values])
        self._seen.append((step, names, ids, finite))

    def check(self) -> None:
        """Raises NonFiniteLoss for the first step whose loss was not finite."""
        seen, self._seen = self._seen, []
        for step, names, ids, finite in seen:
            if not bool(finite.all()):
                broken = [name for name, good in zip(names, finite.tolist(), strict=True) if not good]
                shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
                raise NonFiniteLoss(f"step {step}: {', '.join(broken)} not finite; samples of the batch: {shown}")


class StopRequest:
    """True once SIGTERM arrived (a scheduler's pre-emption, a `kill`). Restores the old handler on exit."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
