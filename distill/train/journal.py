"""What a run tells: metrics.jsonl always, a progress display on a terminal, plain lines elsewhere."""

import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Journal:
    """The record of one run, kept by the main process; on the others it does nothing.

    `metrics.jsonl` has one line per logged step. When a run resumes, the lines after the step it resumes from
    are dropped: they will be written again.
    """

    def __init__(self, run: Path, *, title: str, steps: int, first_step: int, is_main: bool):
        self.is_main = is_main
        self.steps = steps
        self.console = Console(stderr=True, quiet=not is_main)
        self.started = time.monotonic()
        self.first_step = first_step
        self._file: TextIO | None = None
        self._progress: Progress | None = None
        if not is_main:
            return
        path = run / "metrics.jsonl"
        keep_until(path, first_step)
        self._file = path.open("a")
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._progress.add_task(title, total=steps, completed=first_step, numbers="")
            self._progress.start()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            self._file.close()

    def say(self, message: str) -> None:
        """One line for the person at the terminal."""
        self.console.print(message, highlight=False, soft_wrap=True)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write one line of metrics.jsonl and show the main numbers. `step` counts finished steps.

        A mean over nothing, such as the loss on hidden patches where none is hidden, is null.
        """
        if self._file is None:
            return
        known = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **known}) + "\n")
        self._file.flush()
        if "loss" in metrics:
            self._show(step, metrics)

    def _show(self, step: int, metrics: dict[str, float]) -> None:
        terms = "  ".join(
            f"{key.removeprefix('loss/')} {metrics[key]:.3f}" for key in metrics if key.startswith("loss/")
        )
        numbers = (
            f"loss {metrics['loss']:.3f}  {terms}  {metrics['images_per_second']:.0f} img/s  "
            f"waiting {metrics['wait_share']:.0%}"
        )
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers=numbers)
        else:
            elapsed = time.monotonic() - self.started
            left = elapsed / max(step - self.first_step, 1) * (self.steps - step)
            self.say(f"step {step}/{self.steps}  {numbers}  {left:.0f} s left")


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of a metrics file that come after `step`, and a last line cut by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line)
    write_atomically(path, "".join(line + "\n" for line in kept))


def last_evaluation(path: Path) -> dict[str, float]:
    """The scores of the newest evaluation in a metrics file, without their prefix; empty when there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    for entry in map(json.loads, reversed(lines)):
        scores = {key: value for key, value in entry.items() if key.startswith("evaluate/")}
        if scores:
            return {key.removeprefix("evaluate/"): value for key, value in scores.items()}
    return {}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write to, hidden beside `path`, which becomes `path` when all is written and goes on an error.

    Every writer has a place of its own, also on other machines that share the folder: the last one to finish wins,
    and nobody moves the other's half.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk does not say of which file
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """The whole text in UTF-8, or the file as it was."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
