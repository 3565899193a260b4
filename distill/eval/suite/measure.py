"""A suite carried out on one encoder: what is there is measured, kept in its folder, and not measured again.

Every measurement is `NAME.json`, and `NAME.safetensors` with what each picture contributed. Both are written whole; one
that is there counts only while the encoder's weights, the settings and the data are those it was made with. So whatever
stops a suite, the same command goes on with the measurement that was not finished.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file

from distill import __version__
from distill.cache.identity import sha256_of_weights
from distill.cache.shards import sha256_of
from distill.catalogue.layout import MissingData, data_root
from distill.config import TASKS_WITH_TEXT, Recipe
from distill.encoders.dual import DualEncoder
from distill.environment import environment
from distill.eval import EvaluationData, TaskResult, evaluation_data
from distill.eval.in_training import run_task
from distill.eval.naming import data_in_words
from distill.eval.registry import READS
from distill.eval.remembered import remembering
from distill.eval.suite.fingerprints import fingerprints, sets_of
from distill.eval.suite.page import PLACES, READ_BY, Suite, is_heard, words_of
from distill.eval.suite.subject import Subject
from distill.eval.suite.watch import Shown
from distill.train.journal import whole, write_atomically

FORMAT = 2
"""Changes whenever the same settings measure something else, or the files say it otherwise."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement as its JSON file says it. Values are shares in [0, 1] or end in a unit; None: a mean of nothing."""

    task: str
    values: dict[str, float | int | None]
    per_class: dict[str, float | int | None]
    num_images: int
    settings: dict[str, Any]
    notes: list[str]
    identity: dict[str, Any]
    """What it was made with: weights, settings and data. `data` has the fingerprint of every set."""
    seconds: float | int
    environment: dict[str, str]
    pictures_sha256: str
    """Of the file that holds what each picture contributed."""
    data_set: str = ""
    """What people call the data. It is no part of the identity, and a kept file lacks it: whoever carries out a suite
    knows it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a suite for one encoder."""

    name: str
    who: dict[str, Any]
    limit: int | None
    folder: Path
    measured: dict[str, Measured]
    missing: dict[str, str]
    """What could not be measured here, and why: no such data set, or no text tower."""
    failed: dict[str, str]
    """What should have been measured, and the error."""


@dataclass(frozen=True, kw_only=True)
class _Planned:
    name: str
    task: str
    recipe: Recipe
    data: EvaluationData
    identity: dict[str, Any]


def carry_out(
    subject: Subject, suite: Suite, *, words: Sequence[str], limit: int | None, device: str, console: Console
) -> Outcome:
    """Measure what the folder does not have yet. `words` win over the suite's settings; `limit` pictures of each set.

    A measurement that fails is told, and the others go on. Raises ValueError for words that mean nothing.
    """
    folder = folder_of(subject, suite, limit)
    planned, missing, failed = _plan(subject, suite, words=words, limit=limit)
    measured: dict[str, Measured] = {}
    encoder = subject.encoder.to(device)
    with Shown({each.name: _num_pictures(each.data) for each in planned}, title=subject.name, console=console) as shown:
        for _, group in groupby(planned, key=lambda each: _places(each.recipe)):
            held: dict[Any, Any] = {}
            with remembering():
                for each in group:
                    kept = read(folder, each.name, each.identity)
                    if kept is None:
                        one = replace(each, data=_same_objects(each, held))
                        kept = _attempt(lambda one=one: _measure(encoder, one, folder, shown))
                    else:
                        shown.already(each.name)
                    if isinstance(kept, str):
                        failed[each.name] = kept
                        shown.failed(each.name, kept)
                    else:
                        called = data_in_words(each.task, vars(each.recipe.evaluate))
                        measured[each.name] = replace(kept, data_set=called)
    return Outcome(
        name=subject.name,
        who=subject.who | {"image_size": subject.image_size},
        limit=limit,
        folder=folder,
        measured={name: measured[name] for name in suite.measures if name in measured},
        missing=missing,
        failed=failed,
    )


def folder_of(subject: Subject, suite: Suite, limit: int | None) -> Path:
    """Where the encoder's measurements of this suite are kept."""
    parts = [suite.name, subject.variant, "" if limit is None else f"limit{limit}"]
    return subject.home / "-".join(part for part in parts if part)


def read(folder: Path, name: str, identity: dict[str, Any] | None = None) -> Measured | None:
    """A kept measurement; None where there is none that is whole, or one that was made with something else than
    `identity`."""
    file, pictures = folder / f"{name}.json", folder / f"{name}.safetensors"
    try:
        page = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(page, dict) or page.get("format") != FORMAT or not pictures.is_file():
        return None
    try:
        found = Measured(**{key: value for key, value in page.items() if key != "format"})
    except TypeError:  # another version's page
        return None
    if found.pictures_sha256 != sha256_of(pictures):
        return None
    return found if identity is None or found.identity == identity else None


def _plan(
    subject: Subject, suite: Suite, *, words: Sequence[str], limit: int | None
) -> tuple[list[_Planned], dict[str, str], dict[str, str]]:
    """What can be measured, what cannot because something is not there, and what cannot because something is wrong."""
    planned: list[_Planned] = []
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    # Whoever mistypes a setting or the root is told once, not in every measurement.
    root = subject.recipe(words).evaluate.root
    with suppress(MissingData):
        data_root(root)
    for name, measure in suite.measures.items():
        if subject.encoder.text is None and measure.task in TASKS_WITH_TEXT:
            missing[name] = "the encoder has no text tower"
            continue
        try:
            own = [word for word in words if is_heard(word, measure.task)]
            recipe = subject.recipe([f"evaluate.tasks=[{measure.task}]", *words_of(suite, measure, root=root), *own])
            data = evaluation_data(recipe, limit)
            identity = _identity(subject, measure.task, recipe, data, limit)
        except MissingData as reason:
            missing[name] = str(reason)
        except ValueError as reason:
            failed[name] = str(reason)
        else:
            planned.append(_Planned(name=name, task=measure.task, recipe=recipe, data=data, identity=identity))
    return planned, missing, failed


def _identity(subject: Subject, task: str, recipe: Recipe, data: EvaluationData, limit: int | None) -> dict[str, Any]:
    """As it will come back from JSON. Where files lie does not count: what is in them does.

    Of the settings those that the task reads; what they do not say follows from the version.
    """
    settings = {name: value for name, value in asdict(recipe.evaluate).items() if name in READS[task]}
    if settings.get("decoder") is not None:
        settings["decoder"] = sha256_of_weights(Path(settings["decoder"]))
    found = {
        "format": FORMAT,
        "distill": __version__,
        "task": task,
        "weights_sha256": subject.who["weights_sha256"],
        "image_size": subject.image_size,
        "limit": limit,
        "evaluate": settings,
        "data": fingerprints(data),
    }
    return json.loads(json.dumps(found))


def _measure(encoder: DualEncoder, one: _Planned, folder: Path, shown: Shown) -> Measured:
    started = time.perf_counter()
    with shown.measuring(one.name):
        result = run_task(encoder, one.task, data=one.data, recipe=one.recipe)
    page = {
        "format": FORMAT,
        "task": one.task,
        "values": _without_nan(result.values),
        "per_class": _without_nan(result.per_class),
        "num_images": result.num_images,
        "settings": result.settings,
        "notes": list(result.notes),
        "identity": one.identity,
        "seconds": time.perf_counter() - started,
        "environment": environment(),
    }
    _keep(folder, one.name, page, result)
    kept = read(folder, one.name)
    assert kept is not None
    shown.done(one.name, kept.values, kept.seconds)
    return kept


def _keep(folder: Path, name: str, page: dict[str, Any], result: TaskResult) -> None:
    """The pictures first: a measurement with a page has both, and the page knows which pictures are its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    pictures = folder / f"{name}.safetensors"
    with whole(pictures) as unfinished:
        save_file({key: value.contiguous() for key, value in result.per_picture.items()}, unfinished)
        unfinished.chmod(0o644)
    page |= {"pictures_sha256": sha256_of(pictures)}
    write_atomically(folder / f"{name}.json", json.dumps(page, indent=1, allow_nan=False))


def _attempt(measure: Callable[[], Measured]) -> Measured | str:
    """What was measured, or what was wrong with it."""
    try:
        return measure()
    except ValueError as error:
        return str(error)
    except Exception as error:  # such as a GPU out of memory: the other measurements can still be made
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return f"{type(error).__name__}: {error}"


def _same_objects(one: _Planned, held: dict[Any, Any]) -> EvaluationData:
    """The data with sets that an earlier task of the group has opened already: features are kept by set."""
    found = {}
    for name, value in vars(one.data).items():
        prints = {key: said for key, said in one.identity["data"].items() if key == name or key.startswith(f"{name}_")}
        found[name] = held.setdefault((name, json.dumps(prints)), value) if prints else value
    return EvaluationData(**found)


def _places(recipe: Recipe) -> tuple[Any, ...]:
    """Measurements with equal places look at the same sets."""
    return tuple(vars(recipe.evaluate)[place] for place in (*PLACES, *READ_BY))


def _num_pictures(data: EvaluationData) -> int:
    return sum(len(one) for one in sets_of(data).values())


def _without_nan(values: dict[str, float]) -> dict[str, Any]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
