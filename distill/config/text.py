"""From YAML text to single settings that know where they were written, and back to text.

Only the plain core of YAML is read: no anchors, tags, dates, `yes`/`no` or base-60 numbers. `1e-3` is a number.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distill.config.checks import RecipeError

_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
)
_SCALARS = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")),
    "float": (_FLOAT, list("-+0123456789.")),
}


@dataclass(frozen=True)
class Setting:
    """One value at one dotted key. `text` is the scalar as written, None for lists and empty sections."""

    key: tuple[str, ...]
    value: Any
    text: str | None
    where: str

    @property
    def name(self) -> str:
        return ".".join(self.key)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not read in recipes; use extends", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or this module's reader would take for something else than a string."""


for _tag, (_pattern, _starts) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _starts)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def page_settings(text: str, *, source: str) -> list[Setting]:
    """Every setting of a YAML page, in order. `source` names the page in messages.

    Raises RecipeError for text that is not YAML, is no mapping, or sets one key twice.
    """
    root, settings = _parse(text, place=lambda line: f"{source}:{line + 1}")
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{source}:{root.start_mark.line + 1}: a recipe is a list of `key: value` lines")
    return settings


def command_line_settings(overrides: Sequence[str]) -> list[Setting]:
    """The settings of `key=value` words; values are YAML. Raises RecipeError for anything else."""
    settings = []
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"command line: {word!r} is not key=value, such as optim.lr=1e-3")
        _, values = _parse(text, place=lambda _: "command line", inside=tuple(key.strip().split(".")))
        settings += values
    return settings


def dump(values: dict[str, Any]) -> str:
    """YAML that `page_settings` reads back to the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _parse(
    text: str, *, place: Callable[[int], str], inside: tuple[str, ...] = ()
) -> tuple[yaml.Node | None, list[Setting]]:
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, [Setting(inside, None, "", place(0))] if inside else []
        settings = list(_walk(loader, root, key=inside, place=place))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        name = f"{'.'.join(inside)}: " if inside else ""
        raise RecipeError(f"{place(mark.line if mark else 0)}: {name}not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{place(0)}: not valid YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
    _refuse_twice(settings)
    return root, settings


def _walk(loader: _Loader, node: yaml.Node, *, key: tuple[str, ...], place: Callable[[int], str]) -> Iterator[Setting]:
    """Flatten mappings into settings; an empty mapping is a setting of its own."""
    where = place(node.start_mark.line)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        yield Setting(key, loader.construct_object(node, deep=True), text, where)
        return
    first_lines: dict[str, str] = {}
    for name_node, value_node in node.value:
        where = place(name_node.start_mark.line)
        if not isinstance(name_node, yaml.ScalarNode):
            raise RecipeError(f"{where}: a key is a word, not a list or a section")
        name = name_node.value
        if name in first_lines:
            raise RecipeError(f"{where}: {'.'.join((*key, name))} is set twice, first at {first_lines[name]}")
        first_lines[name] = where
        # A scalar on the line after its key is still reported where its key stands.
        for setting in _walk(loader, value_node, key=(*key, *name.split(".")), place=place):
            own = isinstance(value_node, yaml.MappingNode) and value_node.value
            yield setting if own else Setting(setting.key, setting.value, setting.text, where)


def _refuse_twice(settings: list[Setting]) -> None:
    seen: dict[str, Setting] = {}
    for setting in settings:
        if setting.name in seen:
            raise RecipeError(f"{setting.where}: {setting.name} is set twice, first at {seen[setting.name].where}")
        seen[setting.name] = setting
