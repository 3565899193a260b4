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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.config import RecipeError, page_path
from distill.config.pages import shown
from distill.config.records import build, check_known, listed, mapping, named, read_yaml

Settings = dict[str, Any]
Levels = dict[str, str]
"""Factor to level."""

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
    where, raw = shown(path), read_yaml(path)
    built = {
        "scales": {name: build(Scale, each, f"{where}: scale {name}") for name, each in named(raw, "scales", where)},
        "cells": tuple(build(NamedCell, each, f"{where}: cells") for each in listed(raw, "cells", where)),
        "products": tuple(build(Product, each, f"{where}: products") for each in listed(raw, "products", where)),
        "claims": tuple(build(Claim, each, f"{where}: claims") for each in listed(raw, "claims", where)),
        "promote": build(Promotion, raw["promote"], f"{where}: promote") if "promote" in raw else None,
    }
    page = build(Page, raw | built, where)
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
        for level, settings in mapping(levels, f"{where}: {factor}").items():
            mapping(settings, f"{where}: {factor}: {level}")
    for cell in page.cells:
        _check_levels(page, cell.levels, f"{where}: cell {cell.name}")
    for product in page.products:
        check_known(product.factors, page.factors, "factor", f"{where}: products")
        for levels in (product.levels, *product.leave_out):
            _check_levels(page, mapping(levels, f"{where}: products"), f"{where}: products")
        if product.fraction < 1:
            raise RecipeError(f"{where}: products: fraction is {product.fraction}, which is not positive")
    for claim in page.claims:
        _check_claim(page, claim, f"{where}: claim {claim.say!r}")
    for scale in page.scales.values():
        check_known((*scale.cells, *scale.quick_cells), names, "cell", f"{where}: scales")
        if not scale.seeds or len(set(scale.seeds)) < len(scale.seeds) or not all(type(s) is int for s in scale.seeds):
            raise RecipeError(f"{where}: scales: seeds are different whole numbers, not {list(scale.seeds)}")
    if page.promote is not None:
        check_known((*page.promote.factors, *page.promote.left), page.factors, "factor", f"{where}: promote")
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
        check_known((factor,), page.factors, "factor", where)
        check_known(asked if isinstance(asked, list) else (asked,), page.factors[factor], f"level of {factor}", where)
