"""What zero-shot segmentation costs beside the encoder's bare forward pass for the same windows.

    python benchmarks/zero_shot_cost.py                ViT-S/16 at 448 px, ADE20K's 150 names, photo-sized pictures
    python benchmarks/zero_shot_cost.py --base         the same with ViT-B/16
    python benchmarks/zero_shot_cost.py --tiny         seconds; the numbers mean nothing

Weights and pictures are random: speed does not depend on them. README.md says how to read the tables.
"""

import argparse
import functools
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from benchmarks.meter import Ratio, Spent, interleaved, middle, ratio, spend
from benchmarks.record import Record, Table, conditions, now, show, write
from distill.config import ImageTower, Student, TextTower
from distill.contracts import SegmentationSet
from distill.encoders.dual import DualEncoder, build_dual
from distill.eval.dense import Windows, best_class, best_class_in_windows, window_grid
from distill.eval.features import patch_map, resize_short_side, short_side_size, stretch
from distill.eval.layouts.names import names
from distill.eval.metrics import count_pixels, count_set
from distill.eval.pictures.files import read_image, to_pixels
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings, class_scores, predict

RESULTS = Path(__file__).resolve().parent / "results"
CPU = torch.device("cpu")
SIZES = ((480, 640), (640, 427), (375, 500), (512, 683))
"""Height and width of the pictures: those of COCO and of ADE20K."""
TINY_SIZES = ((48, 64), (64, 43))
IGNORE = 255
Mode = Literal["whole", "slide"]
TOWERS = {
    "small": ImageTower(model="timm:vit_small_patch16_224", num_cls=1),
    "base": ImageTower(model="timm:vit_base_patch16_224", num_cls=1),
    "tiny": ImageTower(model="timm:vit_tiny_patch16_224", width=24, num_heads=2, depth=1, num_cls=1),
}


@dataclass(frozen=True)
class Loaded:
    """Pictures that are in memory already."""

    items: list[tuple[Tensor, Tensor]]
    class_names: list[str]
    ignore: int = IGNORE

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.items[index]


@dataclass(frozen=True)
class Files:
    """The same pictures as JPEG and PNG files that are read when they are asked for."""

    folder: Path
    num_pictures: int
    class_names: list[str]
    ignore: int = IGNORE

    def __len__(self) -> int:
        return self.num_pictures

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(np.array(read_image(self.folder / f"{index}.png"))).long()
        return to_pixels(read_image(self.folder / f"{index}.jpg")), labels


def draw(folder: Path, sizes: Sequence[tuple[int, int]], *, num_classes: int) -> None:
    """Pictures of soft spots under a little noise, whose files are about as large as photos', and labels in blocks."""
    generator = torch.Generator().manual_seed(0)
    for number, size in enumerate(sizes):
        spots = torch.rand(1, 3, 12, 16, generator=generator)
        soft = torch.nn.functional.interpolate(spots, size, mode="bicubic")[0]
        noisy = (soft + 0.03 * torch.randn(soft.shape, generator=generator)).clamp(0, 1)
        Image.fromarray((255 * noisy).byte().movedim(0, 2).numpy()).save(folder / f"{number}.jpg", quality=90)
        blocks = torch.randint(num_classes, (1, 1, 9, 12), generator=generator).double()
        labels = torch.nn.functional.interpolate(blocks, size, mode="nearest")[0, 0]
        labels[torch.rand(size, generator=generator) < 0.1] = IGNORE
        Image.fromarray(labels.byte().numpy()).save(folder / f"{number}.png")


class Case:
    """One mode: the task on the pictures, and the bare pass of everything that the task shows the encoder."""

    def __init__(self, encoder: DualEncoder, mode: Mode, *, loaded: Loaded, files: Files, side: int):
        self.encoder, self.mode, self.loaded, self.files = encoder, mode, loaded, files
        self.settings = ZeroShotSettings(mode=mode, short_side=side, window=side, stride=side * 3 // 4)
        self.scores = class_scores(encoder, loaded.class_names, self.settings)
        self.shown = [self._shown(pixels) for pixels, _ in loaded.items]

    def _shown(self, pixels: Tensor) -> Tensor:
        """What the encoder sees of a picture: itself, or its windows as one batch."""
        resized = resize_short_side(pixels[None], self.settings.short_side)
        if self.mode == "whole":
            return stretch(resized, self.encoder.image.patch_size)
        windows = self._windows(tuple(resized.shape[-2:]))
        return torch.cat([windows.of(resized, corner) for corner in windows.corners])

    def _windows(self, image_size: tuple[int, int]) -> Windows:
        return window_grid(image_size, window=self.settings.window, stride=self.settings.stride)

    @torch.no_grad()
    def bare(self) -> None:
        for pixels in self.shown:
            self.encoder.image.values(pixels)

    @torch.no_grad()
    def task(self, data: SegmentationSet | None = None) -> None:
        """Everything between pictures in memory, or those of `data`, and their counts."""
        asked = functools.partial(predict, self.encoder.image, scores=self.scores, settings=self.settings)
        count_set(self.loaded if data is None else data, lambda pixels, size: asked(pixels, size=size), batch_size=32)

    @torch.no_grad()
    def parts(self) -> dict[str, float]:
        """Processor seconds of each part of the task."""
        seconds: dict[str, float] = {}

        def timed(name: str, work: Callable[[], Tensor]) -> Tensor:
            made: list[Tensor] = []
            seconds[name] = seconds.get(name, 0.0) + spend(lambda: made.append(work()), CPU).cpu
            return made[0]

        for number, (pixels, labels) in enumerate(self.loaded.items):
            timed("reading", lambda number=number: self.files[number][0])
            shown = timed("resizing", lambda pixels=pixels: self._shown(pixels))
            found = timed("features", lambda shown=shown: self._features(shown))
            size = tuple(labels.shape)
            best = timed("classes", lambda found=found, pixels=pixels, size=size: self._classes(found, pixels, size))
            timed("counting", lambda best=best, labels=labels: self._count(best, labels))
        return seconds

    def _count(self, best: Tensor, labels: Tensor) -> Tensor:
        counts = count_pixels(best, labels[None], num_classes=len(self.loaded.class_names), ignore=IGNORE)
        return counts.intersection_NK

    def _features(self, shown: Tensor) -> Tensor:
        return patch_map(self.encoder.image.values(shown))

    def _classes(self, found: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        unit = torch.nn.functional.normalize(found, dim=1)
        if self.mode == "whole":
            return best_class(unit, self.scores, size=size)
        image_size = short_side_size(*pixels.shape[1:], self.settings.short_side)
        maps, windows = [*self.scores.of(unit).split(1)], self._windows(image_size)
        return best_class_in_windows(maps, windows=windows, image_size=image_size, size=size)


def measure(cases: list[Case], *, repeats: int) -> list[Table]:
    works = {}
    for case in cases:
        works[f"{case.mode}/bare"] = case.bare
        works[f"{case.mode}/task"] = case.task
        works[f"{case.mode}/files"] = functools.partial(case.task, case.files)
    interleaved(works, repeats=1, device=CPU)
    rounds = interleaved(works, repeats=repeats, device=CPU)
    text = spend(lambda: class_scores(cases[0].encoder, cases[0].loaded.class_names, cases[0].settings), CPU)
    parts = {case.mode: [case.parts() for _ in range(max(1, repeats // 2))] for case in cases}
    return [_whole_cost(cases, rounds, text), _part_cost(parts, num_pictures=len(cases[0].loaded))]


def _whole_cost(cases: list[Case], rounds: dict[str, list[Spent]], text: Spent) -> Table:
    rows, numbers = [], {}
    for case in cases:
        bare, task, files = (rounds[f"{case.mode}/{name}"] for name in ("bare", "task", "files"))
        of_task, of_files = ratio(task, bare, CPU), ratio(files, bare, CPU)
        seconds = [middle(each).cpu / len(case.loaded) for each in (bare, task, files)]
        windows = sum(len(shown) for shown in case.shown)
        rows.append([case.mode, f"{windows}", *(f"{each:.3f}" for each in seconds), _times(of_task), _times(of_files)])
        numbers[case.mode] = {"over_bare": asdict(of_task), "over_bare_with_reading": asdict(of_files)}
        numbers[case.mode] |= {
            name: {"cpu": [one.cpu for one in each], "wall": [one.wall for one in each]}
            for name, each in (("bare", bare), ("task", task), ("with_reading", files))
        }
    numbers["text"] = {"cpu": text.cpu}
    num_rounds, settings = len(rounds[f"{cases[0].mode}/bare"]), cases[0].settings
    note = (
        f"Processor seconds a picture, medians of {num_rounds} rounds; ratios within a round, median (smallest to "
        "largest). Bare: `values` of the tower on the same windows, made and resized before, in the same batches. "
        "Task: everything from pictures in memory to counts of pixels. Text features are made once for a set, here in "
        f"{text.cpu:.2f} s by a text tower of two blocks, and are in neither."
    )
    pictures = ", ".join(f"{labels.shape[0]}×{labels.shape[1]}" for _, labels in cases[0].loaded.items)
    title = f"Pictures of {pictures}, {len(cases[0].scores)} classes, short side {settings.short_side}"
    columns = ["mode", "passes", "bare s", "task s", "with files s", "task over bare", "with files over bare"]
    return Table(title, note, columns, rows, numbers)


def _part_cost(parts: dict[str, list[dict[str, float]]], *, num_pictures: int) -> Table:
    names_of = list(next(iter(parts.values()))[0])
    numbers = {mode: {name: _median(each[name] for each in seen) for name in names_of} for mode, seen in parts.items()}
    rows = [
        [
            mode,
            *(f"{1000 * found[name] / num_pictures:.1f} ({found[name] / found['features']:.1%})" for name in names_of),
        ]
        for mode, found in numbers.items()
    ]
    note = (
        "Processor milliseconds a picture, and as a share of the features'. Resizing: also cutting windows and "
        "stretching to whole patches. Classes: cosines, bilinear maps, softmax and mean over windows, arg max."
    )
    return Table("Where the time goes", note, ["mode", *names_of], rows, numbers)


def _median(values) -> float:
    return float(np.median([*values]))


def _times(found: Ratio) -> str:
    return f"{found.median:.3f}× ({found.low:.3f} to {found.high:.3f})"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--name", help="of the files in benchmarks/results; nothing is written without it")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="instead of benchmarks/results")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--tiny", action="store_true", help="seconds instead of minutes; the numbers mean nothing")
    sizes.add_argument("--base", action="store_true", help="ViT-B/16 instead of ViT-S/16")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> Record:
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(words)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tower = TOWERS["tiny" if options.tiny else "base" if options.base else "small"]
    side, sizes = (48, TINY_SIZES) if options.tiny else (448, SIZES)
    encoder = build_dual(Student(image=tower, text=TextTower(width=96, depth=2)), side).eval()
    class_names = names("ade20k")[: 12 if options.tiny else None]
    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch), sizes, num_classes=len(class_names))
        files = Files(Path(scratch), len(sizes), class_names)
        loaded = Loaded([files[number] for number in range(len(files))], class_names)
        cases = [Case(encoder, mode, loaded=loaded, files=files, side=side) for mode in ("whole", "slide")]
        tables = measure(cases, repeats=options.repeats)
    record = Record(
        name=options.name,
        date=now(),
        command=shlex.join(["python", "benchmarks/zero_shot_cost.py", *words]),
        conditions=conditions(precision="fp32", device=CPU) | {"tower": _described(encoder, tower)},
        tables=tables,
        recipes={},
        changes={},
    )
    if options.name is not None:
        write(record, options.to)
    console = Console()
    show(record, console if console.is_terminal else Console(width=150))
    return record


def _described(encoder: DualEncoder, tower: ImageTower) -> str:
    millions = sum(parameter.numel() for parameter in encoder.image.parameters()) / 1e6
    return f"{tower.model.removeprefix('timm:')}, {millions:.1f} M parameters, random weights"


if __name__ == "__main__":
    main()
