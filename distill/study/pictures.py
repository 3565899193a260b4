"""What the students see: segmentations by class names and patch features as colours, beside picture and truth.

Legend: (H, W) pixels, (h, w) patch grid, D width.
"""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from distill.compose import load_trained
from distill.encoders.dual import DualEncoder
from distill.eval import evaluation_data
from distill.eval.features import resize_short_side, tokens
from distill.eval.things import num_things_of
from distill.eval.zero_shot_segmentation import ZeroShotSettings, class_scores, predict
from distill.study.colours import IGNORED, class_colours
from distill.study.results import Finished, Results, run_path
from distill.train.checkpoint import all_steps

SHOWN = 4
"""The first so many held-out pictures are shown: not chosen."""
FITTED = 64
"""Held-out pictures whose patches fix the colours of the features."""
TASK = "zero_shot_segmentation/value"
INCHES, GAP, MARGIN = 16.0, 0.10, 0.12


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one student makes of the pictures: a class per pixel, and its patch features as RGB in [0, 1]."""

    title: str
    classes: list[np.ndarray]
    features: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures [H, W, 3], their true classes [H, W], and a column for every cell."""

    pictures: list[np.ndarray]
    truths: list[np.ndarray]
    class_names: list[str]
    num_things: int | None
    ignore: int
    columns: list[Column]


def gallery(results: Results, folder: Path) -> Gallery | None:
    """The cells' students of the first seed on the same pictures.

    None where a checkpoint is gone, or where a cell has no text tower and so no segmentation by class names.
    """
    seed = results.seeds[0]
    runs = [results.runs[cell.name, seed] for cell in results.study.cells]
    places = [run_path(folder, run.cell, seed) for run in runs]
    if not all(all_steps(place) and TASK in run.settings for place, run in zip(places, runs, strict=True)):
        return None
    recipe = runs[0].recipe
    asked = replace(recipe, evaluate=replace(recipe.evaluate, tasks=("zero_shot_segmentation",)))
    data = evaluation_data(asked, FITTED).segmentation
    titles = [cell.title for cell in results.study.cells]
    samples = [data[index] for index in range(len(data))]
    columns = [
        _column(load_trained(place).encoder.eval(), samples, data.class_names, run, title)
        for place, run, title in zip(places, runs, titles, strict=True)
    ]
    samples = samples[:SHOWN]
    return Gallery(
        pictures=[pixels.permute(1, 2, 0).numpy() for pixels, _ in samples],
        truths=[labels.numpy() for _, labels in samples],
        class_names=data.class_names,
        num_things=num_things_of(data),
        ignore=data.ignore,
        columns=columns,
    )


def draw_segmentations(shown: Gallery, path: Path) -> Path:
    """Rows: pictures. Columns: picture, truth, every cell; the truth's borders are drawn into every prediction."""
    colour_of = class_colours(len(shown.class_names), shown.num_things, _by_area(shown))
    sheet = Sheet(["picture", "truth", *(column.title for column in shown.columns)], rows=len(shown.pictures))
    for row, (picture, truth) in enumerate(zip(shown.pictures, shown.truths, strict=True)):
        sheet.show(row, 0, picture)
        sheet.show(row, 1, _painted(truth, colour_of))
        for number, column in enumerate(shown.columns, start=2):
            said = column.classes[row]
            counts = truth != shown.ignore
            right = (said == truth)[counts].mean() if counts.any() else float("nan")
            ax = sheet.show(row, number, _painted(said, colour_of), below=f"{100 * right:.0f} % of pixels right")
            # A white seam keeps the black line visible on dark classes.
            for colour, width in (("white", 2.8), ("black", 1.2)):
                ax.add_collection(LineCollection(_borders(truth), colors=colour, linewidths=width))
    sheet.legend([(shown.class_names[index], colour_of[index]) for index in sorted(colour_of)])
    return sheet.save(path)


def draw_features(shown: Gallery, path: Path) -> Path:
    """Rows: pictures. Columns: picture, every cell's patch features in its own three principal colours."""
    sheet = Sheet(["picture", *(column.title for column in shown.columns)], rows=len(shown.pictures))
    for row, picture in enumerate(shown.pictures):
        sheet.show(row, 0, picture)
        for number, column in enumerate(shown.columns, start=1):
            sheet.show(row, number, column.features[row])
    return sheet.save(path)


class Sheet:
    """A grid of square places under titles, 1600 pixels wide."""

    def __init__(self, titles: list[str], *, rows: int):
        self.side = (INCHES - 2 * MARGIN - GAP * (len(titles) - 1)) / len(titles)
        # A letter of 13 points is about 0.095 inches wide.
        wrapped = [textwrap.wrap(title, max(8, int(self.side / 0.095))) for title in titles]
        self.top = 0.25 * max(map(len, wrapped)) + 0.2
        self.rows, self._pitch = rows, self.side + 0.32
        self._legend_inches = 0.0
        self._places: list[tuple[Axes, int, int]] = []
        self._titles = ["\n".join(lines) for lines in wrapped]
        self.figure = Figure(dpi=100, facecolor="white")
        FigureCanvasAgg(self.figure)

    def show(self, row: int, column: int, picture: np.ndarray, *, below: str = "") -> Axes:
        """Draw an RGB picture without smoothing; pictures that are not square keep their aspect."""
        ax = self.figure.add_axes((0, 0, 1, 1), label=f"{row} {column}")
        ax.imshow(picture, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set(color="#888888", linewidth=0.6)
        ax.set_xlabel(below, fontsize=11 if self.side > 1.45 else 9, labelpad=3)
        if row == 0:
            ax.set_title(self._titles[column], fontsize=13, pad=7, va="bottom")
        self._places.append((ax, row, column))
        return ax

    def legend(self, entries: list[tuple[str, str]]) -> None:
        per_row = 9
        self._legend_inches = 0.3 * -(-len(entries) // per_row) + 0.2
        patches = [Patch(facecolor=colour, edgecolor="#666666", label=name) for name, colour in entries]
        self.figure.legend(handles=patches, loc="lower center", ncols=per_row, frameon=False, fontsize=13)

    def save(self, path: Path) -> Path:
        height = self.top + self.rows * self._pitch + self._legend_inches
        self.figure.set_size_inches(INCHES, height)
        for ax, row, column in self._places:
            left = MARGIN + column * (self.side + GAP)
            bottom = height - self.top - row * self._pitch - self.side
            ax.set_position((left / INCHES, bottom / height, self.side / INCHES, self.side / height))
        self.figure.savefig(path, metadata={"Software": None})
        return path


@torch.no_grad()
def _column(
    encoder: DualEncoder, samples: list[tuple[Tensor, Tensor]], class_names: list[str], run: Finished, title: str
) -> Column:
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
    return Column(title=title, classes=classes, features=principal_colours(maps)[:SHOWN])


def principal_colours(maps: list[np.ndarray]) -> list[np.ndarray]:
    """[h, w, D] features to [h, w, 3] RGB in [0, 1]: three principal components of all patches of all maps.

    The largest loading of every component is positive. A component runs from its 2nd to its 98th percentile.
    """
    patches = np.concatenate([each.reshape(-1, each.shape[-1]) for each in maps])
    mean = patches.mean(0)
    _, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    basis = vectors[:, ::-1][:, :3]
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(3)])
    low, high = np.percentile((patches - mean) @ basis, [2, 98], axis=0)
    span = np.where(high > low, high - low, 1.0)
    return [np.clip(((each - mean) @ basis - low) / span, 0, 1) for each in maps]


def _by_area(shown: Gallery) -> list[int]:
    """Classes that occur in truth or predictions, the largest area first."""
    maps = [*shown.truths, *(each for column in shown.columns for each in column.classes)]
    found, counts = np.unique(np.concatenate([each.ravel() for each in maps]), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [int(index) for index in found[order] if index != shown.ignore]


def _painted(classes: np.ndarray, colour_of: dict[int, str]) -> np.ndarray:
    painted = np.tile(np.array(to_rgb(IGNORED)), (*classes.shape, 1))
    for index, colour in colour_of.items():
        painted[classes == index] = to_rgb(colour)
    return painted


def _borders(classes: np.ndarray) -> list[list[tuple[float, float]]]:
    """Line segments along pixel edges where the class changes, in imshow's coordinates."""
    right = [[(x + 0.5, y - 0.5), (x + 0.5, y + 0.5)] for y, x in np.argwhere(classes[:, 1:] != classes[:, :-1])]
    below = [[(x - 0.5, y + 0.5), (x + 0.5, y + 0.5)] for y, x in np.argwhere(classes[1:] != classes[:-1])]
    return right + below
