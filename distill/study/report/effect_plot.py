"""The effect plot: claims, main effects and two-way interactions on the deciding metric, each with its interval."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from distill.study.findings import Effect, Findings, Judged
from distill.study.inference import Equal, Estimate, More
from distill.study.report.effects import effect_in_words
from distill.study.report.figures import INCHES, LARGE, NORMAL, SMALL, blank, plain_axes, save
from distill.study.results import Results

YES, NO, OPEN, BOUND = "#00694c", "#c04a00", "#4a5560", "#8a949e"
COLOUR = {"reproduced": YES, "not reproduced": NO, "higher": "#0072b2", "lower": "#0072b2"}
MARKER = {"reproduced": "o", "not reproduced": "X", "higher": "s", "lower": "s"}
LABEL_INCHES, LINE_INCHES, ROW_INCHES = 6.4, 0.2, 0.15


@dataclass(frozen=True, kw_only=True)
class Row:
    """One interval; `bound` is what a claim asks for: a difference, or a range either side of zero."""

    lines: tuple[str, ...]
    estimate: Estimate
    decision: str
    low_bound: float | None = None
    high_bound: float | None = None

    @property
    def inches(self) -> float:
        return LINE_INCHES * len(self.lines) + ROW_INCHES


def draw_effects(results: Results, findings: Findings, path: Path) -> Path | None:
    """Write the figure; None when nothing on the deciding metric could be estimated.

    The first panel has claims and main effects, the second one interactions, on the same scale of points.
    """
    deciding = results.study.deciding
    claims = [_of_claim(each) for each in findings.claims if each.difference and each.claim.metric == deciding]
    panels = [
        ("Claims", claims),
        ("Main effects", [_of_effect(each) for each in findings.of("main effect", metric=deciding)]),
        ("Two-way interactions", [_of_effect(each) for each in findings.of("interaction", metric=deciding)]),
    ]
    panels = [(title, rows) for title, rows in panels if rows]
    if not panels:
        return None
    top, gap = 0.5, 0.95
    heights = [sum(row.inches for row in rows) for _, rows in panels]
    height = sum(heights) + (top + gap) * len(panels)
    figure = blank(height)
    limits = _limits([row for _, rows in panels for row in rows])
    upper = height
    for (title, rows), own in zip(panels, heights, strict=True):
        upper -= top + own
        width = (INCHES - LABEL_INCHES - 0.3) / INCHES
        ax = figure.add_axes((LABEL_INCHES / INCHES, upper / height, width, own / height), label=title)
        _draw(ax, rows, limits)
        ax.set_title(title, fontsize=LARGE, loc="left", pad=8)
        ax.set_xlabel(f"difference in {results.study.metrics[deciding]}, points", fontsize=NORMAL)
        upper -= gap
    return save(figure, path)


def _draw(ax: Axes, rows: list[Row], limits: tuple[float, float]) -> None:
    places, below = [], 0.0
    for row in rows:
        places.append(below + row.inches / 2)
        below += row.inches
    for place, row in zip(places, rows, strict=True):
        found, colour = row.estimate, COLOUR.get(row.decision, OPEN)
        if row.low_bound is not None and row.high_bound is not None:
            # What a claim of equality allows is a band, what a claim of more asks for is a tick.
            half = row.inches / 2 - 0.03
            ax.fill_betweenx([place - half, place + half], row.low_bound, row.high_bound, color="#e9ebe6", lw=0)
        elif row.low_bound:
            ax.plot([row.low_bound] * 2, [place - 0.12, place + 0.12], color=BOUND, lw=2.5, solid_capstyle="butt")
        if found.low is not None and found.high is not None:
            ax.plot([found.low, found.high], [place, place], color=colour, lw=2.4, solid_capstyle="butt")
        solid = row.decision in COLOUR
        style = {"color": colour, "markerfacecolor": colour if solid else "white", "markeredgewidth": 1.8}
        ax.plot([found.mean], [place], marker=MARKER.get(row.decision, "o"), ms=8, **style)
    ax.axvline(0, color="black", lw=1.0, zorder=0.9)
    ax.set_xlim(*limits)
    ax.set_ylim(below, 0)
    ax.set_yticks(places, ["\n".join(row.lines) for row in rows])
    plain_axes(ax, grid="x")
    ax.tick_params(axis="y", labelsize=SMALL + 1, length=0, pad=8)
    ax.spines["left"].set_visible(False)


def _limits(rows: list[Row]) -> tuple[float, float]:
    """What shows every mean, and every interval as far as it is not much wider than the others."""
    means = [row.estimate.mean for row in rows]
    ends = sorted(max(abs(row.estimate.low or 0), abs(row.estimate.high or 0), abs(row.estimate.mean)) for row in rows)
    usual = 1.5 * ends[int(0.8 * (len(ends) - 1))]
    lows = [row.estimate.mean if row.estimate.low is None else row.estimate.low for row in rows]
    highs = [row.estimate.mean if row.estimate.high is None else row.estimate.high for row in rows]
    low = min(0.0, *means, max(min(lows), -usual))
    high = max(0.0, *means, min(max(highs), usual))
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _of_claim(judged: Judged) -> Row:
    assert judged.difference is not None
    bounds: tuple[float | None, float | None]
    match judged.expectation:
        case More(by_more_than=bound):
            bounds = (float(bound), None)
        case Equal(within=within):
            bounds = (-float(within), float(within))
    return Row(
        lines=_wrapped(judged.claim.say),
        estimate=judged.difference,
        decision=judged.decision,
        low_bound=bounds[0],
        high_bound=bounds[1],
    )


def _of_effect(effect: Effect) -> Row:
    assert effect.estimate is not None
    return Row(lines=_wrapped(effect_in_words(effect)), estimate=effect.estimate, decision=effect.decision)


def _wrapped(text: str) -> tuple[str, ...]:
    return tuple(textwrap.wrap(text, 66))
