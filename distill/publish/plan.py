"""Which formats a student can have, and why it cannot have the others."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.encoders.text_tips import TipsText
from distill.extras import MissingPackage
from distill.publish.formats import onnx, open_clip, timm, tips, transformers
from distill.publish.student import DTYPES, Dtype, Subject, rounded

FORMATS = ("timm", "open_clip", "transformers", "tips", "onnx")
SHARD_SIZE = re.compile(r"[1-9]\d*(KB|MB|GB|TB)")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is written: a name, and whether that format holds the text tower."""

    formats: dict[str, bool]
    refused: dict[str, str]
    """Why the others are not, by name."""


def plan(subject: Subject, asked: Sequence[str] | None, *, dtype: Dtype) -> Plan:
    """What applies of the formats in `asked`, or of all.

    Raises ValueError for a format that is unknown, or asked for by name and impossible, and when nothing is left.
    """
    unknown = [name for name in asked or () if name not in FORMATS]
    if unknown:
        raise ValueError(f"--formats: there is no format {unknown[0]!r}; they are {', '.join(FORMATS)}")
    looked_at = [name for name in FORMATS if asked is None or name in asked]
    reasons = {name: _refusal(name, subject, dtype) for name in looked_at}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    if asked and refused:
        name, reason = next(iter(refused.items()))
        raise ValueError(f"--formats {name}: {reason}; leave it out")
    chosen = [name for name in looked_at if name not in refused]
    if not chosen:
        listed = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"no format can hold this student: {listed}")
    return Plan(formats={name: _holds_text(subject, name) for name in chosen}, refused=refused)


def check_shard_size(size: str | None, planned: Plan, subject: Subject) -> None:
    """Raises ValueError for what is no size, and for one that no format hears."""
    if size is None:
        return
    if SHARD_SIZE.fullmatch(size) is None:
        raise ValueError(f"--max-shard-size {size}: expected a whole number and its unit, such as 500MB or 5GB")
    if "transformers" not in planned.formats or not transformers.has_shards(subject):
        raise ValueError(f"--max-shard-size {size} is heard by models of transformers' own only, and none is written")


def num_bytes(subject: Subject, planned: Plan, *, dtype: Dtype) -> int:
    """What the weights of all formats take on the disk."""
    sizes = {"image": 0, "text": 0}
    for name, value in subject.encoder.state_dict().items():
        sizes[name.partition(".")[0]] += value.numel()
    needed = 0
    for name, with_text in planned.formats.items():
        numbers = sizes["image"] + (sizes["text"] if with_text else 0)
        needed += numbers * DTYPES["fp32" if name == "onnx" else dtype].itemsize
    return needed


def write(name: str, subject: Subject, folder: Path, *, dtype: Dtype, max_shard_size: str | None = None) -> Subject:
    """Write one format into an empty folder; returns the student that it holds, whose weights may be rounded."""
    if name == "onnx":
        onnx.write(subject, folder)
        return subject
    subject = rounded(subject, dtype)
    if name == "transformers":
        transformers.write(subject, folder, dtype=dtype, max_shard_size=max_shard_size)
        return subject
    {"timm": timm.write, "open_clip": open_clip.write, "tips": tips.write}[name](subject, folder, dtype=dtype)
    return subject


def _refusal(name: str, subject: Subject, dtype: Dtype) -> str | None:
    """Why a student cannot have a format, which may be a package that is not installed; None where it can."""
    try:
        return _refusals(subject, dtype)[name]()
    except MissingPackage as missing:
        return str(missing)


def _refusals(subject: Subject, dtype: Dtype) -> dict[str, Callable[[], str | None]]:
    return {
        "timm": lambda: timm.refusal(subject),
        "open_clip": lambda: open_clip.refusal(subject),
        "transformers": lambda: transformers.refusal(subject),
        "tips": lambda: tips.refusal(subject, dtype=dtype),
        "onnx": lambda: onnx.refusal(subject),
    }


def _holds_text(subject: Subject, name: str) -> bool:
    if subject.text is None or name == "timm":
        return False
    return name != "transformers" or isinstance(subject.text, TipsText)
