"""Everything that a card says, gathered before any of it is written."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from distill.config import Recipe, recipe_from_file
from distill.encoders.timm_names import kind_of
from distill.encoders.weights import sha256_of_weights
from distill.publish.card.licences import Choice, choose
from distill.publish.card.measured import Measured, measured
from distill.publish.card.provenance import Provenance, provenance
from distill.publish.card.sources import Source, licences_of, run_summary, sources_of
from distill.train.checkpoint import find


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one checkpoint."""

    title: str
    """The run's name."""
    recipe: Recipe
    step: int
    side: str
    parameters: dict[str, int]
    """Of the towers that exist: `image`, `text`."""
    weights_sha256: str
    """Of student.safetensors."""
    sources: tuple[Source, ...]
    licence: Choice
    results: list[Measured]
    stands_on: Provenance | None
    summary: dict[str, Any]
    """What the run wrote when it ended."""

    @property
    def with_text(self) -> bool:
        return self.recipe.student.text.kind != "none"

    @property
    def is_convnet(self) -> bool:
        return kind_of(self.recipe.student.image.model) == "convnet"

    @property
    def is_distilled(self) -> bool:
        """Whether another encoder taught it; a momentum teacher is the student itself."""
        return self.recipe.teacher.kind != "momentum"


def gather(checkpoint: Path, *, side: str, licence: str | None, page: Path | None) -> Facts:
    """Raises ValueError as `find`, `choose` and `provenance` do."""
    found = find(checkpoint)
    recipe = recipe_from_file(found.folder / "recipe.yaml")
    sources, file = sources_of(found.folder), found.folder / "student.safetensors"
    return Facts(
        title=found.folder.resolve().parent.parent.name,
        recipe=recipe,
        step=found.step,
        side=side,
        parameters=_parameters(file),
        weights_sha256=sha256_of_weights([file]),
        sources=sources,
        licence=choose(licences_of(sources), asked=licence),
        results=measured(found.folder, step=found.step, side=side),
        stands_on=provenance(recipe, page),
        summary=run_summary(found.folder),
    )


def _parameters(file: Path) -> dict[str, int]:
    """By tower; pixel statistics are none."""
    counts: dict[str, int] = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a dict)
            parts = name.split(".")
            if parts[0] == "encoder" and not parts[2].startswith("pixel_"):
                counts[parts[1]] = counts.get(parts[1], 0) + prod(tensors.get_slice(name).get_shape())
    return counts
