"""What a recipe's cache is a cache of: teacher, transform and data, without building any of them."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.cache.index import Identity
from distill.cache.shards import sha256_of
from distill.config import Recipe, recipe_from_file
from distill.data.fingerprint import data_fingerprint
from distill.data.fixed import num_views
from distill.train import checkpoint

NOT_OF_THE_FEATURES = {
    *("kind", "scope", "momentum", "momentum_end"),
    *("trainable", "last_k", "lr_scale", "loss_weight"),
    *("checkpoint", "weights", "image_size"),
    *("cache", "cache_storage", "cache_components"),
}
"""Settings of the teacher that do not change a frozen one's features, or are compared in another way. All others count,
those of tomorrow included: a needless refusal costs a writing, a missing one the truth."""


def identity_of(recipe: Recipe, *, precision: str) -> Identity:
    """`precision` is accelerate's name of what the teacher computes in. Raises ValueError for missing files."""
    identity = Identity(
        teacher=_teacher(recipe, precision=precision),
        transform=_transform(recipe),
        data=data_fingerprint(recipe.data),
    )
    # As it will come back from the index.
    return Identity(**json.loads(json.dumps(asdict(identity))))


def _teacher(recipe: Recipe, *, precision: str) -> dict[str, Any]:
    settings = asdict(recipe.teacher)
    found = {key: value for key, value in settings.items() if key not in NOT_OF_THE_FEATURES}
    found["precision"] = precision
    if recipe.teacher.checkpoint is None:
        return found | {"weights_sha256": _sha256_of_weights(Path(recipe.teacher.weights))}
    folder = checkpoint.find(Path(recipe.teacher.checkpoint)).folder
    trained = recipe_from_file(folder / "recipe.yaml")
    tower = {"image": asdict(trained.student.image), "trained_at": trained.data.image_size}
    return found | tower | {"weights_sha256": sha256_of(folder / "student.safetensors")}


def _transform(recipe: Recipe) -> dict[str, Any]:
    """How a sample becomes what the teacher sees. Local crops are not: it never sees them."""
    views = recipe.data.views
    found: dict[str, Any] = {
        "image_size": recipe.data.image_size,
        "teacher_image_size": recipe.teacher.image_size,
        "views": num_views(recipe.data),
    }
    if views.fixed:
        found |= {"seed": recipe.seed, "global_scale": views.global_scale, "flip": views.flip}
    return found


def _sha256_of_weights(path: Path) -> str:
    """Of a file, or of every file of a folder by its name. Raises ValueError when there is none."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise ValueError(f"teacher.weights: {path} is neither a file nor a folder of files")
    sums = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()
