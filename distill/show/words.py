"""From the words of a command line to models and typed settings."""

import types
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from distill.config import tree
from distill.show.models import Asked, Side

OF_MODELS = ("side", "weights", "title")
"""Said of the model that stands before."""


class _Unfit(ValueError):
    """A text is no value of a type."""


def split_words(words: Sequence[str]) -> tuple[list[Asked], dict[str, str]]:
    """Models with what is said of each, and the other settings as text.

    A word is a setting when it begins with a name and `=`; every other word is a model. Raises ValueError for what is
    said of a model before any stands there, and for a side that is none.
    """
    models: list[Asked] = []
    settings: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            models.append(Asked(place=word))
        elif key not in OF_MODELS:
            settings[key] = value
        elif not models:
            raise ValueError(f"{word} is said of the model before it, and none stands there")
        elif key == "side" and value not in get_args(Side):
            raise ValueError(f"{word}: expected one of {', '.join(get_args(Side))}")
        else:
            models[-1] = replace(models[-1], **{key: value})
    return models, settings


def settings_of(texts: dict[str, str], sections: tuple[type, ...], *, what: str) -> list[Any]:
    """An instance of every section, a dataclass of settings. Raises ValueError for unknown keys and wrong values."""
    kinds = [tree.types_of(section) for section in sections]
    known = [name for each in kinds for name in each]
    for key in texts:
        if key not in known:
            hears = f"; it hears {', '.join((*OF_MODELS, *known))}"
            raise ValueError(f"{what} has no setting {key!r}{tree.nearest(key, known) or hears}")
    return [
        section(**{name: _value(name, texts[name], kind) for name, kind in each.items() if name in texts})
        for section, each in zip(sections, kinds, strict=True)
    ]


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        return _read(text, kind)
    except _Unfit:
        raise ValueError(f"{name}={text}: expected {_expected(kind)}") from None


def _read(text: Any, kind: Any) -> Any:
    """The text as a value of the type. Raises _Unfit."""
    if get_origin(kind) in (Union, types.UnionType):
        for inner in get_args(kind):
            try:
                return _read(text, inner)
            except _Unfit:
                continue
        raise _Unfit
    if get_origin(kind) is Literal:
        found = [word for word in get_args(kind) if word == text]
        if not found:
            raise _Unfit
        return found[0]
    if get_origin(kind) is tuple:
        return _tuple(text, get_args(kind))
    if kind is type(None):
        if text != "null":
            raise _Unfit
        return None
    try:
        return kind(text)
    except ValueError:
        raise _Unfit from None


def _tuple(text: str, inner: tuple[Any, ...]) -> tuple:
    """`[a, b]`; of numbers also `1,2`; a text that is no list stands alone."""
    parts = [text]
    if text.lstrip().startswith("["):
        try:
            parts = yaml.load(text, Loader=yaml.BaseLoader)  # every entry stays a text
        except yaml.YAMLError:
            raise _Unfit from None
    elif inner[0] is not str:
        parts = text.split(",")
    if not all(isinstance(part, str) for part in parts) or (inner[-1] is not Ellipsis and len(parts) != len(inner)):
        raise _Unfit
    return tuple(_read(part, inner[0]) for part in parts)


def _expected(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_expected(inner) for inner in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        many = f"{len(inner)} numbers, such as 0.3,0.7" if inner[-1] is not Ellipsis else "a list, such as "
        return many if inner[-1] is not Ellipsis else many + ("[cat, dog]" if inner[0] is str else "[3, 6]")
    if kind is type(None):
        return "null"
    return tree.expected(kind)
