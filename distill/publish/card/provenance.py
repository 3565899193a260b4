"""Where a student comes from: its resolved recipe, the page that recipe stands on, and what tells its data apart."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Data, Recipe, RecipeError, differences, load_recipe, page_path, recipe_dict
from distill.config.text import dump
from distill.data.fingerprint import data_fingerprint
from distill.eval.naming import last_part

PROMOTED = re.compile(r"Written by `distill study promote (\S+)`")
NOT_OF_THE_METHOD = ("run", "name", "seed", "evaluate")
PLACE = re.compile(r"(?<![\w./*-])(?!//)(?:/|~/|\.\./)[^\s\"',:]*/")
"""What stands before the last part of a path that is absolute or leads upwards. A web address is no such path."""
ONLY_A_PLACE = re.compile(r"(\w+:)?(?!//)((?:/|~/|\.\./).*)")
"""A whole value that is a path, which may hold spaces, after the name of a family."""
HEADER = """\
# What this model was trained with: every setting. Paths of the machine are cut to their last part, and `run`, which
# changes no result, is left out.
"""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The recipe page that a run stands on. `study` is the one that promoted the page, `header` what the page says."""

    page: str
    study: str | None
    header: str
    changed: tuple[str, ...]
    """`key: page -> run` for every setting of the method that the run has otherwise."""


def provenance(recipe: Recipe, page: Path | None) -> Provenance | None:
    """Of the page that is named, else of the one that comes with distill under the recipe's name; None without one.

    Raises ValueError when the page that is named cannot be read.
    """
    try:
        found = page_path(str(page) if page is not None else recipe.name)
    except RecipeError:
        if page is not None:
            raise
        return None
    lines = found.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#")]
    header = "\n".join(comments)
    promoted = PROMOTED.search(header)
    changed = differences(load_recipe(str(found)), recipe, ignore=NOT_OF_THE_METHOD)
    return Provenance(
        page=found.name,
        study=promoted[1] if promoted else None,
        header=without_machine(header),
        changed=tuple(_cut(change) for change in changed),
    )


def published_recipe(recipe: Recipe) -> str:
    """The resolved page, without what only says where things lie on a machine."""
    values = {key: value for key, value in recipe_dict(recipe).items() if key != "run"}
    return HEADER + dump(without_machine(values))


def without_machine(value: Any) -> Any:
    """The same lists and dicts with the paths inside cut to their last part, patterns with the folder they look in."""
    if isinstance(value, dict):
        return {key: without_machine(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_machine(inner) for inner in value]
    if isinstance(value, str):
        alone = ONLY_A_PLACE.fullmatch(value)
        return f"{alone[1] or ''}{last_part(alone[2])}" if alone else PLACE.sub("", value)
    return value


def _cut(change: str) -> str:
    """`key: page -> run` without the machine; where nothing else differs, that it does."""
    key, _, values = change.partition(": ")
    before, arrow, after = (without_machine(value.strip('"')) for value in values.partition(" -> "))
    if arrow and before == after:
        return f"{key}: lies in another place"
    return f"{key}: {before}{arrow}{after}"


def fingerprint(data: Data) -> tuple[str, dict[str, Any]] | None:
    """A short sum of what decides which picture has which number, and that itself; None when the data is gone."""
    try:
        found = data_fingerprint(data)
    except (ValueError, OSError):
        return None
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16], found


def data_in_words(data: Data) -> str:
    if data.source == "scenes":
        scenes = data.scenes
        return (
            f"{scenes.num_train:,} procedurally drawn scenes (tier {scenes.tier}, split {scenes.split}, world "
            f"{scenes.world_seed})"
        )
    return f"{data.dataset.format} `{last_part(data.dataset.path)}`"
