"""What one of our own trainings left behind: its student, read back from a run folder or a checkpoint folder."""

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from distill.config import Recipe, recipe_from_file
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.weights import load_strictly
from distill.train import checkpoint


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds, on the CPU. `balance` are the centres its head was trained with."""

    recipe: Recipe
    encoder: DualEncoder | None
    """None where only the heads were asked for."""
    heads: Heads | None
    balance: dict[str, Tensor]
    temperature: float | None
    """Of CLS 1 and its captions, as learnt; None for a training without captions."""
    folder: Path
    """Of the checkpoint itself."""


def load_trained(path: str | Path, *, heads_only: bool = False) -> Trained:
    """The student of a run folder (its newest whole checkpoint) or of a checkpoint folder.

    With `heads_only` no tower is built. Raises ValueError when there is none or when its files do not fit together.
    """
    found = checkpoint.find(Path(path))
    recipe = recipe_from_file(found.folder / "recipe.yaml")
    tensors = found.tensors("student")
    encoder = None
    if not heads_only:
        encoder = build_dual(recipe.student, recipe.data.image_size)
        load_strictly(encoder, under("encoder.", tensors), what=f"{found.folder}/student.safetensors")
    heads, stored = None, under("heads.members.", tensors)
    if stored:
        names = {name.split(".")[0] for name in stored}
        with_roles = {f"with_{role}": role in names or "shared" in names for role in ("cls", "patch")}
        width = next(value.shape[1] for name, value in stored.items() if name.endswith(".mlp.0.weight"))
        heads = build_heads(recipe.student.head, width, **with_roles)
        load_strictly(heads, under("heads.", tensors), what=f"{found.folder}/student.safetensors")
    scales = tensors.get("temperatures.log_scale")
    return Trained(
        recipe=recipe,
        encoder=encoder,
        heads=heads,
        balance=found.tensors("objective"),
        temperature=None if scales is None else math.exp(-scales[0].item()),
        folder=found.folder,
    )


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
