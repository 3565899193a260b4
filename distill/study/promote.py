"""The winner of a study as a pretraining recipe: switches whose effect is established, and where they come from.

The cell with the highest mean in the deciding metric wins, among those with every seed. Of the factors that the study's
page lets back into pretraining, each takes the winner's level if its main effect over the base recipe's level is
established: the whole interval above zero. Where the page prefers another established level and the winner's is not
established to be better than that, the preferred one is taken.

A main effect is a mean over all cells, most of which have a frozen teacher; the switch will be used without one. So
the same difference is taken among the cells like pretraining too: those with the base's levels of the factors that the
page leaves. If that interval (over seeds alone) is wholly below zero, the switch is not carried. Everything else stays
as the base has it, and the recipe's header says why.
"""

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill.config import Recipe, RecipeError, load_recipe
from distill.config.pages import SUFFIXES
from distill.config.text import dump
from distill.study.cells import Cell, Study, as_yaml, levels_held, load_study
from distill.study.grid import Levels, Page, Promotion, Settings, read_page
from distill.study.inference import Cells, Contrast, Estimate, contrast_by_seed, estimate, main_effect
from distill.study.keys import key_of
from distill.study.records import MainEffect, Records, counted, read_records, size_in_words
from distill.train.journal import write_atomically

WIDTH = 118


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A main effect among the cells like pretraining. `without` are levels of the base that would leave no pair."""

    effect: Estimate | None
    """None where no pair of cells is like pretraining in anything."""
    levels: Levels
    without: Levels
    pairs: int

    @property
    def harmful(self) -> bool:
        return self.effect is not None and self.effect.high is not None and self.effect.high < 0

    @property
    def place(self) -> str:
        return "nearest to pretraining" if self.without else "in pretraining"

    def __str__(self) -> str:
        if self.effect is None:
            limits = f" with the base's {_levels_in_words(self.without)}" if self.without else ""
            return f"in pretraining alone unknown: no two cells{limits} differ in it only"
        but = f", as no pair also has {_levels_in_words(self.without)}" if self.without else ""
        which = f"{_levels_in_words(self.levels)}: {counted(self.pairs, 'pair')} of cells{but}"
        return f"{self.place} alone ({which}) {size_in_words(self.effect)}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What becomes of one factor. `settings` are empty for what stays as the base has it."""

    factor: str
    words: str
    settings: Settings = field(default_factory=dict)


def promote_results(name: str, *, scale: str | None, results: Path, to: Path) -> str:
    """Write the recipe of a study's recorded results (`report.json`, `results.csv`, `effects.csv`).

    Returns what to say about it. Raises ValueError when the page promotes nothing, the records are not there, damaged
    or not of the whole study, or no switch can be carried.
    """
    page, study = read_page(name), load_study(name, scale=scale)
    if page.promote is None:
        raise ValueError(f"{name}: the page has no `promote`: it does not say what may be carried into pretraining")
    if to.suffix not in SUFFIXES:
        raise ValueError(f"{to}: a recipe is a file ending in {' or '.join(SUFFIXES)}")
    records = read_records(results, page, study)
    complete = records.complete(study)
    if len(complete) < 2:
        raise ValueError(
            f"{results / 'results.csv'}: {counted(len(complete), 'cell')} of {study.name} with a score in "
            f"{study.deciding} for every seed ({', '.join(map(str, records.seeds))}); a winner takes at least two"
        )
    winner = max(complete, key=lambda cell: records.of(cell.name).mean)
    cells = {cell.name: cell.levels for cell in complete}
    base = levels_held(page, load_recipe(page.promote.base))
    choices = [*_carried(page, base, winner.levels, records, cells), *_left(page.promote, base, winner.levels)]
    if not any(choice.settings for choice in choices):
        reasons = "; ".join(choice.words for choice in choices)
        raise ValueError(f"{name}: no switch can be carried back, so there is nothing to promote: {reasons}")
    text = _page(page.promote, study, winner=_winner_in_words(winner, study, records), choices=choices, records=records)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(to, text)
    load_recipe(str(to))  # what was written can be trained
    return f"{to}: {', '.join(choice.factor for choice in choices if choice.settings)} carried into {page.promote.base}"


def _carried(page: Page, base: Levels, winner: Levels, records: Records, cells: Cells) -> list[Choice]:
    promotion, choices = page.promote, []
    assert promotion is not None, "what is promoted has a page that says how"
    for factor, why in promotion.factors.items():
        if factor not in base:
            raise RecipeError(f"{page.name}: promote: {promotion.base} has no level of {factor}")
        before = base[factor]
        if winner.get(factor, before) == before:
            has = f"{before}, as the base" if factor in winner else "no level of it"
            choices.append(Choice(factor=factor, words=f"{factor}: the winner has {has}"))
            continue
        level, found, note = _preferred(promotion, factor, winner[factor], before, records.effects.get(factor, []))
        if found is None or not found.established:
            words = f"{factor}: not established, so it stays {before}: {found or 'never compared'}"
            choices.append(Choice(factor=factor, words=words))
            continue
        held = {name: base[name] for name in promotion.left if name in base and name != factor}
        inside = effect_inside(records, cells, factor, level=level, against=before, held=held)
        both = f"{level} over {before}: over all {size_in_words(found.found)}; {inside}"
        if inside.harmful:
            words = f"{factor}: established over all, but harmful {inside.place}, so it stays {before}: {both}"
            choices.append(Choice(factor=factor, words=words))
        else:
            words = f"{factor}: {both}; {note}{why}"
            choices.append(Choice(factor=factor, words=words, settings=page.factors[factor][level]))
    return choices


def _preferred(
    promotion: Promotion, factor: str, level: str, before: str, effects: Sequence[MainEffect]
) -> tuple[str, MainEffect | None, str]:
    """The level to take with its effect over `before` and a note: the winner's, or the page's preferred one where the
    winner's is not established to be better."""
    found, wanted = _effect(effects, level, before), promotion.prefer.get(factor)
    if wanted is None or wanted == level:
        return level, found, ""
    instead, between = _effect(effects, wanted, before), _effect(effects, level, wanted)
    if instead is None or not instead.established or (between is not None and between.established):
        return level, found, ""
    note = f"the winner has {level}, not established to be better than {wanted} ({between or 'never compared'}); "
    return wanted, instead, note


def effect_inside(records: Records, cells: Cells, factor: str, *, level: str, against: str, held: Levels) -> Inside:
    """A main effect among the `cells` (name to levels, each with all seeds) that have the levels `held`.

    Levels that no pair has are left out, then more from the end until there are pairs.
    """

    def pairs(where: Levels) -> Contrast | None:
        with suppress(ValueError):  # no two cells are such a pair
            return main_effect(cells, factor, level=level, against=against, where=where)
        return None

    kept = {name: wanted for name, wanted in held.items() if pairs({name: wanted})}
    while kept and not pairs(kept):
        kept.popitem()
    without = {name: wanted for name, wanted in held.items() if name not in kept}
    contrast = pairs(kept) if kept else None
    if contrast is None:
        return Inside(effect=None, levels={}, without=without, pairs=0)
    found = estimate(contrast_by_seed(records.scores, contrast.weights))
    assert found is not None, "every cell has every seed"
    return Inside(effect=found, levels=kept, without=without, pairs=len(contrast.matched))


def _left(promotion: Promotion, base: Levels, winner: Levels) -> list[Choice]:
    return [
        Choice(factor=factor, words=f"{factor}: the winner has {winner[factor]}; {why}")
        for factor, why in promotion.left.items()
        if factor in winner and winner[factor] != base.get(factor)
    ]


def _page(promotion: Promotion, study: Study, *, winner: str, choices: Sequence[Choice], records: Records) -> str:
    settings = {key: value for choice in choices for key, value in choice.settings.items()}
    runs = "" if records.done == records.asked else f", {records.done} of {records.asked} runs"
    seeds = f"seeds {', '.join(map(str, records.seeds))}"
    promoted = load_recipe(promotion.base, [f"{key}={as_yaml(value)}" for key, value in settings.items()])
    source = f"{promotion.source}; the study {study.name} at the scale {study.scale}, {seeds}{runs}."
    header = [
        *_wrapped(promotion.title),
        "#",
        *_wrapped(f"Written by `distill study promote {study.name}`; change the study, not this page."),
        "#",
        *_entry("Source", source),
        *_entry("Command", promotion.command),
        *_entry("Time", promotion.time),
        *_entry("Result", f"{_result_in_words(promoted, study, records)}."),
        *_entry("Winner", f"{winner}."),
        *(line for choice in choices if choice.settings for line in _entry("Carried", f"{choice.words}.")),
        *(line for choice in choices if not choice.settings for line in _entry("Left", f"{choice.words}.")),
    ]
    return "\n".join(header) + "\n\n" + dump({"extends": promotion.base, **_nested(settings)})


def _entry(name: str, text: str) -> list[str]:
    return _wrapped(text, first=f"# {name + ':':<10}", others="#           ")


def _wrapped(text: str, *, first: str = "# ", others: str = "# ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _nested(settings: Settings) -> Settings:
    nested: Settings = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def _result_in_words(recipe: Recipe, study: Study, records: Records) -> str:
    """What the study measured of the promoted recipe itself."""
    key = key_of(recipe)
    for cell in records.complete(study):
        if key_of(cell.recipe) == key:
            return f"as the study's cell {cell.name}, {_score_in_words(cell, study, records)}"
    return "not measured: no cell of the study has exactly these settings"


def _score_in_words(cell: Cell, study: Study, records: Records) -> str:
    found, metric = records.of(cell.name), study.metrics[study.deciding]
    spread = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    over = f"mean ± standard deviation over {counted(found.count, 'seed')}"
    return f"{found.mean:.1f}{spread} % {metric} ({over})"


def _winner_in_words(winner: Cell, study: Study, records: Records) -> str:
    others = sum(bool(cell.levels) for cell in study.cells) - len(records.complete(study))
    lacking = f"; {counted(others, 'cell')} without every seed took no part" if others else ""
    return f"{winner.title} ({winner.name}), {_score_in_words(winner, study, records)}{lacking}"


def _levels_in_words(levels: Levels) -> str:
    return ", ".join(f"{factor} {level}" for factor, level in levels.items())


def _effect(effects: Sequence[MainEffect], level: str, against: str) -> MainEffect | None:
    """As it was recorded, or the other way round."""
    for each in effects:
        if (each.level, each.against) == (level, against):
            return each
        if (each.level, each.against) == (against, level):
            low, high = (None if bound is None else -bound for bound in (each.found.high, each.found.low))
            turned = replace(each.found, mean=-each.found.mean, low=low, high=high)
            return MainEffect(level=level, against=against, found=turned, decided=each.decided)
    return None
