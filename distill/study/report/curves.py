"""The course of training: scores on held-out pictures, and the patch loss by kind of patch (the paper's Figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from distill.study.report.facets import Group, Line, groups_of
from distill.study.report.figures import NORMAL, blank, plain_axes, save
from distill.study.report.tables import named_cells
from distill.study.results import Finished, Results

MOST_POINTS = 60


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One number of metrics.jsonl over the steps; `scale` is 100 for shares shown in percent."""

    metric: str
    title: str
    unit: str
    scale: int


PANELS = (
    Panel(metric="evaluate/zero_shot_segmentation/miou", title="Zero-shot segmentation", unit="mIoU, %", scale=100),
    Panel(metric="evaluate/retrieval/image_to_text_r1", title="Image → text retrieval", unit="R@1, %", scale=100),
    Panel(metric="patch/hidden", title="Patch loss on hidden patches", unit="loss", scale=1),
    Panel(metric="patch/visible", title="Patch loss on visible patches", unit="loss", scale=1),
)


def draw_curves(results: Results, folder: Path) -> list[tuple[Path, str]]:
    """Write `curves.png`, `curves_2.png`, ...; each with what its cells share; none when no run has the numbers.

    A line is the mean over seeds, its band goes from the lowest to the highest seed. Cells without a number are
    missing from its panel. All columns of a figure have the same scale.
    """
    drawn: list[tuple[Path, str]] = []
    for group in groups_of(results.study, results.cells, named_cells(results)):
        runs = [run for _, lines in group.columns for line in lines for run in results.of(line.cell.name)]
        panels = [panel for panel in PANELS if any(run.course(panel.metric)[0] for run in runs)]
        if panels:
            path = folder / ("curves.png" if not drawn else f"curves_{len(drawn) + 1}.png")
            drawn.append((_draw(results, group, panels, path), ", ".join(f"{k} {v}" for k, v in group.held.items())))
    return drawn


def _draw(results: Results, group: Group, panels: Sequence[Panel], path: Path) -> Path:
    """Rows of panels are numbers and columns are levels; a group of one column has two panels a row."""
    several = len(group.columns) > 1
    wide = len(group.columns) if several else min(2, len(panels))
    rows = len(panels) if several else -(-len(panels) // wide)
    legend = {line.label: line for _, lines in group.columns for line in lines}
    per_row = 2 if max(map(len, legend)) > 45 else 3 if max(map(len, legend)) > 24 else 4
    legend_inches = 0.3 * -(-len(legend) // per_row) + 0.35
    height = (3.1 if several else 4.0) * rows + legend_inches
    figure = blank(height)
    axes = figure.subplots(rows, wide, squeeze=False, sharey="row" if several else False)
    places = [(panel, column) for panel in panels for column in group.columns]
    for ax, (panel, (title, lines)) in zip(axes.ravel(), places, strict=False):
        _draw_panel(ax, panel, lines, results)
        ax.set_title(f"{panel.title}; {title}" if title else panel.title, fontsize=NORMAL, loc="left", pad=8)
        if not (several and ax not in axes[:, 0]):
            ax.set_ylabel(panel.unit, fontsize=NORMAL)
    for ax, (panel, _) in zip(axes.ravel(), places, strict=False):
        if panel.scale == 100:
            ax.set_ylim(bottom=0)  # only now: the upper limit has to know what all columns show
    for ax in axes.ravel()[len(places) :]:
        ax.remove()
    handles = [axes[0, 0].plot([], [], label=label, lw=2.4, ms=7, **line.style)[0] for label, line in legend.items()]
    figure.tight_layout(rect=(0, legend_inches / height, 1, 1), h_pad=1.6, w_pad=2.0)
    figure.legend(handles=handles, loc="lower center", ncols=per_row, frameon=False, fontsize=NORMAL, handlelength=3.2)
    return save(figure, path)


def _draw_panel(ax: Axes, panel: Panel, lines: Sequence[Line], results: Results) -> None:
    for line in lines:
        found = _over_seeds(results.of(line.cell.name), panel)
        if found is None:
            continue
        steps, values = found
        ax.plot(steps, values.mean(0), lw=2.1, ms=6, markevery=max(1, len(steps) // 6), **line.style)
        if len(values) > 1:
            ax.fill_between(steps, values.min(0), values.max(0), color=line.style["color"], alpha=0.10, lw=0)
    ax.set_xlabel("step", fontsize=NORMAL)
    plain_axes(ax, grid="y")
    ax.set_xlim(left=0)


def _over_seeds(
    runs: list[Finished], panel: Panel
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "seeds n"]] | None:
    """Steps and values at the steps that all seeds with this number share."""
    courses = [dict(zip(*run.course(panel.metric), strict=True)) for run in runs]
    courses = [course for course in courses if course]
    shared = sorted(set.intersection(*map(set, courses))) if courses else []
    if not shared:
        return None
    values = np.array([[course[step] for step in shared] for course in courses], dtype=float) * panel.scale
    return _thinned(np.array(shared, dtype=float), values)


def _thinned(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, "seeds n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "seeds m"]]:
    """Means over neighbours where there are more points than a panel shows."""
    bins = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    means = np.stack([values[:, each].mean(1) for each in bins], axis=1)
    return np.array([steps[each].mean() for each in bins]), means
