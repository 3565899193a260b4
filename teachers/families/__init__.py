"""Encoders that people already have, by one name scheme: FAMILY:NAME."""

import difflib

from teachers.families import hf, open_clip, ours, timm, tips
from teachers.families.pretrained import RANDOM, Family, Pretrained

__all__ = ["FAMILIES", "RANDOM", "Family", "Pretrained", "load"]

FAMILIES: dict[str, Family] = {
    "timm": timm.FAMILY,
    "open_clip": open_clip.FAMILY,
    "tips": tips.FAMILY,
    "transformers": hf.FAMILY,
    "distill": ours.FAMILY,
}
"""Every family by the word before the colon. Their modules import optional packages when something is loaded."""


def load(model: str, weights: str | None) -> Pretrained:
    """The encoder that `model`, FAMILY:NAME, names, on the CPU and in eval mode.

    `weights` is None for those that NAME brings itself, a file or a tag where the family takes one, or `random`.
    Raises ValueError for an unknown family, and whatever the family's own `load` raises.
    """
    family, colon, name = model.partition(":")
    if family in FAMILIES and name:
        return FAMILIES[family].load(name, weights)
    known = ", ".join(FAMILIES)
    if not colon or not name:
        raise ValueError(f"{model!r} is not FAMILY:NAME, such as timm:convnext_tiny; families are {known}")
    near = difflib.get_close_matches(family, FAMILIES, n=1)
    meant = f"; did you mean {near[0]}:{name}?" if near else ""
    raise ValueError(f"there is no family {family!r}; families are {known}{meant}")
