"""Pages of YAML as dataclasses: which keys there are, what each takes, and messages that say where.

For pages that are no recipes: studies and suites of measurements.
"""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml

from distill.config.checks import RecipeError
from distill.config.pages import shown
from distill.config.tree import alternatives, nearest

Kind = TypeVar("Kind")


def read_yaml(path: Path) -> dict[str, Any]:
    """What a page holds. Raises RecipeError with its name for what is no mapping or no YAML."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{shown(path)}: not valid YAML: {error}") from None
    return mapping(raw, shown(path))


def check_known(names: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    """Raise RecipeError, with the nearest, for a name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise RecipeError(
                f"{where}: there is no {what} {name!r}{nearest(str(name), map(str, known))}; there are "
                f"{', '.join(map(str, known)) or 'none'}"
            )


def build(kind: type[Kind], raw: Any, where: str) -> Kind:
    """A dataclass from a mapping; lists become tuples where the class says so."""
    raw = mapping(raw, where)
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
    """Whether a value is of a type, entries of lists included; what is inside mappings is left alone."""
    for each in alternatives(kind):
        plain = get_origin(each) or each
        if isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return plain is not tuple or all(_fits(entry, get_args(each)[0]) for entry in value)
    return False


def _wanted(kind: Any) -> str:
    words = {tuple: "a list", dict: "`key: value` lines", str: "text", int: "a whole number", float: "a number"}
    plain = [get_origin(each) or each for each in alternatives(kind)]
    return words[float if float in plain else plain[0]]


def mapping(value: Any, where: str) -> dict[str, Any]:
    """The same value. Raises RecipeError for what is none."""
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected `key: value` lines, not {value!r}")
    return value


def named(raw: dict[str, Any], key: str, where: str) -> Iterable[tuple[str, Any]]:
    """Names and what stands under them, in a section that may be missing."""
    return mapping(raw.get(key, {}), f"{where}: {key}").items()


def listed(raw: dict[str, Any], key: str, where: str) -> list[Any]:
    """The entries of a list that may be missing."""
    value = raw.get(key, [])
    if not isinstance(value, list):
        raise RecipeError(f"{where}: {key} is a list, not {value!r}")
    return value
