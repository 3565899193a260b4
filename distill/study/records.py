"""What `promote` reads of a report, checked against the study's page: report.json, results.csv and effects.csv."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.study.cells import Cell, Study
from distill.study.grid import Page
from distill.study.inference import Estimate, Run, estimate

ANEW = "`distill study report` writes it anew"
REPORT = {
    **{"study": str, "scale": str, "quick": bool, "part": bool, "overrides": list, "unequal": list},
    **{"seeds": list, "asked": int, "done": int, "runs": dict},
}
"""What is read of `report.json`."""


@dataclass(frozen=True, kw_only=True)
class MainEffect:
    """`level` minus `against`, in points."""

    level: str
    against: str
    found: Estimate
    decided: bool
    """The report's word: the interval leaves out zero, and nothing forbids to rely on it."""

    @property
    def established(self) -> bool:
        return self.decided and self.found.low is not None and self.found.low > 0

    def __str__(self) -> str:
        return f"{self.level} over {self.against}: {size_in_words(self.found)}"


@dataclass(frozen=True, kw_only=True)
class Records:
    """What a report left, as far as this module needs it."""

    seeds: tuple[int, ...]
    asked: int
    done: int
    scores: dict[Run, float]
    """The deciding metric in percent."""
    effects: dict[str, list[MainEffect]]
    """Factor to the main effects of its levels on the deciding metric."""

    def complete(self, study: Study) -> list[Cell]:
        """The cells of products with a score for every seed."""
        return [c for c in study.cells if c.levels and all((c.name, seed) in self.scores for seed in self.seeds)]

    def of(self, cell: str) -> Estimate:
        """Of a complete cell."""
        found = estimate({seed: self.scores[cell, seed] for seed in self.seeds})
        assert found is not None, "a report has at least one seed"
        return found


def read_records(folder: Path, page: Page, study: Study) -> Records:
    """Raises ValueError for files that are not there, damaged, or not of the whole study."""
    report = _report(folder / "report.json", study)
    return Records(
        # Other studies may have left further seeds of some cells in the same store.
        seeds=tuple(seed for seed in report["seeds"] if seed in study.seeds) or tuple(report["seeds"]),
        asked=report["asked"],
        done=report["done"],
        scores=_scores(folder / "results.csv", study, report["runs"]),
        effects=_effects(folder / "effects.csv", page, study),
    )


def _report(path: Path, study: Study) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); {ANEW}") from None
    wrong = [name for name, kind in REPORT.items() if not (isinstance(found, dict) and type(found.get(name)) is kind)]
    if wrong or not found["seeds"] or not all(type(seed) is int for seed in found["seeds"]):
        raise ValueError(f"{path} lacks {', '.join(wrong) or 'seeds'}; {ANEW}")
    if (found["study"], found["scale"]) != (study.name, study.scale):
        raise ValueError(f"{path} is of {found['study']} ({found['scale']}), not of {study.name} ({study.scale})")
    reasons = {
        "it is of the quick version": found["quick"],
        f"it has other settings than the page ({' '.join(map(str, found['overrides']))})": found["overrides"],
        "it is on some of the cells or seeds only": found["part"],
        f"its seeds do not compare ({' '.join(map(str, found['unequal'])).rstrip('.')})": found["unequal"],
    }
    if any(reasons.values()):
        raise ValueError(f"{path}: this report cannot be promoted: {'; '.join(r for r, met in reasons.items() if met)}")
    return found


def _scores(path: Path, study: Study, runs: Mapping[str, str]) -> dict[Run, float]:
    known = {cell.name for cell in study.cells}
    found: dict[Run, float] = {}
    for line, row in _rows(path, ("cell", "seed", "metric", "value")):
        run = row["cell"], int(_number(row, "seed", where=line))
        if row["cell"] not in known:
            raise ValueError(f"{line}: {study.name} has no cell {row['cell']!r}; these are results of another page")
        if f"{run[0]}-seed{run[1]}" not in runs:
            raise ValueError(f"{line}: report.json beside it does not know this run; they are of different reports")
        if row["metric"] != study.deciding or not row["value"]:
            continue
        if run in found:
            raise ValueError(f"{line}: a second score of {run[0]}, seed {run[1]}, in {study.deciding}")
        found[run] = 100 * _number(row, "value", where=line)
    return found


def _effects(path: Path, page: Page, study: Study) -> dict[str, list[MainEffect]]:
    found: dict[str, list[MainEffect]] = defaultdict(list)
    numbers = ("mean", "seeds", "low", "high", "deviation", "picture_error")
    for line, row in _rows(path, ("kind", "factor", "level", "against", "metric", "decision", *numbers)):
        if row["kind"] != "main effect" or row["metric"] != study.deciding or not row["mean"]:
            continue
        level, against = row["level"], row["against"]
        if not {level, against} <= page.factors.get(row["factor"], {}).keys():
            raise ValueError(f"{line}: {study.name} has no {row['factor']} with the levels {level} and {against}")
        mean, seeds = _number(row, "mean", where=line), int(_number(row, "seeds", where=line))
        low, high, deviation, pictures = (_number(row, x, where=line) if row[x] else None for x in numbers[2:])
        if (low is None) != (high is None) or (low is not None and high is not None and not low <= mean <= high):
            raise ValueError(f"{line}: low, mean and high are {row['low']}, {row['mean']} and {row['high']}")
        points = Estimate(
            mean=mean, low=low, high=high, count=seeds, deviation=deviation, pictures=pictures, level=0.95
        )
        decided = row["decision"] in ("higher", "lower")
        found[row["factor"]].append(MainEffect(level=level, against=against, found=points, decided=decided))
    return found


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with where it stands, for messages."""
    reader = csv.DictReader(_text(path).splitlines(keepends=True), strict=True)
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; {ANEW}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where}: not as many fields as columns; {ANEW}")
            yield where, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.reader.line_num}: damaged: {error}") from None


def _number(row: Mapping[str, str], name: str, *, where: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {name} is {row[name]!r}, which is no number")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; `distill study report` writes it") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); {ANEW}") from None


def size_in_words(found: Estimate) -> str:
    interval = "no interval" if found.low is None else f"95 % interval {found.low:+.1f} to {found.high:+.1f}"
    return f"{found.mean:+.1f} points ({interval}, {counted(found.count, 'seed')})"


def counted(number: int, what: str) -> str:
    """`one seed`, `3 seeds`."""
    return f"{'one' if number == 1 else number} {what}{'s' * (number != 1)}"
