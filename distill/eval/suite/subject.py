"""Who is measured: a run, a checkpoint or an encoder of a family, with what its measurements have to say of it."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distill.compose import load_pretrained
from distill.config import Recipe, recipe_from_file, recipe_from_words
from distill.encoders.dual import DualEncoder
from distill.eval.command import Side, load_encoder
from distill.train.checkpoint import find

FOLDER = Path("runs/eval")
"""Of results of encoders that have no run folder, below the working directory."""

OF_A_STUDY = re.compile(r"seed\d+-[0-9a-f]{10}")
"""Run folders called after what decides their result, which people cannot read."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder, on the CPU and in eval mode."""

    name: str
    encoder: DualEncoder
    image_size: int
    """Side of the pictures it is shown, pixels."""
    home: Path
    """The folder that holds its results."""
    variant: str
    """What else tells it from others of the same home: side, step and size, as far as they were asked for."""
    who: dict[str, Any]
    """What identifies it, ready for JSON; `weights_sha256` is that of all its tensors."""
    page: Path | None
    """The recipe that trained it, whose world of scenes it is measured in; None for encoders of a family."""

    def recipe(self, words: Sequence[str]) -> Recipe:
        """The usual settings with these words applied, and the world of scenes that it was trained in or the usual one.

        How its training was evaluated does not count: encoders are measured alike. Raises RecipeError for words that
        mean nothing.
        """
        recipe = recipe_from_words(words)
        trained = recipe if self.page is None else recipe_from_file(self.page)
        data = trained.data if trained.data.source == "scenes" else recipe.data
        return replace(recipe, data=replace(data, image_size=self.image_size))


def of_a_run(place: str | Path, *, side: Side, image_size: int | None) -> Subject:
    """Raises ValueError for a folder without a checkpoint, a side it lacks, or a size its towers cannot take."""
    found = find(Path(place))
    encoder, recipe = load_encoder(found.folder, side)
    run = found.folder.parent.parent
    size = recipe.data.image_size if image_size is None else image_size
    _check_size(encoder, size)
    step = 0 if side == "untrained" else found.step
    name = f"{recipe.name}-seed{recipe.seed}" if OF_A_STUDY.fullmatch(run.name) else run.name
    asked = [side] if side != "student" else []
    asked += [f"step{step}"] if Path(place).resolve() != run.resolve() and side != "untrained" else []
    asked += [f"{size}px"] if image_size is not None else []
    return Subject(
        name=f"{name} ({', '.join(asked)})" if asked else name,
        encoder=encoder,
        image_size=size,
        home=run / "eval",
        variant="-".join(asked),
        who={"run": run.name, "side": side, "step": step, "weights_sha256": weights_hash(encoder)},
        page=found.folder / "recipe.yaml",
    )


def of_a_family(model: str, *, weights: str | None, image_size: int | None) -> Subject:
    """Raises ValueError for what cannot be loaded, and for a size its tower cannot take."""
    source = load_pretrained(model, weights)
    encoder = DualEncoder(source.image, source.text).eval()
    size = source.image_size if image_size is None else image_size
    _check_size(encoder, size)
    digest = weights_hash(encoder)
    asked = f"{size}px" if image_size is not None else ""
    return Subject(
        name=f"{model} ({asked})" if asked else model,
        encoder=encoder,
        image_size=size,
        # Two names may look alike as folders, and one name may have several weights.
        home=FOLDER / f"{re.sub(r'[^A-Za-z0-9.]+', '-', model).strip('-')}-{digest[:8]}",
        variant=asked,
        who={"model": model, "weights": source.source, "licence": source.licence, "weights_sha256": digest},
        page=None,
    )


def weights_hash(encoder: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all tensors of the state."""
    found = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _check_size(encoder: DualEncoder, size: int) -> None:
    try:
        encoder.image.grid(size, size)
    except ValueError as problem:
        raise ValueError(f"image_size={size}: {problem}") from problem
