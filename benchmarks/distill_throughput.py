"""Images per processor second of a distillation: distill, lightly-train's distillationv3, and a bare torch loop.

    python benchmarks/distill_throughput.py --name distill_throughput          against the bare loop only
    python benchmarks/distill_throughput.py --lightly-python PATH --name ...   against lightly-train as well

lightly-train wants versions of its own, so it lives in an environment of its own, whose interpreter PATH is:

    python3.11 -m venv LIGHTLY && LIGHTLY/bin/pip install "lightly-train[timm]==0.18.0"

Same random teacher and student, same pictures, same crop and batch, fp32. README.md says how to read the table.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.meter import Ratio, Spent, middle, ratio
from benchmarks.record import Record, Table, conditions, now, show, write
from benchmarks.sides import CPU, BareLoop, Lightly, Pair, Window, measure_distill, write_pictures, write_teacher
from distill.config import Recipe, differences, load_recipe, recipe_dict

FULL = Pair("vit_tiny_patch16_224", "vit_small_patch16_224", image_size=224, batch_size=8, num_pictures=256)
TINY = Pair("test_vit", "test_vit", image_size=32, batch_size=4, num_pictures=24)
RESULTS = Path(__file__).resolve().parent / "results"

RECIPE = "deit_photos"
LINES: dict[str, list[str]] = {
    "distill, live": [],
    "distill, cached fp32": ["data.views.fixed=1", "teacher.cache=@fp32"],
    "distill, cached int8": ["data.views.fixed=1", "teacher.cache=@int8", "teacher.cache_storage=int8"],
    "distill, 75 % dropped": ["masking.ratio=0.75", "masking.how=drop", "objective.patch.supervise=visible"],
}
"""What distill is measured with: each line is the same run with some settings more. A line that saves work by changing
what is computed (a cached teacher, dropped tokens) is named after what it changes. `@` is the scratch folder; a cache
is written before the first step and not counted."""

BARE, LIGHTLY = "bare torch loop", "lightly-train distillationv3"


class Bench:
    """Several rounds of all sides, one after the other, in a scratch folder."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options, self.scratch = options, scratch
        self.pair = TINY if options.tiny else FULL
        self.window = Window(steps=options.steps)
        self.rounds: dict[str, list[list[Spent]]] = {}
        self.teacher: list[list[Spent]] = []
        self.recipes = {line: self._recipe(line, 0) for line in LINES}
        write_pictures(scratch / "pictures" / "one", self.pair)
        write_teacher(scratch / "teacher.safetensors", self.pair)

    def measure(self) -> None:
        bare = BareLoop(self.pair)
        for number in range(self.options.repeats):
            self._add(BARE, bare.measure(self.window))
            self.teacher.append(bare.measure_teacher(self.window))
            for line in LINES:
                self._add(line, measure_distill(self._recipe(line, number), self.window))
            if self.options.lightly is not None:
                pictures = self.scratch / "pictures"
                found = self.options.lightly.measure(self.pair, self.window, pictures=pictures, scratch=self.scratch)
                self._add(LIGHTLY, found)

    def record(self, command: str) -> Record:
        found = conditions(precision="fp32", device=CPU)
        if self.options.lightly is not None:
            versions = self.options.lightly.versions
            found["lightly-train's side"] = ", ".join(f"{package} {version}" for package, version in versions.items())
        base = load_recipe(RECIPE)
        return Record(
            name=self.options.name,
            date=now(),
            command=command,
            conditions=found,
            tables=[self.table()],
            recipes={line: self._placeless(recipe_dict(recipe)) for line, recipe in self.recipes.items()},
            changes={
                line: self._placeless(differences(base, recipe, ignore=("run", "name")))
                for line, recipe in self.recipes.items()
            },
        )

    def table(self) -> Table:
        middles = {side: [middle(steps) for steps in rounds] for side, rounds in self.rounds.items()}
        rows, numbers = [], {}
        for side, seen in middles.items():
            whole = middle(seen)
            over_bare = ratio(middles[BARE], seen, CPU)
            over_lightly = ratio(middles[LIGHTLY], seen, CPU) if LIGHTLY in middles else None
            rate = self.pair.batch_size / whole.cpu
            rows.append([side, f"{rate:.2f}", f"{whole.cpu:.3f}", f"{whole.wall:.3f}", _times(over_bare)])
            rows[-1].append("–" if over_lightly is None else _times(over_lightly))
            numbers[side] = {
                "images_per_cpu_second": rate,
                "step": asdict(whole),
                "over_bare": asdict(over_bare),
                "over_lightly": None if over_lightly is None else asdict(over_lightly),
                "rounds": [[asdict(step) for step in steps] for steps in self.rounds[side]],
            }
        share = ratio([middle(steps) for steps in self.teacher], middles[BARE], CPU)
        numbers[BARE]["teacher_over_step"] = asdict(share)
        pair, window = self.pair, self.window
        note = (
            f"Rounds: {self.options.repeats}, of {window.steps} steps after {window.warm_up}; medians of medians. "
            "Ratios of speed are taken within a round: median (smallest to largest). The bare loop reads no data; the "
            f"teacher's pass is {share.median:.0%} of its step."
        )
        title = f"{pair.student} from {pair.teacher}, {pair.image_size} px, batch {pair.batch_size}"
        columns = ["side", "images/CPU-s", "step CPU-s", "step s", "speed over bare", "over lightly-train"]
        return Table(title, note, columns, rows, numbers)

    def _add(self, side: str, steps: list[Spent]) -> None:
        self.rounds.setdefault(side, []).append(steps)
        print(f"{side}: {self.pair.batch_size / middle(steps).cpu:.2f} images/CPU-s", file=sys.stderr, flush=True)

    def _recipe(self, line: str, number: int) -> Recipe:
        pair = self.pair
        words = [
            f"data.image_size={pair.image_size}",
            f"data.batch_size={pair.batch_size}",
            f"data.dataset.path={self.scratch}/pictures/**/*.jpg",
            f"teacher.model=timm:{pair.teacher}",
            f"teacher.weights={self.scratch}/teacher.safetensors",
            f"teacher.image_size={pair.image_size}",
            f"student.image.model=timm:{pair.student}",
            *("student.image.width=null", "student.image.num_heads=null"),
            *(f"optim.steps={self.window.total}", "precision=fp32"),
            *("evaluate.tasks=[]", "evaluate.baselines=false", "evaluate.classes=null"),
            *(f"run.folder={self.scratch}/runs", f"run.name={line.replace(' ', '_')}-{number}"),
            *("run.workers=1", "run.prefetch=1", "run.device=cpu"),
        ]
        return load_recipe(RECIPE, [*words, *(word.replace("@", f"{self.scratch}/") for word in LINES[line])])

    def _placeless(self, values: Any) -> Any:
        """The same with a word in place of the scratch folder."""
        return json.loads(json.dumps(values).replace(str(self.scratch), "SCRATCH"))


def _times(found: Ratio) -> str:
    return f"{found.median:.2f}× ({found.low:.2f} to {found.high:.2f})"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lightly-python", type=Path, metavar="PATH", help="an interpreter that has lightly-train")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--steps", type=int, default=10, help="steps that count in every round (default 10)")
    parser.add_argument("--name", help="of the files in benchmarks/results; nothing is written without it")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="instead of benchmarks/results")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.threads < 1 or options.steps < 1:
        parser.error("--repeats, --threads and --steps are at least 1")
    options.lightly = None
    if options.lightly_python is not None:
        try:
            options.lightly = Lightly(options.lightly_python, threads=options.threads)
        except ValueError as problem:
            parser.error(f"--lightly-python: {problem}")
    return options


def main(arguments: Sequence[str] | None = None) -> Record:
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(words)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        bench.measure()
        shown = ["PATH" if word == str(options.lightly_python) else word for word in words]
        record = bench.record(shlex.join(["python", "benchmarks/distill_throughput.py", *shown]))
    if options.name is not None:
        write(record, options.to)
    console = Console()
    show(record, console if console.is_terminal else Console(width=150))
    return record


if __name__ == "__main__":
    main()
