"""What the runs of a study say: an estimate for every cell, a verdict on every claim, and the effects of its factors.

All numbers are in points: 100 times the tasks' shares in [0, 1]. Differences are taken within a seed and on the same
held-out pictures; `distill.study.inference` says what the intervals are and why. Effects are differences of matched
cells, which differ in nothing but the factor in question; several that mean nothing by themselves will have intervals
that leave out zero, about one in twenty.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from typing import Literal

import numpy as np
from jaxtyping import Float

from distill.config import Recipe
from distill.study.cells import REFERENCE, Cell
from distill.study.grid import Claim
from distill.study.inference import (
    Contrast,
    Decision,
    Equal,
    Estimate,
    Expectation,
    More,
    PictureCounts,
    PictureStatistics,
    PictureValues,
    Run,
    Verdict,
    contrast_by_seed,
    difference,
    estimate,
    interaction,
    judge,
    main_effect,
    picture_spread,
    picture_weights,
    resampled_scores,
)
from distill.study.results import Finished, Results

NUM_RESAMPLES = 1000
UNDECIDED: Decision = "not decided here"
COUNTS = {
    "miou": ("intersection", "union"),
    "pixel_accuracy": ("correct", "labelled"),
    "patch_accuracy": ("patches_right", "patches_labelled"),
}
"""Scores that are ratios of sums over pictures, and what `pictures.safetensors` calls the sums."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One metric of all runs, in points; of runs without `pictures.safetensors` only the scores are known."""

    scores: dict[Run, float]
    resampled: dict[Run, np.ndarray]

    def estimate(self, weights: Mapping[str, float | int], *, seeds: tuple[int, ...] | None = None) -> Estimate | None:
        """Of a weighted sum of cells over the seeds that have them all, or over these `seeds` of them."""
        by_seed = contrast_by_seed(self.scores, weights)
        kept = {seed: value for seed, value in by_seed.items() if seeds is None or seed in seeds}
        known = {run: scores for run, scores in self.resampled.items() if run[1] in kept}
        pictures = picture_spread(known, weights)
        return estimate(kept, picture_error=None if pictures is None else pictures.shared)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim and what became of it."""

    claim: Claim
    verdict: Verdict
    difference: Estimate | None
    better: Estimate | None
    than: Estimate | None
    """Of both sides, over the seeds of the difference; means over matched cells where the claim is about levels."""
    num_pairs: int
    """Pairs of cells the difference is a mean over."""
    reason: str
    """Why nothing is decided whatever the interval says; empty where the interval decides."""

    @property
    def decision(self) -> Decision:
        return self.verdict.decision

    @property
    def expectation(self) -> Expectation:
        return expectation_of(self.claim)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """`level` against another level of a factor. With `where` it is an interaction: how much more that is at the
    first than at the second level of another factor, `where` being (factor, first, second)."""

    kind: Literal["main effect", "interaction"]
    factor: str
    level: str
    against: str
    where: tuple[str, str, str] | None
    metric: str
    estimate: Estimate | None
    num_groups: int
    """Pairs (quadruples, of an interaction) of cells it is a mean over."""
    reason: str
    """Why there is no estimate; empty where there is one."""

    @property
    def decision(self) -> Literal["higher", "lower", "not decided here"]:
        """Whether the interval leaves out zero, and on which side."""
        found = self.estimate
        if found is None or found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "not decided here"
        return "higher" if found.low > 0 else "lower"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a report says in numbers."""

    cells: dict[tuple[str, str], Estimate]
    """By cell and metric."""
    claims: tuple[Judged, ...]
    effects: tuple[Effect, ...]
    """Main effects on every metric, and two-way interactions on the deciding one."""
    unequal: tuple[str, ...]
    """What differs between seeds beside the seed; any of it leaves all claims undecided."""

    def of(self, kind: str, *, metric: str) -> list[Effect]:
        """The effects of a kind that could be estimated."""
        return [each for each in self.effects if (each.kind, each.metric) == (kind, metric) and each.estimate]


def findings_of(results: Results) -> Findings:
    """Equal results give equal findings. Raises ValueError when runs were measured on damaged files."""
    study = results.study
    metrics = list(dict.fromkeys([*study.metrics, *(claim.metric for claim in study.claims if claim.metric)]))
    every = list(dict.fromkeys([*metrics, *(name for run in results.runs.values() for name in run.scores)]))
    scored = _scored(results, every, resample=metrics)
    unequal = unequal_seeds(results)
    why_not = "the quick version of a study decides nothing" if study.quick else "seeds differ" if unequal else ""
    estimates = {
        (cell.name, metric): scored[metric].estimate({cell.name: 1.0}) for cell in results.cells for metric in every
    }
    return Findings(
        cells={place: found for place, found in estimates.items() if found is not None},
        claims=tuple(_judged(claim, results, scored, why_not=why_not) for claim in study.claims),
        effects=tuple(_effects(results, scored)),
        unequal=unequal,
    )


def unequal_seeds(results: Results) -> tuple[str, ...]:
    """What differs between runs that should differ in their seed only, each difference once with its cells."""
    found: dict[tuple[str, int, int], list[str]] = {}
    for cell in results.cells:
        first, *others = results.of(cell.name)
        for other in others:
            for change in _changes(cell, first, other):
                found.setdefault((change, first.seed, other.seed), []).append(cell.name)
    return tuple(
        f"Seeds {first} and {seed} do not compare, so no claim is decided: {change} in {', '.join(cells)}."
        for (change, first, seed), cells in found.items()
    )


def picture_statistics(arrays: Mapping[str, np.ndarray], metric: str) -> PictureStatistics | None:
    """What every picture adds to a metric; None where the file does not say, as for parts of the classes."""
    task, _, name = metric.rpartition("/")
    if name in COUNTS:
        keys = [f"{task}/{part}" for part in COUNTS[name]]
        if not all(key in arrays for key in keys):
            return None
        return PictureCounts(*(arrays[key].reshape(len(arrays[key]), -1).astype(np.float64) for key in keys))
    if metric not in arrays:
        return None
    direction = name.find("text_to_image")
    captions = f"{task}/{name[:direction]}num_captions"
    weighted = direction >= 0 and captions in arrays
    return PictureValues(arrays[metric], arrays[captions].astype(np.float64) if weighted else None)


def expectation_of(claim: Claim) -> Expectation:
    """What a claim asks for, in points."""
    return More(by_more_than=claim.by_more_than) if claim.within is None else Equal(within=claim.within)


def _scored(results: Results, metrics: list[str], *, resample: list[str]) -> dict[str, Scored]:
    """All metrics' scores; those of `resample` also on resampled pictures, the same ones for every run."""
    scores = {
        metric: {
            (cell.name, seed): 100 * score
            for cell in results.cells
            for seed, score in results.scores(cell.name, metric).items()
        }
        for metric in metrics
    }
    resampled: dict[str, dict[Run, np.ndarray]] = {metric: {} for metric in metrics}
    weights_of: dict[int, Float[np.ndarray, "R N"]] = {}
    usual = next(iter(results.runs.values())).num_images
    for place, run in results.runs.items():
        if run.num_images != usual or not (run.folder / "pictures.safetensors").exists():
            continue  # other pictures cannot be drawn together with these
        arrays = run.per_picture()
        for metric in resample:
            statistics = picture_statistics(arrays, metric)
            if statistics is None or place not in scores[metric]:
                continue
            count = len(statistics.value_N if isinstance(statistics, PictureValues) else statistics.union_NK)
            if count not in weights_of:
                generator = np.random.default_rng(0)
                weights_of[count] = picture_weights(count, num_resamples=NUM_RESAMPLES, generator=generator)
            resampled[metric][place] = 100 * resampled_scores(statistics, weights_of[count])
    return {metric: Scored(scores=scores[metric], resampled=resampled[metric]) for metric in metrics}


def _judged(claim: Claim, results: Results, scored: Mapping[str, Scored], *, why_not: str) -> Judged:
    assert claim.metric is not None, "load_study fills in the deciding metric"
    among = scored[claim.metric]
    measured = {cell for cell, _ in among.scores}
    try:
        contrast, lost = _contrast(claim, results, measured)
    except ValueError as error:
        return _open(claim, str(error))
    if contrast is None:
        return _open(claim, f"no results of {', '.join(lost)}")
    found = among.estimate(contrast.weights)
    if found is None:
        return _open(claim, f"no seed has all of {', '.join(contrast.weights)}")
    seeds = tuple(contrast_by_seed(among.scores, contrast.weights))
    sides = [{cell: abs(w) for cell, w in contrast.weights.items() if sign * w > 0} for sign in (1, -1)]
    better, than = (among.estimate(side, seeds=seeds) for side in sides)
    if lost:
        why_not = f"the pairs with {', '.join(lost)} are missing" + (f"; {why_not}" if why_not else "")
    verdict = judge(found, expectation_of(claim))
    if why_not:
        verdict = replace(verdict, decision=UNDECIDED, seeds_needed=None)
    return Judged(
        claim=claim,
        verdict=verdict,
        difference=found,
        better=better,
        than=than,
        num_pairs=len(contrast.matched),
        reason=why_not,
    )


def _open(claim: Claim, reason: str) -> Judged:
    verdict = judge(None, expectation_of(claim))
    return Judged(claim=claim, verdict=verdict, difference=None, better=None, than=None, num_pairs=0, reason=reason)


def _contrast(claim: Claim, results: Results, measured: set[str]) -> tuple[Contrast | None, list[str]]:
    """The claim's contrast over measured cells, None where that has none, and the cells it lacks.

    Raises ValueError when the page's own cells have no such pair.
    """
    if claim.factor is None:
        lost = [name for name in (claim.better, claim.than) if name not in measured]
        return (None if lost else difference(claim.better, claim.than)), lost
    levels = {cell.name: cell.levels for cell in results.study.cells if cell.levels}

    def over(cells: Mapping[str, Mapping[str, str]]) -> Contrast:
        assert claim.factor is not None
        return main_effect(cells, claim.factor, level=claim.better, against=claim.than, where=claim.where)

    lost = [name for name in over(levels).weights if name not in measured]
    found = _if_any(lambda: over({name: each for name, each in levels.items() if name in measured}))
    return (found if isinstance(found, Contrast) else None), lost


def _effects(results: Results, scored: Mapping[str, Scored]) -> list[Effect]:
    study = results.study
    effects = []
    for metric in study.metrics:
        measured = {cell for cell, _ in scored[metric].scores}
        cells = {cell.name: cell.levels for cell in results.cells if cell.levels and cell.name in measured}
        occurring = {
            factor: [level for level in levels if any(has.get(factor) == level for has in cells.values())]
            for factor, levels in study.factors.items()
        }
        changes = [(factor, b, a) for factor, levels in occurring.items() for a, b in combinations(levels, 2)]
        effects += [_main(cells, change, metric, scored[metric]) for change in changes]
        if metric == study.deciding:
            for one, two in combinations(occurring, 2):
                effects += _interactions(cells, {name: occurring[name] for name in (one, two)}, metric, scored[metric])
    return effects


def _main(cells: Mapping[str, Mapping[str, str]], change: tuple[str, str, str], metric: str, among: Scored) -> Effect:
    factor, level, against = change
    found = _if_any(lambda: main_effect(cells, factor, level=level, against=against))
    return _effect("main effect", change, None, metric, found, among)


def _interactions(
    cells: Mapping[str, Mapping[str, str]], levels: Mapping[str, list[str]], metric: str, among: Scored
) -> list[Effect]:
    """All of two factors, against the levels that leave the most to be estimated: combinations that mean nothing often
    involve the first level, and nothing interacts with a level that has no combinations."""
    (one, its_levels), (two, other_levels) = levels.items()
    candidates = [
        [
            _interaction(cells, (one, level, against), (two, other, than), metric, among)
            for level in its_levels
            for other in other_levels
            if level != against and other != than
        ]
        for against, than in product(its_levels, other_levels)
    ]
    return max(candidates, key=lambda effects: sum(each.estimate is not None for each in effects), default=[])


def _interaction(
    cells: Mapping[str, Mapping[str, str]],
    change: tuple[str, str, str],
    other: tuple[str, str, str],
    metric: str,
    among: Scored,
) -> Effect:
    found = _if_any(lambda: interaction(cells, change[0], pair=change[1:], other_factor=other[0], other_pair=other[1:]))
    return _effect("interaction", change, other, metric, found, among)


def _effect(
    kind: Literal["main effect", "interaction"],
    change: tuple[str, str, str],
    where: tuple[str, str, str] | None,
    metric: str,
    found: Contrast | str,
    among: Scored,
) -> Effect:
    estimated = among.estimate(found.weights) if isinstance(found, Contrast) else None
    missing = "no seed has all the cells" if isinstance(found, Contrast) else found
    return Effect(
        kind=kind,
        factor=change[0],
        level=change[1],
        against=change[2],
        where=where,
        metric=metric,
        estimate=estimated,
        num_groups=len(found.matched) if isinstance(found, Contrast) else 0,
        reason="" if estimated else missing,
    )


def _if_any(build: Callable[[], Contrast]) -> Contrast | str:
    """The contrast, or why the cells have none."""
    try:
        return build()
    except ValueError as error:
        return str(error)


def _changes(cell: Cell, first: Finished, other: Finished) -> list[str]:
    """Where a run lies may change between seeds, and so may the places of the runs it starts from."""
    places = {key for key, value in settings_of(cell.recipe).items() if str(value).startswith(REFERENCE)}
    before, after = settings_of(first.recipe), settings_of(other.recipe)
    keys = [key for key in before if key not in places and before[key] != after[key]]
    changes = [f"{key}: {before[key]} -> {after[key]}" for key in keys]
    if first.num_images != other.num_images:
        changes.append(f"measured on {first.num_images} -> {other.num_images} pictures")
    if first.settings != other.settings:
        changes.append("other settings of the measurement")
    return changes


def settings_of(recipe: Recipe) -> dict[str, object]:
    """Every setting as `section.key: value`, without name, seed and `run`."""
    values = {key: value for key, value in asdict(recipe).items() if key not in ("name", "seed", "run")}
    return _flat(values)


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
