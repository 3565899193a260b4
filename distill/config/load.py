"""Recipes in and out: from a page and the command line, and to the resolved page beside a run."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.config.assemble import assemble
from distill.config.checks import RecipeError
from distill.config.compare import recipe_dict
from distill.config.pages import layers, page_path, shown
from distill.config.recipe import Recipe
from distill.config.text import command_line_settings, dump


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a page, known by name or path, with `key=value` words applied last.

    A page that sets no `name` is called like its file. Raises RecipeError for whatever cannot be read and
    InvalidCombination for settings that mean nothing together.
    """
    return _load(page_path(str(name_or_path)), overrides)


def members_named(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of `teacher.members` that a page and its overrides speak of; nothing else is checked."""
    settings = [*layers(page_path(str(name_or_path))), *command_line_settings(overrides)]
    named = (setting.key[2] for setting in settings if setting.key[:2] == ("teacher", "members") and setting.key[2:])
    return tuple(dict.fromkeys(named))


def recipe_from_file(path: str | Path) -> Recipe:
    """The recipe of one YAML file, such as `recipe.yaml` in a run folder. Raises like `load_recipe`."""
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{shown(path)}: no such file")
    return _load(path, ())


def recipe_from_words(words: Sequence[str]) -> Recipe:
    """The defaults with `key=value` words applied. Raises like `load_recipe`."""
    return assemble(command_line_settings(words))


def resolve(name_or_path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Every setting of a recipe, defaults included, as plain nested values."""
    return recipe_dict(load_recipe(name_or_path, overrides))


def recipe_text(recipe: Recipe) -> str:
    """The resolved page as YAML: every setting, nothing inherited."""
    return dump(recipe_dict(recipe))


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the resolved page so that it loads back equal; readers see the old file or the whole new one."""
    path, text = Path(path), recipe_text(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    os.replace(file.name, path)


def _load(page: Path, overrides: Sequence[str]) -> Recipe:
    settings = [*layers(page), *command_line_settings(overrides)]
    recipe = assemble(settings)
    if any(setting.key == ("name",) for setting in settings):
        return recipe
    return replace(recipe, name=page.stem)
