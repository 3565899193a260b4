"""What was compared, and what came out: `proof.json` in every published folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distill.train.journal import write_atomically

FILE = "proof.json"


@dataclass(frozen=True, kw_only=True)
class FormatProof:
    """One format, as its own library loaded it in a process without this package."""

    files: tuple[str, ...]
    """Relative to the published folder."""
    sha256: tuple[str, ...]
    """Of each of them, as it was when it was compared."""
    bytes: int
    library: str
    version: str
    differences: dict[str, float]
    """Worst absolute difference from the student with the same weights, in float32, by quantity: `cls`, `cls2`,
    `patches`, `text` (each divided by the length of the student's vector), `logits` (times the temperature: cosines),
    `wide_cls` and `wide_patches` (of pictures of another size), `feature_pipeline`, `zero_shot_pipeline`; of two photos
    that are no squares `photo_pixels`, what the library makes of them in [0, 1], and of these pixels `photo_cls`."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Everything that was written into one folder."""

    formats: dict[str, FormatProof]
    """By name; the files of each are in the folder of that name."""
    refused: dict[str, str] = field(default_factory=dict)
    """Formats this student cannot have, and why."""
    dtype: str
    """Of the stored weights: fp32, fp16 or bf16. ONNX is fp32 always."""
    rounding: dict[str, float] = field(default_factory=dict)
    """What 16-bit weights change, by quantity, against the student's own; measured as `differences`, not judged."""
    num_pictures: int
    pictures: str
    """Which ones, in words."""
    image_size: int
    """Their side, pixels."""
    num_texts: int
    tolerance: float
    """What no difference exceeds, save `photo_pixels`."""
    texts_wanted: tuple[str, ...] = ()
    """Names of licences, of the student and of what it learnt from, whose text has to go along with the weights."""
    source_licences: tuple[str, ...] = ()
    """Those of what it learnt from, by name, where they are stated."""
    photos_shown: str | None = None
    """Whose photographs are on the picture in the card, in words; None for scenes, or where none was drawn."""
    pixel_tolerance: float
    """What `photo_pixels` does not exceed: libraries round to whole numbers in places of their own."""


def holds_text(proof: Proof) -> bool:
    """Whether some format has the text tower, or nothing was compared."""
    return not proof.formats or any("text" in found.differences for found in proof.formats.values())


def write(proof: Proof, folder: Path) -> None:
    """`proof.json` in this folder."""
    write_atomically(folder / FILE, json.dumps(asdict(proof), indent=1) + "\n")
