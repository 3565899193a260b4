"""Which formats a student can have, and why it cannot have the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.encoders.text_tips import TipsText
from distill.publish.formats import onnx, open_clip, timm, tips, transformers
from distill.publish.student import Dtype, Subject, rounded

FORMATS = ("timm", "open_clip", "transformers", "tips", "onnx")


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
    reasons = {name: _refusals(subject, dtype)[name]() for name in looked_at}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    if asked and refused:
        name, reason = next(iter(refused.items()))
        raise ValueError(f"--formats {name}: {reason}; leave it out")
    chosen = [name for name in looked_at if name not in refused]
    if not chosen:
        listed = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"no format can hold this student: {listed}")
    return Plan(formats={name: _holds_text(subject, name) for name in chosen}, refused=refused)


def write(name: str, subject: Subject, folder: Path, *, dtype: Dtype, max_shard_size: str) -> Subject:
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
