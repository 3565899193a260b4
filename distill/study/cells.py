"""From a page to the cells of a study at one scale: products multiplied out, doubles merged, nonsense refused."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import yaml

from distill.config import InvalidCombination, Recipe, RecipeError, load_recipe
from distill.config.tree import nearest
from distill.study.grid import Claim, Levels, Page, Product, Promotion, Scale, Settings, read_page

REFERENCE = "cell:"
"""`cell:NAME` in a setting stands for the run of that cell with the same seed."""

OF_RUNS = ("seed", "name", "run.folder", "run.name")

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Settings of runs that differ in their seed only.

    `recipe` has seed 0, and references to other cells where a run's folder will stand. `levels` are those of the
    factors whose settings it has, for cells that belong to a product; cells outside of products have none.
    """

    name: str
    title: str
    recipe: Recipe
    levels: Levels = field(default_factory=dict)
    paper: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells whose runs this one starts from."""
        return tuple(dict.fromkeys(_references(self.recipe)))

    @property
    def teacher(self) -> str | None:
        """Name of the cell that is its teacher."""
        checkpoint = self.recipe.teacher.checkpoint
        return checkpoint.removeprefix(REFERENCE) if checkpoint and checkpoint.startswith(REFERENCE) else None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A combination that means nothing: no failure, no cell, but in the report with its reason."""

    name: str
    levels: Levels
    reason: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A page at one scale. Every cell comes after those it needs."""

    name: str
    title: str
    scale: str
    quick: bool
    expect: str
    recipe: str
    launch: str | None
    seeds: tuple[int, ...]
    metrics: dict[str, str]
    factors: dict[str, tuple[str, ...]]
    """Factor to its levels, for the factors of products."""
    cells: tuple[Cell, ...]
    refused: tuple[Refused, ...]
    claims: tuple[Claim, ...]
    promote: Promotion | None

    @property
    def deciding(self) -> str:
        return next(iter(self.metrics))

    def cell(self, name: str) -> Cell:
        """Raises ValueError with the nearest name when there is none."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        known = [cell.name for cell in self.cells]
        raise ValueError(f"{self.name} has no cell {name!r}{nearest(name, known)}; there are {', '.join(known)}")


def load_study(name: str, *, scale: str | None = None, quick: bool = False, overrides: Sequence[str] = ()) -> Study:
    """The study of a page at one of its scales (the first when not said); `overrides` are for all of its cells.

    Raises RecipeError for a wrong page, scale or setting, InvalidCombination for a named cell that means nothing.
    """
    page = read_page(name)
    scale = scale or next(iter(page.scales))
    if scale not in page.scales:
        raise RecipeError(f"{page.name} has no scale {scale!r}; it has {', '.join(page.scales)}")
    size = page.scales[scale]
    if quick and not (size.quick or size.quick_cells):
        raise RecipeError(f"{page.name} has no quick version at the scale {scale}")
    _refuse_overrides(page, size, overrides)
    made, refused = _expand(page, size, quick=quick, overrides=overrides)
    study = Study(
        name=page.name,
        title=page.title,
        scale=scale,
        quick=quick,
        expect=(size.quick_expect or size.expect) if quick else size.expect,
        recipe=size.recipe,
        launch=None if quick else size.launch,  # a quick version is for one small machine
        seeds=size.seeds[:1] if quick else size.seeds,
        metrics=page.metrics,
        factors=_factors_of_products(page),
        cells=_in_order(made, page.name),
        refused=tuple(refused),
        claims=tuple(_with_metric(claim, page) for claim in page.claims),
        promote=page.promote,
    )
    for claim in study.claims:
        if claim.factor is None:
            study.cell(claim.better), study.cell(claim.than)
        elif not any(_differ_in(claim, one.levels, other.levels) for one in study.cells for other in study.cells):
            raise RecipeError(
                f"{page.name}: claim {claim.say!r}: no two cells differ in {claim.factor} alone like that"
            )
    return study


def _differ_in(claim: Claim, one: Levels, other: Levels) -> bool:
    """Whether two cells are a pair that the claim is about."""
    asked = {factor: level if isinstance(level, list) else [level] for factor, level in claim.where.items()}
    return (
        one.get(claim.factor) == claim.better
        and other.get(claim.factor) == claim.than
        and {**one, claim.factor: ""} == {**other, claim.factor: ""}
        and all(one.get(factor) in levels for factor, levels in asked.items() if factor != claim.factor)
    )


def substituted(recipe: Recipe, places: Mapping[str, str]) -> Recipe:
    """The same settings with `places[NAME]` for every `cell:NAME`."""
    return exchanged(recipe, {f"{REFERENCE}{name}": place for name, place in places.items()})


def exchanged(section: Section, words: Mapping[str, str]) -> Section:
    """The same settings, where a text that is one of `words` is what that word stands for."""
    changes: dict[str, Any] = {}
    for each in fields(section):  # type: ignore[arg-type]
        value = getattr(section, each.name)
        if is_dataclass(value):
            changes[each.name] = exchanged(value, words)
        elif isinstance(value, dict) and any(map(is_dataclass, value.values())):
            changes[each.name] = {name: exchanged(inner, words) for name, inner in value.items()}
        elif isinstance(value, str) and value in words:
            changes[each.name] = words[value]
    return replace(section, **changes) if changes else section  # type: ignore[type-var]


def _expand(page: Page, size: Scale, *, quick: bool, overrides: Sequence[str]) -> tuple[list[Cell], list[Refused]]:
    """Named cells first; a product's cell with the settings of an earlier one is that cell and adds its levels."""
    cells: dict[str, Cell] = {}
    by_content: dict[str, str] = {}
    refused: dict[str, Refused] = {}

    def recipe_of(name: str, settings: Settings) -> Recipe:
        settings = {**settings, **size.cells.get(name, {}), "name": f"{page.name}-{name}", "seed": 0}
        if quick:
            settings |= {**size.quick, **size.quick_cells.get(name, {})}
        return load_recipe(size.recipe, [*(f"{key}={as_yaml(value)}" for key, value in settings.items()), *overrides])

    for named in page.cells:
        recipe = recipe_of(named.name, {**size.set, **_of_levels(page, named.levels), **named.set})
        same = by_content.setdefault(_content(recipe), named.name)
        if same != named.name:
            raise RecipeError(
                f"{page.name}: the cells {same} and {named.name} have the same settings: they are one run"
            )
        cells[named.name] = Cell(name=named.name, title=named.title, recipe=recipe, paper=named.paper)
    for name, levels, product in _combinations(page):
        try:
            recipe = recipe_of(name, {**size.set, **_of_levels(page, levels), **product.set})
        except InvalidCombination as error:
            refused[name] = Refused(name=name, levels=levels, reason=str(error).partition("\n")[0])
            continue
        is_new = _content(recipe) not in by_content
        if is_new and name in cells:
            raise RecipeError(f"{page.name}: two different cells would be called {name!r}; rename a level or a cell")
        same = by_content.setdefault(_content(recipe), name)
        if is_new:
            title = ", ".join(f"{factor} {level}" for factor, level in levels.items())
            cells[name] = Cell(name=name, title=title, recipe=recipe)
        held = {**levels_held(page, recipe), **cells[same].levels, **levels}
        cells[same] = replace(cells[same], levels={factor: held[factor] for factor in page.factors if factor in held})
    return list(cells.values()), list(refused.values())


def _combinations(page: Page) -> Iterator[tuple[str, Levels, Product]]:
    """(name, levels, product) of everything the products ask for. The name holds the factors that vary."""
    for product in page.products:
        names = [list(page.factors[factor]) for factor in product.factors]
        for numbers in itertools.product(*(range(len(levels)) for levels in names)):
            if sum(numbers) % product.fraction:
                continue
            varied = {factor: names[i][n] for i, (factor, n) in enumerate(zip(product.factors, numbers, strict=True))}
            levels = {**product.levels, **varied}
            if not any(levels.items() >= out.items() for out in product.leave_out):
                yield "-".join(_slug(level) for level in varied.values()), levels, product


def _factors_of_products(page: Page) -> dict[str, tuple[str, ...]]:
    used = dict.fromkeys(factor for product in page.products for factor in (*product.factors, *product.levels))
    return {factor: tuple(page.factors[factor]) for factor in page.factors if factor in used}


def _of_levels(page: Page, levels: Levels) -> Settings:
    return {key: value for factor, level in levels.items() for key, value in page.factors[factor][level].items()}


def levels_held(page: Page, recipe: Recipe) -> Levels:
    """For every factor of a product, the level all of whose settings the recipe has; of several, the most specific."""
    values = asdict(recipe)
    held = {}
    for factor in _factors_of_products(page):
        levels = page.factors[factor]
        fitting = [level for level, settings in levels.items() if _holds(values, settings)]
        most = max((len(levels[level]) for level in fitting), default=0)
        specific = [level for level in fitting if len(levels[level]) == most]
        if len(specific) == 1:
            held[factor] = specific[0]
    return held


def _holds(values: dict[str, Any], settings: Settings) -> bool:
    for key, wanted in settings.items():
        found: Any = values
        for name in key.split("."):
            if not isinstance(found, dict) or name not in found:
                return False
            found = found[name]
        # A page's lists are a recipe's tuples, and YAML takes 1e-3 for text.
        if found != (tuple(wanted) if isinstance(wanted, list) else wanted) and str(found) != _number(wanted):
            return False
    return True


def _number(text: Any) -> str | None:
    """How a number that YAML took for text would be shown."""
    with suppress(ValueError):
        return str(float(text)) if isinstance(text, str) else None
    return None


def _refuse_overrides(page: Page, size: Scale, overrides: Sequence[str]) -> None:
    """Overrides are for what all cells share: what the cells differ in is the study."""
    levels = [settings for factor in page.factors.values() for settings in factor.values()]
    own = [cell.set for cell in page.cells] + [product.set for product in page.products]
    differs = {
        key for settings in (*levels, *own, *size.cells.values(), *size.quick_cells.values()) for key in settings
    }
    for word in overrides:
        key = word.partition("=")[0].strip()
        if key in differs:
            raise RecipeError(f"{word}: {key} is what cells of {page.name} differ in; change the page instead")
        if key in OF_RUNS:
            raise RecipeError(f"{word}: {key} is what runs of a study get by themselves; see --seeds and --to")


def _with_metric(claim: Claim, page: Page) -> Claim:
    return replace(claim, metric=claim.metric or next(iter(page.metrics)))


def _in_order(cells: list[Cell], study: str) -> tuple[Cell, ...]:
    """Every cell after those it needs, else as they came. Raises RecipeError for a circle or an unknown cell."""
    by_name = {cell.name: cell for cell in cells}
    placed: dict[str, Cell] = {}

    def place(cell: Cell, trail: tuple[str, ...]) -> None:
        if cell.name in trail:
            raise RecipeError(f"{study}: cells need each other in a circle: {' -> '.join((*trail, cell.name))}")
        for name in cell.needs:
            if name not in by_name:
                raise RecipeError(f"{study}: cell {cell.name!r} needs {name!r}; cells are {', '.join(by_name)}")
            place(by_name[name], (*trail, cell.name))
        placed.setdefault(cell.name, cell)

    for cell in cells:
        place(cell, ())
    return tuple(placed.values())


def _references(section: Any) -> Iterator[str]:
    """Names of cells that some setting refers to."""
    for each in fields(section):
        value = getattr(section, each.name)
        for inner in value.values() if isinstance(value, dict) else (value,):
            if is_dataclass(inner):
                yield from _references(inner)
            elif isinstance(inner, str) and inner.startswith(REFERENCE):
                yield inner.removeprefix(REFERENCE)


def _content(recipe: Recipe) -> str:
    """What makes two cells of a page the same."""
    return repr(replace(recipe, name="", seed=0))


def _slug(level: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", level.lower()).strip("_")


def as_yaml(value: Any) -> str:
    """A setting's value as `key=value` words have it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
