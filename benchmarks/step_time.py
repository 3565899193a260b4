"""What a training step costs: speed, memory, phases, and overhead on bare forward and backward passes.

    python benchmarks/step_time.py                     recipes of the small world, ViT-S/16, patch loss, attention
    python benchmarks/step_time.py --sections patch    one part of it
    python benchmarks/step_time.py --gpu               ViT-B/14 in bf16, compiled; needs CUDA

Everything is measured in one process with interleaved repetitions. README.md says how to read the tables.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler looks for GPUs, aloud; read when torch is imported

import torch
from rich.console import Console

from benchmarks import report
from benchmarks.cases import Case
from benchmarks.kernels import Attention, AttentionSizes, PatchLoss, PatchSizes
from benchmarks.measure import Measured, measure_cases, measure_works
from benchmarks.record import Record, Table, conditions, now, show, write
from distill.config import Recipe, differences, load_recipe
from distill.train.loop import build_accelerator

SECTIONS = ("recipes", "vit_small", "patch", "attention")
WORLD: list[str] = []
"""The recipes as they are."""

VIT_SMALL = [
    "data.image_size=224",
    "data.batch_size=8",
    "data.scenes.tier=medium",
    "student.image.model=timm:vit_small_patch16_224",
    *(f"student.image.{size}" for size in ("patch_size=16", "width=384", "depth=12", "num_heads=6")),
    *(f"student.text.{size}" for size in ("width=384", "depth=12", "num_heads=6", "context_length=64")),
    *(f"student.head.{size}" for size in ("num_prototypes=32768", "hidden=2048", "bottleneck=256")),
    "objective.prototypes.balance=centre",
]
"""Towers of TIPSv2's smallest size and the head of DINOv2 and TIPS, on scenes."""

VIT_BASE = [
    *VIT_SMALL,
    "student.image.model=timm:vit_base_patch14_reg1_tipsv2",
    *(f"student.image.{size}" for size in ("patch_size=14", "width=768", "num_heads=12")),
    *(f"student.text.{size}" for size in ("width=768", "num_heads=12")),
    "precision=bf16",
    "compile=true",
]
"""TIPSv2's ViT-B/14."""

TINY = [
    *(f"data.{setting}" for setting in ("image_size=32", "batch_size=8", "scenes.num_train=100")),
    *(f"student.image.{size}" for size in ("patch_size=8", "width=24", "depth=1", "num_heads=2")),
    *(f"student.text.{size}" for size in ("width=16", "depth=1", "num_heads=2", "context_length=24")),
    *(f"student.head.{size}" for size in ("num_prototypes=32", "hidden=16", "bottleneck=8")),
]
RESULTS = Path(__file__).resolve().parent / "results"


class Bench:
    """One benchmark: the accelerator all cases share, a scratch folder, and what was found so far."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options, self.scratch = options, scratch
        self.accelerator = build_accelerator(self._recipe("ibotpp", []))
        self.tables: list[Table] = []
        self.cases: dict[str, Case] = {}
        self.shown_recipes: dict[str, dict[str, Any]] = {}
        self.changes: dict[str, list[str]] = {}

    def recipes(self) -> None:
        """The recipes of the study as they are; the frozen teacher is the iBOT student after one step."""
        words = TINY if self.options.tiny else WORLD
        ibot = self._case("ibot", "ibot", words)
        ibot.step()
        teacher = ibot.save()
        self._case("ibotpp", "ibotpp", words)
        self._case("vanilla", "vanilla", [*words, f"teacher.checkpoint={teacher}"])
        measured = self._measure(["ibot", "ibotpp", "vanilla"], repeats=self.options.repeats)
        self.tables += report.steps(measured, self._title("Recipes of the small world", ibot), self.device)

    def vit_small(self) -> None:
        """iBOT++ at a realistic size, and two switches: head-only EMA, and four micro-batches."""
        words = [*VIT_SMALL, *(TINY if self.options.tiny else [])]
        self._family("ViT-S", words, "iBOT++ on ViT-S/16")

    def gpu(self) -> None:
        """iBOT++ on ViT-B/14 with TIPSv2's architecture, compiled, and the same two switches."""
        words = [*VIT_BASE, f"data.batch_size={self.options.gpu_batch}", *(TINY if self.options.tiny else [])]
        measured = self._family("ViT-B", words, "iBOT++ on ViT-B/14 (TIPSv2), compiled")
        self.tables.append(report.utilisation(measured, peak_tflops=self.options.peak_tflops))

    def patch(self) -> None:
        """Hearing all patches against hearing the hidden ones, chunked and written out."""
        sizes = PatchSizes(images=self.options.gpu_batch) if self.options.gpu else PatchSizes()
        sizes = PatchSizes(4, 16, 16, 16, 8, 64) if self.options.tiny else sizes
        works = PatchLoss(sizes, self.accelerator).works()
        found = measure_works(works, repeats=self._few(), device=self.device)
        self.tables.append(report.patch(found, {name: work() for name, work in works.items()}, sizes, self.device))

    def attention(self) -> None:
        """Plain against fused attention on a CPU."""
        sizes = AttentionSizes(4, 32, 8, 24, 2, 2) if self.options.tiny else AttentionSizes()
        works = Attention(sizes, self.accelerator).works()
        found = measure_works(works, repeats=self._few(), device=self.device)
        self.tables.append(report.attention(found, sizes, self.device))

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def record(self, command: str) -> Record:
        return Record(
            name=self.options.name,
            date=now(),
            command=command,
            conditions=conditions(precision=self.accelerator.mixed_precision, device=self.device),
            tables=self.tables,
            recipes=self.shown_recipes,
            changes=self.changes,
        )

    def close(self) -> None:
        for case in self.cases.values():
            case.close()

    def _family(self, name: str, words: list[str], title: str) -> list[Measured]:
        self._case(name, "ibotpp", words)
        self._case(f"{name}, head-only EMA", "ibotpp", [*words, "teacher.scope=head"])
        self._case(f"{name}, accumulate 4", "ibotpp", [*words, "optim.accumulate=4"])
        measured = self._measure([name, f"{name}, head-only EMA", f"{name}, accumulate 4"], repeats=self._few())
        self.tables += report.steps(measured, self._title(title, self.cases[name]), self.device)
        self.tables.append(report.copies(measured[0], measured[1], self.device))
        self.tables.append(report.accumulation(measured[0], measured[2], self.device))
        return measured

    def _title(self, title: str, case: Case) -> str:
        """The sizes that matter for speed, as they were."""
        data, head = case.recipe.data, case.recipe.student.head
        return f"{title}, {data.image_size} px, batch {data.batch_size}, {head.num_prototypes:,} prototypes"

    def _measure(self, names: list[str], *, repeats: int) -> list[Measured]:
        return measure_cases([self.cases[name] for name in names], repeats=repeats)

    def _few(self) -> int:
        """Repetitions of what takes long; never less than one."""
        return max(1, (self.options.repeats + 1) // 2)

    def _case(self, name: str, recipe: str, words: list[str]) -> Case:
        run = self.scratch / str(len(self.cases))
        self.cases[name] = Case(name, self._recipe(recipe, words), run=run, accelerator=self.accelerator)
        self.shown_recipes[name] = self.cases[name].shown_recipe()
        self.changes[name] = _changes(self.cases[name].recipe)
        return self.cases[name]

    def _recipe(self, name: str, words: list[str]) -> Recipe:
        device = "auto" if self.options.gpu else "cpu"
        return load_recipe(name, [*words, f"run.device={device}"])


def _changes(recipe: Recipe) -> list[str]:
    """What a case sets differently from the recipe `ibot`, without the scratch folder's name."""
    checkpoint = None if recipe.teacher.checkpoint is None else "STUDENT OF ibot AFTER ONE STEP"
    shown = replace(recipe, teacher=replace(recipe.teacher, checkpoint=checkpoint))
    return differences(load_recipe("ibot"), shown, ignore=("run", "name"))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; half of them for what takes long")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="default: all")
    parser.add_argument("--name", help="of the files in benchmarks/results; nothing is written without it")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="instead of benchmarks/results")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    parser.add_argument("--gpu", action="store_true", help="ViT-B/14 on a CUDA device instead of the sections above")
    parser.add_argument("--gpu-batch", type=int, default=64, help="pictures per step on the GPU (default 64)")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 of the GPU (default: H100, H200)")
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
    command = shlex.join(["python", "benchmarks/step_time.py", *words])
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        try:
            for section in ["gpu", "patch"] if options.gpu else options.sections:
                {
                    "recipes": bench.recipes,
                    "vit_small": bench.vit_small,
                    "patch": bench.patch,
                    "attention": bench.attention,
                    "gpu": bench.gpu,
                }[section]()
                record = bench.record(command)
                if options.name is not None:  # after every section: what was measured survives an interruption
                    write(record, options.to)
        finally:
            bench.close()
    console = Console()
    show(record, console if console.is_terminal else Console(width=150))
    return record


if __name__ == "__main__":
    main()
