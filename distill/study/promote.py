"""The winner of a study as a pretraining recipe: switches whose effect is established, and where they come from.

The cell with the highest mean in the deciding metric wins. Of the factors that the study's page lets back into
pretraining, each takes the winner's level if its main effect over the base recipe's level is established: the whole
interval above zero. Where the page prefers another established level and the winner's is not established to be better
than that, the preferred one is taken. Everything else stays as the base has it, and the recipe's header says why.
"""

import csv
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from distill.config import RecipeError, load_recipe
from distill.config.text import dump
from distill.study.cells import Study, levels_held, load_study
from distill.study.grid import Page, Promotion, Settings, read_page
from distill.train.journal import write_atomically

WIDTH = 118


@dataclass(frozen=True, kw_only=True)
class MainEffect:
    """`level` against `against`, in points, with its interval over seeds; None for one seed."""

    level: str
    against: str
    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def established(self) -> bool:
        return self.low is not None and self.low > 0

    def __str__(self) -> str:
        interval = "no interval" if self.low is None else f"95 % interval {self.low:+.1f} to {self.high:+.1f}"
        seeds = f"{self.seeds} seed{'s' * (self.seeds > 1)}"
        return f"{self.level} over {self.against}: {self.mean:+.1f} points ({interval}, {seeds})"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What becomes of one factor. `settings` are empty for what stays as the base has it."""

    factor: str
    settings: Settings
    words: str


def promote_results(name: str, *, scale: str | None, results: Path, to: Path) -> str:
    """Write the recipe of a study's recorded results (`results.csv`, `effects.csv`); returns what to say about it.

    Raises ValueError when the page promotes nothing, the records are not there, or no switch is established.
    """
    page, study = read_page(name), load_study(name, scale=scale)
    if page.promote is None:
        raise ValueError(f"{name}: the page has no `promote`: it does not say what may be carried into pretraining")
    means = _means(results / "results.csv", study)
    effects = _effects(results / "effects.csv", study)
    winner = max((cell for cell in study.cells if cell.name in means and cell.levels), key=lambda c: means[c.name])
    choices = [*_carried(page, page.promote, winner.levels, effects), *_left(page, page.promote, winner.levels)]
    if not any(choice.settings for choice in choices):
        reasons = "; ".join(choice.words for choice in choices)
        raise ValueError(f"{name}: no switch has an established effect, so there is nothing to promote: {reasons}")
    record = f"{winner.title} ({winner.name}), {means[winner.name]:.1f} % {study.metrics[study.deciding]}"
    text = _page(page.promote, study, winner=record, choices=choices, seeds=_seeds(results / "results.csv"))
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(to, text)
    load_recipe(str(to))  # what was written can be trained
    return f"{to}: {', '.join(choice.factor for choice in choices if choice.settings)} carried into {page.promote.base}"


def _carried(
    page: Page, promotion: Promotion, winner: Mapping[str, str], effects: Mapping[str, Sequence[MainEffect]]
) -> list[Choice]:
    base = levels_held(page, load_recipe(promotion.base))
    choices = []
    for factor, why in promotion.factors.items():
        if factor not in base:
            raise RecipeError(f"{page.name}: promote: {promotion.base} has no level of {factor}")
        level, before = winner[factor], base[factor]
        if level == before:
            choices.append(Choice(factor=factor, settings={}, words=f"{factor}: the winner has {level}, as the base"))
            continue
        found = _effect(effects[factor], level, before)
        level, found, note = _preferred(promotion, factor, level, before, found, effects[factor])
        if found is not None and found.established:
            settings = page.factors[factor][level]
            choices.append(Choice(factor=factor, settings=settings, words=f"{factor}: {found}; {note}{why}"))
        else:
            words = f"{factor}: not established, so it stays {before}: {found or 'never compared'}"
            choices.append(Choice(factor=factor, settings={}, words=words))
    return choices


def _preferred(
    promotion: Promotion,
    factor: str,
    level: str,
    before: str,
    found: MainEffect | None,
    effects: Sequence[MainEffect],
) -> tuple[str, MainEffect | None, str]:
    """The page's preferred level instead of the winner's, where the winner's is not established to be better."""
    wanted = promotion.prefer.get(factor)
    if wanted is None or wanted == level:
        return level, found, ""
    instead, between = _effect(effects, wanted, before), _effect(effects, level, wanted)
    if instead is None or not instead.established or (between is not None and between.established):
        return level, found, ""
    note = f"the winner has {level}, not established to be better than {wanted} ({between or 'never compared'}); "
    return wanted, instead, note


def _left(page: Page, promotion: Promotion, winner: Mapping[str, str]) -> list[Choice]:
    base = levels_held(page, load_recipe(promotion.base))
    return [
        Choice(factor=factor, settings={}, words=f"{factor}: the winner has {winner[factor]}; {why}")
        for factor, why in promotion.left.items()
        if factor in winner and winner[factor] != base.get(factor)
    ]


def _page(promotion: Promotion, study: Study, *, winner: str, choices: Sequence[Choice], seeds: Sequence[int]) -> str:
    settings = {key: value for choice in choices for key, value in choice.settings.items()}
    header = [
        *_wrapped(promotion.title),
        "#",
        *_wrapped(f"Written by `distill study promote {study.name}`; change the study, not this page."),
        "#",
        *_entry(
            "Source", f"{promotion.source}; the study {study.name} at the scale {study.scale}, {_in_words(seeds)}."
        ),
        *_entry("Command", promotion.command),
        *_entry("Time", promotion.time),
        *_entry("Winner", f"{winner}."),
        *(line for choice in choices if choice.settings for line in _entry("Carried", f"{choice.words}.")),
        *(line for choice in choices if not choice.settings for line in _entry("Left", f"{choice.words}.")),
    ]
    return "\n".join(header) + "\n\n" + dump({"extends": promotion.base, **_nested(settings)})


def _entry(name: str, text: str) -> list[str]:
    indent = "#           "
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"# {name + ':':<10}", subsequent_indent=indent, break_on_hyphens=False
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _nested(settings: Settings) -> Settings:
    nested: Settings = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def _in_words(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        raise ValueError(f"{path}: no such file; `distill study report` writes it")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _means(path: Path, study: Study) -> dict[str, float]:
    """Cell to its mean over seeds in the deciding metric, in percent."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in _rows(path):
        if row["metric"] == study.deciding and row["value"]:
            found[row["cell"]].append(100 * float(row["value"]))
    known = {cell.name for cell in study.cells if cell.levels}
    if not known & found.keys():
        raise ValueError(f"{path}: no cell of {study.name} has a score in {study.deciding}")
    return {cell: fmean(scores) for cell, scores in found.items()}


def _seeds(path: Path) -> list[int]:
    return sorted({int(row["seed"]) for row in _rows(path)})


def _effects(path: Path, study: Study) -> dict[str, list[MainEffect]]:
    """Factor to the main effects of its levels on the deciding metric."""
    found: dict[str, list[MainEffect]] = defaultdict(list)
    for row in _rows(path):
        if row["kind"] == "main effect" and row["metric"] == study.deciding and row["mean"]:
            low, high = (float(row[name]) if row[name] else None for name in ("low", "high"))
            effect = MainEffect(
                level=row["level"],
                against=row["against"],
                mean=float(row["mean"]),
                low=low,
                high=high,
                seeds=int(row["seeds"]),
            )
            found[row["factor"]].append(effect)
    return found


def _effect(effects: Sequence[MainEffect], level: str, against: str) -> MainEffect | None:
    """As it was recorded, or the other way round."""
    for each in effects:
        if (each.level, each.against) == (level, against):
            return each
        if (each.level, each.against) == (against, level):
            low, high = (None if bound is None else -bound for bound in (each.high, each.low))
            return MainEffect(level=level, against=against, mean=-each.mean, low=low, high=high, seeds=each.seeds)
    return None
