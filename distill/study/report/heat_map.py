"""IoU of every class by cell as a heat map with its numbers."""

import textwrap
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps

from distill.study.report.figures import INCHES, SMALL, blank, save
from distill.study.report.tables import class_names, class_scores
from distill.study.results import Results

MOST_CLASSES = 28
LABEL_INCHES = 4.2


def draw_classes(results: Results, path: Path) -> Path | None:
    """Write the figure for the deciding task, or the first one with classes; None when there is none.

    Of long class lists the classes that differ most between cells are shown, in the order of the list.
    """
    task = class_task(results)
    if task is None:
        return None
    names = class_names(results, task)
    found_CK = np.array([[_mean(results, cell.name, task, name) for name in names] for cell in results.cells])
    spread_K = np.where(np.isnan(found_CK), 0, found_CK).std(0)
    kept = sorted(np.argsort(-spread_K, kind="stable")[:MOST_CLASSES])
    return _draw(found_CK[:, kept], [cell.title for cell in results.cells], [names[k] for k in kept], path)


def class_task(results: Results) -> str | None:
    """The task whose classes are shown."""
    tasks = list(dict.fromkeys(task for run in results.runs.values() for task in run.per_class))
    deciding = results.study.deciding.rpartition("/")[0]
    return deciding if deciding in tasks else next(iter(tasks), None)


def _draw(found_CK: Float[np.ndarray, "C K"], titles: list[str], names: list[str], path: Path) -> Path:
    rows = [textwrap.wrap(title, 44)[:2] for title in titles]
    row_inches = 0.46 if max(map(len, rows)) > 1 else 0.34
    top = 0.085 * max(map(len, names)) + 0.3
    height = top + row_inches * len(rows) + 0.15
    figure = blank(height)
    width = (INCHES - LABEL_INCHES - 0.15) / INCHES
    ax = figure.add_axes((LABEL_INCHES / INCHES, 0.15 / height, width, row_inches * len(rows) / height))
    known = found_CK[~np.isnan(found_CK)]
    highest = max(known.max() if known.size else 1.0, 1e-9)
    colours = colormaps["cividis"]
    ax.imshow(np.ma.masked_invalid(found_CK), cmap=colours, vmin=0, vmax=highest, aspect="auto")
    for (row, column), value in np.ndenumerate(found_CK):
        dark = not np.isnan(value) and value < 0.55 * highest
        text = "–" if np.isnan(value) else f"{value:.0f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black")
    ax.set_xticks(range(len(names)), names, rotation=60 if max(map(len, names)) > 5 else 0, ha="left", fontsize=SMALL)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(rows)), ["\n".join(lines) for lines in rows], fontsize=SMALL + (row_inches < 0.4))
    ax.tick_params(length=0, pad=5)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=1.2)
    ax.tick_params(which="minor", length=0)
    return save(figure, path)


def _mean(results: Results, cell: str, task: str, name: str) -> float:
    scores = class_scores(results.of(cell), task, name)
    return sum(scores) / len(scores) if scores else float("nan")
