"""Encoders that were trained here: run folders and checkpoint folders, with their projection heads."""

from distill.trained import load_trained
from teachers.families.pretrained import Pretrained


def load(name: str, weights: str | None) -> Pretrained:
    """The student of a run folder (its newest whole checkpoint) or of a checkpoint folder, with heads and text tower.

    Raises ValueError when `weights` are named, for it brings its own, or when the folder holds no whole checkpoint.
    """
    if weights is not None:
        raise ValueError(f"distill:{name} brings its own weights: leave weights out; got {weights}")
    trained = load_trained(name)
    image = trained.encoder.image
    return Pretrained(
        name=f"distill:{name}",
        image=image.eval(),
        text=None if trained.encoder.text is None else trained.encoder.text.eval(),
        heads=trained.heads,
        image_size=trained.recipe.data.image_size,
        temperature=trained.temperature,
        licence=None,
        source=str(trained.folder),
        files=(trained.folder / "student.safetensors",),
        cls="the class token, and the first register" if image.num_cls == 2 else "one token for the whole picture",
        balance=trained.balance,
    )
