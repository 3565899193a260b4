"""What a run is addressed by: a hash of every setting that decides its result, the same in later versions.

A version that adds a setting must not orphan the runs of before. So a setting that came after the first runs counts
only where it is not at the value that leaves everything as it was (`SINCE`), and a value that changed its spelling
counts as it was spelt (`FORMER`). Keys that were written down are a test's.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from distill.config import Evaluate, Recipe, Run

KEY_DIGITS = 10

SINCE: dict[str, Any] = {
    "data.views.fixed": 0,
    "masking.how": "replace",
    "teacher.match": "auto",
    "teacher.cache_storage": "fp32",
    "teacher.cache_components": 0,
    "teacher.rank": 0,
    "teacher.alpha": 8.0,
    "teacher.members": {},
    "teacher.balance": "none",
    "teacher.drop": 0.0,
    "objective.features.loss": "cosine",
    "objective.features.patch_weight": 1.0,
    "objective.features.gram_weight": 0.0,
    "objective.features.rkd_weight": 0.0,
    "objective.features.adapter": "linear",
    "objective.features.adapter_hidden": None,
    "objective.features.student_layers": (),
    "objective.clusters.momentum": 0.99,
    "evaluate.root": None,
    "evaluate.columns.image": "image",
    "evaluate.columns.label": "label",
    "evaluate.columns.captions": "captions",
    "evaluate.columns.mask": "mask",
    "evaluate.class_names": None,
    "evaluate.split": None,
    "evaluate.pairs": None,
    "evaluate.instances": None,
    "evaluate.index": "auto",
    "evaluate.classifier": "lbfgs",
    "evaluate.precision": "fp32",
    "evaluate.classifier_reads": "last",
    "evaluate.geometry": None,
    "evaluate.depth_crop": "eigen",
    "evaluate.probe": "ridge",
    "evaluate.probe_steps": 1000,
    "evaluate.hidden_ratio": 0.75,
    "evaluate.decoder": None,
    "evaluate.side": "student",
}
"""Settings newer than the first keys, `section.name`, with the value at which the training is what it was before."""

FORMER = {"objective.features.standardise": {"mean_std": True, "none": False}}
"""Settings whose values were spelt differently: today's spelling to the one that is hashed."""

PLACES = ("teacher.cache",)
"""Where something is kept, which changes no result; `cache_storage` and `cache_components` lose something: they count.
"""


def key_of(recipe: Recipe) -> str:
    """Hexadecimal digits that are equal exactly when the training is, as far as settings say.

    A teacher's features from an fp32 cache are the live teacher's but for last digits, as on another machine.
    """
    return digits_of(asdict(replace(recipe, name="", run=Run(), evaluate=Evaluate())))


def cache_key_of(recipe: Recipe) -> str:
    """Names a folder below `teacher.cache`: one for each teacher, views and storage, which cells and seeds share.

    It only keeps them apart: that a folder holds what a run wants is decided by what the folder says it holds.
    """
    values = asdict(recipe)
    for local in ("num_local", "local_scale", "local_size"):
        values["data"]["views"].pop(local)
    values["data"].pop("batch_size")
    kept = {key: values[key] for key in ("teacher", "data", "precision")}
    # The size of the teacher's pictures may follow from the student's grid.
    kept["student"] = {key: values["student"]["image"][key] for key in ("model", "patch_size")}
    if recipe.data.views.fixed:
        kept["seed"] = recipe.seed
    return digits_of(kept)


def digits_of(values: dict[str, Any]) -> str:
    """Of settings by section, which are changed in place."""
    members = values.get("teacher", {}).get("members", {})
    for place in PLACES:
        for own in _places(place, members):
            _taken_out(values, own, lambda found: True)
    for place, before in SINCE.items():
        for own in _places(place, members):
            _taken_out(values, own, lambda found, before=before: found == before)
    for place, spelt in FORMER.items():
        for own in _places(place, members):
            section, name = _section(values, own)
            if section is not None and name in section:
                section[name] = spelt.get(section[name], section[name])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def _places(place: str, members: Iterable[str]) -> list[str]:
    """Where a setting stands: with the one teacher, and with every member of an ensemble that has it too."""
    section, _, name = place.rpartition(".")
    inside = {"teacher": "", "objective.features": "features."}.get(section)
    return [place] + ([] if inside is None else [f"teacher.members.{member}.{inside}{name}" for member in members])


def _taken_out(values: dict[str, Any], place: str, condition: Callable[[Any], bool]) -> None:
    """Remove a setting that meets a condition, and its section when nothing is left in it."""
    section, name = _section(values, place)
    if section is None or name not in section or not condition(section[name]):
        return
    del section[name]
    parent, last = _section(values, place.rpartition(".")[0])
    if not section and parent is not None:
        del parent[last]


def _section(values: dict[str, Any], place: str) -> tuple[dict[str, Any] | None, str]:
    """The section that holds `place`, None where there is none, and the setting's own name."""
    *sections, name = place.split(".")
    found: Any = values
    for each in sections:
        found = found.get(each) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None, name
