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
    *("checkpoint", "model", "weights", "image_size"),
    *("members", "balance", "drop"),
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
    settings = recipe.teacher
    found = {key: value for key, value in asdict(settings).items() if key not in NOT_OF_THE_FEATURES}
    found["precision"] = precision
    if settings.checkpoint is None:
        return found | _of_a_model(settings.model, settings.weights)
    folder = checkpoint.find(Path(settings.checkpoint)).folder
    trained = recipe_from_file(folder / "recipe.yaml")
    tower = {"image": asdict(trained.student.image), "trained_at": trained.data.image_size}
    return found | tower | {"weights_sha256": sha256_of(folder / "student.safetensors")}


def _of_a_model(model: str, weights: str | None) -> dict[str, Any]:
    """A model by its name, and the bytes of its file or folder, which `weights` or the name itself gives.

    Weights that are no file here (a tag, a name on a hub) are known by what they are called.
    """
    family, _, name = model.partition(":")
    if weights is not None and Path(weights).exists():
        return {"model": model, "weights_sha256": sha256_of_weights(Path(weights))}
    if weights is None and Path(name).exists():
        return {"model": family, "weights_sha256": sha256_of_weights(Path(name))}
    return {"model": model, "weights": weights}


def _transform(recipe: Recipe) -> dict[str, Any]:
    """How a sample becomes what the teacher sees. Local crops are not: it never sees them."""
    views = recipe.data.views
    found: dict[str, Any] = {
        "image_size": recipe.data.image_size,
        "teacher_image_size": recipe.teacher.image_size,
        "views": num_views(recipe.data),
    }
    if recipe.teacher.image_size is None:
        # The size of the teacher's pictures may follow from the student's grid.
        found["student"] = {key: getattr(recipe.student.image, key) for key in ("model", "patch_size")}
    if views.fixed:
        found |= {"seed": recipe.seed, "global_scale": views.global_scale, "flip": views.flip}
    return found


def sha256_of_weights(path: Path) -> str:
    """Of a file, or of every file of a folder with its name."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    sums = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()
