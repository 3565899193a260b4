"""The picture of a student's features that its card shows, above those that it had before its training."""

from dataclasses import dataclass
from pathlib import Path

from distill.compose import load_learnt_teacher
from distill.encoders.convnet import TimmConvNet
from distill.encoders.dual import DualEncoder
from distill.eval.command import load_encoder
from distill.publish.proof.questions import photos_in_words
from distill.publish.student import Subject
from distill.show.models import Model
from distill.show.pictures import read_pictures, scene_pictures
from distill.show.sheet import Paper, draw
from distill.show.views import VIEWS, Looking

NUM_PICTURES = 5
GRID = 16
"""Patches along the shorter side, at least: fewer show little."""
PAPER = Paper(width=9.0, height=0.95, dpi=150)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the picture shows."""

    caption: str
    """For the card."""
    photos: str | None
    """Whose photographs are on it, in words, for whoever sends it somewhere; None for scenes."""
    missing: str | None = None
    """Why the row from before the training is not there."""


def draw_features(subject: Subject, photos: Path | None, file: Path) -> Drawn:
    """Principal components of patch features, of pictures below the folder `photos` or of held-out scenes.

    Photos that cannot be shown are left out. Raises ValueError where none can.
    """
    size = max(subject.image_size, GRID * subject.image.patch_size)
    if photos is None:
        pictures = scene_pictures(subject.recipe.data.scenes, limit=NUM_PICTURES)
    else:
        pictures = read_pictures(photos, limit=NUM_PICTURES, shorter=2 * size).pictures
    models, missing = [Model(title="trained", encoder=subject.encoder, image_size=size)], None
    try:
        models.append(Model(title="before training", encoder=_start(subject), image_size=size))
    except (ValueError, OSError) as problem:  # what it started as is not there any more
        missing = str(problem)
    view = VIEWS["pca"]
    looking = Looking(frame=PAPER.frame(file, pictures), image_size=size)
    draw(view.show(models, pictures, view.settings(), looking), file, PAPER)
    before = " Below are those that it had before its training." if missing is None else ""
    seen = "the places of its last feature map" if isinstance(subject.image, TimmConvNet) else "its patch tokens"
    caption = (
        f"What {seen} look like: their first three principal components as lightness and colours, on pictures "
        f"of {size} pixels.{before}"
    )
    return Drawn(caption=caption, photos=None if photos is None else photos_in_words(photos), missing=missing)


def _start(subject: Subject) -> DualEncoder:
    """What the published encoder was before its first step. Raises ValueError where what it started as is gone."""
    if subject.side == "teacher" and subject.recipe.teacher.kind == "partial":
        return load_learnt_teacher(subject.recipe, {}).eval()
    return load_encoder(subject.checkpoint, "untrained")[0]
