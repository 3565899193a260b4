"""Whether runs compare: what differs between seeds beside the seed, and what was not measured in the same way."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from distill.config import Recipe, cache_places
from distill.study.cells import REFERENCE, Cell
from distill.study.results import Finished, Results

OF_THE_MACHINE = ("batch_size",)
"""Settings of tasks that change no score."""
OF_THE_ENCODER = ("retrieval.cls",)
"""Always the last CLS token: another number is another encoder, measured in the same way."""


def unequal_seeds(results: Results) -> tuple[str, ...]:
    """What differs between runs that should differ in their seed only, each difference once with its cells."""
    found: dict[tuple[str, int, int], list[str]] = {}
    for cell in results.cells:
        first, *others = results.of(cell.name)
        for other in others:
            for change in _changes(cell, first, other):
                found.setdefault((change, first.seed, other.seed), []).append(cell.name)
    return tuple(
        f"Seeds {first} and {seed} do not compare, so nothing is decided: {change} in {', '.join(cells)}."
        for (change, first, seed), cells in found.items()
    )


def measured_otherwise(results: Results) -> dict[str, list[tuple[str, int]]]:
    """What was measured in another way than in most runs, such as `num_images: 64, not 512`, and in which runs.

    Tasks that some encoders cannot do, and so have no settings, do not count.
    """
    ways = {place: _measurement(run) for place, run in results.runs.items()}
    keys = dict.fromkeys(key for way in ways.values() for key in way)
    found: dict[str, list[tuple[str, int]]] = {}
    for key in keys:
        values = {place: repr(way[key]) for place, way in ways.items() if key in way}
        [(usual, _)] = Counter(values.values()).most_common(1)
        for place, value in values.items():
            if value != usual:
                found.setdefault(f"{key}: {value}, not {usual}", []).append(place)
    return found


def pictures_of(run: Finished) -> dict[str, object]:
    """What decides which held-out pictures a run was measured on."""
    recipe = run.recipe
    taken: dict[str, object] = {"num_images": run.num_images, "data.image_size": recipe.data.image_size}
    if recipe.evaluate.segmentation is not None:
        return taken | {"evaluate.segmentation": recipe.evaluate.segmentation}
    # How many pictures were trained on, and where they are kept, leaves the held-out ones alone.
    world = {key: value for key, value in asdict(recipe.data.scenes).items() if key not in ("cache", "num_train")}
    return taken | {f"data.scenes.{key}": value for key, value in world.items()}


def settings_of(recipe: Recipe) -> dict[str, object]:
    """Every setting as `section.key: value`, without name, seed and `run`."""
    values = {key: value for key, value in asdict(recipe).items() if key not in ("name", "seed", "run")}
    return _flat(values)


def _measurement(run: Finished) -> dict[str, object]:
    tasks = {key: value for key, value in _flat(run.settings).items() if key not in OF_THE_ENCODER}
    kept = {key: value for key, value in tasks.items() if key.rpartition(".")[2] not in OF_THE_MACHINE}
    return pictures_of(run) | kept


def _changes(cell: Cell, first: Finished, other: Finished) -> list[str]:
    """Where a run lies may change between seeds, and so may the places of what it starts from or reads."""
    places = {*cache_places(cell.recipe)} | {
        key for key, value in settings_of(cell.recipe).items() if str(value).startswith(REFERENCE)
    }
    before, after = settings_of(first.recipe), settings_of(other.recipe)
    keys = [key for key in before if key not in places and before[key] != after[key]]
    changes = [f"{key}: {before[key]} -> {after[key]}" for key in keys]
    if first.num_images != other.num_images:
        changes.append(f"measured on {first.num_images} -> {other.num_images} pictures")
    if first.settings != other.settings:
        changes.append("other settings of the measurement")
    return changes


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
