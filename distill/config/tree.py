"""The tree of settings seen as dotted keys: which there are, what each takes, and which was probably meant."""

import difflib
import types
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distill.config.recipe import Recipe


@cache
def types_of(section: type) -> dict[str, Any]:
    """Name to type of a section's settings; a type that is a dataclass is a section again."""
    return get_type_hints(section)


@cache
def all_keys(section: type = Recipe, prefix: str = "") -> tuple[str, ...]:
    """Every dotted key that takes a value."""
    keys: list[str] = []
    for name, kind in types_of(section).items():
        keys += all_keys(kind, f"{prefix}{name}.") if is_dataclass(kind) else [f"{prefix}{name}"]
    return tuple(keys)


def entries_of(kind: Any) -> type | None:
    """The class of the sections in a mapping whose names are the recipe's to choose; None for all other types."""
    inner = get_args(kind)[1] if get_origin(kind) is dict else None
    return inner if is_dataclass(inner) else None


def takes_text(kind: Any) -> bool:
    """Whether the type is `str` or `str | None`, so that `007` and `1e3` are meant as written."""
    return set(alternatives(kind)) - {type(None)} == {str}


def expected(kind: Any) -> str:
    """What a setting of this type takes, in words."""
    if len(alternatives(kind)) > 1:
        return " or ".join("null" if other is type(None) else expected(other) for other in alternatives(kind))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if inner[-1] is not Ellipsis:
            return f"a list of {len(inner)} numbers, such as [0.5, 1.0]"
        return f"a list such as [{choices(kind)[0]}]: any of {', '.join(choices(kind))}"
    if get_origin(kind) is dict:
        return "a section of further settings"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def choices(kind: Any) -> tuple[str, ...]:
    """The words a setting may take, or its entries for lists; empty where any value goes."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(word for inner in get_args(kind) for word in choices(inner))


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def meant(key: str, *, section: type, prefix: str) -> str:
    """For an unknown key: the nearest one, beside it or elsewhere in the tree, or what its section holds.

    `section` is the deepest existing section on the way to `key`, and `prefix` that section's dotted name.
    """
    last = key.rsplit(".", 1)[-1]
    inside = [f"{prefix}{known}" for known in all_keys(section) if known.rsplit(".", 1)[-1] == last]
    elsewhere = inside or [known for known in all_keys() if known.rsplit(".", 1)[-1] == last]
    if elsewhere:
        close = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.85)
        close = close or difflib.get_close_matches(key, elsewhere, n=3, cutoff=0.0)
        return f"; did you mean {' or '.join(close)}?"
    beside = [f"{prefix}{name}" for name in types_of(section)]
    wrong = key[len(prefix) :].split(".")[0]
    near = difflib.get_close_matches(f"{prefix}{wrong}", beside, n=1, cutoff=0.75) or _by_last(last)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; {prefix.rstrip('.') or 'a recipe'} holds {', '.join(types_of(section))}"


def _by_last(last: str) -> list[str]:
    names: dict[str, str] = {}
    for known in all_keys():
        names.setdefault(known.rsplit(".", 1)[-1], known)
    return [names[name] for name in difflib.get_close_matches(last, names, n=1, cutoff=0.75)]


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
