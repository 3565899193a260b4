"""`effects.csv`: every claim, main effect and interaction of a study, one row each, for people and for `promote`.

    kind           claim, main effect or interaction
    factor         the factor compared; empty for a claim about two cells
    level          its level, or the cell that is claimed to be better
    against        the level, or the cell, that is subtracted
    where          claim: the levels that cells must have, as `factor=level`, `; ` between factors and ` | ` between
                   levels; interaction: `other factor=level against other level`
    metric         as in results.csv
    mean           level minus against in points (100 times the difference of shares), mean over seeds
    low, high      its 95 % interval; empty for one seed
    deviation      sample standard deviation over seeds; empty for one seed
    seeds          how many
    picture_error  standard error from the choice of held-out pictures, as far as seeds share it; empty when unknown
    decision       claim: its verdict. Others: higher, lower, or `not decided here` when the interval holds zero, when
                   cells that could be matched have no results, and in studies that decide nothing
    words          the claim, or what the row compares; after a colon why there is no number, or why nothing is decided
                   whatever the interval says

Numbers are empty where nothing could be computed.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.study.findings import Effect, Findings, Judged
from distill.study.inference import Estimate
from distill.study.report.figures import whole

COLUMNS = (
    *("kind", "factor", "level", "against", "where", "metric"),
    *("mean", "low", "high", "deviation", "seeds", "picture_error"),
    *("decision", "words"),
)


def write_effects(findings: Findings, path: Path) -> None:
    """The module's table, atomically."""
    with whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(findings))


def where_in_words(where: Mapping[str, Any]) -> str:
    """`hidden=50 % | 75 %; text=random`"""
    allowed = {name: level if isinstance(level, list | tuple) else [level] for name, level in where.items()}
    return "; ".join(f"{name}={' | '.join(map(str, levels))}" for name, levels in allowed.items())


def effect_in_words(effect: Effect) -> str:
    """`heard: all against masked`, and for an interaction where the difference is how much larger."""
    what = f"{effect.factor}: {effect.level} against {effect.against}"
    if effect.where is None:
        return what
    factor, first, second = effect.where
    return f"{what} × {factor}: {first} against {second}"


def _rows(findings: Findings) -> Iterator[dict[str, str]]:
    for judged in findings.claims:
        yield _claim(judged)
    for effect in findings.effects:
        where = "" if effect.where is None else f"{effect.where[0]}={effect.where[1]} against {effect.where[2]}"
        yield {
            "kind": effect.kind,
            "factor": effect.factor,
            "level": effect.level,
            "against": effect.against,
            "where": where,
            "metric": effect.metric,
            **_numbers(effect.estimate),
            "decision": effect.decision,
            "words": effect_in_words(effect) + (f": {effect.reason}" if effect.reason else ""),
        }


def _claim(judged: Judged) -> dict[str, str]:
    claim = judged.claim
    return {
        "kind": "claim",
        "factor": claim.factor or "",
        "level": claim.better,
        "against": claim.than,
        "where": where_in_words(claim.where),
        "metric": claim.metric or "",
        **_numbers(judged.difference),
        "decision": judged.decision,
        "words": claim.say + (f": {judged.reason}" if judged.reason else ""),
    }


def _numbers(found: Estimate | None) -> dict[str, str]:
    if found is None:
        return dict.fromkeys(("mean", "low", "high", "deviation", "seeds", "picture_error"), "")
    return {
        "mean": _number(found.mean),
        "low": _number(found.low),
        "high": _number(found.high),
        "deviation": _number(found.deviation),
        "seeds": str(found.count),
        "picture_error": _number(found.pictures),
    }


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.6f}"
