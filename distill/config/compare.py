"""Recipes as plain values, and what differs between two of them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from distill.config.recipe import Recipe


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested dicts, lists and scalars, each in the type its setting declares: an `lr` of 1 is 1.0."""
    values = OmegaConf.to_container(OmegaConf.structured(recipe))
    assert isinstance(values, dict)
    return _listed(values)


def differences(old: Recipe, new: Recipe, ignore: Sequence[str] = ("run",)) -> list[str]:
    """`key: old -> new` for every setting that differs; keys and sections in `ignore` are left out."""
    before, after = _flat(recipe_dict(old)), _flat(recipe_dict(new))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in keys
        if _shown(before, key) != _shown(after, key)
        and not any(key == ignored or key.startswith(f"{ignored}.") for ignored in ignore)
    ]


def content_hash(recipe: Recipe) -> str:
    """16 hexadecimal digits that are equal exactly when everything but `run` is."""
    values = {key: value for key, value in recipe_dict(recipe).items() if key != "run"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "not set"


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value
