"""Recipe pages: finding them by name or path, and following `extends`."""

import difflib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from distill.config.checks import RecipeError
from distill.config.text import Setting, page_settings

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
"""The `recipes` package, beside `distill` in a checkout and in an installation."""

Kind = Literal["recipe", "study", "suite", "launch"]
"""Pages of a study, of a suite of measurements and accelerate's launch settings lie in folders of that name; all others
are recipes."""

SUFFIXES = (".yaml", ".yml")


@cache
def catalogue(kind: Kind = "recipe") -> dict[str, Path]:
    """Full name, such as `pretrain/ibotpp`, to page, for every page of a kind that comes with distill.

    The names of studies and launch settings are relative to their folder: `first`, `gpu_8`.
    """
    folder = FOLDER if kind == "recipe" else FOLDER / kind
    pages = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    others = get_args(Kind) if kind == "recipe" else ()
    return {name: path for name, path in pages.items() if name.split("/")[0] not in others}


def list_recipes() -> list[tuple[str, str]]:
    """(name, description) of every recipe that comes with distill; the description is the page's first line."""
    return [(name, _first_comment(path)) for name, path in catalogue().items()]


def page_path(name_or_path: str, *, kind: Kind = "recipe") -> Path:
    """The page of a path (anything ending in .yaml) or of a full or unique short name.

    Raises RecipeError with the nearest names when there is none, or all candidates when there are several.
    """
    given = Path(name_or_path)
    if given.is_file() and given.suffix in SUFFIXES:
        return given
    name = given.with_suffix("").as_posix() if given.suffix in SUFFIXES else name_or_path
    pages = catalogue(kind)
    if name in pages:
        return pages[name]
    candidates = [full for full in pages if full.rsplit("/", 1)[-1] == name]
    if len(candidates) == 1:
        return pages[candidates[0]]
    if candidates:
        raise RecipeError(f"{name_or_path!r} could be any of {', '.join(candidates)}; give the full name")
    if given.is_file():
        raise RecipeError(f"{name_or_path} does not end in .yaml")
    missing = "no such file" if given.suffix in SUFFIXES else f"no {kind} of this name"
    raise RecipeError(f"{name_or_path!r}: {missing}{_nearest_names(name, kind=kind)}")


def layers(page: Path) -> list[Setting]:
    """The settings of a page after those of the pages it extends: what comes later wins.

    `name` is not inherited: two recipes of one name would share a run folder.
    """
    return _layers(page, trail=())


def shown(page: Path) -> str:
    """How messages name a page: `recipes/…` for our own, else as it was given."""
    resolved = page.resolve()
    if resolved.is_relative_to(FOLDER):
        return resolved.relative_to(FOLDER.parent).as_posix()
    return str(page)


def _layers(page: Path, *, trail: tuple[Path, ...]) -> list[Setting]:
    own, parents = [], []
    for setting in _read(page):
        if setting.key == ("extends",):
            parents += [replace(setting, value=parent) for parent in _parents(setting)]
        else:
            own.append(setting)
    trail = (*trail, page.resolve())
    inherited: list[Setting] = []
    for setting in parents:
        parent = _find_parent(setting, page=page)
        if parent.resolve() in trail:
            circle = " extends ".join(shown(step) for step in (*trail[trail.index(parent.resolve()) :], parent))
            raise RecipeError(f"{setting.where}: extends goes in a circle: {circle}")
        inherited += _layers(parent, trail=trail)
    return [setting for setting in inherited if setting.key != ("name",)] + own


def _read(page: Path) -> list[Setting]:
    try:
        text = page.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{shown(page)}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{shown(page)}: cannot be read: {error}") from None
    return page_settings(text, source=shown(page))


def _parents(setting: Setting) -> list[str]:
    parents = setting.value if isinstance(setting.value, list) else [setting.value]
    if not all(isinstance(parent, str) for parent in parents):
        raise RecipeError(f"{setting.where}: extends takes the name or path of a recipe, or a list of them")
    return parents


def _find_parent(setting: Setting, *, page: Path) -> Path:
    """A page beside this one comes before the recipes of distill; a page never means itself by its bare name."""
    beside = page.parent / setting.value
    named = beside.suffix in SUFFIXES
    candidates = [beside] if named else [beside.with_name(beside.name + suffix) for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file() and (named or candidate.resolve() != page.resolve()):
            return candidate
    try:
        return page_path(setting.value)
    except RecipeError as error:
        raise RecipeError(f"{setting.where}: extends: {error}") from None


def _nearest_names(name: str, *, kind: Kind) -> str:
    """`; did you mean …?`, or all names when none is near."""
    short = {known.rsplit("/", 1)[-1]: known for known in catalogue(kind)}
    near = difflib.get_close_matches(name, list(catalogue(kind)), n=3, cutoff=0.6)
    near += [short[match] for match in difflib.get_close_matches(name.rsplit("/", 1)[-1], short, n=3, cutoff=0.6)]
    if near:
        return f"; did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"; there are {', '.join(catalogue(kind)) or 'none'}"


def _first_comment(page: Path) -> str:
    first = page.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
