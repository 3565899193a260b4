"""Encoders that people already have, by one name scheme: FAMILY:NAME."""

import difflib

from teachers.families import hf, open_clip, ours, timm, tips
from teachers.families.pretrained import RANDOM, Load, Pretrained

__all__ = ["LOADERS", "RANDOM", "Load", "Pretrained", "load"]

LOADERS: dict[str, Load] = {
    "timm": timm.load,
    "open_clip": open_clip.load,
    "tips": tips.load,
    "transformers": hf.load,
    "distill": ours.load,
}
"""Every family of `distill.catalogue.families`. Their modules import optional packages when something is loaded."""


def load(model: str, weights: str | None) -> Pretrained:
    """The encoder that `model`, FAMILY:NAME, names, on the CPU and in eval mode.

    `weights` is None for those that NAME brings itself, a file or a tag where the family takes one, or `random`.
    Raises ValueError for an unknown family, and whatever the family's own `load` raises.
    """
    family, colon, name = model.partition(":")
    if family in LOADERS and name:
        return LOADERS[family](name, weights)
    known = ", ".join(LOADERS)
    if not colon or not name:
        raise ValueError(f"{model!r} is not FAMILY:NAME, such as timm:convnext_tiny; families are {known}")
    near = difflib.get_close_matches(family, LOADERS, n=1)
    meant = f"; did you mean {near[0]}:{name}?" if near else ""
    raise ValueError(f"there is no family {family!r}; families are {known}{meant}")
