"""Runs of seconds, in this process or in ones that can be killed."""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState

from distill.config import Recipe, load_recipe
from distill.train.loop import Training, build_accelerator, open_run, train

TINY = [
    "precision=fp32",
    "data.batch_size=8",
    "data.scenes.num_train=100",
    "student.text.width=16",
    "student.text.context_length=24",
    "student.head.num_prototypes=32",
    "optim.steps=6",
    "run.log_every=1",
    "run.checkpoint_every=100",
    "run.workers=1",
    "run.device=cpu",
]
"""Two blocks of width 48 on 4 x 4 patches: some hundredths of a second a step."""

MEASURED_TIME = ("images_per_second", "wait_share", "evaluate/evaluate_seconds", "evaluate/evaluate_share")
"""What a journal says about the machine, not about the training."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["distill.train.loop"])


def words(folder: Path, *overrides: str) -> list[str]:
    """Overrides of the recipe `smoke` for a tiny run in `folder`."""
    return [*TINY, f"run.folder={folder.parent}", f"run.name={folder.name}", *overrides]


def tiny(folder: Path, *overrides: str) -> Recipe:
    return load_recipe("smoke", words(folder, *overrides))


def trained(folder: Path, *overrides: str) -> Path:
    """The folder of a run that was carried out in this process."""
    assert train_alone(tiny(folder, *overrides)) == 0
    return folder


def train_alone(recipe: Recipe) -> int:
    """`train`, whatever precision an earlier run of this process had."""
    with own_accelerator():
        return train(recipe)


@contextmanager
def own_accelerator() -> Iterator[None]:
    """accelerate keeps its state per process; a process of ours is one run."""
    _forget_accelerator()
    try:
        yield
    finally:
        _forget_accelerator()


def _forget_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@contextmanager
def opened(recipe: Recipe) -> Iterator[Training]:
    """A training that is ready for its first step."""
    with own_accelerator():
        accelerator = build_accelerator(recipe)
        training = Training(recipe, run=open_run(recipe, accelerator), accelerator=accelerator)
        try:
            yield training
        finally:
            training.stream.close()
            training.journal.__exit__(None, None, None)


def numbers(run: Path) -> list[dict[str, float]]:
    """Every line of a run's journal without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED_TIME} for line in lines]


def to_the_bit(run: Path) -> list[str]:
    """`numbers` as text that is equal exactly when every bit is; nan equals nan."""
    return [json.dumps(line) for line in numbers(run)]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in numbers(run) if "loss" in line]


def start(arguments: Sequence[str], *, log: Path | None = None, **environment: str) -> BaseProcess:
    """A run in its own process, which starts in a fraction of a second and exits with the run's code.

    What it says is appended to `log`.
    """
    child = _context.Process(target=_carry_out, args=(list(arguments), log, environment))
    child.start()
    return child


def _carry_out(arguments: list[str], log: Path | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if log is not None:
        sys.stderr = log.open("a", buffering=1)
    import torch

    torch.set_num_threads(1)
    sys.exit(train(load_recipe("smoke", arguments)))


def process(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """Some work of a test in a process that can be killed."""
    child = _context.Process(target=_alone, args=(work, *arguments))
    child.start()
    return child


def _alone(work: Callable[..., None], *arguments: object) -> None:
    import torch

    torch.set_num_threads(1)
    work(*arguments)
