"""What the students see: segmentations by class names and patch features as colours, beneath picture and truth.

Legend: (H, W) pixels, (h, w) patch grid, D width.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.collections import LineCollection
from torch import Tensor

from distill.encoders.dual import DualEncoder
from distill.eval import evaluation_data
from distill.eval.features import resize_short_side, tokens
from distill.eval.pictures.things import num_things_of
from distill.eval.tasks.zero_shot_segmentation import ZeroShotSettings, class_scores, predict
from distill.show.basis import principal_colours
from distill.show.colours import painted
from distill.show.palette import class_colours
from distill.study.report.sheet import Sheet
from distill.study.results import Finished, Results
from distill.train.checkpoint import all_steps
from distill.trained import load_trained

SHOWN = 8
"""The first so many held-out pictures are shown: not chosen."""
CELLS_PER_SHEET = 10
"""So that a sheet fits a printed page."""
FITTED = 64
"""Held-out pictures whose patches fix the colours of the features."""
TASK = "zero_shot_segmentation/value"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one student makes of the pictures: a class per pixel, and its patch features as RGB in [0, 1]."""

    title: str
    classes: list[np.ndarray]
    features: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures [H, W, 3], their true classes [H, W], and a row for every cell that could be shown."""

    pictures: list[np.ndarray]
    truths: list[np.ndarray]
    class_names: list[str]
    num_things: int | None
    ignore: int
    rows: list[Row]
    left_out: list[str]
    """Titles of the cells without a checkpoint or a text tower, or measured on other pictures."""


def gallery(results: Results) -> Gallery | None:
    """The students of every cell's first seed on the same pictures; None where no cell can be shown."""
    runs = [results.of(cell.name)[0] for cell in results.cells]
    able = [run for run in runs if TASK in run.settings and all_steps(run.folder)]
    if not able:
        return None
    data = _pictures(able[0])
    samples = [data[index] for index in range(len(data))]
    titles = {cell.name: cell.title for cell in results.cells}
    same = [run for run in able if _same(_pictures(run)[0], samples[0])]
    rows = [_row(load_trained(run.folder).encoder.eval(), samples, data.class_names, run, titles) for run in same]
    shown = samples[:SHOWN]
    return Gallery(
        pictures=[pixels.permute(1, 2, 0).numpy() for pixels, _ in shown],
        truths=[labels.numpy() for _, labels in shown],
        class_names=data.class_names,
        num_things=num_things_of(data),
        ignore=data.ignore,
        rows=rows,
        left_out=[titles[run.cell] for run in runs if run not in same],
    )


def draw_segmentations(shown: Gallery, folder: Path) -> list[Path]:
    """Write `segmentations.png`, `segmentations_2.png`, ...: some cells each, under the same pictures and truths.

    The truth's borders are drawn into every prediction.
    """
    colour_of = class_colours(len(shown.class_names), shown.num_things, _by_area(shown))
    legend = [(shown.class_names[index], colour_of[index]) for index in sorted(colour_of)]
    drawn = []
    for path, rows in _sheets(shown, folder, "segmentations"):
        titles = ["picture", "truth", *(row.title for row in rows)]
        sheet = Sheet(titles, columns=len(shown.pictures), legend=legend)
        for column, (picture, truth) in enumerate(zip(shown.pictures, shown.truths, strict=True)):
            sheet.show(0, column, picture)
            sheet.show(1, column, painted(truth, colour_of))
            for number, row in enumerate(rows, start=2):
                said, counts = row.classes[column], truth != shown.ignore
                right = f"{100 * (said == truth)[counts].mean():.0f} % right" if counts.any() else ""
                ax = sheet.show(number, column, painted(said, colour_of), below=right)
                # A white seam keeps the black line visible on dark classes.
                for colour, width in (("white", 2.4), ("black", 1.0)):
                    ax.add_collection(LineCollection(_borders(truth), colors=colour, linewidths=width))
        drawn.append(sheet.save(path))
    return drawn


def draw_features(shown: Gallery, folder: Path) -> list[Path]:
    """Write `features.png`, ...: every cell's patch features in its own three principal colours, under the pictures."""
    drawn = []
    for path, rows in _sheets(shown, folder, "features"):
        sheet = Sheet(["picture", *(row.title for row in rows)], columns=len(shown.pictures), legend=[])
        for column, picture in enumerate(shown.pictures):
            sheet.show(0, column, picture)
            for number, row in enumerate(rows, start=1):
                sheet.show(number, column, row.features[column])
        drawn.append(sheet.save(path))
    return drawn


def _pictures(run: Finished):
    recipe = run.recipe
    asked = replace(recipe, evaluate=replace(recipe.evaluate, tasks=("zero_shot_segmentation",)))
    return evaluation_data(asked, FITTED).segmentation


def _same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@torch.no_grad()
def _row(
    encoder: DualEncoder,
    samples: list[tuple[Tensor, Tensor]],
    class_names: list[str],
    run: Finished,
    titles: dict[str, str],
) -> Row:
    settings = ZeroShotSettings(**run.settings[TASK])
    scores = class_scores(encoder, class_names, settings)
    classes, maps = [], []
    for number, (pixels, labels) in enumerate(samples):
        if number < SHOWN:
            size = tuple(labels.shape)
            predicted = predict(encoder.image, pixels[None], scores=scores, size=size, settings=settings)
            classes.append(predicted[0].numpy())
        resized = resize_short_side(pixels[None], settings.short_side)
        found = tokens(encoder.image, resized, kind="final", precision=settings.precision)
        maps.append(found.patches[0].unflatten(0, found.grid).double().numpy())
    return Row(title=titles[run.cell], classes=classes, features=principal_colours(maps)[:SHOWN])


def _sheets(shown: Gallery, folder: Path, name: str) -> list[tuple[Path, list[Row]]]:
    starts = range(0, len(shown.rows), CELLS_PER_SHEET)
    return [
        (folder / (f"{name}_{number}.png" if start else f"{name}.png"), shown.rows[start : start + CELLS_PER_SHEET])
        for number, start in enumerate(starts, start=1)
    ]


def _by_area(shown: Gallery) -> list[int]:
    """Classes that occur in truth or predictions, the largest area first."""
    maps = [*shown.truths, *(each for row in shown.rows for each in row.classes)]
    found, counts = np.unique(np.concatenate([each.ravel() for each in maps]), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [int(index) for index in found[order] if index != shown.ignore]


def _borders(classes: np.ndarray) -> list[list[tuple[float, float]]]:
    """Line segments along pixel edges where the class changes, in imshow's coordinates."""
    right = [[(x + 0.5, y - 0.5), (x + 0.5, y + 0.5)] for y, x in np.argwhere(classes[:, 1:] != classes[:, :-1])]
    below = [[(x - 0.5, y + 0.5), (x + 0.5, y + 0.5)] for y, x in np.argwhere(classes[1:] != classes[:-1])]
    return right + below
