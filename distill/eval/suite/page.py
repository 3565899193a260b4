"""A suite as its page says it: measurements by name, and the tables of published numbers that they stand beside.

    evaluate: {templates: tcl}                settings of every measurement, as in a recipe's `evaluate`
    measures:
      ade150: {task: zero_shot_segmentation, evaluate: {segmentation: ade20k}}
    tables:
      - title: Zero-shot segmentation, mIoU (%)
        source: TIPSv2, Table 5
        columns: {ADE150: ade150/miou}        heading to measurement/value
        rows: {TIPSv2 L/14: [24.7]}           published numbers as printed, ~ where there is none

A place that starts with `./`, as `segmentation: ./photos`, is a folder below the root of all data sets.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.catalogue.layout import MissingData, data_root
from distill.config import Evaluate, RecipeError, page_path
from distill.config.pages import shown
from distill.config.records import build, check_known, listed, mapping, named, read_yaml
from distill.eval import TASKS
from distill.eval.command import OF_TRAINING
from distill.eval.registry import READS

PLACES = ("segmentation", "classes", "pairs", "instances", "geometry")
"""Settings of `evaluate` that say where pictures are."""
READ_BY = ("root", "columns", "class_names", "split")
"""Those that decide, with a place, what is read from it."""

OF_SOME_TASKS = frozenset(name for names in READS.values() for name in names)
"""Settings that only some tasks read."""

Number = float | int | None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One task on one data set."""

    task: str
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Settings beside those of the whole suite, which they win over."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A table of somebody's numbers. Columns: heading to `measurement/value`."""

    title: str
    source: str
    columns: dict[str, str]
    rows: dict[str, list[Number]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Suite:
    title: str
    measures: dict[str, Measure]
    tables: tuple[Published, ...] = ()
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Settings of all measurements."""
    name: str = ""
    """That of the page's file."""


def read_suite(name: str) -> Suite:
    """`recipes/suite/NAME.yaml` or a path. Raises RecipeError with the page's name for what is wrong in it."""
    path = page_path(name, kind="suite")
    where, raw = shown(path), read_yaml(path)
    built = {
        "measures": {
            each: build(Measure, said, f"{where}: measures: {each}") for each, said in named(raw, "measures", where)
        },
        "tables": tuple(build(Published, each, f"{where}: tables") for each in listed(raw, "tables", where)),
    }
    suite = build(Suite, raw | built | {"name": path.stem}, where)
    _check(suite, where)
    return suite


def words_of(suite: Suite, measure: Measure, *, root: str | None = None) -> list[str]:
    """A measurement's settings as `evaluate.KEY=VALUE` words. `root` is the folder of all data sets, where it is said.

    Raises MissingData for a folder below the root of all data sets that is not there.
    """
    settings = suite.evaluate | measure.evaluate
    root = settings.get("root") if root is None else root
    return [f"evaluate.{key}={_text(_located(key, value, root))}" for key, value in settings.items()]


def is_heard(word: str, task: str) -> bool:
    """Whether an `evaluate.KEY=VALUE` word says something to a task: places and how to read them, or what it reads."""
    section, _, key = word.partition("=")[0].partition(".")
    return section != "evaluate" or key.partition(".")[0] not in OF_SOME_TASKS or key in READS[task]


def _located(key: str, value: Any, root: str | None) -> Any:
    if key not in PLACES or not isinstance(value, str) or not value.startswith("./"):
        return value
    folder = data_root(root) / value
    if not folder.is_dir():
        raise MissingData(f"{folder} is not there")
    return str(Path(folder).resolve())


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check(suite: Suite, where: str) -> None:
    if not suite.measures:
        raise RecipeError(f"{where}: a suite needs at least one measurement")
    known = [name for name in Evaluate.__dataclass_fields__ if name not in OF_TRAINING]
    check_known(suite.evaluate, known, "setting of evaluate", f"{where}: evaluate")
    for name, measure in suite.measures.items():
        check_known((measure.task,), TASKS, "task", f"{where}: {name}")
        check_known(measure.evaluate, known, "setting of evaluate", f"{where}: {name}")
    for table in suite.tables:
        place = f"{where}: {table.title}"
        check_known((each.partition("/")[0] for each in table.columns.values()), suite.measures, "measurement", place)
        for model, numbers in mapping(table.rows, place).items():
            if len(numbers) != len(table.columns):
                raise RecipeError(f"{place}: {model} has {len(numbers)} numbers for {len(table.columns)} columns")
