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
    bytes: int
    library: str
    version: str
    differences: dict[str, float]
    """Worst absolute difference from the student in fp32, by quantity: `cls`, `patches`, `text`, `logits` and what else
    a format gives."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Everything that was written into one folder."""

    formats: dict[str, FormatProof]
    refused: dict[str, str] = field(default_factory=dict)
    """Formats this student cannot have, and why."""
    dtype: str
    """Of the stored weights: fp32, fp16 or bf16."""
    num_pictures: int
    pictures: str
    """Which ones, in words."""
    num_texts: int
    tolerance: float
    """What no difference exceeds in fp32; with fp16 and bf16 differences are measured and not judged."""


def write(proof: Proof, folder: Path) -> None:
    """`proof.json` in this folder."""
    write_atomically(folder / FILE, json.dumps(asdict(proof), indent=1) + "\n")
