"""What the student and every published format are asked: pictures and texts, handed over as files.

Legend: B and b pictures, C CLS tokens, N patches, T texts, L tokens of a text, D width, S side.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from distill.data.scenes import SceneWorld
from distill.eval.pictures.datasets import SceneCaptions, read_square, spread
from distill.eval.pictures.files import SUFFIXES, pictures_below
from distill.publish.student import Subject

NUM_PICTURES = 8
TEXTS = (
    "a photo of a cat",
    "two red circles on sand",
    "A Dog",
    "7 × Äpfel, 50 % off & more!",
    "a very " + "very " * 200 + "long text",
)
"""Short ones first; capitals, letters outside of ASCII, and more words than any tower reads."""
NUM_SHORT = 3


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Pictures for the towers alone, and pictures that a library has to prepare first."""

    pictures: UInt8[Tensor, "B S S 3"]
    """At the side the student was trained at, so that no library has anything to resize."""
    wide: UInt8[Tensor, "b H W 3"]
    """Two pictures of another size, neither side like the other, which towers take as they are."""
    photos: UInt8[Tensor, "b h w 3"]
    """Two larger pictures that are no squares: every library has to make them what the student was trained on."""
    about: str
    """Which pictures they are, in words."""


def ask(subject: Subject, photos: Path | None) -> Questions:
    """Pictures below the folder `photos`, else held-out ones of the world the student was trained in.

    Raises ValueError for a folder without pictures, and without one where the run's data has no held-out pictures.
    """
    side, patch = subject.image_size, subject.image.patch_size
    if photos is not None:
        files = photo_files(photos)
        chosen = [files[number] for number in spread(len(files), NUM_PICTURES)]
        pixels, about = torch.stack([_square(file, side) for file in chosen]), photos_in_words(photos)
        large = torch.stack([_square(file, 3 * side) for file in chosen[:2]])
    elif subject.recipe.data.source == "scenes":
        pixels, large = _scenes(subject, side, NUM_PICTURES), _scenes(subject, 3 * side, 2)
        about = "held-out scenes"
    else:
        raise ValueError("the run's data set has no held-out pictures of its own: name a folder of some with --photos")
    wide = interpolate(pixels[:2], (side + patch, side + 2 * patch), mode="bilinear")
    photos = large[:, :, : 2 * side + 1]
    return Questions(pictures=_stored(pixels), wide=_stored(wide), photos=_stored(photos), about=about)


def photo_files(folder: Path) -> list[Path]:
    """As `pictures_below`. Raises ValueError where there are none."""
    files = pictures_below(folder)
    if not files:
        raise ValueError(f"--photos {folder} holds no pictures ({', '.join(SUFFIXES)})")
    return files


def photos_in_words(folder: Path) -> str:
    """Whose they are, without saying where they lie."""
    return f"photos of the folder {folder.resolve().name}"


def _square(file: Path, side: int) -> Float[Tensor, "3 side side"]:
    try:
        return read_square(file, side)
    except ValueError as problem:
        raise ValueError(f"--photos: {file} cannot be read as a picture; remove or repair it") from problem


def _scenes(subject: Subject, side: int, number: int) -> Float[Tensor, "B 3 S S"]:
    world = SceneWorld(subject.recipe.data.scenes, side)
    return SceneCaptions(world, "alt", number).pixels(0, number)


def write(questions: Questions, subject: Subject, folder: Path) -> None:
    """pictures.safetensors and texts.json."""
    tensors = {"pictures": questions.pictures, "wide": questions.wide, "photos": questions.photos}
    if subject.text is not None:
        tensors["ids"] = subject.text.tokenize(list(TEXTS))
    save_file(tensors, folder / "pictures.safetensors")
    (folder / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")


@torch.no_grad()
def expected(questions: Questions, subject: Subject) -> dict[str, Float[Tensor, "..."]]:
    """What the student says, by quantity: tokens and text features as they are, logits, and what follows from them."""
    tokens, wide = subject.image(_pixels(questions.pictures)), subject.image(_pixels(questions.wide))
    cls = tokens.cls[:, 0]
    said = {"cls": cls, "patches": tokens.patches, "wide_cls": wide.cls[:, 0], "wide_patches": wide.patches}
    said["feature_pipeline"] = normalize(cls[:1], dim=-1)
    if tokens.cls.shape[1] > 1:
        said["cls2"] = tokens.cls[:, 1]
    if subject.text is not None:
        said["text"] = subject.encoder.encode_text(list(TEXTS))
        logits = normalize(cls, dim=-1) @ normalize(said["text"], dim=-1).T / subject.temperature
        said["zero_shot_pipeline"] = logits[0, :NUM_SHORT].softmax(dim=0)
        said["logits"] = logits + (subject.logit_bias or 0)
    return said


def prepared(questions: Questions, subject: Subject) -> Float[Tensor, "b 3 S S"]:
    """The photos as the student was meant to see them: whole, stretched to a square (bilinear, antialiased)."""
    side = (subject.image_size,) * 2
    return interpolate(_pixels(questions.photos), side, mode="bilinear", antialias=True)


def _stored(pixels: Float[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B H W 3"]:
    return (255 * pixels.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _pixels(pictures: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    return pictures.permute(0, 3, 1, 2).float() / 255
