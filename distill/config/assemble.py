"""From single settings to a recipe: types by omegaconf, ranges by the classes, messages with their place."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill.config import tree
from distill.config.checks import InvalidCombination, InvalidValue, RecipeError
from distill.config.recipe import Recipe
from distill.config.text import Setting

FORMER_SWITCHES = {"objective.features.standardise": {True: "mean_std", False: "none"}}
"""Settings that were true or false once, as they stand in the pages of older runs, and what that is called now."""

SECTION_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Of sections that a recipe names itself."""


@dataclass(frozen=True)
class _Leaf:
    """Where a key ends: the section's class, its setting, the setting's type, and the way into a free dict."""

    section: type
    name: str
    kind: Any
    rest: tuple[str, ...]


class _Wrong(Exception):
    """What is wrong with one setting."""


def assemble(settings: Sequence[Setting]) -> Recipe:
    """Put settings together; a later one wins over an earlier one.

    Raises RecipeError with one line for every setting that does not exist, has a wrong type or is out of
    range, and InvalidCombination for settings that mean nothing together; both say where they were set.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in settings:
        try:
            leaf = _leaf(setting)
            if isinstance(leaf, _Leaf):
                _put(values, setting.key, _converted(setting, leaf))
            elif leaf == "cleared":
                _put(values, setting.key, {})
            elif leaf == "named":
                _put(values, setting.key, _held(values, setting.key))
        except _Wrong as wrong:
            problems.append(f"{setting.where}: {setting.name}: {wrong}")
    if problems:
        raise RecipeError("\n".join(problems))
    config = OmegaConf.merge(_blank(), values)
    try:
        recipe = OmegaConf.to_object(config)
    except InvalidValue:
        problems = _out_of_range(Recipe, values, prefix="", settings=settings)
        raise RecipeError("\n".join(problems)) from None
    except InvalidCombination as error:
        lines = [_told(key, OmegaConf.select(config, key), settings) for key in error.keys]
        raise InvalidCombination(error.keys, "\n".join([str(error), *lines])) from None
    assert isinstance(recipe, Recipe)
    return recipe


def _leaf(setting: Setting) -> _Leaf | Literal["empty", "cleared", "named"]:
    """The leaf a key leads to, or what a section means that holds nothing: `cleared` for a mapping of sections whose
    names the recipe chooses, `named` for a section in there, `empty`, without meaning, for all others."""
    section, prefix, left = Recipe, "", list(setting.key)
    while left:
        kinds, name = tree.types_of(section), left.pop(0)
        if name not in kinds:
            raise _Wrong(f"there is no such setting{tree.meant(setting.name, section=section, prefix=prefix)}")
        kind, prefix = kinds[name], f"{prefix}{name}."
        entries = tree.entries_of(kind)
        if entries is not None:
            if left:
                prefix += f"{_section_name(left.pop(0))}."
                if not left and setting.value == {}:
                    return "named"
            elif setting.value == {}:
                return "cleared"
            else:
                prefix += "NAME."
        elif not is_dataclass(kind):
            if left and get_origin(kind) is not dict:
                raise _Wrong(f"nothing is inside {prefix.rstrip('.')}, which takes {tree.expected(kind)}")
            return _Leaf(section, name, kind, tuple(left))
        section = entries or kind
    if setting.value == {}:
        return "empty"
    raise _Wrong(f"is a section; set what it holds, such as {prefix}{next(iter(tree.types_of(section)))}")


def _section_name(name: str) -> str:
    """A name that the recipe chose for a section."""
    if not SECTION_NAME.fullmatch(name):
        raise _Wrong(f"{name!r} is no name for a section; use small letters, digits and '_'")
    return name


def _converted(setting: Setting, leaf: _Leaf) -> Any:
    """The value in the type of its setting. Raises _Wrong with what was expected."""
    value = setting.value
    if isinstance(value, bool):
        value = FORMER_SWITCHES.get(setting.name, {}).get(value, value)
    _refuse_programs(value)
    if tree.takes_text(leaf.kind) and isinstance(value, bool | int | float) and setting.text is not None:
        value = setting.text
    elif int in tree.alternatives(leaf.kind) and isinstance(value, float) and value.is_integer():
        value = int(value)
    number_for_bool = leaf.kind is bool and isinstance(value, int) and not isinstance(value, bool)
    if number_for_bool or not all(math.isfinite(entry) for entry in _listed(value) if isinstance(entry, float)):
        raise _Wrong(_refusal(setting.value, leaf))
    try:
        OmegaConf.update(_scratch(leaf.section), leaf.name, _nested(leaf.rest, value), merge=False)
    except OmegaConfBaseException:
        raise _Wrong(_refusal(setting.value, leaf)) from None
    return value


def _refusal(value: Any, leaf: _Leaf) -> str:
    """What was given, what was expected, and the nearest allowed word."""
    wanted = "a finite value" if leaf.rest else tree.expected(leaf.kind)
    allowed = tree.choices(leaf.kind)
    unknown = [word for word in _listed(value) if isinstance(word, str) and word not in allowed]
    return f"{_shown(value)} is not {wanted}{tree.nearest(unknown[0], allowed) if unknown else ''}"


@cache
def _blank() -> DictConfig:
    """The recipe's defaults; building them takes omegaconf longer than all the rest. Merging copies them."""
    return OmegaConf.structured(Recipe)


@cache
def _scratch(section: type) -> DictConfig:
    """A section to try values on: omegaconf refuses what has a wrong type when it is set."""
    return OmegaConf.create(OmegaConf.structured(section), flags={"readonly": False})


def _refuse_programs(value: Any) -> None:
    """omegaconf would resolve `${…}` and take `???` for missing; a recipe says what it means."""
    for text in _listed(value):
        if isinstance(text, str) and ("${" in text or text == "???"):
            raise _Wrong(f"{text!r} is not a value; recipes do not refer to other settings or to the environment")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _nested(key: tuple[str, ...], value: Any) -> Any:
    for name in reversed(key):
        value = {name: value}
    return value


def _put(values: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for name in key[:-1]:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            inner = values[name] = {}
        values = inner
    values[key[-1]] = value


def _held(values: dict[str, Any], key: tuple[str, ...]) -> Any:
    """What is there already, or an empty section."""
    for name in key:
        values = values.get(name, {})
    return values


def _out_of_range(section: type, values: dict[str, Any], *, prefix: str, settings: Sequence[Setting]) -> list[str]:
    """Messages of the sections whose classes refuse their values, inner sections first."""
    problems: list[str] = []
    for name, kind in tree.types_of(section).items():
        entries = tree.entries_of(kind)
        inner = {f"{name}.{each}": found for each, found in values.get(name, {}).items()} if entries else {}
        if is_dataclass(kind):
            inner = {name: values.get(name, {})}
        for place, found in inner.items():
            problems += _out_of_range(entries or kind, found, prefix=f"{prefix}{place}.", settings=settings)
    if problems or not values or section is Recipe:
        return problems
    try:
        OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(section), values))
    except InvalidValue as error:
        problems.append(_placed(error, section=section, prefix=prefix, settings=settings))
    return problems


def _placed(error: InvalidValue, *, section: type, prefix: str, settings: Sequence[Setting]) -> str:
    """The message with its place, or with the place of the neighbours it speaks of."""
    key = f"{prefix}{error.key}"
    place = _place(key, settings)
    if place:
        return f"{place}: {key}: {error.message}"
    neighbours = [f"{prefix}{name}" for name in tree.types_of(section) if re.search(rf"\b{name}\b", error.message)]
    places = [f"{name}: {_place(name, settings)}" for name in neighbours if _place(name, settings)]
    return f"{key}: {error.message}" + (f" ({', '.join(places)})" if places else "")


def _place(key: str, settings: Sequence[Setting]) -> str | None:
    places = [setting.where for setting in settings if setting.name == key]
    return places[-1] if places else None


def _told(key: str, value: Any, settings: Sequence[Setting]) -> str:
    if OmegaConf.is_dict(value):
        return f"  {key}"
    return f"  {key} is {_shown(value)} ({_place(key, settings) or 'default'})"


def _shown(value: Any) -> str:
    """A value as a recipe writes it."""
    return "null" if value is None else repr(value).lower() if isinstance(value, bool) else repr(value)
