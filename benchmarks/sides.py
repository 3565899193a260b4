"""The sides of distill_throughput.py: the same teacher and student in a bare loop, in distill, and in lightly-train.

Legend: B pictures, T tokens, D width.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from benchmarks.meter import Spent, spend
from distill.config import Recipe
from distill.exit_codes import FINISHED
from distill.train import loop

CPU = torch.device("cpu")
LIGHTLY_SIDE = Path(__file__).resolve().parent / "lightly_side.py"


@dataclass(frozen=True)
class Pair:
    """Names of timm models, both with random weights, and the pictures they are shown."""

    student: str
    teacher: str
    image_size: int
    batch_size: int
    num_pictures: int


@dataclass(frozen=True)
class Window:
    """How many steps count, after how many that do not. `ahead` more follow: a loader that works ahead would have
    nothing left to do in the last ones."""

    steps: int
    warm_up: int = 2
    ahead: int = 3

    @property
    def total(self) -> int:
        return self.warm_up + self.steps + self.ahead

    def cut(self, ends: list[tuple[float, float]]) -> list[Spent]:
        """The steps that count, from the (wall, processor) seconds at which every step ended."""
        if len(ends) < self.total:
            raise ValueError(f"{self.total} steps were asked for and {len(ends)} were made")
        chosen = ends[self.warm_up - 1 : self.warm_up + self.steps]
        return [Spent(wall=late[0] - early[0], cpu=late[1] - early[1]) for early, late in pairwise(chosen)]


def write_pictures(folder: Path, pair: Pair) -> None:
    """JPEGs somewhat larger than the crops, of coarse noise: a flat picture would cost the decoder too little."""
    generator = np.random.default_rng(0)
    side = pair.image_size * 8 // 7
    folder.mkdir(parents=True)
    for number in range(pair.num_pictures):
        coarse = generator.integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:04d}.jpg", quality=90)


def write_teacher(path: Path, pair: Pair) -> None:
    """Random weights of the teacher as a file, which is how distill takes a teacher."""
    torch.manual_seed(0)
    save_file(timm.create_model(pair.teacher, pretrained=False, num_classes=0).state_dict(), path)


class BareLoop:
    """The least that a distillation can be: both forward passes, a linear adapter, MSE on all tokens, AdamW.

    Its pictures lie in memory: there is no data to read.
    """

    def __init__(self, pair: Pair):
        torch.manual_seed(0)
        sizes = {"pretrained": False, "num_classes": 0, "img_size": pair.image_size}
        self.student = timm.create_model(pair.student, **sizes)
        self.teacher = timm.create_model(pair.teacher, **sizes).eval().requires_grad_(False)
        self.adapter = nn.Linear(self.student.embed_dim, self.teacher.embed_dim)
        trained = [*self.student.parameters(), *self.adapter.parameters()]
        self.optimiser = torch.optim.AdamW([p for p in trained if p.requires_grad], fused=True)
        self.pixels = torch.rand(pair.batch_size, 3, pair.image_size, pair.image_size)

    def measure(self, window: Window) -> list[Spent]:
        return [spend(self._step, CPU) for _ in range(window.warm_up + window.steps)][window.warm_up :]

    def measure_teacher(self, window: Window) -> list[Spent]:
        """Of the step, the teacher's pass."""
        return [spend(self._taught, CPU) for _ in range(window.steps)]

    @torch.no_grad()
    def _taught(self) -> torch.Tensor:
        return self.teacher.forward_features(self.pixels)

    def _step(self) -> None:
        wanted_BTD = self._taught()
        found_BTD = self.adapter(self.student.forward_features(self.pixels))
        nn.functional.mse_loss(found_BTD, wanted_BTD).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


def measure_distill(recipe: Recipe, window: Window) -> list[Spent]:
    """Steps of distill's own loop, from the end of one to the end of the next: data, step, guard and journal."""
    with _noted_ends() as ends:
        code = loop.train(recipe)
    if code != FINISHED:
        raise RuntimeError(f"the training of {recipe.name} ended with code {code}")
    return window.cut(ends)


@contextmanager
def _noted_ends() -> Iterator[list[tuple[float, float]]]:
    """While it lasts, the loop's training step notes both clocks when it ends."""
    ends: list[tuple[float, float]] = []
    original = loop.training_step

    def noted(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        ends.append((time.perf_counter(), time.process_time()))
        return result

    loop.training_step = noted
    try:
        yield ends
    finally:
        loop.training_step = original


class Lightly:
    """lightly-train behind the interpreter of its own environment, offline and without telemetry."""

    def __init__(self, python: Path, *, threads: int):
        """Raises ValueError when the interpreter is not there or lacks lightly-train."""
        self.python, self.threads = python, threads
        self.versions: dict[str, str] = self._ask("--versions", cwd=None)

    def measure(self, pair: Pair, window: Window, *, pictures: Path, scratch: Path) -> list[Spent]:
        """Steps of lightly-train's own loop, from the end of one to the end of the next."""
        settings = {
            "pictures": pictures,
            "out": scratch / "lightly",
            "student": pair.student,
            "teacher": pair.teacher,
            "image-size": pair.image_size,
            "batch": pair.batch_size,
            "queue": min(64, pair.num_pictures // 2),
            "steps": window.total,
            "threads": self.threads,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        return window.cut([tuple(end) for end in self._ask(*words, cwd=scratch)["ends"]])

    def _ask(self, *words: str, cwd: Path | None) -> dict:
        """What the last line of the other side's output says."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {key: str(self.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment |= {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [str(self.python), str(LIGHTLY_SIDE), *words]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
        except OSError as problem:
            raise ValueError(f"{self.python} is no interpreter that can be run: {problem}") from problem
        if ended.returncode != 0:
            last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"lightly-train's side ended with code {ended.returncode}: {last}")
        return json.loads(ended.stdout.strip().splitlines()[-1])
