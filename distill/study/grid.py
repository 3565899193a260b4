"""A study as a page says it: factors and their levels, cells, claims, and the scales it can be run at.

    factors:                          a switch and the settings of each of its levels
      teacher:
        momentum: {teacher.kind: momentum}
        frozen: {teacher.kind: frozen, teacher.checkpoint: "cell:ibot"}
      heard: {...}
    products:                         every combination of some factors, the others held at `levels`
      - {factors: [teacher, heard], levels: {hidden: 75 %}}
    cells:                            runs with a name, a title, and the paper's numbers
      - {name: ibot, levels: {teacher: momentum, ...}, set: {...}, paper: {...}}
    claims:                           what the paper says, as differences between cells or between levels
    scales:                           mini, gpu, paper: the base recipe, and what else changes with the scale

`cell:NAME` in a setting is the run of that cell with the same seed: a dependency. Reading a page loads no torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin

import yaml

from distill.config import RecipeError, page_path
from distill.config.pages import shown
from distill.config.tree import alternatives, nearest

Settings = dict[str, Any]
Levels = dict[str, str]
"""Factor to level."""

Kind = TypeVar("Kind")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Of studies and cells: they become names of folders."""


@dataclass(frozen=True, kw_only=True)
class NamedCell:
    """A run of the study. `levels` and `set` add up; `set` wins."""

    name: str
    title: str
    levels: Levels = field(default_factory=dict)
    set: Settings = field(default_factory=dict)
    paper: dict[str, Any] = field(default_factory=dict)
    """The paper's numbers for it by benchmark; `row` says where they stand."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """All combinations of the levels of some factors, or a regular fraction of them.

    `fraction: n` keeps the combinations whose level numbers add up to a multiple of n: each level of a factor whose
    number of levels n divides stays equally frequent. `leave_out` names combinations by some of their levels.
    """

    factors: tuple[str, ...]
    levels: Levels = field(default_factory=dict)
    set: Settings = field(default_factory=dict)
    fraction: int = 1
    leave_out: tuple[Levels, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`better` scores higher than `than` in `metric` by more than `by_more_than`, or as high to `within`; in points.

    Without `factor`, `better` and `than` are cells. With it they are two of its levels, and the difference is the
    mean over all pairs of cells that differ in nothing else, among the cells that have the levels `where`.
    """

    say: str
    better: str
    than: str
    source: str
    factor: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    metric: str | None = None
    """The deciding one when not set."""
    by_more_than: float | int = 0
    within: float | int | None = None


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of the study. `cells` adds settings to cells by name; `quick` is what --quick adds to all of them."""

    recipe: str
    expect: str
    """Time and machine, for people."""
    set: Settings = field(default_factory=dict)
    cells: dict[str, Settings] = field(default_factory=dict)
    quick: Settings = field(default_factory=dict)
    quick_cells: dict[str, Settings] = field(default_factory=dict)
    quick_expect: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    launch: str | None = None
    """A page of recipes/launch when a cell needs several processes."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """How the winner becomes a pretraining recipe: which factors may be carried back, and what never is, with why."""

    title: str
    """First line of the recipe."""
    source: str
    command: str
    time: str
    base: str
    """The pretraining recipe that the promoted one extends."""
    factors: dict[str, str]
    """Factor to why its winning level makes sense in pretraining."""
    prefer: dict[str, str] = field(default_factory=dict)
    """Factor to the level that is taken unless the winner's is established to be better."""
    left: dict[str, str] = field(default_factory=dict)
    """Factor to why it stays what it is in the base."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a study's YAML page holds."""

    name: str
    title: str
    metrics: dict[str, str]
    """Metric to column title, in the order of the report; the first one decides."""
    scales: dict[str, Scale]
    cells: tuple[NamedCell, ...] = ()
    factors: dict[str, dict[str, Settings]] = field(default_factory=dict)
    products: tuple[Product, ...] = ()
    claims: tuple[Claim, ...] = ()
    promote: Promotion | None = None


def read_page(name: str) -> Page:
    """Read `recipes/study/NAME.yaml` or a path. Raises RecipeError with the page's name for what is wrong in it."""
    path = page_path(name, kind="study")
    where = shown(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: not valid YAML: {error}") from None
    raw = _mapping(raw, where)
    built = {
        "scales": {name: _build(Scale, each, f"{where}: scale {name}") for name, each in _named(raw, "scales", where)},
        "cells": tuple(_build(NamedCell, each, f"{where}: cells") for each in _listed(raw, "cells", where)),
        "products": tuple(_build(Product, each, f"{where}: products") for each in _listed(raw, "products", where)),
        "claims": tuple(_build(Claim, each, f"{where}: claims") for each in _listed(raw, "claims", where)),
        "promote": _build(Promotion, raw["promote"], f"{where}: promote") if "promote" in raw else None,
    }
    page = _build(Page, raw | built, where)
    _check(page, where)
    return page


def _check(page: Page, where: str) -> None:
    if not page.cells and not page.products:
        raise RecipeError(f"{where}: a study needs cells or products")
    if not page.metrics or not page.scales:
        raise RecipeError(f"{where}: a study needs at least one metric and one scale")
    names = [cell.name for cell in page.cells]
    for name in (page.name, *names):
        if not NAME.fullmatch(str(name)):
            raise RecipeError(f"{where}: {name!r} is no name; use letters, digits, '-', '_' and '.'")
        if names.count(name) > 1:
            raise RecipeError(f"{where}: two cells are called {name!r}")
    for factor, levels in page.factors.items():
        for level, settings in _mapping(levels, f"{where}: {factor}").items():
            _mapping(settings, f"{where}: {factor}: {level}")
    for cell in page.cells:
        _check_levels(page, cell.levels, f"{where}: cell {cell.name}")
    for product in page.products:
        _known(product.factors, page.factors, "factor", f"{where}: products")
        for levels in (product.levels, *product.leave_out):
            _check_levels(page, _mapping(levels, f"{where}: products"), f"{where}: products")
        if product.fraction < 1:
            raise RecipeError(f"{where}: products: fraction is {product.fraction}, which is not positive")
    for claim in page.claims:
        _check_claim(page, claim, f"{where}: claim {claim.say!r}")
    for scale in page.scales.values():
        _known((*scale.cells, *scale.quick_cells), names, "cell", f"{where}: scales")
        if not scale.seeds or len(set(scale.seeds)) < len(scale.seeds) or not all(type(s) is int for s in scale.seeds):
            raise RecipeError(f"{where}: scales: seeds are different whole numbers, not {list(scale.seeds)}")
    if page.promote is not None:
        _known((*page.promote.factors, *page.promote.left), page.factors, "factor", f"{where}: promote")
        _check_levels(page, page.promote.prefer, f"{where}: promote")


def _check_claim(page: Page, claim: Claim, where: str) -> None:
    if claim.better == claim.than:
        raise RecipeError(f"{where}: compares {claim.better!r} with itself")
    if claim.factor is None and claim.where:
        raise RecipeError(f"{where}: `where` is for claims about the levels of a factor")
    if claim.factor is not None:
        _check_levels(page, {claim.factor: [claim.better, claim.than], **claim.where}, where)
    if claim.within is not None and (claim.within <= 0 or claim.by_more_than):
        raise RecipeError(f"{where}: `within` is a positive number of points, without `by_more_than`")


def _check_levels(page: Page, levels: Mapping[str, Any], where: str) -> None:
    for factor, asked in levels.items():
        _known((factor,), page.factors, "factor", where)
        _known(asked if isinstance(asked, list) else (asked,), page.factors[factor], f"level of {factor}", where)


def _known(names: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise RecipeError(
                f"{where}: there is no {what} {name!r}{nearest(str(name), map(str, known))}; there are "
                f"{', '.join(map(str, known)) or 'none'}"
            )


def _build(kind: type[Kind], raw: Any, where: str) -> Kind:
    """One of this module's classes from a mapping; lists become tuples where the class says so."""
    raw = _mapping(raw, where)
    known = {each.name: each for each in fields(kind)}
    for key in raw:
        if key not in known:
            raise RecipeError(f"{where}: there is no {key!r}{nearest(str(key), known)}; it takes {', '.join(known)}")
    missing = [
        name
        for name, each in known.items()
        if each.default is MISSING and each.default_factory is MISSING and name not in raw
    ]
    if missing:
        raise RecipeError(f"{where}: {', '.join(missing)} is missing in {raw.get('name', raw.get('say', 'it'))}")
    values = {}
    for key, value in raw.items():
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, known[key].type):
            raise RecipeError(f"{where}: {key} takes {_wanted(known[key].type)}, not {raw[key]!r}")
        values[key] = value
    return kind(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, entries of lists included; what is inside mappings, `_check` looks at."""
    for each in alternatives(kind):
        plain = get_origin(each) or each
        if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return plain is not tuple or all(_fits(entry, get_args(each)[0]) for entry in value)
    return False


def _wanted(kind: Any) -> str:
    words = {tuple: "a list", dict: "`key: value` lines", str: "text", int: "a whole number", float: "a number"}
    plain = [get_origin(each) or each for each in alternatives(kind)]
    return words[float if float in plain else plain[0]]


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected `key: value` lines, not {value!r}")
    return value


def _named(raw: dict[str, Any], key: str, where: str) -> Iterable[tuple[str, Any]]:
    return _mapping(raw.get(key, {}), f"{where}: {key}").items()


def _listed(raw: dict[str, Any], key: str, where: str) -> list[Any]:
    value = raw.get(key, [])
    if not isinstance(value, list):
        raise RecipeError(f"{where}: {key} is a list, not {value!r}")
    return value
