"""What a teacher cache saves: a training step with its data, live and from every storage, and what the cache costs.

    python benchmarks/teacher_cache.py                 ViT-Ti/16 from a ViT-S/16 four times its size, 224 px
    python benchmarks/teacher_cache.py --gpu           ViT-S/16 from a ViT-B/16, bf16; needs CUDA
    python benchmarks/teacher_cache.py --tiny          seconds; the numbers mean nothing

Weights are random: speed does not depend on them. README.md says how to read the tables.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from rich.console import Console
from safetensors.torch import save_file

from benchmarks.cases import Case
from benchmarks.meter import Spent, interleaved, middle, ratio
from benchmarks.record import Record, Table, conditions, now, show, write
from distill.cache.estimate import size
from distill.cache.write import Writer
from distill.config import differences, load_recipe
from distill.encoders.timm_names import known_name
from distill.train.loop import build_accelerator

RESULTS = Path(__file__).resolve().parent / "results"
STORAGES = ("fp32", "fp16", "int8")
COMMON = [
    *("data.image_size=224", "data.scenes.tier=medium", "data.scenes.num_train=64"),
    *("student.text.kind=none", "objective.contrastive.weight=0", "evaluate.tasks=[]"),
    *("masking.ratio=0", "objective.patch.supervise=all", "objective.patch.target=features"),
    *("student.image.patch_size=16", "student.image.depth=12", "student.image.num_cls=1", "teacher.kind=frozen"),
]
"""Feature distillation of every patch, nothing hidden; pictures are read, not drawn."""


@dataclass(frozen=True)
class Pair:
    """A teacher of timm, and a student a quarter of its size."""

    teacher: str
    student: tuple[str, ...]


SMALL = Pair("vit_small_patch16_224", ("student.image.width=192", "student.image.num_heads=3", "data.batch_size=8"))
BASE = Pair("vit_base_patch16_224", ("student.image.width=384", "student.image.num_heads=6", "data.batch_size=64"))
TINY = Pair(
    "vit_tiny_patch16_224",
    (
        *("student.image.width=24", "student.image.num_heads=2", "student.image.depth=1", "data.batch_size=8"),
        *("data.image_size=32", "data.scenes.num_train=16", "student.image.patch_size=8", "teacher.image_size=64"),
    ),
)


class Bench:
    """All cases of one pair in one process."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options, self.scratch = options, scratch
        self.pair = TINY if options.tiny else BASE if options.gpu else SMALL
        weights = scratch / "teacher.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(known_name(self.pair.teacher), num_classes=0).state_dict(), weights)
        self.words = [
            *COMMON,
            *self.pair.student,
            *(f"teacher.model=timm:{self.pair.teacher}", f"teacher.weights={weights}"),
            *(f"data.scenes.cache={scratch}/scenes", f"run.device={'auto' if options.gpu else 'cpu'}"),
            *(["precision=bf16"] if options.gpu else []),
        ]
        self.accelerator = build_accelerator(load_recipe("ibotpp", self.words))
        self.cases: dict[str, Case] = {}
        self.written: dict[str, tuple[float, int, int]] = {}

    def run(self) -> list[Table]:
        self._case("live", [])
        for storage in STORAGES:
            words = [f"teacher.cache={self.scratch}/{storage}", f"teacher.cache_storage={storage}"]
            self.written[storage] = self._write(words)
            self._case(storage, words)
        works = {f"{name}/step": case.step for name, case in self.cases.items()}
        works |= {f"{name}/data": case.draw for name, case in self.cases.items()}
        device = self.accelerator.device
        interleaved(works, repeats=1, device=device)  # warms up, and verifies the caches
        rounds = interleaved(works, repeats=self.options.repeats, device=device)
        return [self._speed(rounds), self._cost()]

    def _write(self, words: list[str]) -> tuple[float, int, int]:
        """Seconds a view, bytes a view, and bytes of the folder."""
        recipe = load_recipe("ibotpp", [*self.words, *words])
        writer = Writer(recipe, device=self.accelerator.device, precision=self.accelerator.mixed_precision)
        started, folder = time.perf_counter(), Path(recipe.teacher.cache)
        writer.write(folder, say=lambda text: None)
        seconds = (time.perf_counter() - started) / writer.index.total
        whole = sum(path.stat().st_size for path in folder.iterdir())
        return seconds, writer.index.layout.bytes_per_view(), whole

    def _case(self, name: str, words: list[str]) -> None:
        recipe = load_recipe("ibotpp", [*self.words, *words])
        self.cases[name] = Case(name, recipe, run=self.scratch / f"run-{name}", accelerator=self.accelerator)

    def _speed(self, rounds: dict[str, list[Spent]]) -> Table:
        device, rows, numbers = self.accelerator.device, [], {}
        whole = {name: [_sum(*pair) for pair in _pairs(rounds, name)] for name in self.cases}
        for name, case in self.cases.items():
            step, data = (middle(rounds[f"{name}/{part}"]).on(device) for part in ("step", "data"))
            of_steps = ratio(rounds["live/step"], rounds[f"{name}/step"], device)
            of_all = ratio(whole["live"], whole[name], device)
            images = case.recipe.data.batch_size / middle(whole[name]).on(device)
            shown = [f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})" for found in (of_steps, of_all)]
            rows.append([name, f"{1000 * step:.1f}", f"{1000 * data:.1f}", f"{images:.1f}", *shown])
            numbers[name] = {"step": step, "data": data, "images_per_second": images}
            numbers[name] |= {"times_live_step": vars(of_steps), "times_live": vars(of_all)}
        return Table(
            title=f"Training with {self.pair.teacher}: {_sizes(self.cases['live'])}, live and from a cache",
            note="Milliseconds are of processors on a CPU, of the wall on a GPU. Data: reading pictures and, from a "
            "cache, the lookup. Times live: how many times as fast as the live teacher, within a round.",
            columns=["teacher", "step, ms", "data, ms", "images/s", "times live, step", "times live, with data"],
            rows=rows,
            numbers=numbers,
        )

    def _cost(self) -> Table:
        rows = [
            [name, f"{1000 * seconds:.2f}", f"{each:,}", size(whole)]
            for name, (seconds, each, whole) in self.written.items()
        ]
        return Table(
            title="Writing the cache, once",
            note="Milliseconds by the wall clock, teacher and checksums included.",
            columns=["storage", "ms a view", "bytes a view", "folder"],
            rows=rows,
            numbers={
                name: {"seconds_per_view": seconds, "bytes_per_view": each, "bytes": whole}
                for name, (seconds, each, whole) in self.written.items()
            },
        )

    def record(self, command: str, tables: list[Table]) -> Record:
        base = load_recipe("ibotpp")
        changes = {name: differences(base, case.recipe, ignore=("run", "name")) for name, case in self.cases.items()}
        here = str(self.scratch)
        return Record(
            name=self.options.name,
            date=now(),
            command=command,
            conditions=conditions(precision=self.accelerator.mixed_precision, device=self.accelerator.device),
            tables=tables,
            recipes={},
            changes={name: [line.replace(here, "SCRATCH") for line in lines] for name, lines in changes.items()},
        )

    def close(self) -> None:
        for case in self.cases.values():
            case.close()


def _pairs(rounds: dict[str, list[Spent]], name: str) -> list[tuple[Spent, Spent]]:
    return list(zip(rounds[f"{name}/step"], rounds[f"{name}/data"], strict=True))


def _sum(one: Spent, other: Spent) -> Spent:
    return Spent(wall=one.wall + other.wall, cpu=one.cpu + other.cpu)


def _sizes(case: Case) -> str:
    """Parameters of the image towers."""
    parts = case.training.parts
    counts = (
        sum(parameter.numel() for parameter in tower.parameters()) / 1e6
        for tower in (parts.teacher.image, parts.learner.encoder.image)
    )
    return "{:.1f} M into {:.1f} M parameters".format(*counts)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--name", help="of the files in benchmarks/results; nothing is written without it")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="instead of benchmarks/results")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    parser.add_argument("--gpu", action="store_true", help="a larger pair on a CUDA device")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a CUDA device, and torch sees none here; leave it out to measure on the CPU")
    return options


def main(arguments: Sequence[str] | None = None) -> Record:
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(words)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        try:
            record = bench.record(shlex.join(["python", "benchmarks/teacher_cache.py", *words]), bench.run())
        finally:
            bench.close()
    if options.name is not None:
        write(record, options.to)
    console = Console()
    show(record, console if console.is_terminal else Console(width=150))
    return record


if __name__ == "__main__":
    main()
