"""The course of training as a figure: scores on held-out pictures and the patch loss by kind of patch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill.study.colours import cell_style
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


def draw_curves(results: Results, path: Path) -> Path | None:
    """Write the figure, 1600 pixels wide; None when no run has any of the numbers.

    A line is the mean over seeds, its band goes from the lowest to the highest seed. Cells without a number are
    missing from its panel.
    """
    every = [run for cell in results.study.cells for run in results.of(cell.name)]
    panels = [panel for panel in PANELS if any(run.course(panel.metric)[0] for run in every)]
    if not panels:
        return None
    rows = (len(panels) + 1) // 2
    titles = [cell.title for cell in results.study.cells]
    legend_inches = 0.3 * ((len(titles) + 1) // 2) + 0.3
    height = 4.2 * rows + legend_inches
    figure = Figure(figsize=(16, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, min(2, len(panels)), squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel, results)
    for ax in axes[len(panels) :]:
        ax.remove()
    handles = [axes[0].plot([], [], label=title, lw=2.2, ms=7, **cell_style(n))[0] for n, title in enumerate(titles)]
    figure.tight_layout(rect=(0, legend_inches / height, 1, 1), h_pad=2.0, w_pad=3.0)
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=13, handlelength=3.2)
    figure.savefig(path, metadata={"Software": None})
    return path


def _draw_panel(ax: Axes, panel: Panel, results: Results) -> None:
    for number, cell in enumerate(results.study.cells):
        found = _over_seeds(results.of(cell.name), panel)
        if found is None:
            continue
        steps, values = found
        ax.plot(steps, values.mean(0), lw=2.2, ms=6, markevery=max(1, len(steps) // 8), **cell_style(number))
        if len(values) > 1:
            ax.fill_between(steps, values.min(0), values.max(0), color=cell_style(number)["color"], alpha=0.13, lw=0)
    ax.set_title(panel.title, fontsize=15, loc="left", pad=10)
    ax.set_xlabel("step", fontsize=13)
    ax.set_ylabel(panel.unit, fontsize=13)
    ax.tick_params(labelsize=12, length=3)
    ax.grid(axis="y", color="#dddddd", lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_xlim(left=0)
    if panel.scale == 100:
        ax.set_ylim(bottom=0)


def _over_seeds(runs: list[Finished], panel: Panel) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps [n] and values [seeds, n] at the steps that all seeds with this number share."""
    courses = [dict(zip(*run.course(panel.metric), strict=True)) for run in runs]
    courses = [course for course in courses if course]
    shared = sorted(set.intersection(*map(set, courses))) if courses else []
    if not shared:
        return None
    values = np.array([[course[step] for step in shared] for course in courses]) * panel.scale
    return _thinned(np.array(shared, dtype=float), values)


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over neighbours where there are more points than a panel shows."""
    bins = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    means = np.stack([values[:, each].mean(1) for each in bins], axis=1)
    return np.array([steps[each].mean() for each in bins]), means
